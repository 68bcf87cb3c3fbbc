"""What was set aside stays listed, whatever is done to a dataset or lost from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharding.dataset.quarantine import Entry, Quarantine
from sharding.errors import InputError
from sharding.layout import QUARANTINE_FILE
from sharding.openimages.annotations import read_split
from sharding.openimages.dump import Dump
from sharding.sources.named import image_id_of
from tests.support.commands import check, relabel, shard
from tests.support.dumpmaking import MIDS, write_classes, write_labels
from tests.support.photos import image_ids, tree, write_photo_dump

A = Entry(image_id="0" * 16, split="train", source="a.jpg", reason="cut off")
B = Entry(image_id="1" * 16, split="train", source="b.jpg", reason="missing")
C = Entry(image_id="0" * 16, split="test", source="c.jpg", reason="missing")


def test_entries_are_sorted_distinct_and_survive_the_file(tmp_path):
    quarantine = Quarantine(entries=(B, A, C, A))
    assert quarantine.entries == (C, A, B)
    quarantine.write(tmp_path / "a.parquet")
    assert Quarantine.read(tmp_path / "a.parquet") == quarantine
    Quarantine(entries=(A, B, C)).write(tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert pq.read_schema(tmp_path / "a.parquet").names == [
        "image_id", "split", "source", "reason",
    ]  # fmt: skip


def test_an_empty_table_is_a_table(tmp_path):
    Quarantine().write(tmp_path / "a.parquet")
    assert len(Quarantine.read(tmp_path / "a.parquet")) == 0


def test_merging_and_recovering():
    both = Quarantine(entries=(A,)).merged(Quarantine(entries=(B, C)), Quarantine(entries=(A,)))
    assert len(both) == 3
    assert both.image_ids("train") == {A.image_id, B.image_id}
    assert both.without_images("train", [A.image_id]).entries == (C, B)


def test_bad_annotation_rows_are_quarantined_with_file_and_line(tmp_path):
    write_labels(tmp_path, {"train": ["123e5,verification,/m/0a,1", "x,y"]})
    rows = read_split(Dump.open(tmp_path), "train", MIDS).rejected_rows
    entries = Quarantine.of_rejected_rows("train", rows).entries
    file = tmp_path / "2017_11" / "train" / "annotations-human.csv"
    assert [(entry.image_id, entry.source, entry.reason) for entry in entries] == [
        ("123e5", f"{file}:2", "bad_id: '123e5'"),
        ("x", f"{file}:3", "bad_columns: 'x,y'"),
    ]


@pytest.mark.parametrize("content", [None, b"garbage", "other"])
def test_what_is_no_quarantine_table_is_one_line(tmp_path, content):
    path = tmp_path / "quarantine.parquet"
    if content == "other":
        pq.write_table(pa.table({"a": [1]}), path)
    elif content:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        Quarantine.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_about_an_image_are_known_however_they_write_it() -> None:
    row = {"split": "train", "source": "table.csv:3"}
    entries = (
        Entry(image_id="0" * 15 + "A", reason="image id is not", **row),
        Entry(image_id="", reason=f"bad columns: '{'0' * 15}a,x'", **row),
        Entry(image_id=" a/b.jpg", reason="other", **row),
        Entry(image_id="a/b.jpg", reason="bad flag", **row),
        Entry(image_id="2007_01", reason="bad flag", **row),
    )
    removed = frozenset({"0" * 15 + "a", image_id_of("a/b.jpg"), image_id_of("2007_01.jpg")})
    (left,) = Quarantine(entries=entries).without_ids(removed).entries
    assert left.reason == "other"


def test_a_bad_row_is_told_from_a_bad_image() -> None:
    row = Entry(image_id="0" * 16, split="train", source="train/a.csv:12", reason="bad_id: 'x'")
    for source in ("train/0.jpg", "s3://b/1:2.jpg", f"list.csv: {'0' * 16}", "a.tar:12.jpg"):
        image = Entry(image_id="0" * 16, split="train", source=source, reason="missing")
        both = Quarantine(entries=(row, image))
        assert (both.rows().entries, both.images().entries) == ((row,), (image,))
        assert both.without_images("train", ["0" * 16]).entries == (row,)


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, Path]:
    """(V3 dump, images)."""
    return write_photo_dump(tmp_path / "in")


def set_aside(dataset: Path) -> set[tuple[str, str]]:
    """(image, kind of reason)."""
    entries = Quarantine.read(dataset / QUARANTINE_FILE).entries
    return {(entry.image_id, entry.reason.partition(":")[0]) for entry in entries}


def spoil_a_row(dump: Path, image_id: str) -> None:
    """A row about the image that labels nothing."""
    file = dump / "2017_11/train/annotations-human.csv"
    file.write_text(f"{file.read_text()}{image_id},verification,{MIDS[0]},7\n")


def take_away(images: Path, folder: Path, names: list[str]) -> Path:
    (folder / "train").mkdir(parents=True)
    for name in names:
        shutil.move(images / f"train/{name}.jpg", folder / f"train/{name}.jpg")
    return folder


def later_dump(images: Path, folder: Path) -> Path:
    rows = [f"{image_id},verification,{MIDS[0]},1" for image_id in image_ids(images, "train")]
    return write_classes(write_labels(folder, {"train": rows}, "v4"), release="v4")


def test_bad_rows_outlive_a_search_for_their_image(inputs, tmp_path: Path) -> None:
    first, *_ = image_ids(inputs[1], "train")
    spoil_a_row(inputs[0], first)
    later = take_away(inputs[1], tmp_path / "later", [first])
    dataset = tmp_path / "out"
    shard(inputs, dataset)
    output = {(first, "missing"), (first, "bad_confidence")}
    assert set_aside(dataset) == output
    shard(inputs, dataset, retry_failed=True)
    assert set_aside(dataset) == output
    shard(inputs, dataset, retry_failed=True, images=str(later))
    assert set_aside(dataset) == {(first, "bad_confidence")}
    assert check(dataset).intact


def test_an_image_that_was_found_later_is_not_set_aside_again(inputs, tmp_path: Path) -> None:
    first, second, *_ = image_ids(inputs[1], "train")
    later = take_away(inputs[1], tmp_path / "later", [first, second])
    dataset = tmp_path / "out"
    shard(inputs, dataset)
    (later / f"train/{second}.jpg").unlink()
    shard(inputs, dataset, retry_failed=True, images=str(later))
    before = tree(dataset)
    (dataset / QUARANTINE_FILE).unlink()
    shard(inputs, dataset)
    assert set_aside(dataset) == {(second, "missing")}
    assert tree(dataset) == before


def test_a_lost_table_is_missed_until_the_command_is_repeated(inputs, tmp_path: Path) -> None:
    first, *_ = image_ids(inputs[1], "train")
    take_away(inputs[1], tmp_path / "later", [first])
    spoil_a_row(inputs[0], first)
    dataset = tmp_path / "out"
    shard(inputs, dataset)
    before = tree(dataset)
    (dataset / QUARANTINE_FILE).unlink()
    (problem,) = check(dataset, repair=True).remaining
    assert (problem.path, problem.what) == (QUARANTINE_FILE, "missing")
    assert "annotation rows come back by repeating the command that set them aside" in problem.fix
    shard(inputs, dataset)
    assert set_aside(dataset) == {(first, "missing"), (first, "bad_confidence")}
    assert tree(dataset) == before


def test_a_changed_entry_is_noticed_and_mended(inputs, tmp_path: Path) -> None:
    take_away(inputs[1], tmp_path / "later", image_ids(inputs[1], "train")[:2])
    dataset = tmp_path / "out"
    shard(inputs, dataset)
    before = tree(dataset)
    first, *others = Quarantine.read(dataset / QUARANTINE_FILE).entries
    other = Entry(image_id="f" * 16, split=first.split, source=first.source, reason=first.reason)
    Quarantine(entries=(other, *others)).write(dataset / QUARANTINE_FILE)
    assert [problem.path for problem in check(dataset).remaining] == [QUARANTINE_FILE]
    shard(inputs, dataset)
    assert tree(dataset) == before


def test_a_lost_table_lists_what_is_found_in_the_images_now(inputs, tmp_path: Path) -> None:
    first, second, *_ = image_ids(inputs[1], "train")
    later = take_away(inputs[1], tmp_path / "later", [first, second])
    dataset = tmp_path / "out"
    shard(inputs, dataset)
    (dataset / QUARANTINE_FILE).unlink()
    (later / f"train/{first}.jpg").rename(inputs[1] / f"train/{first}.jpg")
    (inputs[1] / f"train/{second}.jpg").write_bytes(b"gone")
    output = shard(inputs, dataset)
    assert "24 images" not in output
    assert "23 images" in output
    assert "forgotten" not in output
    ((image_id, reason),) = set_aside(dataset)
    assert (image_id, reason != "missing") == (second, True)
    assert check(dataset).intact


@pytest.mark.parametrize("rewrite", [False, True], ids=["labels alone", "tars too"])
def test_what_was_set_aside_outlives_new_labels(inputs, tmp_path: Path, rewrite: bool) -> None:
    shard(inputs, tmp_path / "whole")
    dump = later_dump(inputs[1], tmp_path / "later dump")
    lines = (tmp_path / "whole/images/train-000000.idx").read_text().splitlines()[1:]
    take_away(inputs[1], tmp_path / "later", [line.split()[3][:16] for line in lines])
    more = image_ids(inputs[1], "train")[0]
    (inputs[1] / f"train/{more}.jpg").write_bytes(b"gone")
    dataset = tmp_path / "out"
    shard(inputs, dataset)
    assert not (dataset / "images/train-000000.tar").exists()
    output = set_aside(dataset)
    assert len(output) == len(lines) + 1
    for _ in range(2):
        relabel(dataset, dump, rewrite=rewrite)
        assert check(dataset).intact
    before = tree(dataset)
    (dataset / QUARANTINE_FILE).unlink()
    shard(inputs, dataset)
    assert set_aside(dataset) == output
    assert tree(dataset) == before
