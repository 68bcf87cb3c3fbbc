import dataclasses
import json

import numpy as np
import pytest

from sharding.classes import ClassTable
from sharding.errors import InputError
from sharding.labels import LabelTable
from sharding.layout import MANIFEST_FILE
from sharding.manifest import Dataset, Manifest
from sharding.manifest_parts import LabelFile, LabelVersion, ShardRecord

IDS = ["00000000000123e5", "00000000000000ff"]


def classes(mids=("/m/a", "/m/b", "/m/c")) -> ClassTable:
    zeros_K = np.zeros(len(mids), np.int64)
    return ClassTable.build(list(mids), ["name"] * len(mids), zeros_K, zeros_K)


def version(split: str, sha256: str) -> LabelVersion:
    return LabelVersion(
        release="v3",
        sources={"train/annotations-human.csv": "ab" * 32},
        policy={"conflict": "unobserved", "machine": None, "strict": False},
        report={"train": {"rows": 3}},
        splits={
            split: LabelFile(
                path="labels/2017_11/train.parquet", images=2, positives=2, negatives=1,
                sha256=sha256,
            )
        },
    )  # fmt: skip


@pytest.fixture
def dataset(tmp_path):
    """A dataset without pixels: manifest, classes and one label table."""
    table = LabelTable.from_lists(IDS, [[0], [2]], [[], [1]], ["train-000000", "train-000000"])
    digest = table.write(tmp_path / "labels" / "2017_11" / "train.parquet")
    classes().write(tmp_path / "classes.parquet")
    Manifest(
        name="demo",
        classes_sha256=classes().sha256,
        num_classes=3,
        seed=7,
        images_per_shard=100,
        treatment={"mode": "keep"},
        default_labels="2017_11",
        labels={"2017_11": version("train", digest)},
        shards=(
            ShardRecord(
                path="images/train-000000.tar", index="images/train-000000.idx", split="train",
                images=2, bytes=10240, sha256="cd" * 32, index_sha256="ef" * 32,
            ),
        ),
    ).write(tmp_path)  # fmt: skip
    return tmp_path


def test_a_manifest_survives_the_file_and_is_stable(dataset):
    manifest = Manifest.read(dataset)
    before = (dataset / MANIFEST_FILE).read_bytes()
    manifest.write(dataset)
    assert (dataset / MANIFEST_FILE).read_bytes() == before
    assert manifest.shards[0].images == 2
    assert manifest.labels["2017_11"].splits["train"].negatives == 1


def test_what_an_older_manifest_lacks_is_none_and_changes_no_digest(dataset):
    opened = Dataset.open(dataset)
    version = opened.manifest.labels["2017_11"]
    file = version.splits["train"]
    assert (file.without_pixels, file.images_without_pixels) == (None, 0)
    assert "without_pixels" not in (dataset / MANIFEST_FILE).read_text()
    path = "labels/2017_11/train.without_pixels.parquet"
    apart = LabelFile(path=path, images=5, positives=4, negatives=3, sha256="ab" * 32)
    splits = {"train": dataclasses.replace(file, without_pixels=apart)}
    labels = {"2017_11": dataclasses.replace(version, splits=splits)}
    dataclasses.replace(opened.manifest, labels=labels).write(dataset)
    read = Dataset.open(dataset)
    assert read.manifest.labels == labels
    assert labels["2017_11"].files == [splits["train"], apart]
    assert read.digest != opened.digest


def test_a_dataset_gives_its_shards_and_labels(dataset):
    opened = Dataset.open(dataset)
    assert [shard.path for shard in opened.shards("train")] == ["images/train-000000.tar"]
    assert opened.labels("train").dense(np.array([1]), 3).tolist() == [[-1, 0, 1]]
    assert opened.labels("train", "2017_11").image_ids_N.tolist() == [0x123E5, 0xFF]
    assert opened.label_version()[0] == "2017_11"


def test_the_digest_is_that_of_the_content_not_of_the_place(dataset, tmp_path_factory):
    copy = tmp_path_factory.mktemp("elsewhere")
    for name in (MANIFEST_FILE, "classes.parquet"):
        (copy / name).write_bytes((dataset / name).read_bytes())
    assert Dataset.open(copy).digest == Dataset.open(dataset).digest
    dataclasses.replace(Manifest.read(copy), seed=8).write(copy)
    assert Dataset.open(copy).digest != Dataset.open(dataset).digest


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: d.shards("test"), "no images; present: train"),
        (lambda d: d.labels("test"), "no split 'test'; present: train"),
        (lambda d: d.labels("train", "v9"), "no labels 'v9'. Fix: the dataset has 2017_11"),
    ],
)
def test_what_a_dataset_lacks_is_said_with_what_it_has(dataset, call, message):
    with pytest.raises(InputError, match=message):
        call(Dataset.open(dataset))


def test_another_class_list_is_refused_with_both_names(dataset):
    classes(("/m/b", "/m/a", "/m/c")).write(dataset / "classes.parquet")
    with pytest.raises(InputError) as caught:
        Dataset.open(dataset)
    for table in (classes(), classes(("/m/b", "/m/a", "/m/c"))):
        assert table.sha256[:12] in str(caught.value)


def rewrite(**changes):
    return lambda raw: json.dumps({**raw, **changes})


def test_a_manifest_that_was_changed_is_refused(dataset):
    path = dataset / MANIFEST_FILE
    text = path.read_text()
    without = {key: value for key, value in json.loads(text).items() if key != "sha256"}
    path.write_text(json.dumps(without))  # as 0.1.0 wrote it
    Dataset.open(dataset)
    path.write_text(text.replace('"seed": 7', '"seed": 8'))
    with pytest.raises(InputError, match="changed after it was written"):
        Dataset.open(dataset)


def lead_out(*keys):
    """Put the last of the keys where the others lead to."""

    def change(raw):
        inner = raw
        for key in keys[:-2]:
            inner = inner[key]
        inner[keys[-2]] = keys[-1]
        return json.dumps(raw)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "the manifest is missing"),
        (lambda raw: "{", "not JSON"),
        (lambda raw: "[]", "not of format"),
        (rewrite(format=99), "not of format"),
        (rewrite(shards=[{"path": "x"}]), "lacks or misnames"),
        (rewrite(labels={"a": {}}), "lacks or misnames"),
        (rewrite(labels=[]), "lacks or misnames"),
        (rewrite(shards=None), "lacks or misnames"),
        (rewrite(surprise=1), "lacks or misnames"),
        (lead_out("shards", 0, "path", "../train-000000.tar"), "no shard of split 'train'"),
        (lead_out("shards", 0, "path", "images/train-000001.tar"), "no shard of split"),
        (lead_out("shards", 0, "index", "/etc/passwd"), "no shard of split"),
        (lead_out("shards", 0, "split", "../x"), "no shard of split"),
        (
            lead_out("labels", "2017_11", "splits", "train", "path", "../x.parquet"),
            "are no tables of labels",
        ),
        (lambda raw: json.dumps(raw).replace('"2017_11"', '"../.."'), "are no tables of labels"),
        (
            lambda raw: json.dumps(raw).replace('"train": {"im', '"..": {"im'),
            "are no tables of labels",
        ),
        (rewrite(seed="7"), "seed is '7', no int"),
        (rewrite(num_classes=True), "num_classes is 'True', no int"),
        (rewrite(created_by=[]), "created_by is"),
        (lambda raw: "\udce9", "not JSON"),
    ],
)
def test_what_is_no_manifest_is_one_line_that_names_it(dataset, change, message):
    path = dataset / MANIFEST_FILE
    if change is None:
        path.unlink()
    else:
        raw = json.loads(path.read_text())
        del raw["sha256"]
        text = change(raw)
        path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=message) as caught:
        Dataset.open(dataset)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
