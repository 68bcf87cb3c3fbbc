"""What was set aside stays listed, whatever is done to a dataset or lost from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sharding.commands.options import ReshardOptions, ShardOptions, VerifyOptions
from sharding.commands.prepare import prepare
from sharding.commands.reshard import reshard
from sharding.commands.shard import shard_dump
from sharding.commands.verify import VerifyReport, verify
from sharding.dataset.quarantine import Entry, Quarantine
from sharding.layout import QUARANTINE_FILE, QUARANTINE_HASH
from sharding.manifest import Manifest
from tests.support.dumpmaking import MIDS, write_classes, write_labels
from tests.support.photos import image_ids, tree, write_photo_dump


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, Path]:
    """(V3 dump, images)."""
    return write_photo_dump(tmp_path / "in")


def sharded(inputs: tuple[Path, Path], output: Path, **more: Any) -> Path:
    settings: dict[str, Any] = {"images": str(inputs[1]), "images_per_shard": 10, **more}
    shard_dump(prepare(ShardOptions(annotations=inputs[0], output=str(output), **settings)), map)
    return output


def check(dataset: Path, **more: Any) -> VerifyReport:
    return verify(VerifyOptions(dataset=str(dataset), **more), map)


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


def relabel(dataset: Path, dump: Path, **more: Any) -> None:
    reshard(ReshardOptions(dataset=str(dataset), annotations=dump, **more), map)


def test_a_bad_row_is_told_from_a_bad_image() -> None:
    row = Entry(image_id="0" * 16, split="train", source="train/a.csv:12", reason="bad_id: 'x'")
    for source in ("train/0.jpg", "s3://b/1:2.jpg", f"list.csv: {'0' * 16}", "a.tar:12.jpg"):
        image = Entry(image_id="0" * 16, split="train", source=source, reason="missing")
        both = Quarantine(entries=(row, image))
        assert (both.rows().entries, both.images().entries) == ((row,), (image,))
        assert both.without_images("train", ["0" * 16]).entries == (row,)


def test_bad_rows_outlive_a_search_for_their_image(inputs, tmp_path: Path) -> None:
    first, *_ = image_ids(inputs[1], "train")
    spoil_a_row(inputs[0], first)
    later = take_away(inputs[1], tmp_path / "later", [first])
    dataset = sharded(inputs, tmp_path / "out")
    told = {(first, "missing"), (first, "bad_confidence")}
    assert set_aside(dataset) == told
    sharded(inputs, dataset, retry_failed=True)
    assert set_aside(dataset) == told
    sharded(inputs, dataset, retry_failed=True, images=str(later))
    assert set_aside(dataset) == {(first, "bad_confidence")}
    assert check(dataset).well


def test_an_image_that_was_found_later_is_not_set_aside_again(inputs, tmp_path: Path) -> None:
    first, second, *_ = image_ids(inputs[1], "train")
    later = take_away(inputs[1], tmp_path / "later", [first, second])
    dataset = sharded(inputs, tmp_path / "out")
    (later / f"train/{second}.jpg").unlink()
    sharded(inputs, dataset, retry_failed=True, images=str(later))
    before = tree(dataset)
    (dataset / QUARANTINE_FILE).unlink()
    assert check(dataset, repair=True).well
    assert set_aside(dataset) == {(second, "missing")}
    assert tree(dataset) == before


def test_lost_rows_are_missed_until_their_command_is_repeated(inputs, tmp_path: Path) -> None:
    first, *_ = image_ids(inputs[1], "train")
    take_away(inputs[1], tmp_path / "later", [first])
    spoil_a_row(inputs[0], first)
    dataset = sharded(inputs, tmp_path / "out")
    (dataset / QUARANTINE_FILE).unlink()
    (problem,) = check(dataset, repair=True).left
    assert problem.what == "1 rows, not 2"
    assert "annotation rows come back by repeating the command that set them aside" in problem.fix
    assert set_aside(dataset) == {(first, "missing")}


def an_entry_changed(dataset: Path) -> None:
    first, *others = Quarantine.read(dataset / QUARANTINE_FILE).entries
    other = Entry(image_id="f" * 16, split=first.split, source=first.source, reason=first.reason)
    Quarantine(entries=(other, *others)).write(dataset / QUARANTINE_FILE)


def test_a_changed_entry_is_noticed_and_mended(inputs, tmp_path: Path) -> None:
    take_away(inputs[1], tmp_path / "later", image_ids(inputs[1], "train")[:2])
    dataset = sharded(inputs, tmp_path / "out")
    before = tree(dataset)
    an_entry_changed(dataset)
    assert [problem.path for problem in check(dataset).left] == [QUARANTINE_FILE]
    assert check(dataset, repair=True).well
    assert tree(dataset) == before


def test_a_manifest_without_the_hash_is_read_as_before(inputs, tmp_path: Path) -> None:
    dataset = sharded(inputs, tmp_path / "out")
    raw = json.loads((dataset / "dataset.json").read_text())
    del raw["created_by"][QUARANTINE_HASH]
    (dataset / "dataset.json").write_text(json.dumps(raw, indent=1, sort_keys=True) + "\n")
    assert check(dataset).well
    assert QUARANTINE_HASH not in Manifest.read(dataset).created_by


@pytest.mark.parametrize("rewrite", [False, True], ids=["labels alone", "tars too"])
def test_records_of_what_was_set_aside_outlive_new_labels(
    inputs, tmp_path: Path, rewrite: bool
) -> None:
    whole = sharded(inputs, tmp_path / "whole")
    dump = later_dump(inputs[1], tmp_path / "later dump")
    lines = (whole / "images/train-000000.idx").read_text().splitlines()[1:]
    take_away(inputs[1], tmp_path / "later", [line.split()[3][:16] for line in lines])
    more = image_ids(inputs[1], "train")[0]
    (inputs[1] / f"train/{more}.jpg").write_bytes(b"gone")
    dataset = sharded(inputs, tmp_path / "out")
    assert not (dataset / "images/train-000000.tar").exists()
    told = set_aside(dataset)
    assert len(told) == len(lines) + 1
    for _ in range(2):
        relabel(dataset, dump, rewrite=rewrite)
        assert check(dataset).well
    before = tree(dataset)
    (dataset / QUARANTINE_FILE).unlink()
    assert check(dataset, repair=True).well
    assert set_aside(dataset) == told
    assert tree(dataset) == before


def damaged(path: Path) -> None:
    path.write_text("{}")


@pytest.mark.parametrize("damage", [Path.unlink, damaged])
def test_a_lost_record_is_noticed_and_made_again(
    inputs, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    take_away(inputs[1], tmp_path / "later", image_ids(inputs[1], "train")[:2])
    dataset = sharded(inputs, tmp_path / "out")
    told = set_aside(dataset)
    for record in (dataset / "images").glob("train-*.json"):
        damage(record)
    result = check(dataset)
    assert {problem.kind for problem in result.left} == {"record"}
    assert check(dataset, repair=True).well
    (dataset / QUARANTINE_FILE).unlink()
    assert check(dataset, repair=True).well
    assert set_aside(dataset) == told


def test_an_unreadable_report_is_removed_and_written_again(inputs, tmp_path: Path) -> None:
    dump = later_dump(inputs[1], tmp_path / "later dump")
    dataset = sharded(inputs, tmp_path / "out")
    relabel(dataset, dump)
    before = tree(dataset)
    (dataset / "labels/2018_04/diff.json").write_text('{"again')
    (problem,) = check(dataset).left
    assert "the command that wrote labels 2018_04 makes it anew" in problem.fix
    assert check(dataset, repair=True).well
    relabel(dataset, dump)
    assert tree(dataset) == before
