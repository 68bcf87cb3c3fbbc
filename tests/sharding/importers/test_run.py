"""The import job as people run it, and what every other job makes of its dataset."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.labels import LabelledSplit
from sharding.commands.options import RemoveOptions, ReshardOptions
from sharding.commands.remove import remove
from sharding.commands.reshard import reshard
from sharding.commands.summary import Resharded
from sharding.dataset import lock
from sharding.errors import InputError
from sharding.image_ids import format_image_ids, parse_image_ids
from sharding.importers import csv_table
from sharding.importers.options import ImportOptions
from sharding.importers.prepare import ImportJob, prepare_import
from sharding.importers.run import Imported, import_collection
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED
from sharding.maintenance.checks import check_dataset
from sharding.manifest import Dataset
from sharding.sources.named import image_id_of
from tests.sharding.importers.test_readers import many_voc, present
from tests.support.foreign import write_csv, write_text, write_voc
from tests.support.home import Home
from tests.support.photos import tree

ARGUMENTS = ("--format", "voc", "--source", "in", "--output", "out/dataset", "--single-positive")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, ray_address: str) -> Home:
    home = Home(tmp_path_factory.mktemp("home"), ray_address)
    many_voc(home.directory / "in")
    return home


@pytest.mark.ray
def test_one_command_makes_a_dataset_that_is_well(home: Home) -> None:
    output = home.run("import_dataset.py", *ARGUMENTS, "--shorter-side", "8")
    assert "24 images in 1 shard" in output
    assert "60 shrunk" in output
    assert "the papers count 4,574 / 1,143 / 5,823, here it is 24 / 6 / 30" in output
    output = home.run("verify_dataset.py", "--dataset", "out/dataset")
    assert "is intact: 60 images" in output
    assert "labels complete, single-positive-1200" in output


@pytest.mark.ray
def test_bad_options_are_told_without_a_traceback(home: Home) -> None:
    for arguments, line in (
        (("--validation-share", "1"), "--validation-share is 1.0"),
        (
            ("--format", "coco"),
            "instances_train2014.json: is missing, as are all of 2014 and 2017. Fix: ",
        ),
        (("--source", "away"), "error: away: folder is missing. Fix: check --source"),
    ):
        output = home.run("import_dataset.py", *ARGUMENTS, *arguments, status=2)
        assert line in output
        assert "Traceback" not in output


@pytest.fixture
def imported(tmp_path: Path) -> Dataset:
    settings = ImportOptions(
        format="voc",
        source=write_voc(tmp_path / "source"),
        output=tmp_path / "dataset",
        single_positive=True,
        validation_share=0.0,
    )
    import_collection(prepare_import(settings), map)
    return Dataset.open(settings.output)


def test_the_loader_joins_each_version_of_the_labels(imported: Dataset) -> None:
    for version, observed in (("complete", 2 * 20), ("single-positive-1200", 2)):
        split = LabelledSplit.open(imported, "train", version, CPU, batch_size=2, image_size=16)
        (batch,) = list(split.epoch(1))
        assert sorted(batch.image_ids_B.tolist()) == sorted(
            int(image_id_of(f"2008_00000{number}.jpg"), 16) for number in (1, 3)
        )
        assert int((batch.dense() >= 0).sum()) == observed


def test_exports_come_back_by_resharding(imported: Dataset, tmp_path: Path) -> None:
    image_id = image_id_of("2008_000003.jpg")
    rows = ["ImageID,Source,LabelName,Confidence", f"{image_id},reviewed,/m/voc_sheep,1"]
    write_text(tmp_path / "export-1/train/corrections.csv", rows)
    options = ReshardOptions(dataset=imported.directory, annotations=tmp_path / "export-1")
    name = reshard(options, map).name
    dataset = Dataset.open(imported.directory)
    assert present(dataset, "train", name)["2008_000003.jpg"] == ["aeroplane", "sheep"]
    single = dataset.labels("train", "single-positive-1200")
    assert np.count_nonzero(single.states_E == 1) == 2


TABLE = [
    "image,labels,split",
    *("a.jpg,cat,train", "b.jpg,cat|cow,train", "c.jpg,dog,train"),
    *("d.jpg,cat,validation", "e.jpg,dog,test"),
]
NAMES = [f"{letter}.jpg" for letter in "abcde"]


def table_job(folder: Path, lines: list[str], name: str | None = None, **more: object) -> ImportJob:
    write_text(folder / "labels.csv", lines)
    settings = {"format": "csv", "source": folder, "output": folder / "dataset", "name": name}
    return prepare_import(ImportOptions(**settings, **more))


def test_mended_labels_come_over_the_same_images(tmp_path: Path) -> None:
    write_csv(tmp_path, TABLE, NAMES)
    import_collection(table_job(tmp_path, TABLE), map)
    directory = tmp_path / "dataset"
    tars = {path: path.stat().st_mtime_ns for path in directory.glob("images/*.tar")}
    mended = [
        "image,labels,split",
        *("a.jpg,cat|dog,train", "b.jpg,cat,train", "c.jpg,,test"),  # no cow, and c would move
        *("d.jpg,dog,validation", "e.jpg,dog,test", "f.jpg,cat,train"),  # f has no pixels
    ]
    with pytest.raises(InputError, match=r"other labels or options .* --labels NAME"):
        import_collection(table_job(tmp_path, mended), map)
    done = import_collection(table_job(tmp_path, mended, "a-mended"), map)
    assert isinstance(done, Resharded)
    dataset = Dataset.open(directory)
    assert list(dataset.manifest.labels) == ["a-mended", "complete"]
    assert dataset.manifest.default_labels == "complete"
    assert present(dataset, "train", "a-mended") == {
        "a.jpg": ["cat", "dog"],
        "b.jpg": ["cat"],
        "c.jpg": [],
    }
    assert present(dataset, "test", "a-mended") == {"e.jpg": ["dog"]}
    assert present(dataset, "train", "complete")["b.jpg"] == ["cat", "cow"]
    version = dataset.manifest.labels["a-mended"].splits
    assert version["train"].negatives == 3 * 3 - 3, "cow is absent everywhere"
    assert "1 labelled images, listed in" in str(done)
    assert {path: path.stat().st_mtime_ns for path in directory.glob("images/*.tar")} == tars
    assert check_dataset(dataset, map) == []

    again = import_collection(table_job(tmp_path, mended, "a-mended"), map)
    assert isinstance(again, Resharded)
    with pytest.raises(InputError, match="labels 'a-mended' are there already, from other files"):
        import_collection(table_job(tmp_path, TABLE, "a-mended"), map)
    job = table_job(tmp_path, [*TABLE, "f.jpg,horse,train"], "more")
    with pytest.raises(InputError, match="1 class not of this dataset: horse"):
        import_collection(job, map)
    assert isinstance(import_collection(table_job(tmp_path, TABLE), map), Imported)


TWO_WAYS = [
    "image,a,b,split,fold",
    *("a.jpg,cat,dog,train,test", "b.jpg,dog,cat,train,train", "c.jpg,cat,dog,train,train"),
    *("d.jpg,dog,cat,validation,validation", "e.jpg,cat,dog,test,train"),
]


@pytest.mark.parametrize(
    "other", [{"labels_column": "b"}, {"split_column": "fold"}, {"negatives_column": "b"}]
)
def test_a_table_read_by_other_columns_is_another_command(
    tmp_path: Path, other: dict[str, str]
) -> None:
    write_csv(tmp_path, TWO_WAYS, NAMES)
    first = {"labels_column": "a", "unlisted": "negative"}
    import_collection(table_job(tmp_path, TWO_WAYS, **first), map)
    again = import_collection(table_job(tmp_path, TWO_WAYS, **first, separator="pipe"), map)
    assert "already finished; nothing was done" in str(again)
    with pytest.raises(InputError, match="finished dataset of other labels or options"):
        import_collection(table_job(tmp_path, TWO_WAYS, **{**first, **other}), map)
    recorded = Dataset.open(tmp_path / "dataset").manifest.labels["complete"].policy
    assert recorded == {"unlisted": "negative", "read_as": {"labels_column": "a"}}


def test_an_unfinished_import_by_other_columns_is_not_gone_on_with(tmp_path: Path) -> None:
    write_csv(tmp_path, TWO_WAYS, NAMES)
    job = table_job(tmp_path, TWO_WAYS, labels_column="a")
    with lock.acquire(job.output):
        lock.begin(job.output, job.identity)
    with pytest.raises(InputError, match="unfinished run with other options is here: policy was"):
        import_collection(table_job(tmp_path, TWO_WAYS, labels_column="b"), map)


def test_the_command_of_an_import_that_0_2_0_finished_is_known(tmp_path: Path) -> None:
    lines = [TWO_WAYS[0], *TWO_WAYS[1:], "f.jpg,cat,cat|dog,train,train"]
    write_csv(tmp_path, lines, [*NAMES, "f.jpg"])
    job = table_job(tmp_path, lines, labels_column="a")
    labels = dataclasses.replace(job.labels, policy={"unlisted": "negative"})  # as it recorded
    import_collection(dataclasses.replace(job, labels=labels), map)
    again = import_collection(table_job(tmp_path, lines, labels_column="a"), map)
    assert "already finished; nothing was done" in str(again)
    with pytest.raises(InputError, match="finished dataset of other labels or options"):
        import_collection(table_job(tmp_path, lines, labels_column="b"), map)


@pytest.mark.parametrize(
    ("labels", "listed", "problem"),
    [
        (["a, x", "a, y", "b, x", "b, y", "a, x"], None, "row 2: 'a, x' looks like a list: 4 "),
        (["a", "b", "a/b", "a", "b"], None, "row 4: 'a/b' is a list of other classes"),
        (["a", "b", "A", "a", "b"], ["a", "b"], "row 4: 'A' is not in the class list"),
        (["a", "b", "a", "a", "b"], ["c"], "classes.txt: it names no class of the table"),
    ],
)
def test_a_finished_import_is_repeated_whatever_its_classes_are_named(
    labels: list[str],
    listed: list[str] | None,
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    splits = ("train", "train", "train", "validation", "test")
    rows = [f'{n},"{cell}",{split}' for n, cell, split in zip(NAMES, labels, splits, strict=True)]
    lines = ["image,labels,split", *rows]
    write_csv(tmp_path, lines, NAMES)
    classes = None if listed is None else write_text(tmp_path / "classes.txt", listed)
    more = {"classes": classes, "allow_empty": ("train", "validation", "test")}
    with pytest.raises(InputError, match=problem):
        table_job(tmp_path, lines, **more)
    with monkeypatch.context() as as_0_2_0:
        as_0_2_0.setattr(csv_table, "_refuse", lambda error, options: None)
        import_collection(table_job(tmp_path, lines, **more), map)
    capsys.readouterr()
    again = import_collection(table_job(tmp_path, lines, **more), map)
    assert "already finished; nothing was done" in str(again)
    told = capsys.readouterr().out
    assert problem in told
    assert "Fix" not in told
    with pytest.raises(InputError, match=problem):
        table_job(tmp_path, lines, "mended", **more)
    rows = [lines[0], *lines[2:], lines[1].replace("train", "test")]
    with pytest.raises(InputError, match="finished dataset of other labels or options"):
        import_collection(table_job(tmp_path, rows, **more), map)


def test_the_default_columns_are_not_those_that_0_2_0_was_told(tmp_path: Path) -> None:
    lines = ["image,labels,a,split,fold", *TWO_WAYS[1:], "f.jpg,cat,cat|dog,train,train"]
    write_csv(tmp_path, lines, [*NAMES, "f.jpg"])
    job = table_job(tmp_path, lines, labels_column="a")
    labels = dataclasses.replace(job.labels, policy={"unlisted": "negative"})  # as it recorded
    import_collection(dataclasses.replace(job, labels=labels), map)
    for _ in range(2):
        with pytest.raises(InputError, match="finished dataset of other labels or options"):
            import_collection(table_job(tmp_path, lines), map)
        gone = format_image_ids(Dataset.open(tmp_path / "dataset").labels("train").image_ids_N)[0]
        remove(RemoveOptions(dataset=tmp_path / "dataset", ids=(gone,)), map)


def test_mended_labels_do_not_rename_a_dataset(tmp_path: Path) -> None:
    write_csv(tmp_path, TABLE, NAMES)
    import_collection(table_job(tmp_path, TABLE, dataset_name="pets"), map)
    job = table_job(tmp_path, [*TABLE[:-1], "e.jpg,cat,test"], "mended", dataset_name="cats")
    with pytest.raises(InputError, match="finished dataset is named 'pets', not 'cats'"):
        import_collection(job, map)
    assert list(Dataset.open(tmp_path / "dataset").manifest.labels) == ["complete"]


def test_a_mended_table_is_given_a_name_of_its_own(tmp_path: Path) -> None:
    for name, problem in (("my labels", "cannot name"), ("../x", "cannot name")):
        with pytest.raises(InputError, match=problem):
            table_job(tmp_path, TABLE, name)
    with pytest.raises(InputError, match="is the name of the single positives"):
        table_job(tmp_path, TABLE, "single-positive-7", single_positive=True, seed=7)
    write_csv(tmp_path, TABLE, NAMES)
    import_collection(table_job(tmp_path, TABLE), map)
    partial = ["image,labels,negatives,split", "a.jpg,cat,cow,train"]
    partial += ["d.jpg,cat,,validation", "e.jpg,dog,,test"]
    # Its default name is another, and still it must not come over the dataset unasked.
    with pytest.raises(InputError, match="finished dataset of other labels"):
        import_collection(table_job(tmp_path, partial), map)
    job = table_job(tmp_path, [*TABLE[:-1], "e.jpg,cat,test"], "m", single_positive=True)
    with pytest.raises(InputError, match=r"reshard .* --base m .*--single-positive"):
        import_collection(job, map)


def test_a_table_without_the_images_of_a_split_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(tmp_path, TABLE, NAMES)
    import_collection(table_job(tmp_path, TABLE), map)
    moved = [TABLE[0], *(f"img/{row}" for row in TABLE[1:])]
    with pytest.raises(InputError, match="none of the 1 images of test has a row"):
        import_collection(table_job(tmp_path, moved, "moved"), map)
    assert list(Dataset.open(tmp_path / "dataset").manifest.labels) == ["complete"]
    few = [*TABLE[:2], *TABLE[4:], "new.jpg,cat,train"]
    import_collection(table_job(tmp_path, few, "few"), map)
    said = capsys.readouterr().out
    assert "train: 2 images have no row that can be used, and so no label" in said
    assert "1 image of the table without pixels here: new.jpg; " in said


def test_an_image_stays_in_a_split_that_the_table_lacks(tmp_path: Path) -> None:
    write_csv(tmp_path, TABLE, NAMES)
    import_collection(table_job(tmp_path, TABLE), map)
    lines = [*TABLE[:4], "d.jpg,dog,train", TABLE[5]]
    job = table_job(tmp_path, lines, "m", validation_share=0, allow_empty=("validation",))
    import_collection(job, map)
    dataset = Dataset.open(tmp_path / "dataset")
    assert present(dataset, "validation", "m") == {"d.jpg": ["dog"]}
    more = table_job(tmp_path, [*TABLE[:4], TABLE[5]], "m", allow_empty=("validation",))
    with pytest.raises(InputError, match="labels 'm' are there already"):
        import_collection(more, map)


def test_a_row_that_was_set_aside_makes_no_class_absent(tmp_path: Path) -> None:
    write_csv(tmp_path, TABLE, NAMES)
    import_collection(table_job(tmp_path, TABLE), map)
    lines = [TABLE[0], "a.jpg,cat,train", "b.jpg,cat,train", "b.jpg,cow,trian", *TABLE[3:]]
    import_collection(table_job(tmp_path, lines, "m"), map)
    table = Dataset.open(tmp_path / "dataset").labels("train", "m")
    labels_NK = table.dense(table.rows_of(parse_image_ids(list(map(image_id_of, NAMES[:2])))), 3)
    assert labels_NK.tolist() == [[1, 0, 0], [1, UNOBSERVED, UNOBSERVED]]


def test_rows_of_mended_labels_that_were_set_aside_are_counted(tmp_path: Path) -> None:
    write_csv(tmp_path, TABLE, NAMES)
    import_collection(table_job(tmp_path, TABLE), map)
    lines = [*TABLE[:2], "b.jpg,cow,trian", "c.jpg,dog,trian", *TABLE[4:]]
    done = import_collection(table_job(tmp_path, lines, "m"), map)
    assert "set aside    2 bad rows (listed in quarantine.parquet)" in str(done)


def test_a_class_that_a_list_leaves_out_of_mended_labels_is_not_absent(tmp_path: Path) -> None:
    write_csv(tmp_path, TABLE, NAMES)
    import_collection(table_job(tmp_path, TABLE), map)
    listed = write_text(tmp_path / "few.txt", ["cat"])
    lines = [*TABLE[:2], "b.jpg,cat,train", *TABLE[3:]]  # names no cow any more
    done = import_collection(table_job(tmp_path, lines, "m", classes=listed), map)
    assert "no label     2 labels of classes outside the class list" in str(done)
    table = Dataset.open(tmp_path / "dataset").labels("train", "m")
    labels_NK = table.dense(table.rows_of(parse_image_ids(list(map(image_id_of, NAMES[:3])))), 3)
    cat_cow_dog = [[POSITIVE, NEGATIVE, UNOBSERVED]] * 2 + [[NEGATIVE, NEGATIVE, UNOBSERVED]]
    assert labels_NK.tolist() == cat_cow_dog


def test_what_a_partial_table_no_longer_names_is_unobserved(tmp_path: Path) -> None:
    partial = ["image,labels,negatives,split", "a.jpg,cat,cow,train", "b.jpg,cow,,train"]
    rest = ["d.jpg,cat,,validation", "e.jpg,cat,,test"]
    write_csv(tmp_path, [*partial, *rest], NAMES)
    import_collection(table_job(tmp_path, [*partial, *rest]), map)
    mended = ["image,labels,negatives,split", "a.jpg,cat,,train", "b.jpg,,cat,train", *rest]
    import_collection(table_job(tmp_path, mended, "mended"), map)
    table = Dataset.open(tmp_path / "dataset").labels("train", "mended")
    labels_NK = table.dense(table.rows_of(parse_image_ids(list(map(image_id_of, NAMES[:2])))), 2)
    assert labels_NK.tolist() == [[POSITIVE, UNOBSERVED], [NEGATIVE, UNOBSERVED]]


UNSPLIT = ["image,labels", *(f"{n}.jpg,{'cat' if n % 2 else 'dog'}" for n in range(10))]
MADE = {"shorter_side": 16, "quality": 80, "images_per_shard": 6, "placement_seed": 3}
DRAWN = {"split_seed": 5, "test_share": 0.3, "validation_share": 0.0}


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"shorter_side": 20, "quality": 50}, "--shorter-side and --quality"),
        ({"images_per_shard": 2, "placement_seed": 7}, "--images-per-shard and --placement-seed"),
        ({"trust_images": True, "shorter_side": None}, "--trust-images"),
        ({"retry_failed": True}, "--retry-failed"),
        ({"split_seed": 7, "test_share": 0.5}, "--split-seed and --test-share"),
        ({"validation_share": 0.5}, "--validation-share"),
    ],
)
def test_mended_labels_refuse_options_of_other_images(
    other: dict[str, object], told: str, tmp_path: Path
) -> None:
    write_csv(tmp_path, UNSPLIT, [f"{n}.jpg" for n in range(10)])
    import_collection(table_job(tmp_path, UNSPLIT, **MADE, **DRAWN), map)
    mended = [*UNSPLIT[:-1], "9.jpg,cat|dog"]
    said = rf"{told} would be ignored with --labels m over images .*\. Fix: leave out {told}"
    with pytest.raises(InputError, match=f"^{said}"):
        import_collection(table_job(tmp_path, mended, "m", **{**MADE, **DRAWN, **other}), map)
    assert list(Dataset.open(tmp_path / "dataset").manifest.labels) == ["complete"]


def test_mended_labels_record_how_the_splits_were_drawn(tmp_path: Path) -> None:
    write_csv(tmp_path, UNSPLIT, [f"{n}.jpg" for n in range(10)])
    import_collection(table_job(tmp_path, UNSPLIT, **MADE, **DRAWN), map)
    mended = [*UNSPLIT[:-1], "9.jpg,cat|dog"]
    import_collection(table_job(tmp_path, mended, "as-before", **MADE, **DRAWN), map)
    import_collection(table_job(tmp_path, mended, "plain"), map)
    split_column = [f"{UNSPLIT[0]},split", *(f"{row},train" for row in mended[1:])]
    import_collection(table_job(tmp_path, split_column, "split"), map)
    versions = Dataset.open(tmp_path / "dataset").manifest.labels
    assert versions.keys() == {"complete", "as-before", "plain", "split"}
    for name, version in versions.items():
        drawn = {"test": {"share": 0.3, "seed": 5}}
        assert version.policy == {"unlisted": "negative", **drawn}, name


def test_a_command_whose_table_names_the_splits_is_repeated_with_labels(tmp_path: Path) -> None:
    """Its options of draws draw nothing, the first time neither."""
    write_csv(tmp_path, TABLE, NAMES)
    options = {"split_seed": 3, "test_share": 0.1, "validation_share": 0.1}
    import_collection(table_job(tmp_path, TABLE, **options), map)
    import_collection(table_job(tmp_path, TABLE, "m", **options), map)
    assert {*Dataset.open(tmp_path / "dataset").manifest.labels} == {"complete", "m"}


def test_mended_labels_refuse_pictures_of_two_splits_as_the_import_does(tmp_path: Path) -> None:
    write_csv(tmp_path, TABLE, NAMES)
    shutil.copy(tmp_path / "a.jpg", tmp_path / "e.jpg")
    import_collection(table_job(tmp_path, TABLE), map)
    job = table_job(tmp_path, TABLE, "m", refuse_cross_split_duplicates=True)
    with pytest.raises(InputError, match="1 image in two splits"):
        import_collection(job, map)


FLIPPED = [UNSPLIT[0], *(f"{n}.jpg,{'dog' if n % 2 else 'cat'}" for n in range(1, 10))]
"""Of `UNSPLIT` without its first row, so that a draw over it would be another one."""


def import_before_all_files_came(folder: Path) -> None:
    """Import `UNSPLIT` without some files of two splits, and then put these in their places."""
    write_csv(folder, UNSPLIT, [f"{n}.jpg" for n in range(10)])
    job = table_job(folder, UNSPLIT, **DRAWN)
    of_splits = [list(job.names.by_split[split].values()) for split in ("train", "test")]
    missing = [*of_splits[0][:4], *of_splits[1][:2]]
    (folder / "aside").mkdir()
    for name in missing:
        (folder / name).rename(folder / "aside" / name)
    import_collection(job, map)
    for name in missing:
        (folder / "aside" / name).rename(folder / name)


def test_mended_labels_keep_the_splits_of_images_without_pixels(tmp_path: Path) -> None:
    import_before_all_files_came(tmp_path)
    import_collection(table_job(tmp_path, FLIPPED, "m", **DRAWN), map)
    import_collection(table_job(tmp_path, UNSPLIT, retry_failed=True, **DRAWN), map)
    dataset = Dataset.open(tmp_path / "dataset")
    assert check_dataset(dataset, map) == []
    found = {k: v for split in ("train", "test") for k, v in present(dataset, split, "m").items()}
    expected = {f"{n}.jpg": ["dog" if n % 2 else "cat"] for n in range(1, 10)}
    assert found == {"0.jpg": [], **expected}


def test_labels_that_wait_for_pixels_which_are_there_are_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_before_all_files_came(tmp_path)
    with monkeypatch.context() as as_before:
        as_before.setattr("sharding.importers.relabel._first_splits", lambda dataset: {})
        import_collection(table_job(tmp_path, FLIPPED, "m", **DRAWN), map)
    import_collection(table_job(tmp_path, UNSPLIT, retry_failed=True, **DRAWN), map)
    problems = check_dataset(Dataset.open(tmp_path / "dataset"), map)
    assert problems
    assert {problem.path for problem in problems} <= {
        f"labels/m/{split}.without_pixels.parquet" for split in ("train", "test")
    }
    assert all("images that tars hold, such as" in problem.what for problem in problems)
    assert all("repeat the command that wrote labels m" in problem.fix for problem in problems)
    import_collection(table_job(tmp_path, FLIPPED, "m", **DRAWN), map)
    assert check_dataset(Dataset.open(tmp_path / "dataset"), map) == []


def test_lost_labels_of_a_mended_table_are_written_again(tmp_path: Path) -> None:
    write_csv(tmp_path, TABLE, NAMES)
    import_collection(table_job(tmp_path, TABLE), map)
    mended = [*TABLE[:-1], "e.jpg,cat,test"]
    import_collection(table_job(tmp_path, mended, "m"), map)
    directory = tmp_path / "dataset"
    before = tree(directory)
    (directory / "labels/m/train.parquet").unlink()
    (directory / "labels/m/test.parquet").write_bytes(b"damaged")
    takedown = RemoveOptions(dataset=directory, ids=("a.jpg",))
    with pytest.raises(InputError, match=r"labels/m/\w+.parquet"):
        remove(takedown, map)
    with pytest.raises(InputError, match="labels 'm' are there already, from other files"):
        import_collection(table_job(tmp_path, [*TABLE[:-1], "e.jpg,cow,test"], "m"), map)
    import_collection(table_job(tmp_path, mended, "m"), map)
    assert tree(directory) == before
    remove(takedown, map)
    assert check_dataset(Dataset.open(directory), map) == []
