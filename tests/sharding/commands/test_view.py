"""The page of a dataset: what a query selects, with labels and credits, in one file."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from sharding.commands.options import ViewOptions
from sharding.commands.view import view
from sharding.commands.workspace import open_workspace
from sharding.dataset.quarantine import Quarantine
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.layout import QUARANTINE_FILE
from sharding.manifest import Dataset
from sharding.thumbnails import data_uri
from tests.support.commands import shard
from tests.support.photos import encode, image_ids, photo, write_photo_dump

CREDITS = "ImageID,Subset,OriginalURL,OriginalLandingURL,License,Author,Title"
HOSTILE = "&lt;script><script>alert(1)</script>"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with hostile names of classes and authors, and one image without pixels."""
    root = tmp_path_factory.mktemp("viewed")
    dump, images = write_photo_dump(root)
    names = image_ids(images, "train")
    rows = [f'{name},train,u,l,by,"{HOSTILE} {name}",t' for name in names]
    (dump / "2017_11/train/images.csv").write_text("\n".join([CREDITS, *rows, ""]))
    described = dump / "2017_11/class-descriptions.csv"
    described.write_text(described.read_text().replace("name of /m/0a", f'"{HOSTILE}"'))
    (images / f"train/{names[0]}.jpg").write_bytes(encode(photo(), "PNG")[:90])
    (images / f"train/{names[1]}.jpg").unlink()
    output = root / "dataset"
    shard((dump, images), output)
    return output


def page(dataset: Path, folder: Path, **query: Any) -> str:
    output = folder / "page.html"
    view(ViewOptions(dataset=str(dataset), output=output, **query))
    return output.read_text(encoding="utf-8")


def shown(text: str) -> list[str]:
    return re.findall("<code>([0-9a-f]{16})</code>", text)


def ids(dataset: Path, split: str) -> list[str]:
    return format_image_ids(Dataset.open(dataset).labels(split).image_ids_N)


def test_every_image_stands_there_with_its_labels_and_its_author(original, tmp_path) -> None:
    text = page(original, tmp_path)
    dataset = Dataset.open(original)
    everything = [
        name for split in ("train", "validation", "test") for name in ids(original, split)
    ]
    assert shown(text) == everything
    assert text.count('<img alt="" src="data:image/webp;base64,') == len(everything)
    files = dataset.manifest.labels["2017_11"].splits.values()
    positives, negatives = sum(f.positives for f in files), sum(f.negatives for f in files)
    card = text.partition("<main>")[2]
    assert (card.count("<b>"), card.count("<i>")) == (positives, negatives)
    unobserved = len(everything) * 4 - positives - negatives
    assert f"{positives} positives, {negatives} negatives, {unobserved} unobserved" in text
    assert f"{everything[0]}, by" in text


def test_it_needs_no_network_and_no_name_can_bring_markup(original, tmp_path) -> None:
    text = page(original, tmp_path)
    assert "&lt;script&gt;alert(1)" in text
    assert text.count("<script>") == 1
    assert "default-src 'none'" in text
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    assert not re.search(r"url\(|@import|https?://", text)


@pytest.mark.parametrize("state", ["positive", "negative", "unobserved"])
def test_a_class_is_asked_for_by_name_or_mid_and_state(original, tmp_path, state: str) -> None:
    dataset = Dataset.open(original)
    table = dataset.labels("train")
    value = {"positive": 1, "negative": 0, "unobserved": -1}[state]
    labels_NK = table.dense(table.rows_of(table.image_ids_N), 4)
    expected = format_image_ids(table.image_ids_N[labels_NK[:, 1] == value])
    for name in (dataset.classes.mids[1], dataset.classes.names[1].upper()):
        text = page(original, tmp_path, class_name=name, state=state, split="train")
        assert shown(text) == expected


def test_a_shard_is_shown_alone_and_the_first_of_many(original, tmp_path: Path) -> None:
    dataset = Dataset.open(original)
    table, first = dataset.labels("train"), dataset.shards("train")[1]
    expected = [
        name
        for name, tar in zip(ids(original, "train"), table.shards, strict=True)
        if tar == first.path
    ]
    for name in (first.name, first.path):
        assert shown(page(original, tmp_path, shard=name)) == expected
    text = page(original, tmp_path, shard=first.name, limit=2)
    assert shown(text) == expected[:2]
    assert f"the first 2 of {first.images} images" in text


def test_the_first_split_may_use_up_the_limit(original, tmp_path: Path) -> None:
    assert shown(page(original, tmp_path, limit=1)) == ids(original, "train")[:1]


def test_what_was_set_aside_is_shown_by_reason(original, tmp_path: Path) -> None:
    text = page(original, tmp_path, reason="")
    assert len(shown(text)) == 2
    assert "<p>2 entries of what was set aside</p>" in text
    (broken,) = shown(page(original, tmp_path, reason="IMAGE"))
    assert broken in text
    with pytest.raises(InputError, match="nothing in the dataset matches"):
        page(original, tmp_path, reason="eaten by the dog")


def test_a_dataset_that_set_nothing_aside_says_so(original, tmp_path: Path) -> None:
    copy = shutil.copytree(original, tmp_path / "copy")
    Quarantine().write(copy / QUARANTINE_FILE)
    output = tmp_path / "aside.html"
    viewed = view(ViewOptions(dataset=str(copy), output=output, reason=""))
    assert str(viewed).startswith("nothing was set aside")
    assert "<p>nothing was set aside</p>" in output.read_text()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"class_name": "nam of /m/0b"}, "did you mean name of /m/0b"),
        ({"class_name": "Zx"}, "lists them, such as .*, name of /m/0b"),
        (
            {"shard": "train-000099"},
            r"'train-000099'. .*did you mean train-\d+. dataset.json lists",
        ),
        ({"name": "2018_04"}, "2018_04"),
        ({"class_name": "/m/0_d", "shard": "test-000000", "split": "train"}, "nothing .* matches"),
    ],
)
def test_what_is_not_there_is_one_line(original, tmp_path, query, message: str) -> None:
    with pytest.raises(InputError, match=message):
        page(original, tmp_path, **query)
    assert not list(tmp_path.iterdir())


def test_a_thousand_images_stay_below_15_megabytes(
    original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share of the bytes is kept for each; the labels of COCO would take no more than theirs."""
    few = page(original, tmp_path)
    monkeypatch.setattr("sharding.commands.view._PICTURE_BYTES", 12_000 * len(shown(few)))
    grain = photo(1024, 768, seed=3)
    assert len(data_uri(grain, 80)) > 12_000
    text = page(original, tmp_path)
    uris = re.findall('src="(data:[^"]+)"', text)
    assert max(map(len, uris)) < 12_000
    rest = len(text) - sum(map(len, uris))
    assert 12_000 * 1000 + rest / len(uris) * 1000 < 15_000_000


def test_a_dataset_at_a_url_is_shown_too(original, tmp_path: Path) -> None:
    copy = shutil.copytree(original, tmp_path / "copy")
    options = ViewOptions(dataset=copy.as_uri(), output=tmp_path / "page.html", split="test")
    with open_workspace(options.dataset, options.fetch, options.scratch) as workspace:
        done = view(options, workspace)
    assert done.shown == done.matching == len(ids(copy, "test"))
