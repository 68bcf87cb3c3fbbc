"""Images are taken down: from tars, tables and files for good, over kills and later dumps."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sharding.commands.options import RemoveOptions
from sharding.commands.remove import Removed, remove
from sharding.dataset.label_versions import all_labels
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.importers.options import ImportOptions
from sharding.importers.prepare import prepare_import
from sharding.importers.run import import_collection
from sharding.manifest import Dataset, Manifest
from sharding.sources.named import image_id_of
from sharding.storage.tar_index import read_index
from tests.support.commands import backwards, check, flip_a_byte, relabel, shard
from tests.support.dumpmaking import MIDS, write_classes, write_labels
from tests.support.foreign import write_csv
from tests.support.killing import run_until
from tests.support.photos import image_ids, tree, write_photo_dump

CREDITS = "ImageID,Subset,OriginalURL,OriginalLandingURL,License,Author,Title"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(V3 dump, images) with authors; the first training image lies in `later` instead."""
    root = tmp_path_factory.mktemp("input")
    dump, images = write_photo_dump(root)
    names = image_ids(images, "train")
    rows = [f"{name},train,u,l,by,of {name},t" for name in names]
    (dump / "2017_11/train/images.csv").write_text("\n".join([CREDITS, *rows, ""]))
    (root / "later/train").mkdir(parents=True)
    (images / f"train/{names[0]}.jpg").rename(root / f"later/train/{names[0]}.jpg")
    return dump, images


def take_down(dataset: Path, *ids: str, **more: Any) -> Removed:
    options = RemoveOptions(dataset=str(dataset), ids=ids, **more)
    return remove(options, backwards)


def is_intact(dataset: Path, **more: Any) -> bool:
    report = check(dataset, **more)
    assert report.intact, str(report)
    return True


def victims(inputs: tuple[Path, Path]) -> list[str]:
    """One image without pixels, one of a tar with others, one of another split."""
    train = image_ids(inputs[1], "train")
    (absent,) = image_ids(inputs[0].parent / "later", "train")
    return [absent, train[3], image_ids(inputs[1], "test")[0]]


def mentions(dataset: Path, ids: Sequence[str]) -> set[str]:
    """Every file, the manifest apart, that has one of the ids in its bytes or its rows."""
    files = set()
    for path in dataset.rglob("*"):
        if path.is_file() and path.name != "dataset.json":
            content = path.read_bytes()
            if path.suffix == ".parquet":
                content = str(pq.read_table(path).to_pylist()).encode()
            if any(name.encode() in content for name in ids):
                files.add(path.relative_to(dataset).as_posix())
    return files


def jpegs(dataset: Path) -> dict[str, bytes]:
    """Sample by id: JPEG and label as they are in the tars."""
    samples = {}
    for tar in dataset.glob("images/*.tar"):
        content = tar.read_bytes()
        for name, parts in read_index(tar.with_suffix(".idx")).items():
            samples[name] = b"|".join(content[at : at + n] for at, n in parts.values())
    return samples


def test_only_their_tars_are_written_anew(dataset: Path, inputs, original: Path) -> None:
    gone, before = victims(inputs), jpegs(dataset)
    prepared_by_energon(dataset)
    assert {"attribution.parquet", "quarantine.parquet", "labels/2017_11/wanted.txt"} < mentions(
        dataset, gone
    )
    done = take_down(dataset, *gone)
    assert done.tars == 2
    assert str(done).splitlines()[1:3] == [
        "  train        1 image out of its tars",
        "  test         1 image out of its tars",
    ]
    assert mentions(dataset, gone) == set()
    assert Manifest.read(dataset).removed == tuple(sorted(gone))
    assert jpegs(dataset) == {name: s for name, s in before.items() if name not in gone}
    old, new = tree(original), tree(dataset)
    tars = {name for name in old if name.endswith(".tar")}
    assert len(tars - new.keys()) == 2
    assert all(old[name] == new[name] for name in tars & new.keys())
    assert is_intact(dataset)
    report = Manifest.read(dataset).labels["2017_11"].report
    assert {split: counts["images_removed"] for split, counts in report.items()} == {
        "train": 2,
        "validation": 0,
        "test": 1,
    }


def prepared_by_energon(dataset: Path) -> None:
    """Leave what `energon prepare` does: an index of each tar, and one of all ids."""
    for tar in dataset.glob("images/*.tar"):
        Path(f"{tar}.idx").write_bytes(bytes(8))
    (dataset / ".nv-meta/index.sqlite").write_text("".join(jpegs(dataset)))


def test_every_label_version_loses_them(dataset: Path, inputs, tmp_path: Path) -> None:
    gone = victims(inputs)
    relabel(dataset, newer_dump(inputs, tmp_path))
    take_down(dataset, *gone)
    opened = Dataset.open(dataset)
    for name, version in opened.manifest.labels.items():
        for split in version.splits:
            table = all_labels(opened, split, name)
            assert not {*format_image_ids(table.image_ids_N)} & {*gone}
    assert is_intact(dataset)


def newer_dump(inputs: tuple[Path, Path], folder: Path) -> Path:
    names = [*image_ids(inputs[1], "train"), *image_ids(inputs[0].parent / "later", "train")]
    rows = {"train": [f"{name},verification,{MIDS[0]},1" for name in names]}
    return write_classes(write_labels(folder / "newer", rows, "v4"), release="v4")


def test_nothing_brings_them_back(dataset: Path, inputs, tmp_path: Path) -> None:
    gone, everywhere = victims(inputs), tmp_path / "all"
    shutil.copytree(inputs[1], everywhere)
    shutil.copytree(inputs[0].parent / "later", everywhere, dirs_exist_ok=True)
    take_down(dataset, *gone)
    relabel(dataset, newer_dump(inputs, tmp_path), images=str(everywhere))
    assert Manifest.read(dataset).labels["2018_04"].report["train"]["images_removed"] == 2
    for lost in ("labels/2017_11/train.parquet", "attribution.parquet", "quarantine.parquet"):
        (dataset / lost).unlink()
        shard(inputs, dataset)
        assert mentions(dataset, gone) == set(), lost
        assert is_intact(dataset)
    shard(inputs, dataset, images=str(everywhere), retry_failed=True)
    next(dataset.glob("images/train-*.tar")).unlink()
    assert is_intact(dataset, repair=True, images=str(everywhere))
    relabel(dataset, newer_dump(inputs, tmp_path), rewrite=True)
    assert mentions(dataset, gone) == set()


def test_killed_anywhere_it_ends_the_same(inputs, original: Path, tmp_path: Path) -> None:
    gone = victims(inputs)
    undisturbed = shutil.copytree(original, tmp_path / "undisturbed")
    take_down(undisturbed, *gone)
    expected = tree(undisturbed)
    event, died, unfinished = 0, True, 0
    while died:
        dataset = shutil.copytree(original, tmp_path / f"killed-{event}")
        died = run_until(event, partial(take_down, dataset, *gone))
        report = check(dataset)
        unfinished += "repeat the remove command" in str(report)
        take_down(dataset, *gone)
        assert tree(dataset) == expected, f"killed at event {event}"
        shutil.rmtree(dataset)
        event += 7
    assert event > 40
    assert unfinished > 3


def test_a_tar_that_is_emptied_goes_and_its_number_with_it(dataset: Path) -> None:
    last = Dataset.open(dataset).shards("train")[-1]
    gone = list(read_index(dataset / last.index))
    take_down(dataset, *gone)
    manifest = Manifest.read(dataset)
    assert last.path not in {shard.path for shard in manifest.shards}
    assert not (dataset / last.path).exists()
    assert manifest.next_number("train") == last.number + 1
    assert is_intact(dataset)
    take_down(dataset, *[name for name in jpegs(dataset) if name in of_test_split(dataset)])
    assert not list(dataset.glob("images/test-*"))
    assert is_intact(dataset)
    left = list(jpegs(dataset))
    with pytest.raises(InputError, match="no image would be left"):
        take_down(dataset, *left)
    assert is_intact(dataset)


def of_test_split(dataset: Path) -> set[str]:
    return {*format_image_ids(Dataset.open(dataset).labels("test").image_ids_N)}


def test_ids_come_from_a_file_and_unknown_ones_are_refused(dataset: Path, inputs, tmp_path) -> None:
    known = image_ids(inputs[1], "train")[0]
    listed = tmp_path / "ids.txt"
    before = tree(dataset)
    for text, message in (
        (f"{known}\n\n0A\n", r"ids\.txt, row 3: image id '0A' is not"),
        (f"{'e' * 16}\n{'f' * 16}\n", f"has no image {'e' * 16}, nor 1 others .*--allow-unknown"),
    ):
        listed.write_text(text)
        with pytest.raises(InputError, match=message):
            take_down(dataset, file=listed)
        assert tree(dataset) == before
    listed.write_text("\ufeff \n")
    with pytest.raises(InputError, match=r"ids\.txt: names no image\. Fix: name one a line"):
        take_down(dataset, file=listed)
    with pytest.raises(InputError, match=r"^--ids: names no image\."):
        take_down(dataset, "")
    with pytest.raises(InputError, match="no list of ids"):
        take_down(dataset, file=tmp_path / "absent.txt")
    listed.write_text(f"\ufeff{known}\r\n{'e' * 16}\n")
    done = take_down(dataset, file=listed, allow_unknown=True)
    assert (done.ids, done.unknown, done.tars) == (2, ("e" * 16,), 1)
    assert f"1 id not of this dataset: {'e' * 16}; kept out of what is added later" in str(done)
    settled = tree(dataset)
    assert "nothing was done" in str(take_down(dataset, known))
    assert tree(dataset) == settled


def test_a_damaged_tar_is_not_copied(dataset: Path, inputs) -> None:
    for shard_record in Dataset.open(dataset).shards("train"):
        flip_a_byte(dataset / shard_record.path)
    with pytest.raises(InputError, match=r"train-00000.\.tar: its content has changed .*--images"):
        take_down(dataset, image_ids(inputs[1], "train")[0])
    assert Manifest.read(dataset).removed is None


@pytest.mark.parametrize("name", ["labels/2017_11/test.parquet", "attribution.parquet"])
def test_a_changed_table_gets_no_new_hash(dataset: Path, inputs, name: str) -> None:
    table = pq.read_table(dataset / name)
    pq.write_table(table, dataset / name, compression="none")
    before = tree(dataset)
    with pytest.raises(InputError, match=f"{name}: its content has changed .*Fix: repeat the com"):
        take_down(dataset, image_ids(inputs[1], "train")[0])
    assert tree(dataset) == before


def test_tars_that_a_repair_set_aside_are_named(dataset: Path, inputs, capsys) -> None:
    name = image_ids(inputs[1], "train")[0]
    shutil.copytree(dataset / "images", dataset / "set_aside/1/images")
    take_down(dataset, name)
    said = "".join(capsys.readouterr())
    assert "set_aside/1/images/train-" in said
    assert said.count("still holds removed images") == 1
    (dataset / "set_aside/1/images/test-000000.idx").unlink()
    assert "nothing was done" in str(take_down(dataset, name))
    assert "test-000000.tar may hold removed images" in "".join(capsys.readouterr())


def test_the_tar_of_a_killed_job_does_not_keep_the_picture(
    dataset: Path, inputs, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    later, before = inputs[0].parent / "later", tree(dataset)
    (gone,) = image_ids(later, "train")
    with monkeypatch.context() as killed:
        killed.setattr("sharding.maintenance.extend.publish", lambda *a, **more: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            relabel(dataset, inputs[0], images=str(later), name="two")
    (tar,) = {name for name in tree(dataset).keys() - before.keys() if name.endswith(".tar")}
    assert gone in jpegs(dataset)
    take_down(dataset, gone)
    assert f"{tar} of a killed job still holds removed images: deleted" in capsys.readouterr().out
    assert mentions(dataset, [gone]) == set()
    assert is_intact(dataset)
    relabel(dataset, inputs[0], images=str(later), name="two")
    assert mentions(dataset, [gone]) == set()
    assert is_intact(dataset)


def test_a_tar_that_may_be_of_a_newer_manifest_is_named(dataset: Path, inputs, capsys) -> None:
    name = image_ids(inputs[1], "test")[0]
    for suffix in (".tar", ".idx"):
        shutil.copy(
            dataset / f"images/test-000000{suffix}", dataset / f"images/test-000099{suffix}"
        )
    take_down(dataset, name)
    assert "images/test-000099.tar still holds removed images; the" in "".join(capsys.readouterr())
    assert name in jpegs(dataset)


def test_an_imported_image_is_taken_down_by_its_name(tmp_path: Path) -> None:
    names = [f"{split}{n}.jpg" for split in ("train", "validation", "test") for n in range(4)]
    rows = [f"{name},cat,,{name.rstrip('.jpg0123')}" for name in names]
    rows.append("train2.jpg,dog,dog,train")  # is set aside
    write_csv(tmp_path, ["image,labels,negatives,split", *rows], names)
    options = ImportOptions(
        format="csv", source=tmp_path, output=tmp_path / "dataset", single_positive=True
    )
    import_collection(prepare_import(options), map)
    take_down(options.output, "train2.jpg")
    gone = [image_id_of("train2.jpg"), "train2.jpg"]
    assert mentions(options.output, gone) == set()
    (options.output / "names.parquet").unlink()
    import_collection(prepare_import(options), map)
    import_collection(prepare_import(dataclasses.replace(options, seed=5)), map)
    assert mentions(options.output, gone) == set()
    assert is_intact(options.output)


NAMED = (
    *("cats/p1.jpg", "cats/p2.jpg", "cats/caf\u00e9.jpg", "dogs/p2.jpg", "dogs/P4.jpg"),
    *("x.jpg", "p1.jpg", "dogs/twin.jpg", "dogs/Twin.jpg"),
)


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    """A dataset of `NAMED`, whose table writes paths as Windows does."""
    rows = [f"{name},cat,train".replace("/", "\\") for name in NAMED]
    write_csv(tmp_path / "in", ["image,labels,split", *rows], NAMED)
    dataset = tmp_path / "dataset"
    source = tmp_path / "in"
    options = ImportOptions(format="csv", source=source, output=dataset, validation_share=0.0)
    import_collection(prepare_import(options), map)
    return dataset


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("cats\\p1.jpg", NAMED[0]),
        ("./cats//p1.jpg", NAMED[0]),
        ("Cats/P1.JPG", NAMED[0]),
        ("Cats\\p2.jpg", NAMED[1]),
        ("Cats/Cafe\u0301.jpg", NAMED[2]),
        ("dogs/p4.jpg", NAMED[4]),
    ],
)
def test_a_name_finds_its_image_however_it_is_written(
    written: str, name: str, imported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "1 id removed" in str(take_down(imported, written))
    assert Manifest.read(imported).removed == (image_id_of(name),)
    assert mentions(imported, [image_id_of(name), name]) == set()
    assert is_intact(imported)
    is_told = (
        f"1 name found in another spelling: {written!r} is {name!r}" in capsys.readouterr().out
    )
    assert is_told == (written not in ("cats\\p1.jpg", "./cats//p1.jpg"))


def test_a_name_of_several_images_is_refused(imported: Path, tmp_path: Path) -> None:
    before = tree(imported)
    listed = tmp_path / "names.txt"
    listed.write_text("x.jpg\ndogs/TWIN.jpg\n")
    with pytest.raises(InputError, match=r"names\.txt, row 2: 'dogs/TWIN\.jpg' may be 'dogs/Tw"):
        take_down(imported, file=listed)
    assert tree(imported) == before


@pytest.mark.parametrize("allow_unknown", [False, True])
@pytest.mark.parametrize(
    ("written", "near"),
    [("/data/in/cats/p2.jpg", "cats/p2.jpg"), ("birds/x.jpg", "x.jpg"), ("P2.jpg", "cats/p2.jpg")],
)
def test_a_path_of_more_folders_or_fewer_is_no_image(
    imported: Path, written: str, near: str, allow_unknown: bool
) -> None:
    """It may be of another collection, or of a picture that is gone already."""
    before = tree(imported)
    with pytest.raises(InputError, match=f"no image is called '{written}', but '{near}' ends alik"):
        take_down(imported, written, allow_unknown=allow_unknown)
    assert tree(imported) == before


def test_a_twin_that_stays_is_named(imported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = shutil.copytree(imported, imported.with_name("both"))
    take_down(imported, "dogs/twin.jpg")
    said = "1 image whose names differ in spelling alone stay: 'dogs/Twin.jpg'"
    assert said in capsys.readouterr().out
    take_down(imported, "dogs/Twin.jpg")
    take_down(both, "dogs/twin.jpg", "dogs/Twin.jpg")
    assert "alone stay" not in capsys.readouterr().out


def test_a_removal_that_was_killed_is_ended_before_names_are_looked_for(imported: Path) -> None:
    """The table of names has forgotten cats/p1.jpg, and p1.jpg is another image."""
    take_down(imported, "cats/p1.jpg")
    manifest = Manifest.read(imported)
    created_by = {**manifest.created_by, "unfinished_removal": "1"}
    dataclasses.replace(manifest, created_by=created_by).write(imported)
    ended = f"repeat the removal that was killed: --ids {image_id_of('cats/p1.jpg')}"
    with pytest.raises(InputError, match=f"'p1.jpg' ends alike. Fix: {ended}$"):
        take_down(imported, "CATS/p1.jpg")


def test_names_that_are_not_there_are_told_as_they_are_written(imported: Path) -> None:
    with pytest.raises(
        InputError, match=r"has no image 'cats\\\\p9\.jpg', nor 1 others of these\. Fix"
    ):
        take_down(imported, "cats\\p9.jpg", "p2", "x.jpg")
    said = str(take_down(imported, "cats\\p9.jpg", "cats\\p1.jpg", allow_unknown=True))
    assert said.startswith("1 id removed")
    assert "1 id not of this dataset: 'cats\\\\p9.jpg'; kept out of what is added later" in said
    gone = {image_id_of("cats/p9.jpg"), image_id_of("cats/p1.jpg")}
    assert {*(Manifest.read(imported).removed or ())} == gone


def test_what_is_repeated_finds_no_other_image(imported: Path) -> None:
    take_down(imported, "cats/p1.jpg")
    assert "nothing was done" in str(take_down(imported, "cats\\p1.jpg"))
    for gone in ("CATS/p1.jpg", "/data/in/cats/p1.jpg"):
        with pytest.raises(InputError, match=r"'p1\.jpg' ends alike"):
            take_down(imported, gone)
    # A file of the same name in another folder is not what was taken down.
    take_down(imported, "cats/p2.jpg")
    assert "nothing was done" in str(take_down(imported, "cats\\p2.jpg"))
    assert Manifest.read(imported).removed_ids.size == 2


def test_a_takedown_by_name_that_is_killed_anywhere_is_repeated(
    imported: Path, tmp_path: Path
) -> None:
    gone = ("cats\\p1.jpg", "./dogs/p2.jpg")
    undisturbed = shutil.copytree(imported, tmp_path / "undisturbed")
    take_down(undisturbed, *gone)
    expected = tree(undisturbed)
    event, died = 0, True
    while died:
        dataset = shutil.copytree(imported, tmp_path / f"killed-{event}")
        died = run_until(event, partial(take_down, dataset, *gone))
        take_down(dataset, *gone)
        assert tree(dataset) == expected, f"killed at event {event}"
        shutil.rmtree(dataset)
        event += 5
    assert event > 40
