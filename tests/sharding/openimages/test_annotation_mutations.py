"""Damaged CSV bytes yield an `InputError` or counted rows, never a silently wrong label.

The judge is a second reader of twenty lines, one row at a time, written from the format's rules.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sharding.errors import InputError
from sharding.openimages.annotations import ROW_OUTCOMES, AnnotationPolicy, read_split
from sharding.openimages.dump import Dump
from sharding.storage.compression import is_plain
from tests.sharding.test_labels import states
from tests.support.dumpmaking import HEADER, IDS, LABELS, MIDS

# An exception that pyarrow swallows in a callback is only a warning: it must fail here.
pytestmark = pytest.mark.filterwarnings("error")

ROWS = [
    f"{image},{source},{mid},{confidence}"
    for image, source, mid, confidence in [
        (IDS[0], "verification", "/m/0a", "1"),
        (IDS[0], "crowdsource-verification", "/m/0b", "0"),
        (IDS[0], "verification", "/m/0c", "1.0"),
        (IDS[1], "verification", "/m/0_d", "0.0"),
        (IDS[1], "verification", "/m/0zz", "1"),
        (IDS[2], "machine", "/m/0a", "0.9"),
        (IDS[2], "verification", "/m/0a", "0"),
        (IDS[2], "reviewed", "/m/0b", "1"),
        (IDS[3], "verification", "/m/0a", "1"),
    ]
]
CLEAN = "".join(f"{line}\n" for line in (HEADER, *ROWS)).encode()
HUMANS = {b"verification", b"crowdsource-verification", b"human", b"reviewed", b"ll-cp-correction"}

SPLICES = st.one_of(
    st.binary(max_size=3),
    st.sampled_from([b"\n", b"\r", b"\r\n", b'"', b",", b"\x00", b"1", b"0", b".0", b"e5"]),
    st.sampled_from([line.encode() + b"\n" for line in (HEADER, *ROWS)]),
)
PLACES = st.integers(0, len(CLEAN))
MUTATIONS = st.lists(st.tuples(PLACES, st.integers(0, 4) | PLACES, SPLICES), min_size=1, max_size=6)


def mutate(mutations) -> bytes:
    damaged = CLEAN
    for place, removed, splice in mutations:
        damaged = damaged[:place] + splice + damaged[place + removed :]
    return damaged


def judge_slowly(body: bytes) -> tuple[dict[tuple[int, int], int], set[int], Counter[str]]:
    """(labels, images, counts of rows: good, outside the list, blank, ignored, bad)."""
    said: dict[tuple[int, int], set[int]] = {}
    images: set[int] = set()
    counts: Counter[str] = Counter()
    lines = re.split(rb"\r\n|\r|\n", body)
    for line in lines if lines[-1] else lines[:-1]:
        cells = line.split(b",")
        if not line.strip(b",") and len(cells) in (1, 4):
            counts["blank"] += 1
            continue
        if len(cells) != 4 or not re.fullmatch(rb"[0-9a-f]{16}", cells[0]):
            counts["bad"] += 1
            continue
        image, source, mid, confidence = int(cells[0], 16), *cells[1:]
        number = re.fullmatch(rb"(\d*)\.?(\d*)([eE][-+]?\d{1,2})?", confidence)
        value = float(confidence) if number and number.group(1) + number.group(2) else -1
        known = source in HUMANS or (source == b"machine" and 0 <= value <= 1)
        if not known or not re.fullmatch(rb"/[mg]/[0-9a-z_]+", mid):
            counts["bad"] += 1
        elif source == b"machine":
            counts["ignored"] += 1
        elif value not in (0, 1):
            counts["bad"] += 1
        else:
            images.add(image)
            inside = mid.decode() in MIDS
            counts["good" if inside else "outside"] += 1
            if inside:
                said.setdefault((image, MIDS.index(mid.decode())), set()).add(int(value))
    return {key: one.pop() for key, one in said.items() if len(one) == 1}, images, counts


def read(content: bytes, policy: AnnotationPolicy):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / LABELS["v3"]["train"]
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        return read_split(Dump.open(folder), "train", MIDS, policy)


@settings(max_examples=400, deadline=None)
@given(MUTATIONS)
@example([(0, 0, b"BZh")])
def test_a_damaged_file_never_labels_wrongly(mutations):
    content = mutate(mutations)
    header, _, body = content.partition(b"\n")
    if header.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r") != HEADER.encode():
        if header.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r").strip(b",") == HEADER.encode():
            read(content, AnnotationPolicy())  # a column without a name: another table
            return
        # One that begins as an archive does is a damaged archive.
        with pytest.raises(InputError, match="header" if is_plain(content) else None):
            read(content, AnnotationPolicy())
        return
    result = read(content, AnnotationPolicy())
    labels, images, counts = judge_slowly(body)
    report = result.report
    assert states(result.table) == labels
    assert set(result.table.image_ids_N.tolist()) == images
    bad = sum(number for outcome, number in report.items() if outcome.startswith("bad_"))
    assert (bad, report["unknown_mid"], report["blank"], report["machine_ignored"]) == (
        counts["bad"], counts["outside"], counts["blank"], counts["ignored"],
    )  # fmt: skip
    assert (
        report["rows"]
        == sum(counts.values())
        == sum(report.get(outcome, 0) for outcome in ROW_OUTCOMES)
    )
    assert len(result.rejected_rows) == bad


@settings(max_examples=100, deadline=None)
@given(MUTATIONS)
def test_strict_means_that_no_bad_row_passes(mutations):
    content = mutate(mutations)
    try:
        bad = read(content, AnnotationPolicy()).rejected_rows
    except InputError:
        return
    if not bad:
        read(content, AnnotationPolicy(strict=True))
        return
    with pytest.raises(InputError) as caught:
        read(content, AnnotationPolicy(strict=True))
    assert caught.value.row == bad[0].row


def test_the_clean_file_is_read_by_both_alike():
    labels, images, counts = judge_slowly(CLEAN.partition(b"\n")[2])
    result = read(CLEAN, AnnotationPolicy(strict=True))
    assert states(result.table) == labels
    assert len(labels) == 7
    assert set(result.table.image_ids_N.tolist()) == images
    assert dict(counts) == {"good": 7, "outside": 1, "ignored": 1}
