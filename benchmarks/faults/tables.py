"""Mutate the bytes of annotation files, import them, and compare with a judge of a few lines.

    python -m benchmarks.faults.tables --count 1000 --seed 0

The files are a CSV of images and labels, COCO's JSON, and the CSV of a dump. Each must give one
error, or labels of which none contradicts what its bytes say; never a traceback. Counts are
printed; the exit code is 1 where anything was wrong.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import tyro

from benchmarks.common.mutations import Mutations, print_counts
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.importers.options import ImportOptions
from sharding.importers.prepare import prepare_import
from sharding.labels import POSITIVE
from sharding.openimages.annotations import read_split
from sharding.openimages.dump import Dump

Labels = dict[tuple[str, str], bool]
"""Whether a class is present, by (image, class)."""
Said = defaultdict[tuple[str, str], set[bool]]
"""What any line says about them."""

_CLASSES = ("cat", "dog", "cow")
_MIDS = ("/m/0aa", "/m/0bb", "/m/0cc")
_IDS = tuple(f"{number:016x}" for number in (0x1E5, 0x123456789ABCDEF, 0xFEDCBA9876543210, 7))
_SPLICES = (
    *(bytes([byte]) for byte in b"01,;|\"'\n\r\0\t{}[]:-.\\e\xff "),
    *(b"\xc3\xa9", b"\xf0\x9f\x98\x80", b"null", b'""', b"0a"),
)


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Replace, insert, drop, double, move or cut off a few bytes."""
    for _ in range(rng.randrange(1, 4)):
        at, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
        end = min(end, at + rng.choice((1, 1, 2, 8, 40)))
        piece = rng.choice(
            (
                rng.choice(_SPLICES),
                rng.choice(_SPLICES),
                content[at:end] * 2,
                bytes([rng.randrange(256)]),
                b"",
            )
        )
        keep = rng.random() < 0.4
        content = content[:at] + piece + content[at if keep else end :]
        if rng.random() < 0.03:
            content = content[: rng.randrange(len(content) + 1)]
    return content


def _csv(rng: random.Random) -> bytes:
    rows = ["image,labels,negatives"]
    for _ in range(rng.randrange(3, 12)):
        names = rng.sample(_CLASSES, rng.randrange(4))
        absent = [name for name in _CLASSES if name not in names and rng.random() < 0.4]
        rows.append(f"i/{rng.randrange(6)}.jpg,{'|'.join(names)},{'|'.join(absent)}")
    return "\n".join([*rows, ""]).encode()


def _judge_csv(content: bytes) -> Said:
    """Read line by line; quotes are dropped."""
    said: Said = defaultdict(set)
    head, *lines = re.split(r"\r\n|\r|\n", content.decode("utf-8-sig").replace('"', ""))
    columns = [cell.strip() for cell in head.split(",")]
    for line in lines:
        cells = dict(zip(columns, line.split(","), strict=False))
        image = PurePosixPath(cells.get("image", "").strip().replace("\\", "/")).as_posix()
        for column, state in (("labels", True), ("negatives", False)):
            for name in cells.get(column, "").split("|"):
                said[image, name.strip()].add(state)
    return said


def _coco(rng: random.Random) -> bytes:
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(1, 6)]
    pairs = [(rng.randrange(1, 6), rng.randrange(1, 4)) for _ in range(rng.randrange(3, 10))]
    annotations = [{"image_id": image, "category_id": category} for image, category in pairs]
    categories = [{"id": number, "name": name} for number, name in enumerate(_CLASSES, start=1)]
    return json.dumps(
        {"images": images, "annotations": annotations, "categories": categories}
    ).encode()


def _judge_coco(content: bytes) -> Said:
    said: Said = defaultdict(set)
    parsed = json.loads(content.decode("utf-8-sig"))
    names, files = (
        _names(parsed, *keys) for keys in (("categories", "name"), ("images", "file_name"))
    )
    for entry in parsed["annotations"]:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            for file in files[_number(entry["image_id"])]:
                for name in names[_number(entry["category_id"])]:
                    said[f"train2014/{file}", name].add(True)
    return said


def _names(parsed: Any, part: str, key: str) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for entry in parsed[part]:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            names.setdefault(_number(entry["id"]), []).append(entry[key])
    return names


def _number(value: object) -> int:
    return int(float(str(value)))


def _dump(rng: random.Random) -> bytes:
    rows = ["ImageID,Source,LabelName,Confidence"]
    rows += [
        f"{rng.choice(_IDS)},verification,{rng.choice(_MIDS)},{rng.choice('01')}"
        for _ in range(rng.randrange(3, 12))
    ]
    return "\n".join([*rows, ""]).encode()


def _judge_dump(content: bytes) -> Said:
    said: Said = defaultdict(set)
    for line in re.split(r"\r\n|\r|\n", content.decode("utf-8-sig", "replace"))[1:]:
        cells = line.strip(",").replace('"', "").split(",")
        if len(cells) == 4 and re.fullmatch(r"0*1?\.?0*", cells[3]):
            said[cells[0], cells[2]].add("1" in cells[3])
    return said


def _import(folder: Path, kind: str, content: bytes) -> Labels:
    """Import the file, and return its labels."""
    if kind == "dump":
        path = folder / "2017_11/train/annotations-human.csv"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        part = read_split(Dump.open(folder), "train", _MIDS)
        names = {image_id: image_id for image_id in format_image_ids(part.table.image_ids_N)}
        return _labels(part.table, names, _MIDS)
    path = folder / ("labels.csv" if kind == "csv" else "annotations/instances_train2014.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if kind == "coco":
        (folder / "train2014").mkdir()
        path.with_name("instances_val2014.json").write_bytes(_coco(random.Random(0)))
    options = ImportOptions(
        format="csv" if kind == "csv" else "coco",
        source=folder,
        output=str(folder / "dataset"),
        validation_share=0.0,
        test_share=0.0,
    )
    job = prepare_import(options)
    names = dict(job.names.by_split["train"])
    table = job.labels.splits["train"].table
    return _labels(table, names, job.classes.names)


def _labels(table, names: dict[str, str], classes) -> Labels:  # type: ignore[no-untyped-def]
    labels = {}
    for row, image_id in enumerate(format_image_ids(table.image_ids_N)):
        entries = table.observed(np.array([row]))
        for class_index, state in zip(entries.classes_E, entries.states_E, strict=True):
            labels[names[image_id], classes[class_index]] = bool(state == POSITIVE)
    return labels


KINDS: dict[
    str, tuple[Callable[[random.Random], bytes], Callable[[bytes], tuple[Labels, bool]]]
] = {
    "csv": (_csv, _judge_csv),
    "coco": (_coco, _judge_coco),
    "dump": (_dump, _judge_dump),
}


def compare(kind: str, content: bytes) -> str:
    """Read a file and say how it went; what begins with "WRONG" must not be."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            ours = _import(Path(folder), kind, content)
        except InputError as error:
            str(error).encode()
            return "WRONG: more than one line" if "\n" in str(error) else "one error"
        except Exception as error:
            return f"WRONG: {type(error).__name__}: {error}"
    try:
        said = KINDS[kind][1](content)
    except (ValueError, KeyError, TypeError, AttributeError):
        return "read, the judge refuses"
    for key, is_present in ours.items():
        states = said[key[0].replace('"', ""), key[1].replace('"', "")]
        # What nobody names is absent from a complete table; quotes leave open what a name is.
        may_be_absent = not states or b'"' in content
        if is_present not in states and (is_present or not may_be_absent):
            return f"WRONG: {key} is {is_present}"
    return "agrees"


def run(count: int, seed: int) -> Counter[str]:
    """Read ``count`` mutated files; counts by kind and how it went."""
    counts: Counter[str] = Counter()
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        kind = rng.choice(list(KINDS))
        content = mutate(KINDS[kind][0](rng), rng)
        outcome = compare(kind, content)
        if outcome.startswith("WRONG"):
            print(f"{kind} {number} of seed {seed}: {outcome}\n{content!r}", file=sys.stderr)
            outcome = "WRONG"
        counts[f"{kind}: {outcome}"] += 1
    return counts


if __name__ == "__main__":
    raise SystemExit(print_counts(run, tyro.cli(Mutations)))
