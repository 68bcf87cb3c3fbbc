"""Rows to labels: the real V3 heads to the row, every trap of the format, every kind of bad row."""

import hashlib

import numpy as np
import pytest

import sharding.openimages.csv_reader
from sharding.errors import InputError
from sharding.labels import NEGATIVE, POSITIVE, LabelTable
from sharding.openimages.annotations import ROW_OUTCOMES, AnnotationPolicy, read_split, read_splits
from sharding.openimages.class_list import read_classes
from sharding.openimages.dump import Dump
from tests.sharding.test_labels import states
from tests.support.dumpmaking import HEADER, IDS, LABELS, MIDS, pack_gz, pack_tar_gz, write_labels

A, B, C = IDS[:3]


def read(folder, rows, policy=None, *, split="train", release="v3"):
    write_labels(folder, {split: rows}, release)
    return read_split(Dump.open(folder), split, MIDS, policy)


def labels(table: LabelTable) -> dict[tuple[str, str], int]:
    return {(f"{i:016x}", MIDS[c]): state for (i, c), state in states(table).items()}


def nonzero(report) -> dict[str, int]:
    return {name: number for name, number in report.items() if number and " " not in name}


def test_rows_become_three_states(tmp_path):
    result = read(
        tmp_path,
        [f"{B},verification,/m/0a,1", f"{B},crowdsource-verification,/m/0_d,0",
         f"{A},verification,/m/0b,0"],
    )  # fmt: skip
    assert labels(result.table) == {(B, "/m/0a"): 1, (B, "/m/0_d"): 0, (A, "/m/0b"): 0}
    assert result.table.image_ids_N.tolist() == [int(A, 16), int(B, 16)]  # ordered by id
    assert result.table.dense(np.array([0]), 4).tolist() == [[-1, 0, -1, -1]]
    assert nonzero(result.report) == {"rows": 3, "positives": 1, "negatives": 2, "images": 2}
    assert result.report["source crowdsource-verification"] == 1


def test_positives_come_before_negatives_within_an_image(tmp_path):
    table = read(tmp_path, [f"{A},verification,{mid},{c}" for mid, c in zip(MIDS, "0101")]).table  # noqa: B905
    assert table.classes_E.tolist() == [1, 3, 0, 2]
    assert table.states_E.tolist() == [POSITIVE, POSITIVE, NEGATIVE, NEGATIVE]


def test_ids_that_look_like_numbers_are_not_guessed_to_be_numbers(tmp_path):
    ids = ["00000000000123e5", "0000000000000010", "1234567890123456"]
    table = read(tmp_path, [f"{i},verification,/m/0a,1" for i in ids]).table
    assert [f"{key:016x}" for key in table.image_ids_N.tolist()] == sorted(ids)


def test_v7_mixes_1_and_1_0_in_one_file(tmp_path):
    rows = [f"{A},verification,/m/0a,1.0", f"{A},verification,/m/0b,0.0",
            f"{A},crowdsource-verification,/m/0c,1", f"{B},verification,/m/0c,0"]  # fmt: skip
    result = read(tmp_path, rows, split="validation", release="v7")
    assert labels(result.table) == {
        (A, "/m/0a"): 1, (A, "/m/0b"): 0, (A, "/m/0c"): 1, (B, "/m/0c"): 0,
    }  # fmt: skip


@pytest.mark.parametrize("ending", ["\r\n", "\n"])
def test_line_ends_may_be_mixed_and_the_last_may_be_missing(tmp_path, ending):
    path = write_labels(tmp_path, {"train": []}) / LABELS["v3"]["train"]
    rows = f"{A},verification,/m/0a,1\n{A},verification,/m/0b,0\r\n{B},verification,/m/0a,1"
    path.write_bytes(f"\ufeff{HEADER}{ending}{rows}".encode())
    result = read_split(Dump.open(tmp_path), "train", MIDS)
    assert labels(result.table) == {(A, "/m/0a"): 1, (A, "/m/0b"): 0, (B, "/m/0a"): 1}
    assert result.rejected_rows == ()


def test_classes_outside_the_list_are_counted_and_their_images_stay(tmp_path):
    rows = [f"{A},verification,/m/0zz,1", f"{A},verification,/g/11x,0",
            f"{B},verification,/m/0zz,1", f"{B},verification,/m/0a,1"]  # fmt: skip
    result = read(tmp_path, rows, AnnotationPolicy(strict=True))
    assert result.table.image_ids_N.tolist() == [int(A, 16), int(B, 16)]
    assert result.table.counts_N.tolist() == [0, 1]
    assert dict(result.unknown_mids) == {"/m/0zz": 2, "/g/11x": 1}
    assert result.report["unknown_mid"] == 3
    assert result.report["images_without_labels"] == 1


def test_rows_of_one_image_need_not_be_together(tmp_path):
    rows = [f"{i},verification,{m},1" for m in MIDS for i in (C, A, B)]
    table = read(tmp_path, rows).table
    assert table.counts_N.tolist() == [4, 4, 4]
    assert table.classes_E.tolist() == [0, 1, 2, 3] * 3


AGREE = [f"{A},verification,/m/0a,1", f"{A},crowdsource-verification,/m/0a,1.0"]
PEERS = [f"{A},verification,/m/0a,1", f"{A},verification,/m/0a,0"]
RANKED = [f"{A},crowdsource-verification,/m/0a,1", f"{A},verification,/m/0a,0"]


@pytest.mark.parametrize(
    ("rows", "policy", "state", "counts"),
    [
        (AGREE, "unobserved", POSITIVE, {"duplicates": 1}),
        (PEERS, "unobserved", None, {"conflicts": 1, "conflict_dropped": 2}),
        (PEERS, "positive", POSITIVE, {"conflicts": 1, "conflict_dropped": 1}),
        (PEERS, "negative", NEGATIVE, {"conflicts": 1, "conflict_dropped": 1}),
        (PEERS, "verification", None, {"conflicts": 1, "conflict_dropped": 2}),
        (RANKED, "unobserved", None, {"conflicts": 1, "conflict_dropped": 2}),
        (RANKED, "verification", NEGATIVE, {"conflicts": 1, "conflict_dropped": 1}),
        (
            [*RANKED, AGREE[0]],
            "verification",
            None,
            {"duplicates": 1, "conflicts": 1, "conflict_dropped": 2},
        ),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_disagreement_is_settled_as_the_policy_says(tmp_path, rows, policy, state, counts, reverse):
    ordered = rows[::-1] if reverse else rows
    result = read(
        tmp_path, [f"{B},verification,/m/0b,1", *ordered], AnnotationPolicy(conflict=policy)
    )
    expected = {(B, "/m/0b"): POSITIVE} | ({} if state is None else {(A, "/m/0a"): state})
    assert labels(result.table) == expected
    found = {name: result.report[name] for name in ("duplicates", "conflicts", "conflict_dropped")}
    assert {name: number for name, number in found.items() if number} == counts
    assert len(result.table) == 2


def machine(folder, human, rows, threshold):
    write_labels(folder, {"train": human})
    path = folder / "2017_11" / "train" / "annotations-machine.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return read_split(Dump.open(folder), "train", MIDS, AnnotationPolicy(machine=threshold))


def test_machine_labels_enter_by_threshold_and_yield_to_humans(tmp_path):
    result = machine(
        tmp_path,
        [f"{A},verification,/m/0a,0", f"{A},verification,/m/0b,1"],
        [f"{A},machine,/m/0a,1.0", f"{A},machine,/m/0b,0.9", f"{A},machine,/m/0c,0.8",
         f"{A},machine,/m/0_d,0.7", f"{B},machine,/m/0a,0.8", f"{C},machine,/m/0a,0.5",
         f"{A},machine,/m/0zz,0.9", f"{A},machine,/m/0c,1.1"],
        0.8,
    )  # fmt: skip
    assert labels(result.table) == {
        (A, "/m/0a"): 0, (A, "/m/0b"): 1, (A, "/m/0c"): 1, (B, "/m/0a"): 1,
    }  # fmt: skip
    assert nonzero(result.report) == {
        "rows": 10, "positives": 3, "negatives": 1, "machine_overruled": 1, "duplicates": 1,
        "machine_below_threshold": 2, "unknown_mid": 1, "bad_confidence": 1, "images": 2,
    }  # fmt: skip
    assert set(result.sources) == {"train/annotations-human.csv", "train/annotations-machine.csv"}
    assert result.human_positives_K.tolist() == [0, 1, 0, 0]
    assert result.human_negatives_K.tolist() == [1, 0, 0, 0]


def test_a_machine_label_of_zero_is_never_a_verified_absence(tmp_path):
    result = machine(tmp_path, [], [f"{A},machine,/m/0a,0.0", f"{A},machine,/m/0b,0"], 0.1)
    assert labels(result.table) == {}
    assert result.report["machine_below_threshold"] == 2


def test_without_a_threshold_machine_rows_are_ignored_wherever_they_are(tmp_path):
    result = read(tmp_path, [f"{A},machine,/m/0a,1.0", f"{B},verification,/m/0a,1"])
    assert labels(result.table) == {(B, "/m/0a"): 1}
    assert len(result.table) == 1
    assert result.report["machine_ignored"] == 1


def test_our_own_exports_are_read_as_a_dump(tmp_path):
    rows = [f"{A},ll-cp-correction,/m/0a,1", f"{A},reviewed,/m/0b,0",
            f"{B},reviewed,/m/0a,0", f"{B},ll-cp-correction,/m/0a,1"]  # fmt: skip
    result = read(tmp_path, rows, AnnotationPolicy(conflict="verification"), release="export")
    assert labels(result.table) == {(A, "/m/0a"): 1, (A, "/m/0b"): 0, (B, "/m/0a"): 0}
    assert result.report["source ll-cp-correction"] == 2


def test_an_export_without_corrections_is_an_empty_table(tmp_path):
    result = read(tmp_path, [], release="export")
    assert len(result.table) == 0
    assert result.report["rows"] == 0


BAD = [
    ("123e5,verification,/m/0a,1", "bad_id"),
    (f"{A.upper()[:-1]}F,verification,/m/0a,1", "bad_id"),
    (f'"{A}",verification,/m/0a,1', "bad_id"),
    (f"{A},freeform,/m/0a,1", "bad_source"),
    (f"{A},verification,Cat,1", "bad_mid"),
    (f"{A},verification,17,1", "bad_mid"),
    (f"{A},verification,/m/0A,1", "bad_mid"),
    (f"{A},verification,/m/0a,0.5", "bad_confidence"),
    (f"{A},verification,/m/0a,", "bad_confidence"),
    (f"{A},verification,/m/0a,-1", "bad_confidence"),
    (f"{A},verification,/m/0a,2", "bad_confidence"),
    (f"{A},verification,/m/0a,1_0", "bad_confidence"),
    (f"{A},verification,/m/0a, 1", "bad_confidence"),
    (f"{A},verification,/m/0a,nan", "bad_confidence"),
    (f"{A},verification,/m/0a,true", "bad_confidence"),
    (f"{A},verification,/m/0a,0.9999999999999999999", "bad_confidence"),
    (f"{A},verification,/m/0a", "bad_columns"),
    (f"{A},verification,/m/0a,1,1", "bad_columns"),
    ("\x00\x01", "bad_columns"),
    (HEADER, "bad_id"),
]


@pytest.mark.parametrize(
    ("written", "fix"),
    [
        (f"train/{A}", f"write {A} alone"),
        (f"{A.upper()}.JPG", f"write {A} alone"),
        ("106528377697029", "keep the column as text, never as a number"),
        ("1.0652837769e+14", "keep the column as text, never as a number"),
        (f"x{A}", "names of your own are read by import --format csv"),
        ("holiday_12", "names of your own are read by import --format csv"),
    ],
)
def test_an_id_that_others_write_is_told_how_to_be_written(tmp_path, written, fix):
    result = read(tmp_path, [f"{written},verification,/m/0a,1"])
    (rejected,) = result.rejected_rows
    assert rejected.fix.endswith(fix)


@pytest.mark.parametrize(("row", "reason"), BAD)
def test_a_bad_row_is_counted_listed_with_its_line_and_labels_nothing(tmp_path, row, reason):
    result = read(tmp_path, [f"{B},verification,/m/0b,1", "", row, f"{C},verification,/m/0b,0"])
    assert labels(result.table) == {(B, "/m/0b"): 1, (C, "/m/0b"): 0}
    assert nonzero(result.report) == {
        "rows": 4, "positives": 1, "negatives": 1, "blank": 1, reason: 1, "images": 2,
    }  # fmt: skip
    (rejected,) = result.rejected_rows
    assert (rejected.row, rejected.reason.split(":")[0]) == (4, reason)
    assert rejected.file.endswith("train/annotations-human.csv")


@pytest.mark.parametrize(("row", "reason"), BAD)
def test_under_a_strict_policy_the_first_bad_row_is_an_error(tmp_path, row, reason):
    rows = [f"{B},verification,/m/0b,1", row, f"{B},verification,/m/0b", "bad,bad,bad,bad"]
    with pytest.raises(InputError, match=reason) as caught:
        read(tmp_path, rows, AnnotationPolicy(strict=True))
    assert caught.value.row == 3
    assert caught.value.file.endswith("train/annotations-human.csv")
    assert caught.value.fix
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_utf8_make_a_bad_row_not_a_crash(tmp_path):
    path = write_labels(tmp_path, {"train": []}) / LABELS["v3"]["train"]
    path.write_bytes(
        f"{HEADER}\n{A},verif".encode()
        + b"\xff\xfe"
        + f"ication,/m/0a,1\n{B},verification,/m/0a,1".encode()
    )
    result = read_split(Dump.open(tmp_path), "train", MIDS)
    assert labels(result.table) == {(B, "/m/0a"): 1}
    assert result.report["bad_source"] == 1


def test_a_stray_quote_does_not_swallow_the_rows_after_it(tmp_path):
    rows = [f'{A},"verification,/m/0a,1', f"{B},verification,/m/0a,1", f'{C},verification,/m/0a",1']
    result = read(tmp_path, rows)
    assert labels(result.table) == {(B, "/m/0a"): 1}
    assert [bad.row for bad in result.rejected_rows] == [2, 4]


def test_line_numbers_hold_across_blocks_blank_lines_and_broken_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(sharding.openimages.csv_reader, "BLOCK_BYTES", 200)
    rows, expected = [], []
    for line in range(2, 400):
        kind = line * 7919 % 11
        if kind in (3, 5, 8):
            expected.append(line)
        rows.append(
            {3: "only,three,columns", 5: f"{A},verification,/m/0a,0.3", 7: "", 8: "x,,,,,"}.get(
                kind, f"{line:016x},verification,/m/0a,1"
            )
        )
    result = read(tmp_path, rows)
    assert [bad.row for bad in result.rejected_rows] == expected
    assert result.report["positives"] + len(expected) + result.report["blank"] == 398


def test_the_list_of_bad_rows_is_capped_and_their_number_is_not(tmp_path):
    result = read(tmp_path, ["x,y"] * 700 + [f"{A},verification,/m/0a,9"] * 700)
    assert len(result.rejected_rows) == 1000
    assert (result.report["bad_columns"], result.report["bad_confidence"]) == (700, 700)


@pytest.mark.parametrize(
    "header",
    ["", "ImageID,LabelName,Label,Confidence", "ImageID,Source,LabelName",
     f"{HEADER},XMin,XMax,YMin,YMax", "imageid,source,labelname,confidence",
     f"{A},verification,/m/0a,1", f"{HEADER},Source", f'"{HEADER}"'],
)  # fmt: skip
@pytest.mark.parametrize("strict", [False, True])
def test_a_wrong_header_is_always_fatal(tmp_path, header, strict):
    write_labels(tmp_path, {"train": [f"{A},verification,/m/0a,1"]}, header=header)
    with pytest.raises(InputError, match="header") as caught:
        read_split(Dump.open(tmp_path), "train", MIDS, AnnotationPolicy(strict=strict))
    assert caught.value.row == 1
    assert HEADER in str(caught.value)


@pytest.mark.parametrize("ending", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (1, 3, 2, 4, 0)])
def test_columns_are_read_by_name_as_tables_are_saved(tmp_path, ending, delimiter, quote, order):
    table = [["", *HEADER.split(",")]]
    table += [["7", A, "verification", "/m/0a", "1"], ["8", B, "verification", "/m/0b", "0"],
              ["9", C, "verification", "x"]]  # fmt: skip
    path = write_labels(tmp_path, {"train": []}) / LABELS["v3"]["train"]
    rows = ([row[at] for at in order if at < len(row)] for row in table)
    lines = (delimiter.join(f"{quote}{cell}{quote}" for cell in row) for row in rows)
    path.write_bytes(ending.join(lines).encode())
    result = read_split(Dump.open(tmp_path), "train", MIDS)
    assert labels(result.table) == {(A, "/m/0a"): 1, (B, "/m/0b"): 0}
    assert [bad.row for bad in result.rejected_rows] == [4]


def test_an_image_of_two_splits_counts_in_the_later_one(tmp_path):
    row = "verification,/m/0a,1"
    write_labels(
        tmp_path,
        {"train": [f"{A},{row}", f"{A},{row.replace('0a', '0zz')}", f"{B},{row}"],
         "validation": [f"{A},{row}", f"{C},{row}"], "test": [f"{C},{row}"]},
    )  # fmt: skip
    found = read_splits(Dump.open(tmp_path), MIDS)
    assert {split: list(labels(part.table)) for split, part in found.items()} == {
        "train": [(B, "/m/0a")], "validation": [(A, "/m/0a")], "test": [(C, "/m/0a")],
    }  # fmt: skip
    assert [(bad.row, bad.reason) for bad in found["train"].rejected_rows] == [
        (row, f"in_another_split: '{A}'") for row in (2, 3)
    ]
    assert found["train"].report["rows"] == 3
    with pytest.raises(InputError, match=r"row 3: in_another_split: .*Fix: keep the image in one"):
        read_splits(Dump.open(tmp_path), MIDS, AnnotationPolicy(strict=True))


def test_an_empty_file_and_an_endless_line_are_errors(tmp_path, monkeypatch):
    path = write_labels(tmp_path, {"train": []}) / LABELS["v3"]["train"]
    path.write_bytes(b"")
    with pytest.raises(InputError, match="header"):
        read_split(Dump.open(tmp_path), "train", MIDS)
    monkeypatch.setattr(sharding.openimages.csv_reader, "BLOCK_BYTES", 1000)
    path.write_bytes(f"{HEADER}\n{'x' * 100_000}".encode())
    with pytest.raises(InputError, match="not a CSV"):
        read_split(Dump.open(tmp_path), "train", MIDS)


def test_a_file_that_vanishes_or_is_cut_off_is_an_error(tmp_path):
    write_labels(tmp_path, {"train": [f"{i:016x},verification,/m/0a,1" for i in range(5000)]})
    pack_gz(tmp_path)
    dump = Dump.open(tmp_path)
    path = dump.annotation_files("train")[0].path
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match="cut off"):
        read_split(dump, "train", MIDS)
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        read_split(dump, "train", MIDS)


def test_the_hash_is_of_the_table_however_it_is_packed(tmp_path):
    rows = [f"{A},verification,/m/0a,1"]
    plain = write_labels(tmp_path / "plain", {"train": rows})
    content = (plain / LABELS["v3"]["train"]).read_bytes()
    gz = write_labels(tmp_path / "gz", {"train": rows})
    pack_gz(gz)
    packed = tmp_path / "tar"
    packed.mkdir()
    pack_tar_gz(plain, packed / "annotations_human.tar.gz", [LABELS["v3"]["train"]])
    expected = {"train/annotations-human.csv": hashlib.sha256(content).hexdigest()}
    for folder in (plain, gz, packed):
        result = read_split(Dump.open(folder), "train", MIDS)
        assert result.sources == expected
        assert labels(result.table) == {(A, "/m/0a"): 1}


def test_a_policy_that_makes_no_sense_is_refused():
    with pytest.raises(InputError, match=r"conflict policy 'newest'.*unobserved"):
        AnnotationPolicy(conflict="newest")
    for threshold in (0.0, 1.5, float("nan")):
        with pytest.raises(InputError, match="threshold"):
            AnnotationPolicy(machine=threshold)
    policy = AnnotationPolicy(machine=0.5, strict=True)
    assert policy.record() == {"conflict": "unobserved", "machine": 0.5}


def test_more_classes_than_uint16_holds_are_refused(tmp_path):
    write_labels(tmp_path, {"train": []})
    with pytest.raises(InputError, match="too many"):
        read_split(Dump.open(tmp_path), "train", [f"/m/{n}" for n in range(65_536)])


REAL = {
    "train": {"rows": 1000, "positives": 171, "negatives": 574, "unknown_mid": 255, "images": 4},
    "validation": {
        "rows": 1000, "positives": 655, "negatives": 280, "unknown_mid": 65, "images": 73,
    },
    "test": {"rows": 1000, "positives": 683, "negatives": 263, "unknown_mid": 54, "images": 75},
}  # fmt: skip
REAL_CROWD = {"train": 2, "validation": 20, "test": 27}


@pytest.fixture
def real(shared) -> tuple[Dump, list[str]]:
    """The head of each file of the real V3 dump, and its trainable classes."""
    dump = Dump.open(shared / "data" / "openimages" / "v3_2017_11")
    return dump, [mid for mid, _ in read_classes(dump)]


@pytest.mark.shared
@pytest.mark.parametrize("place", ["2017_11", "archives"])
@pytest.mark.parametrize("split", REAL)
def test_the_real_v3_heads_parse_to_the_row(real, place, split):
    whole, mids = real
    result = read_split(Dump.open(whole.root / place), split, mids)
    assert nonzero(result.report) == REAL[split]
    assert result.report["source crowdsource-verification"] == REAL_CROWD[split]
    assert result.rejected_rows == ()
    assert sum(result.unknown_mids.values()) == REAL[split]["unknown_mid"]


@pytest.mark.shared
def test_real_rows_keep_their_meaning(real):
    dump, mids = real
    table = read_split(dump, "train", mids).table
    said = states(table)
    lines = dump.annotation_files("train")[0].path.read_text().splitlines()[1:]
    known = set(mids)
    inside = [line.split(",") for line in lines if line.split(",")[2] in known]
    assert len(inside) == len(said) == 745
    for image, _, mid, confidence in inside:
        assert said[int(image, 16), mids.index(mid)] == int(confidence)


@pytest.mark.shared
def test_real_machine_labels_enter_by_threshold(real):
    dump, mids = real
    result = read_split(dump, "validation", mids, AnnotationPolicy(machine=0.7))
    assert nonzero(result.report) == {
        "rows": 2000, "positives": 690, "negatives": 280, "duplicates": 398,
        "machine_overruled": 99, "unknown_mid": 178, "machine_below_threshold": 355, "images": 77,
    }  # fmt: skip


@pytest.mark.shared
@pytest.mark.parametrize("release", ["v4", "v5", "v6", "v7"])
def test_later_releases_of_the_real_rows_give_the_same_labels(real, tmp_path, release):
    source, mids = real
    for split in source.splits:
        lines = source.annotation_files(split)[0].path.read_text().splitlines()[1:]
        if release == "v7":
            lines = [f"{line}.0" if ",verification," in line else line for line in lines]
        write_labels(tmp_path, {split: lines}, release)
    dump = Dump.open(tmp_path)
    assert dump.release == release
    for split in source.splits:
        result = read_split(dump, split, mids)
        assert states(result.table) == states(read_split(source, split, mids).table)
        assert nonzero(result.report) == REAL[split]


def test_every_outcome_is_in_every_report(tmp_path):
    assert set(ROW_OUTCOMES) - {"in_another_split"} <= set(read(tmp_path, []).report)
