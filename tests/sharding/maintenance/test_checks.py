"""Every kind of damage is found, named, and mended where that is possible."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sharding.dataset import lock
from sharding.errors import InputError
from sharding.labels import LabelTable
from sharding.manifest import Dataset, Manifest
from sharding.storage.tar_index import index_of_tar
from tests.support.commands import check, flip_a_byte, lose, relabel, shard
from tests.support.dumpmaking import MIDS, write_classes, write_labels
from tests.support.photos import image_ids, tree, write_photo_dump

TAR, INDEX = "images/train-000001.tar", "images/train-000001.idx"
TABLE = "labels/2017_11/train.parquet"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    dump, images = write_photo_dump(tmp_path_factory.mktemp("input"))
    (images / f"train/{image_ids(images, 'train')[0]}.jpg").write_bytes(b"gone")
    return dump, images


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-600])


def other_rows(path: Path) -> None:
    table = LabelTable.read(path)
    table.select(table.image_ids_N, list(table.shards)[::-1]).write(path)


def test_an_untouched_dataset_is_well(dataset: Path) -> None:
    before = tree(dataset)
    result = check(dataset)
    assert result.intact
    assert "is intact: 34 images in" in str(result)
    assert check(dataset, repair=True).intact
    assert tree(dataset) == before


DAMAGES: list[tuple[str, Callable[[Path], None], str]] = [
    (TAR, Path.unlink, "missing"),
    (TAR, cut, "bytes, not"),
    (TAR, flip_a_byte, "content has changed"),
    (INDEX, Path.unlink, "missing"),
    (INDEX, flip_a_byte, "DALI would read wrong bytes"),
    (TABLE, Path.unlink, "missing"),
    (TABLE, flip_a_byte, "content has changed"),
    (TABLE, other_rows, "content has changed"),
    ("_info.json", Path.unlink, "missing"),
    ("_info.json", flip_a_byte, "differs from the manifest"),
    ("README.md", Path.unlink, "missing"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES)
def test_damage_is_named_and_mended_to_the_same_bytes(
    dataset: Path, inputs, name: str, damage: Callable[[Path], None], message: str
) -> None:
    before = tree(dataset)
    damage(dataset / name)
    result = check(dataset)
    assert not result.intact
    assert name in {problem.path for problem in result.remaining}
    assert message in str(result)
    assert check(dataset, repair=True, images=str(inputs[1])).intact
    assert tree(dataset) == before


def test_what_a_hub_adds_is_nobodys_concern(dataset: Path) -> None:
    downloads = dataset / ".cache/huggingface/download"
    (downloads / "images").mkdir(parents=True)
    for name in (".gitignore", "download/images/train-000000.tar.metadata", "download/x.lock"):
        (dataset / ".cache/huggingface" / name).touch()
    (dataset / ".gitattributes").write_text("*.tar filter=lfs\n")
    (dataset / ".lock").touch()  # of a job of ours that was killed
    assert check(dataset).intact
    (downloads / "images/0a1b.incomplete").touch()
    (dataset / "images/.gitattributes").touch()
    assert [problem.path for problem in check(dataset).remaining] == [
        ".cache/huggingface/download/images/0a1b.incomplete",
        "images/.gitattributes",
    ]


def test_an_image_in_two_splits_is_named(dataset: Path) -> None:
    manifest = Manifest.read(dataset)
    (record,) = (shard for shard in manifest.shards if shard.path == TAR)
    copies = {"path": "images/test-000099.tar", "index": "images/test-000099.idx"}
    for field, copy in copies.items():
        shutil.copy(dataset / getattr(record, field), dataset / copy)
    shards = (*manifest.shards, replace(record, split="test", **copies))
    replace(manifest, shards=shards).write(dataset)
    problems = [str(problem) for problem in check(dataset).remaining]
    words = f"dataset.json: {record.images} images are in test and in train, such as "
    assert any(problem.startswith(words) for problem in problems)


def test_without_images_a_broken_tar_is_left_and_said_so(dataset: Path) -> None:
    cut(dataset / TAR)
    before = tree(dataset)
    result = check(dataset, repair=True)
    assert not result.intact
    assert "--repair --images" in str(result)
    assert tree(dataset) == before


def test_a_repair_never_loses_an_image(dataset: Path, inputs, tmp_path: Path) -> None:
    (dataset / TAR).unlink()
    images = shutil.copytree(inputs[1], tmp_path / "images")
    table = Dataset.open(dataset).labels("train")
    lost = f"{int(table.image_ids_N[list(table.shards).index(TAR)]):016x}"
    (images / f"train/{lost}.jpg").unlink()
    with pytest.raises(InputError, match=f"{lost}.*missing"):
        check(dataset, repair=True, images=str(images))


def test_quick_checks_see_sizes_only(dataset: Path) -> None:
    flip_a_byte(dataset / TAR)
    assert check(dataset, quick=True).intact
    cut(dataset / TAR)
    assert not check(dataset, quick=True).intact


def test_orphans_of_ours_go_and_strangers_stay(dataset: Path) -> None:
    orphans = ("images/train-000777.idx", "images/x.tar.tmp.ab12cd34", "unfinished.json")
    strangers = ("notes.txt", "labels/mine.csv", "notes.tmp.txt")
    for name in (*orphans, *strangers):
        (dataset / name).write_text("x")
    result = check(dataset)
    assert {problem.path for problem in result.remaining} == {*orphans, *strangers}
    result = check(dataset, repair=True)
    assert {problem.path for problem in result.remaining} == set(strangers)
    assert not any((dataset / name).exists() for name in orphans)


def test_checks_change_nothing_and_jobs_remove_only_what_jobs_stage(dataset: Path) -> None:
    staged = ("0123456789abcdef.spool", "0123456789abcdef.npz", "confidences_train_000000.rows")
    mine = ("mine/precious.txt", "mine.txt")
    for name in (*staged, *mine):
        path = dataset / "staging" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    before = tree(dataset)
    assert {problem.path for problem in check(dataset).remaining} == {
        f"staging/{name}" for name in (*staged, *mine)
    }
    assert tree(dataset) == before
    remaining = check(dataset, repair=True).remaining
    assert {problem.path for problem in remaining} == {f"staging/{name}" for name in mine}
    for name in staged:
        (dataset / "staging" / name).write_text(name)
    with lock.acquire(dataset):
        pass
    assert [path.name for path in sorted((dataset / "staging").iterdir())] == ["mine", "mine.txt"]
    lose(dataset, "staging/mine", "staging/mine.txt")
    assert check(dataset, repair=True).intact
    assert not (dataset / "staging").exists()


def test_what_another_user_has_staged_is_no_error_of_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, own = (tmp_path / "staging" / f"{digit * 16}.spool" for digit in "01")
    theirs.parent.mkdir()
    for path in (theirs, own):
        path.touch()
    unlink = Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path == theirs:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    with lock.acquire(tmp_path):
        pass
    assert list(theirs.parent.iterdir()) == [theirs]


def test_tars_that_an_older_manifest_does_not_name_are_set_aside(dataset: Path) -> None:
    for number in (1, 2):
        for suffix in (".tar", ".idx", ".json"):
            name = f"images/train-000777{suffix}"
            (dataset / name).write_text(f"{name} {number}")
        assert [problem.path for problem in check(dataset).remaining] == ["images/train-000777.tar"]
        result = check(dataset, repair=True)
        assert result.intact
        assert "moved to set_aside/: images/train-000777.tar" in str(result)
    for number in (1, 2):
        for suffix in (".tar", ".idx", ".json"):
            name = f"images/train-000777{suffix}"
            assert (dataset / f"set_aside/{number}/{name}").read_text() == f"{name} {number}"


def test_other_pictures_are_accepted_only_by_name(dataset: Path, inputs, tmp_path: Path) -> None:
    images = shutil.copytree(inputs[1], tmp_path / "images")
    table = Dataset.open(dataset).labels("train")
    changed = f"{int(table.image_ids_N[list(table.shards).index(TAR)]):016x}"
    other = next((images / "test").glob("*.jpg"))
    (images / f"train/{changed}.jpg").write_bytes(other.read_bytes())
    (dataset / INDEX).unlink()
    cut(dataset / TAR)
    before = tree(dataset)
    with pytest.raises(InputError, match=f"1 pictures .* such as {changed}.jpg.*--accept-changed"):
        check(dataset, repair=True, images=str(images))
    assert tree(dataset) == before
    result = check(dataset, repair=True, images=str(images), accept_changed=True)
    assert result.intact
    assert f"changed: {TAR}: not the pictures that it had" in str(result)
    assert Manifest.read(dataset).created_by["duplicates"] == "null", "nobody has counted these"


def test_changed_class_counts_are_found(dataset: Path) -> None:
    from sharding.classes import ClassTable

    path = dataset / "classes.parquet"
    table = ClassTable.read(path)
    changed = ClassTable(**{**_fields(table), "groups_K": table.groups_K[::-1].copy()})
    changed.write(path)
    result = check(dataset, repair=True)
    assert [problem.path for problem in result.remaining] == ["classes.parquet"]


def _fields(table: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(table).items() if name != "index_of"}


def test_the_shard_job_still_knows_a_repaired_dataset(dataset: Path, inputs) -> None:
    (dataset / TAR).unlink()
    check(dataset, repair=True, images=str(inputs[1]))
    assert "nothing was done" in shard(inputs, dataset)


def test_an_index_is_rebuilt_from_the_headers(dataset: Path) -> None:
    assert index_of_tar(dataset / TAR) == (dataset / INDEX).read_bytes()
    (dataset / TAR).write_bytes(b"no tar at all" * 100)
    with pytest.raises(InputError, match="not a whole tar"):
        index_of_tar(dataset / TAR)


def test_what_is_no_dataset_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for absent in ("nowhere", "file", "file/below"):
        with pytest.raises(InputError, match=f"{absent}: no such directory. Fix: check the path"):
            check(tmp_path / absent)
    with pytest.raises(InputError, match="not a dataset"):
        check(tmp_path)
    assert not (tmp_path / "nowhere").exists()


def test_an_interrupted_command_is_no_dataset_yet(dataset: Path) -> None:
    manifest = dataset / "dataset.json"
    manifest.write_text(json.dumps({"format": 99}))
    with pytest.raises(InputError, match="format"):
        check(dataset)


def test_records_of_a_job_are_gone_or_ignored(dataset: Path) -> None:
    assert not list((dataset / "images").glob("*.json"))
    (dataset / "images/train-000001.json").write_text("as release 0.1.0 left it")
    assert check(dataset).intact


def test_an_unreadable_report_is_removed_and_written_again(dataset: Path, tmp_path: Path) -> None:
    rows = [f"{'0' * 16},verification,{MIDS[0]},1"]
    dump = write_classes(write_labels(tmp_path / "later", {"train": rows}, "v4"), release="v4")
    relabel(dataset, dump)
    before = tree(dataset)
    (dataset / "labels/2018_04/diff.json").write_text('{"again')
    (problem,) = check(dataset).remaining
    assert "the command that wrote labels 2018_04 writes it again" in problem.what
    assert check(dataset, repair=True).intact
    relabel(dataset, dump)
    assert tree(dataset) == before


def test_the_card_may_be_edited(dataset: Path) -> None:
    (dataset / "README.md").write_text("# Ours\n")
    assert check(dataset).intact
