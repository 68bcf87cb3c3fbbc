"""What is told about a damage is true: who does it has the dataset again, byte for byte."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sharding.classes import ClassTable
from sharding.commands.prepare import prepare
from sharding.dataset.quarantine import Quarantine
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.manifest import Dataset
from tests.support.commands import check, lose, relabel, shard, shard_options
from tests.support.dumpmaking import MIDS, write_classes, write_labels
from tests.support.killing import run_until
from tests.support.photos import image_ids, tree, write_photo_dump

TAR, INDEX, TABLE = (
    "images/train-000001.tar",
    "images/train-000001.idx",
    "labels/2017_11/train.parquet",
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(V3 dump, images); a training image lies in `later` instead, and a row is bad."""
    root = tmp_path_factory.mktemp("input")
    dump, images = write_photo_dump(root)
    first, second, *_ = image_ids(images, "train")
    (root / "later/train").mkdir(parents=True)
    (images / f"train/{first}.jpg").rename(root / f"later/train/{first}.jpg")
    rows = dump / "2017_11/train/annotations-human.csv"
    rows.write_text(f"{rows.read_text()}{second},verification,{MIDS[0]},7\n")
    return dump, images


def with_later_labels(
    dataset: Path, inputs: tuple[Path, Path], folder: Path, more: Sequence[str] = ()
) -> None:
    everything = [*image_ids(inputs[1], "train"), *image_ids(inputs[0].parent / "later", "train")]
    rows = [f"{image_id},verification,{MIDS[0]},1" for image_id in everything]
    rows += more
    dump = write_classes(write_labels(folder / "v4", {"train": rows}, "v4"), release="v4")
    relabel(dataset, dump)
    assert check(dataset).intact


def lost(*names: str) -> Callable[[Path], None]:
    return lambda dataset: lose(dataset, *names)


def garbage(name: str) -> Callable[[Path], None]:
    return lambda dataset: (dataset / name).write_bytes(b"\xff{")


def classes_with(change: Callable[[ClassTable], dict[str, Any]]) -> Callable[[Path], None]:
    def damage(dataset: Path) -> None:
        table = ClassTable.read(dataset / "classes.parquet")
        fields = {name: value for name, value in vars(table).items() if name != "index_of"}
        ClassTable(**{**fields, **change(table)}).write(dataset / "classes.parquet")

    return damage


AGAIN = "repeat the command that made the dataset"
ASIDE = "repeating the command that set them aside"
LABELS = "repeat the command that wrote labels 2017_11"
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "classes": (lost("classes.parquet"), AGAIN),
    "classes cut": (garbage("classes.parquet"), AGAIN),
    "classes reordered": (classes_with(lambda table: {"mids": table.mids[::-1]}), AGAIN),
    "groups changed": (classes_with(lambda t: {"groups_K": t.groups_K[::-1].copy()}), AGAIN),
    "quarantine": (lost("quarantine.parquet"), ASIDE),
    "quarantine cut": (garbage("quarantine.parquet"), ASIDE),
    "tar and table": (lost(TAR, TABLE), LABELS),
    "shard and table": (lost(TAR, INDEX, TABLE), LABELS),
    "all but the rest": (lost("images", "labels"), LABELS),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_what_is_told_gives_the_dataset_back(
    dataset: Path, inputs, damage: Callable[[Path], None], message: str
) -> None:
    before = tree(dataset)
    damage(dataset)
    try:
        text = str(check(dataset))
    except InputError as error:
        text = str(error)
    assert message in text
    assert "is finished, in" in shard(inputs, dataset)
    assert check(dataset).intact
    assert tree(dataset) == before
    assert "nothing was done" in shard(inputs, dataset)


def test_a_repair_mends_what_it_can_and_tells_the_rest(dataset: Path, inputs) -> None:
    before = tree(dataset)
    lose(dataset, TAR, INDEX, TABLE, "images/test-000000.tar", "_info.json")
    (dataset / "README.md").write_bytes(b"\xff")
    result = check(dataset, repair=True, images=str(inputs[1]))
    assert [problem.path for problem in result.remaining] == [INDEX, TAR, TABLE]
    assert all(LABELS in problem.fix for problem in result.remaining)
    (dataset / TABLE).write_bytes(b"PAR1")
    shard(inputs, dataset)
    assert tree(dataset) == before


@pytest.mark.parametrize("tars", ["train-000000.tar", "train-*.tar"])
def test_a_lost_tar_comes_back_as_it_was_under_all_labels(
    dataset: Path, inputs, tmp_path: Path, tars: str
) -> None:
    """An image that was missing then stays so: the other labels have no row for it."""
    with_later_labels(dataset, inputs, tmp_path)
    before = tree(dataset)
    images = shutil.copytree(inputs[1], tmp_path / "images")
    shutil.copytree(inputs[0].parent / "later", images, dirs_exist_ok=True)
    for tar in (dataset / "images").glob(tars):
        tar.unlink()
    assert "is finished, in" in shard((inputs[0], images), dataset)
    assert tree(dataset) == before
    assert "24 images" in shard((inputs[0], images), dataset, retry_failed=True)
    assert check(dataset).intact


def test_killed_amid_it_the_command_is_repeated(dataset: Path, inputs, tmp_path: Path) -> None:
    with_later_labels(dataset, inputs, tmp_path)
    before = tree(dataset)
    lose(dataset, "images/train-000000.tar", TAR, TABLE, "classes.parquet", "quarantine.parquet")
    event, died = 0, True
    while died:
        copy = shutil.copytree(dataset, tmp_path / f"killed-{event}")
        died = run_until(event, shard, inputs, copy)
        shard(inputs, copy)
        assert check(copy).intact
        records = {name for name in tree(copy) if re.fullmatch(r"images/.*\.json", name)}
        assert tree(copy).keys() - records == before.keys(), f"killed at event {event}"
        assert before.items() <= tree(copy).items(), f"killed at event {event}"
        event += 11
    assert event > 40


@pytest.mark.parametrize("tars", ["train-000000.*", "*.tar"])
def test_images_of_no_use_take_nothing_from_a_dataset(
    dataset: Path, inputs, tmp_path: Path, tars: str
) -> None:
    with_later_labels(dataset, inputs, tmp_path)
    before = tree(dataset)
    (tmp_path / "wrong/train").mkdir(parents=True)
    (tmp_path / f"wrong/train/{'a' * 16}.jpg").write_bytes(b"of another dump")
    for tar in (dataset / "images").glob(tars):
        if tar.suffix != ".json":
            tar.unlink()
    damaged = tree(dataset)
    with pytest.raises(InputError, match=r"image cannot be used: missing.*give images among which"):
        shard((inputs[0], tmp_path / "wrong"), dataset)
    assert tree(dataset) == damaged
    shard(inputs, dataset)
    assert tree(dataset) == before


@pytest.mark.parametrize("damage", [lost("dataset.json"), garbage("dataset.json")])
def test_a_lost_manifest_is_not_made_again(dataset: Path, inputs, damage) -> None:
    damage(dataset)
    before = tree(dataset)
    with pytest.raises(InputError, match=r"restore (its dataset.json|the file from a copy)"):
        shard(inputs, dataset)
    assert tree(dataset) == before


def test_a_later_tar_with_a_planned_number_is_not_taken_for_the_planned_one(
    inputs, tmp_path: Path
) -> None:
    images, dataset = shutil.copytree(inputs[1], tmp_path / "images"), tmp_path / "dataset"
    small: dict[str, Any] = {"images_per_shard": 4}
    options = shard_options((inputs[0], images), dataset, **small)
    first, *_, last = (plan.image_ids_N for plan in prepare(options).plans["train"])
    missing = [f"{image_id}.jpg" for image_id in format_image_ids([*last, first[0]])]
    aside = tmp_path / "aside"
    aside.mkdir()
    for name in missing:
        if (images / "train" / name).exists():
            (images / "train" / name).rename(aside / name)
    shard((inputs[0], images), dataset, **small)
    shutil.copytree(aside, images / "train", dirs_exist_ok=True)
    shard((inputs[0], images), dataset, retry_failed=True, **small)
    before = tree(dataset)
    shard((inputs[0], images), dataset, **small)
    assert tree(dataset) == before


def test_a_tar_of_images_found_later_comes_back_too(dataset: Path, inputs, tmp_path) -> None:
    images = shutil.copytree(inputs[1], tmp_path / "images")
    shutil.copytree(inputs[0].parent / "later", images, dirs_exist_ok=True)
    shard((inputs[0], images), dataset, retry_failed=True)
    before = tree(dataset)
    added = Dataset.open(dataset).shards("train")[-1]
    assert added.images == 1
    lose(dataset, added.path, TABLE)
    shard((inputs[0], images), dataset)
    assert tree(dataset) == before
    lose(dataset, added.path, added.index, TABLE)
    damaged = tree(dataset)
    with pytest.raises(InputError, match=r"held is not known any more.*label tables are lost"):
        shard((inputs[0], images), dataset)
    assert tree(dataset) == damaged


def test_rows_set_aside_come_back_with_their_commands(
    dataset: Path, inputs, tmp_path: Path
) -> None:
    assert len(listed(dataset).rows()) == len(listed(dataset).images()) == 1
    with_later_labels(dataset, inputs, tmp_path, ["x,verification,/m/0a,1"])
    before = listed(dataset)
    (dataset / "quarantine.parquet").unlink()
    assert [problem.what for problem in check(dataset, repair=True).remaining] == ["missing"]
    assert "1 more that later commands set aside: repeat those" in shard(inputs, dataset)
    with_later_labels(dataset, inputs, tmp_path, ["x,verification,/m/0a,1"])
    assert listed(dataset) == before
    assert "nothing was done" in shard(inputs, dataset)


def listed(dataset: Path) -> Quarantine:
    return Quarantine.read(dataset / "quarantine.parquet")
