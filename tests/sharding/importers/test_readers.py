"""Foreign collections: their labels as the papers' preprocessing has them, in our own layout."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharding.commands.summary import Resharded
from sharding.commands.workspace import Workspace
from sharding.dataset.quarantine import Quarantine
from sharding.errors import InputError
from sharding.image_ids import parse_image_ids
from sharding.importers import voc
from sharding.importers.options import ImportOptions
from sharding.importers.prepare import prepare_import, read_collection
from sharding.importers.run import comparison, import_collection
from sharding.importers.splits import observe, split
from sharding.labels import POSITIVE
from sharding.layout import NAMES_FILE, SPLITS
from sharding.maintenance.checks import check_dataset
from sharding.maintenance.repair import repair
from sharding.manifest import Dataset
from sharding.sources.named import NamedSource, Names, image_id_of, open_images
from tests.support import foreign
from tests.support.killing import run_until
from tests.support.photos import tree

WRITERS = {
    "voc": foreign.write_voc,
    "coco": foreign.write_coco,
    "nuswide": foreign.write_nuswide,
    "cub": foreign.write_cub,
}
# Classes present by image, as the published preprocessing scripts leave them.
EXPECTED: Mapping[str, Mapping[str, Mapping[str, list[str]]]] = {
    "voc": {
        "train": {"2008_000001.jpg": ["dog", "person"], "2008_000003.jpg": ["aeroplane"]},
        "test": {"2009_000001.jpg": ["sofa"], "2009_000002.jpg": ["sheep"]},
    },
    "coco": {
        "train": {
            "train2014/COCO_train2014_000000000100.jpg": ["person", "toothbrush"],
            "train2014/COCO_train2014_000000000009.jpg": ["person"],
            "train2014/COCO_train2014_000000000099.jpg": ["car"],
        },
        "test": {"val2014/COCO_val2014_000000000042.jpg": ["toothbrush"]},
    },
    "nuswide": {
        "train": {"actor/0001_21.jpg": ["sky"], "zoo/0002_3.jpg": ["animal", "sky"]},
        "test": {"actor/0003_5.jpg": ["animal"]},
    },
    "cub": {
        "train": {
            "001.Albatross/A_1.jpg": ["has_bill_shape::curved"],
            "002.Crow/C_1.jpg": ["has_bill_shape::curved", "has_wing_color::blue"],
            "002.Crow/C_2.jpg": [],
        },
        "test": {"001.Albatross/A_2.jpg": ["has_wing_color::blue"]},
    },
}


def import_again(settings: ImportOptions) -> None:
    import_collection(prepare_import(settings), map)


def bring_in(options: ImportOptions) -> Dataset:
    import_again(options)
    dataset = Dataset.open(options.output)
    assert check_dataset(dataset, map) == []
    return dataset


def options(
    name: str, root: Path, *, write: Callable[[Path], Path] | None = None, **more: Any
) -> ImportOptions:
    source = root / "source"
    if not source.exists():
        (write or WRITERS[name])(source)
    settings = {"output": root / "dataset", "dataset_name": name, **more}
    return ImportOptions(format=name, source=source, **settings)


def many_voc(root: Path, count: int = 30) -> Path:
    """A VOC of enough images for splits and draws to mean something."""
    rng = np.random.default_rng(0)
    flags = {
        part: {
            f"{part}_{number:03d}": {voc.CLASSES[k]: 1 for k in rng.choice(20, 3, replace=False)}
            for number in range(count)
        }
        for part in ("train", "val")
    }
    return foreign.write_voc(root, flags)


def present(dataset: Dataset, split_name: str, version: str | None = None) -> dict[str, list[str]]:
    """Names of the positive classes by image name."""
    names = Names.read(dataset.directory / NAMES_FILE).by_split[split_name]
    table = dataset.labels(split_name, version)
    rows = table.rows_of(parse_image_ids(list(names)))
    labels_NK = table.dense(rows, len(dataset.classes))
    return {
        name: [dataset.classes.names[k] for k in np.flatnonzero(labels_K == POSITIVE)]
        for name, labels_K in zip(names.values(), labels_NK, strict=True)
    }


@pytest.mark.parametrize("name", WRITERS)
def test_the_labels_are_those_of_the_published_preprocessing(name: str, tmp_path: Path) -> None:
    dataset = bring_in(options(name, tmp_path, validation_share=0.0))
    assert list(dataset.manifest.labels) == ["complete"]
    for split_name, expected in EXPECTED[name].items():
        assert present(dataset, split_name) == expected
        entries = dataset.labels(split_name).states_E
        assert len(entries) == len(expected) * len(dataset.classes), "nothing is unobserved"


def mend_voc(source: Path) -> None:
    val = {**foreign.VOC["val"], "2009_000001": {}}
    foreign.write_voc(source, {**foreign.VOC, "val": val})


def mend_coco(source: Path) -> None:
    foreign.write_coco(source, {**foreign.COCO, "val2014": {42: []}})


def mend_nuswide(source: Path) -> None:
    foreign.write_text(source / "Groundtruth/TrainTestLabels/Labels_animal_Test.txt", ["0"])


@pytest.mark.parametrize(
    ("name", "mend", "image"),
    [
        ("voc", mend_voc, "2009_000001.jpg"),
        ("coco", mend_coco, "val2014/COCO_val2014_000000000042.jpg"),
        ("nuswide", mend_nuswide, "actor/0003_5.jpg"),
    ],
)
def test_an_image_that_loses_its_only_positive_keeps_its_other_labels(
    name: str, mend: Callable[[Path], None], image: str, tmp_path: Path
) -> None:
    settings = options(name, tmp_path, validation_share=0.0)
    before = present(bring_in(settings), "test")
    mend(settings.source)
    done = import_collection(prepare_import(dataclasses.replace(settings, name="mended")), map)
    assert isinstance(done, Resharded)
    test = done.diff["splits"]["test"]
    changes = {key: number for key, number in test.items() if key.startswith("labels_") and number}
    entries = len(before) * len(done.dataset.classes)
    assert changes == {"labels_flipped_to_negative": 1, "labels_unchanged": entries - 1}
    assert present(done.dataset, "test", "mended") == {**before, image: []}
    left_out = done.dataset.manifest.labels["mended"].report["train"]["without_positive"]
    assert left_out == {"voc": 0, "coco": 1, "nuswide": 1}[name], "new ones are left out still"


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("voc", ["/m/voc_aeroplane", "/m/voc_bicycle"]),
        ("coco", ["/m/coco_1", "/m/coco_3", "/m/coco_90"]),
        ("nuswide", ["/m/nuswide_animal", "/m/nuswide_sky"]),
        ("cub", ["/m/cub_1", "/m/cub_2"]),
    ],
)
def test_classes_keep_the_collections_order_and_get_keys_of_a_mids_shape(
    name: str, keys: list[str], tmp_path: Path
) -> None:
    job = prepare_import(options(name, tmp_path))
    assert list(job.classes.mids)[: len(keys)] == keys


def test_the_papers_own_lists_of_nuswide_win_over_the_official_ones(tmp_path: Path) -> None:
    settings = options("nuswide", tmp_path, validation_share=0.0)
    flags = {"train": [[1, 0], [0, 0]], "val": [[0, 1]]}
    images = {"train": ["a\\b.jpg", "/actor/0001_21.jpg"], "val": ["zoo/0002_3.jpg"]}
    for part in flags:
        np.save(settings.source / f"formatted_{part}_labels.npy", np.array(flags[part], float))
        np.save(settings.source / f"formatted_{part}_images.npy", np.array(images[part]))
    dataset = bring_in(settings)
    assert present(dataset, "train") == {"a/b.jpg": ["animal"], "actor/0001_21.jpg": []}
    assert present(dataset, "test") == {"zoo/0002_3.jpg": ["sky"]}
    assert dataset.manifest.labels["complete"].policy["lists"] == "papers"


def test_single_positives_are_drawn_over_the_official_training_set(tmp_path: Path) -> None:
    dataset = bring_in(options("voc", tmp_path, write=many_voc, single_positive=True))
    assert dataset.manifest.default_labels == "single-positive-1200"
    official = {**present(dataset, "train", "complete"), **present(dataset, "validation")}
    names = sorted(official)  # the published lists are sorted by name
    classes = voc.CLASSES
    complete_NK = np.array([[int(c in official[n]) for c in classes] for n in names], np.int8)
    observed_NK = observe(complete_NK, 1)
    train, validation = split(len(names))
    expected = {
        names[row]: [classes[int(np.argmax(observed_NK[row] == POSITIVE))]] for row in train
    }
    assert present(dataset, "train") == expected
    assert set(present(dataset, "validation")) == {names[row] for row in validation}
    counts = {s: len(dataset.labels(s).states_E) for s in ("train", "validation", "test")}
    assert counts == {"train": 24, "validation": 6 * 20, "test": 30 * 20}
    assert present(dataset, "test") == present(dataset, "test", "complete")


def test_other_seeds_are_further_label_versions_of_the_same_images(tmp_path: Path) -> None:
    first = options("voc", tmp_path, write=many_voc, single_positive=True)
    before = bring_in(first)
    after = bring_in(dataclasses.replace(first, seed=7))
    versions = {"complete", "single-positive-1200", "single-positive-7"}
    assert set(after.manifest.labels) == versions
    assert after.manifest.shards == before.manifest.shards
    assert present(after, "train", "single-positive-1200") == present(before, "train")
    assert present(after, "train", "single-positive-7") != present(before, "train")


def test_groups_follow_positives_where_every_class_is_annotated_everywhere(tmp_path: Path) -> None:
    settings = options("voc", tmp_path, write=many_voc)
    summary = import_collection(prepare_import(settings), map)
    classes = Dataset.open(settings.output).classes
    assert classes.group_by == "positives"
    assert "20 classes by positives 1:" in str(summary)
    order = np.argsort(classes.positives_K, kind="stable")
    assert classes.groups_K[order].tolist() == sorted(classes.groups_K.tolist())


def test_a_repeated_import_changes_nothing_and_another_one_gives_the_same_bytes(
    tmp_path: Path,
) -> None:
    settings = options("coco", tmp_path, single_positive=True)
    bring_in(settings)
    first = tree(settings.output)
    output = str(import_collection(prepare_import(settings), map))
    assert "already finished; nothing was done" in output
    assert tree(settings.output) == first
    bring_in(dataclasses.replace(settings, output=tmp_path / "again"))
    assert tree(tmp_path / "again") == first


def test_killed_anywhere_it_finishes_with_the_same_bytes(tmp_path: Path) -> None:
    settings = options("nuswide", tmp_path, single_positive=True)
    import_again(settings)
    undisturbed, event, died = tree(settings.output), 0, True
    while died:
        killed = dataclasses.replace(settings, output=tmp_path / f"killed-{event}")
        died = run_until(event, import_again, killed)
        import_again(killed)
        assert tree(killed.output) == undisturbed
        shutil.rmtree(killed.output)
        event += 37


def test_bad_rows_are_set_aside_and_bad_images_too(tmp_path: Path) -> None:
    settings = options("voc", tmp_path, validation_share=0.0)
    base = settings.source / "VOCdevkit/VOC2012"
    with open(base / "ImageSets/Main/cat_train.txt", "a", encoding="utf-8") as flags:
        flags.write("2008_000009 yes\n")
    (base / "JPEGImages/2009_000001.jpg").write_bytes(b"not a picture")
    dataset = bring_in(settings)
    entries = Quarantine.read(dataset.directory / "quarantine.parquet").entries
    assert [(e.split, e.image_id, e.source, e.reason.split(":")[0]) for e in entries] == [
        ("test", image_id_of("2009_000001.jpg"), "2009_000001.jpg", "not an image"),
        (
            "train",
            "2008_000009",
            "VOCdevkit/VOC2012/ImageSets/Main/cat_train.txt:3",
            "bad flag",
        ),
    ]
    assert dataset.manifest.labels["complete"].report["train"]["bad_rows"] == 1
    with pytest.raises(InputError, match=r"cat_train.txt, row 3: bad flag.*Fix: write an image"):
        prepare_import(dataclasses.replace(settings, strict=True))


def test_an_image_that_was_missing_gets_all_its_labels_when_it_is_found(tmp_path: Path) -> None:
    settings = options("nuswide", tmp_path, single_positive=True, validation_share=0.0)
    image = settings.source / "Flickr/actor/0001_21.jpg"
    image.rename(tmp_path / "away.jpg")
    assert "actor/0001_21.jpg" not in dict(_held(bring_in(settings)))
    shutil.move(tmp_path / "away.jpg", image)
    dataset = bring_in(dataclasses.replace(settings, retry_failed=True))
    assert dict(_held(dataset))["actor/0001_21.jpg"] == ["sky"]
    assert len(Quarantine.read(dataset.directory / "quarantine.parquet")) == 0


def _held(dataset: Dataset) -> list[tuple[str, list[str]]]:
    """(name, positive classes) of the training images that have pixels."""
    held = set(dataset.labels("train").image_ids_N.tolist())
    listed = present(dataset, "train").items()
    return [(n, found) for n, found in listed if int(image_id_of(n), 16) in held]


def test_an_image_listed_twice_stays_where_it_is_tested(tmp_path: Path) -> None:
    settings = options("nuswide", tmp_path, validation_share=0.0)
    for part in ("Train", "Test"):
        listed = settings.source / "ImageList" / f"{part}Imagelist.txt"
        listed.write_text(listed.read_text().replace("zoo\\0002_3", "actor\\0003_5"))
    dataset = bring_in(settings)
    assert list(present(dataset, "train")) == ["actor/0001_21.jpg"]
    assert dataset.manifest.labels["complete"].report["train"]["listed_twice"] == 1
    with pytest.raises(InputError, match="listed twice"):
        prepare_import(dataclasses.replace(settings, strict=True))


@pytest.mark.parametrize(
    ("name", "file", "listed", "hostile"),
    [
        ("voc", "VOCdevkit/VOC2012/ImageSets/Main/dog_train.txt", "2008_000001", "../../x"),
        ("coco", "annotations/instances_train2014.json", "COCO_train2014_000000000009", "../../x"),
        ("nuswide", "ImageList/TrainImagelist.txt", "zoo\\0002_3.jpg", "..\\..\\x.jpg"),
        ("cub", "CUB_200_2011/images.txt", "001.Albatross/A_1.jpg", "/etc/x.jpg"),
    ],
)
def test_a_name_that_leads_out_of_the_source_is_set_aside(
    name: str, file: str, listed: str, hostile: str, tmp_path: Path
) -> None:
    settings = options(name, tmp_path)
    path = settings.source / file
    path.write_text(path.read_text().replace(listed, hostile))
    names = prepare_import(settings).names
    held = [held for part in names.by_split.values() for held in part.values()]
    assert held
    assert not [held_name for held_name in held if "x.jpg" in held_name]
    with pytest.raises(InputError, match="not a path below the source"):
        prepare_import(dataclasses.replace(settings, strict=True))


def test_a_table_of_names_that_leads_out_is_refused(tmp_path: Path) -> None:
    Names(by_split={"train": {"0" * 16: "../x.jpg"}}).write(tmp_path / NAMES_FILE)
    with pytest.raises(InputError, match=r"names.parquet: not a table .*'../x.jpg' is no path"):
        Names.read(tmp_path / NAMES_FILE)


def test_names_that_would_share_an_id_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharding.sources.named.image_id_of", lambda name: "00" * 8)
    with pytest.raises(InputError, match=r"'a\.jpg' and 'b\.jpg' get the same id"):
        Names.of({"train": ["a.jpg"], "test": ["b.jpg"]})


def test_a_broken_tar_is_repaired_from_the_collections_images(tmp_path: Path) -> None:
    settings = options("voc", tmp_path)
    dataset = bring_in(settings)
    undisturbed = tree(dataset.directory)
    (dataset.directory / dataset.manifest.shards[0].path).write_bytes(b"gone")
    source = open_images(dataset, str(settings.source / "VOCdevkit/VOC2012/JPEGImages"))
    assert isinstance(source, NamedSource)
    workers = Workspace(dataset.directory).workers(map)
    repair(dataset, check_dataset(dataset, map), source, workers)
    assert tree(dataset.directory) == undisturbed


def test_a_lost_table_of_names_is_told(tmp_path: Path) -> None:
    dataset = bring_in(options("cub", tmp_path))
    (dataset.directory / NAMES_FILE).unlink()
    assert [problem.path for problem in check_dataset(dataset, map)] == [NAMES_FILE]
    with pytest.raises(InputError, match=rf"{NAMES_FILE}: missing.*repeat the command that made"):
        open_images(dataset, str(tmp_path))
    bring_in(options("cub", tmp_path))  # repeated, it is intact


def test_the_card_says_where_the_pictures_come_from(tmp_path: Path) -> None:
    dataset = bring_in(options("coco", tmp_path))
    card = (dataset.directory / "README.md").read_text(encoding="utf-8")
    assert "COCO Consortium" in card
    assert "Open Images" not in card
    assert "license: other" in card


@pytest.mark.parametrize(
    ("name", "path", "content", "message"),
    [
        ("voc", "VOCdevkit/VOC2012/ImageSets/Main/dog_val.txt", None, "dog_val.txt: cannot be re"),
        ("coco", "annotations/instances_val2014.json", "{", "instances_val2014.json: not JSON"),
        ("coco", "annotations/instances_val2014.json", "{}", "there is no list of images"),
        ("nuswide", "ImageList/TestImagelist.txt", "a.jpg\nb.jpg\n", "1 lines for 2 images"),
        ("cub", "attributes.txt", "1 a\n1 b\n", "attributes.txt, row 2: '1 b' is not a new"),
    ],
)
def test_a_file_that_is_not_of_the_format_is_one_clear_line(
    name: str, path: str, content: str | None, message: str, tmp_path: Path
) -> None:
    settings = options(name, tmp_path)
    file = settings.source / path
    if content is None:
        file.unlink()
    else:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        prepare_import(settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize("name", [*WRITERS, "csv"])
def test_an_empty_folder_is_no_collection(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is missing.*Fix:"):
        prepare_import(ImportOptions(format=name, source=tmp_path, output=tmp_path / "dataset"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        b"\x93NUMPY\x01\x00\x20\x00{'descr': '<U5', 'shape': (1,),}\n}",
        b"\x93NUMPY\x01\x00\x46\x00"
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999999,), }",
    ],
)
def test_a_damaged_array_is_one_line(content: bytes, tmp_path: Path) -> None:
    settings = options("nuswide", tmp_path)
    (settings.source / "formatted_train_images.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"formatted_train_images\.npy: not an array") as caught:
        prepare_import(settings)
    assert "\n" not in str(caught.value)


def test_names_that_are_no_text_are_set_aside(tmp_path: Path) -> None:
    settings = options("nuswide", tmp_path, validation_share=0.0)
    for part, names in (("train", ["a.jpg", "\ud800.jpg"]), ("val", ["zoo/0002_3.jpg", "b\0c"])):
        np.save(settings.source / f"formatted_{part}_images.npy", np.array(names))
        np.save(settings.source / f"formatted_{part}_labels.npy", np.ones((2, 2)))
    job = prepare_import(settings)
    assert {split: len(part.table) for split, part in job.labels.splits.items()} == {
        "train": 1,
        "test": 1,
    }
    assert "\\ud800.jpg" in {entry.image_id for entry in job.labels.rejected_rows.entries}


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("csv", "labels.csv.gz"),
        ("coco", "annotations_trainval2014.zip"),
        ("voc", "VOCtrainval_11-May-2012.tar"),
        ("nuswide", "Flickr.zip"),
        ("cub", "CUB_200_2011.tgz"),
    ],
)
def test_what_is_still_packed_is_named(name: str, packed: str, tmp_path: Path) -> None:
    (tmp_path / packed).touch()
    settings = ImportOptions(format=name, source=tmp_path, output=tmp_path / "dataset")
    with pytest.raises(InputError, match=rf"is missing.* Fix: unpack {packed} there"):
        prepare_import(settings)
    with pytest.raises(InputError, match=r"not a folder\. Fix: unpack it"):
        prepare_import(dataclasses.replace(settings, source=tmp_path / packed))


@pytest.mark.parametrize(
    ("annotations", "problem"),
    [
        (
            [{"image_id": 5, "category_id": 1}],
            r"\(annotations/instances_train2014.json, row 1: unknown image .*Fix: mend such rows$",
        ),
        ([], r"Fix: fetch its lists and annotations again$"),
    ],
)
def test_a_collection_without_images_to_train_on_says_why(
    annotations: list[dict[str, int]], problem: str, tmp_path: Path
) -> None:
    settings = options("coco", tmp_path)
    path = settings.source / "annotations/instances_train2014.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "annotations": annotations}))
    with pytest.raises(InputError, match=f"no image is for training.*{problem}"):
        prepare_import(settings)


def test_annotations_of_unknown_images_are_set_aside(tmp_path: Path) -> None:
    settings = options("coco", tmp_path, validation_share=0.0)
    path = settings.source / "annotations/instances_train2014.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["annotations"] += [{"image_id": 5, "category_id": 1}, {"image_id": 9}, 3]
    path.write_text(json.dumps(content), encoding="utf-8")
    dataset = bring_in(settings)
    assert present(dataset, "train") == EXPECTED["coco"]["train"]
    # What the annotation without a category says is there is not absent.
    assert dataset.manifest.labels["partial"].report["train"]["bad_rows"] == 3
    nine = dataset.labels("train").rows_of(
        parse_image_ids([image_id_of("train2014/COCO_train2014_000000000009.jpg")])
    )
    assert dataset.labels("train").dense(nine, 3).tolist() == [[1, -1, -1]]


@pytest.mark.parametrize("of_annotations", [str, float, "{:06d}".format])
def test_ids_of_coco_may_be_text_or_floats(
    of_annotations: Callable[[int], object], tmp_path: Path
) -> None:
    settings = options("coco", tmp_path, validation_share=0.0)
    for path in settings.source.glob("annotations/*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        for entry in content["annotations"]:
            entry["image_id"] = of_annotations(entry["image_id"])
        path.write_text(json.dumps(content), encoding="utf-8")
    dataset = bring_in(settings)
    for split_name, expected in EXPECTED["coco"].items():
        assert present(dataset, split_name) == expected
    assert dataset.manifest.labels["complete"].report["train"]["bad_rows"] == 0


def test_categories_of_one_name_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = options("coco", tmp_path, validation_share=0.0)
    for path in settings.source.glob("annotations/*.json"):
        path.write_text(path.read_text(encoding="utf-8").replace("toothbrush", "Person"))
    assert len(prepare_import(settings).classes) == 3
    said = "".join(capsys.readouterr())
    assert "classes that look like one, or like none: 'person' and 'Person'\n" in said


def test_a_file_of_coco_under_two_ids_has_the_labels_of_both(tmp_path: Path) -> None:
    settings = options("coco", tmp_path, validation_share=0.0)
    path = settings.source / "annotations/instances_train2014.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    name = "COCO_train2014_000000000009.jpg"
    content["images"].append({"id": 10, "file_name": name})
    content["annotations"].append({"image_id": 10, "category_id": 90})
    content["images"] += [{"id": 99, "file_name": "another.jpg"}]  # whose are its annotations?
    path.write_text(json.dumps(content), encoding="utf-8")
    dataset = bring_in(settings)
    found = present(dataset, "train")
    assert found[f"train2014/{name}"] == ["person", "toothbrush"]
    assert "train2014/COCO_train2014_000000000099.jpg" not in found
    assert dataset.manifest.labels["complete"].report["train"]["listed_twice"] == 1


def test_a_file_of_coco_that_is_written_in_two_ways_is_one_image(tmp_path: Path) -> None:
    settings = options("coco", tmp_path, validation_share=0.0)
    path = settings.source / "annotations/instances_train2014.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    name = "COCO_train2014_000000000009.jpg"
    content["images"].append({"id": 10, "file_name": name.lower()})
    content["annotations"].append({"image_id": 10, "category_id": 90})
    path.write_text(json.dumps(content), encoding="utf-8")
    dataset = bring_in(settings)
    assert present(dataset, "train")[f"train2014/{name.lower()}"] == ["person", "toothbrush"]
    assert f"train2014/{name}" not in present(dataset, "train")
    assert dataset.manifest.labels["complete"].report["train"]["listed_twice"] == 1


@pytest.mark.parametrize(
    "content",
    [
        '{"images": [{"id": [1], "file_name": "a.jpg"}], "annotations": [{"image_id": [1]}], '
        '"categories": [{"id": 1, "name": "cat"}]}',
        '{"images": [{"id": 1, "file_name": "\\ud800"}], "annotations": [], '
        '"categories": [{"id": 1, "name": "cat"}]}',
        '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "\\ud800"}]}',
        '{"images": [], "annotations": [], "categories": [3]}',
        "[" * 100_000,
        "\0",
        "1" * 5000,
    ],
)
def test_hostile_json_is_one_line(content: str, tmp_path: Path) -> None:
    settings = options("coco", tmp_path)
    for path in settings.source.glob("annotations/*.json"):
        path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        prepare_import(settings)
    str(caught.value).encode()
    assert "\n" not in str(caught.value)


def test_a_flag_that_stands_twice_leaves_a_positive(tmp_path: Path) -> None:
    settings = options("voc", tmp_path, validation_share=0.0)
    flags = settings.source / "VOCdevkit/VOC2012/ImageSets/Main/dog_train.txt"
    flags.write_text(flags.read_text() + "2008_000001 -1\n")
    assert present(bring_in(settings), "train") == EXPECTED["voc"]["train"]


def test_zeros_that_tell_two_ids_of_coco_apart_are_kept(tmp_path: Path) -> None:
    settings = options("coco", tmp_path, validation_share=0.0)
    path = settings.source / "annotations/instances_train2014.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for image, category in (("5", 90), ("05", 3)):
        content["images"].append({"id": image, "file_name": f"{image}.jpg"})
        content["annotations"].append({"image_id": image, "category_id": category})
    path.write_text(json.dumps(content), encoding="utf-8")
    part = read_collection(settings).parts["train"]
    assert part.labels_NK[part.names.index("train2014/05.jpg")].tolist() == [0, 1, 0]
    assert part.labels_NK[part.names.index("train2014/5.jpg")].tolist() == [0, 0, 1]
    assert part.rejected_rows == ()


def test_the_first_year_is_read_and_others_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = options("coco", tmp_path / "coco", validation_share=0.0)
    source = settings.source
    for part in ("train", "val"):
        shutil.copytree(source / f"{part}2014", source / f"{part}2017")
        listed = source / f"annotations/instances_{part}2014.json"
        shutil.copy(listed, source / f"annotations/instances_{part}2017.json")
    assert prepare_import(settings).labels.release == "coco2014"
    assert "2017 is here too; 2014 is read (--year " in capsys.readouterr().out
    job = prepare_import(dataclasses.replace(settings, year=2017))
    assert job.labels.release == "coco2017"
    assert len(job.labels.splits["train"].table) == 3

    settings = options("voc", tmp_path / "voc", validation_share=0.0)
    old = settings.source / "VOCdevkit/VOC2012"
    (old.parent / "VOC2007").mkdir()
    assert prepare_import(settings).labels.release == "voc2012"
    (old.parent / "VOC2007").rmdir()
    for path in sorted((old / "ImageSets/Main").glob("*.txt")):
        renamed = path.stem.replace("_train", "_trainval").replace("_val", "_test")
        path.rename(path.with_name(f"{renamed}.txt"))
    old.rename(settings.source / "VOCdevkit/VOC2007")
    dataset = bring_in(settings)
    assert dataset.manifest.labels["complete"].release == "voc2007"
    assert present(dataset, "test") == EXPECTED["voc"]["test"]


@pytest.mark.parametrize("name", ["voc", "coco"])
def test_another_year_than_is_there_is_refused(name: str, tmp_path: Path) -> None:
    there, asked = {"voc": (2012, 2007), "coco": (2014, 2017)}[name]
    settings = options(name, tmp_path, year=asked)
    with pytest.raises(InputError, match=rf"{asked}\S*: is missing; {there} is here. Fix: "):
        prepare_import(settings)
    prepare_import(dataclasses.replace(settings, year=there))


def test_the_folder_of_a_year_is_of_no_other(tmp_path: Path) -> None:
    settings = options("voc", tmp_path, year=2007)
    folder = settings.source / "VOCdevkit/VOC2012"
    settings = dataclasses.replace(settings, source=folder)
    with pytest.raises(InputError, match=r"this is VOC2012, not VOC2007\. Fix: leave out --year"):
        prepare_import(settings)
    assert prepare_import(dataclasses.replace(settings, year=2012)).labels.release == "voc2012"
    renamed = folder.rename(folder.with_name("voc"))  # whose name says nothing
    job = prepare_import(dataclasses.replace(settings, source=renamed))
    assert job.labels.release == "voc2007"


def test_a_split_that_ends_empty_is_an_error_and_its_account_stays(tmp_path: Path) -> None:
    settings = options("coco", tmp_path, validation_share=0.0)
    path = settings.source / "annotations/instances_val2014.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["annotations"][0]["image_id"] = 43
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=r"no label for test \(.*val2014\.json, row 1: unknown"):
        prepare_import(settings)
    dataset = bring_in(dataclasses.replace(settings, allow_empty=("test",)))
    entries = Quarantine.read(dataset.directory / "quarantine.parquet").entries
    assert [(e.split, e.source) for e in entries] == [
        ("test", "annotations/instances_val2014.json:1")
    ]


@pytest.mark.parametrize(
    ("counts", "lists", "message"),
    [
        (
            (120_000, 30_000, 60_260),
            "papers",
            "the papers count 120,000 / 30,000 / 60,260, as here",
        ),
        ((119_999, 30_000, 60_260), "papers", "60,260, here it is 119,999 / 30,000 / 60,260"),
        ((104_000, 26_000, 86_000), "official", "in lists of their own, not the official ones"),
    ],
)
def test_the_papers_counts_are_told_beside_ours(
    counts: tuple[int, ...], lists: str, message: str, tmp_path: Path
) -> None:
    manifest = bring_in(options("nuswide", tmp_path)).manifest
    version = manifest.labels["complete"]
    files = {
        name: dataclasses.replace(version.splits["train"], images=count)
        for name, count in zip(SPLITS, counts, strict=True)
    }
    version = dataclasses.replace(version, splits=files, policy={**version.policy, "lists": lists})
    found = comparison(dataclasses.replace(manifest, labels={"complete": version}))
    assert found is not None
    assert message in found


def test_no_counts_are_told_where_the_split_is_another(tmp_path: Path) -> None:
    for number, other in enumerate(({"split_seed": 3}, {"validation_share": 0.5})):
        settings = options("voc", tmp_path, output=tmp_path / str(number), **other)
        assert comparison(bring_in(settings).manifest) is None
