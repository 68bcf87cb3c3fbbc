"""Image lists: images that nobody annotated; who took each image and under which licence."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sharding.commands.options import ShardOptions, VerifyOptions
from sharding.commands.prepare import prepare
from sharding.commands.shard import shard_dump
from sharding.commands.verify import verify
from sharding.errors import InputError
from sharding.labels import LabelTable
from sharding.layout import ATTRIBUTION_FILE, ATTRIBUTION_HASH
from sharding.manifest import Manifest
from sharding.openimages.annotations import read_split
from sharding.openimages.dump import Dump
from sharding.openimages.dump_files import DumpFile
from sharding.openimages.image_lists import count_listed, write_attribution
from tests.support.dumpmaking import MIDS, write_labels
from tests.support.photos import image_ids, tree, write_photo_dump

HEADER = "ImageID,Subset,OriginalURL,OriginalLandingURL,License,Author,Title"
BY, ZERO = "https://by.example/2.0/", "https://zero.example/1.0/"
A, B = "0" * 15 + "a", "0" * 15 + "b"


def listed(image_id: str, licence: str = BY, title: str = "x", split: str = "train") -> str:
    place = f"https://photos.example/{image_id}"
    return f'{image_id},{split},{place}.jpg,{place},{licence},"of {image_id}","{title}"'


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A V3 dump with image lists for train and test, and its images."""
    dump, images = write_photo_dump(tmp_path_factory.mktemp("input"))
    for split in ("train", "test"):
        ids = image_ids(images, split)[::-1]
        lines = [listed(image_id, split=split) for image_id in ids[1:]]
        lines += [listed(ids[0], ZERO, split=split), listed("f" * 16, split=split)]
        (dump / f"2017_11/{split}/images.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    return dump, images


def options(inputs: tuple[Path, Path], output: Path, **more: Any) -> ShardOptions:
    settings = {"images_per_shard": 10, "dataset_name": "tiny", **more}
    return ShardOptions(annotations=inputs[0], images=str(inputs[1]), output=output, **settings)


@pytest.fixture(scope="module")
def dataset(inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("output") / "dataset"
    shard_dump(prepare(options(inputs, output)), map)
    return output


def write(folder: Path, lists: dict[str, list[str] | bytes], ids: list[str]) -> list[dict]:
    """The rows written for images ``ids`` of each split that has a list."""
    files = {}
    for split, lines in lists.items():
        path = folder / f"{split}.csv"
        text = lines if isinstance(lines, bytes) else "\n".join([HEADER, *lines]).encode()
        path.write_bytes(text)
        files[split] = DumpFile(path=path, location=path.name)
    table = LabelTable.from_lists(ids, [[]] * len(ids), [[]] * len(ids))
    digest = write_attribution(folder / ATTRIBUTION_FILE, files, dict.fromkeys(lists, table))
    assert (digest is None) == (not (folder / ATTRIBUTION_FILE).exists())
    return pq.read_table(folder / ATTRIBUTION_FILE).to_pylist() if digest else []


def test_every_labelled_image_of_the_lists_has_a_row(dataset: Path, inputs) -> None:
    rows = pq.read_table(dataset / ATTRIBUTION_FILE).to_pylist()
    expected = {(s, i) for s in ("train", "test") for i in image_ids(inputs[1], s)}
    assert {(row["split"], row["image_id"]) for row in rows} == expected
    assert len(rows) == len(expected)
    row = rows[0]
    place = f"https://photos.example/{row['image_id']}"
    assert row["author"] == f"of {row['image_id']}"
    assert (row["original_url"], row["landing_url"]) == (f"{place}.jpg", place)
    assert (row["license"], row["title"]) == (BY, "x")


def test_the_card_counts_the_licences_and_names_the_table(dataset: Path) -> None:
    card = (dataset / "README.md").read_text()
    assert "| licence | train | validation | test |" in card
    assert f"| {BY} | 23 | 0 | 4 |" in card
    assert f"| {ZERO} | 1 | 0 | 1 |" in card
    assert f"`{ATTRIBUTION_FILE}`" in card
    assert "photos.example" not in (dataset / "dataset.json").read_text()


def test_the_table_is_checked(dataset: Path, inputs, tmp_path: Path) -> None:
    copy = shutil.copytree(dataset, tmp_path / "dataset")
    assert verify(VerifyOptions(dataset=copy), map).intact
    (copy / ATTRIBUTION_FILE).write_bytes((copy / ATTRIBUTION_FILE).read_bytes()[:-1])
    assert [problem.path for problem in verify(VerifyOptions(dataset=copy), map).remaining] == [
        ATTRIBUTION_FILE
    ]
    shard_dump(prepare(options(inputs, tmp_path / "again")), map)
    assert tree(tmp_path / "again") == tree(dataset)


def test_images_that_come_late_are_in_it_already(dataset: Path, inputs, tmp_path: Path) -> None:
    images = shutil.copytree(inputs[1], tmp_path / "images")
    late = image_ids(images, "train")[0]
    (images / f"train/{late}.jpg").rename(tmp_path / "late.jpg")
    settings = options((inputs[0], images), tmp_path / "out")
    shard_dump(prepare(settings), map)
    (tmp_path / "late.jpg").rename(images / f"train/{late}.jpg")
    shard_dump(prepare(options((inputs[0], images), tmp_path / "out", retry_failed=True)), map)
    assert (tmp_path / "out" / ATTRIBUTION_FILE).read_bytes() == (
        dataset / ATTRIBUTION_FILE
    ).read_bytes()
    assert verify(VerifyOptions(dataset=tmp_path / "out"), map).intact


def test_without_lists_there_is_no_table(inputs, tmp_path: Path) -> None:
    dump = shutil.copytree(inputs[0], tmp_path / "dump")
    for path in dump.rglob("images.csv"):
        path.unlink()
    shard_dump(prepare(options((dump, inputs[1]), tmp_path / "out")), map)
    assert not (tmp_path / "out" / ATTRIBUTION_FILE).exists()
    assert ATTRIBUTION_HASH not in Manifest.read(tmp_path / "out").created_by
    assert "`OriginalLandingURL`" in (tmp_path / "out/README.md").read_text()


def test_a_list_of_ids_alone_gives_nothing(tmp_path: Path) -> None:
    assert write(tmp_path, {"train": f"ImageID\n{A}\n".encode()}, [A]) == []
    assert write(tmp_path, {"train": [listed(A)]}, []) == []


def test_the_first_mention_counts_and_titles_may_be_anything(tmp_path: Path) -> None:
    lines = [
        listed(A, title='two lines\n""quoted"", and a comma'),
        listed(B, ZERO),
        listed(A, ZERO),
        listed("c" * 16, ZERO),
    ]
    rows = write(tmp_path, {"train": lines}, [A, B])
    assert [(row["image_id"], row["license"]) for row in rows] == [(A, BY), (B, ZERO)]
    assert rows[0]["title"] == 'two lines\n"quoted", and a comma'
    latin = "\n".join([HEADER, listed(A, title="Früh")]).encode("latin-1")
    assert write(tmp_path, {"test": latin}, [A])[0]["title"] == "Fr\ufffdh"
    short = f"ImageID,License\n{A},{BY}\n".encode()
    assert write(tmp_path, {"test": short}, [A])[0]["author"] == ""


def test_the_list_of_all_splits_gives_each_its_own(tmp_path: Path) -> None:
    path = tmp_path / "image_ids_and_rotation.csv"
    path.write_text("\n".join([HEADER, listed(A), listed(B, split="test")]) + "\n")
    file = DumpFile(path=path, location=path.name)
    table = LabelTable.from_lists([A, B], [[]] * 2, [[]] * 2)
    write_attribution(
        tmp_path / ATTRIBUTION_FILE, {"train": file, "test": file}, {"train": table, "test": table}
    )
    rows = pq.read_table(tmp_path / ATTRIBUTION_FILE).to_pylist()
    assert [(row["split"], row["image_id"]) for row in rows] == [("train", A), ("test", B)]


def test_licences_without_end_are_not_listed_without_end(inputs, tmp_path: Path) -> None:
    dump = shutil.copytree(inputs[0], tmp_path / "dump")
    ids = image_ids(inputs[1], "train")
    lines = [listed(image_id, f"own | {number}") for number, image_id in enumerate(ids)]
    (dump / "2017_11/train/images.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    shard_dump(prepare(options((dump, inputs[1]), tmp_path / "out")), map)
    card = (tmp_path / "out/README.md").read_text()
    assert "| of other names | 4 |" in card
    assert card.count("| own / ") == 20


IDS = [f"{number:016x}" for number in range(4)]
LABELLED = {split: [f"{IDS[0]},verification,{MIDS[0]},1"] for split in ("train", "test")}


def counts(root: Path, split: str = "train") -> dict[str, int]:
    dump = Dump.open(root)
    return count_listed(dump, split, read_split(dump, split, MIDS).table)


def test_images_without_any_row_are_counted(tmp_path: Path) -> None:
    dump = write_labels(tmp_path, LABELLED, "v3")
    lines = ["ImageID,Subset,Title", *(f'{one},train,"a, b"' for one in IDS)]
    (dump / "2017_11/train/images.csv").write_text("\n".join(lines) + "\n")
    found = counts(dump)
    assert (found["listed"], found["listed_without_rows"]) == (4, 3)
    assert "listed" not in counts(dump, "test")


def test_the_list_of_all_splits_counts_for_each_its_own(tmp_path: Path) -> None:
    dump = write_labels(tmp_path, LABELLED, "v4")
    subsets = ("train", "train", "test", "validation")
    lines = ["ImageID,Subset", *(f"{one},{s}" for one, s in zip(IDS, subsets, strict=True))]
    (dump / "2018_04/image_ids_and_rotation.csv").write_text("\n".join(lines) + "\n")
    of_train, of_test = counts(dump), counts(dump, "test")
    assert (of_train["listed"], of_train["listed_without_rows"]) == (2, 1)
    assert (of_test["listed"], of_test["listed_without_rows"]) == (1, 1)


def test_a_damaged_list_is_one_line(tmp_path: Path) -> None:
    dump = write_labels(tmp_path, LABELLED, "v3")
    (dump / "2017_11/train/images.csv").write_text(f"ImageID,Subset\n{IDS[0]},train\n12,train\n")
    with pytest.raises(InputError, match=r"images.csv, row 3: .*'12' is not 16 lowercase hex"):
        counts(dump)


@pytest.mark.parametrize("last", ["90", '"90', '"x'], ids=["closed", "number", "text"])
@pytest.mark.parametrize("after", ['"last"', "last"])
def test_a_quote_in_the_last_column_that_is_not_closed_is_named(
    tmp_path: Path, last: str, after: str
) -> None:
    dump = write_labels(tmp_path, LABELLED, "v3")
    rows = [f"{IDS[0]},a,0", f"{IDS[1]},b,{last}", f"{IDS[2]},c,0", f"{IDS[3]},d,{after}"]
    path = dump / "2017_11/train/images.csv"
    path.write_text("\n".join(["ImageID,Title,Rotation", *rows]) + "\n")
    if '"' not in last:
        assert counts(dump)["listed"] == 4
        return
    with pytest.raises(InputError, match=r"images.csv, row 3: a quote is not closed"):
        counts(dump)


def test_a_quote_that_the_next_title_closes_is_named(tmp_path: Path) -> None:
    dump = write_labels(tmp_path, LABELLED, "v3")
    rows = [f'{IDS[0]},0,"one', f'{IDS[1]},0,"two"', f'{IDS[2]},0,"a\nlong one"']
    path = dump / "2017_11/train/images.csv"
    path.write_text("\n".join(["ImageID,Rotation,Title", *rows]) + "\n")
    with pytest.raises(InputError, match=r"images.csv, row 2: a quote is not closed"):
        counts(dump)


@pytest.mark.shared
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_real_lists(shared: Path, split: str) -> None:
    root = shared / "data/openimages/v3_2017_11"
    columns = []
    for name in ("images.csv", "annotations-human.csv"):
        with (root / "2017_11" / split / name).open(newline="") as stream:
            columns.append({row["ImageID"] for row in csv.DictReader(stream)})
    found = counts(root, split)
    assert found["listed"] == len(columns[0])
    assert found["listed_without_rows"] == len(columns[0] - columns[1])
