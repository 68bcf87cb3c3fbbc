"""From candidates by a review to labels: CSV, sheet, what the reviewer saves, and re-sharding."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.audit import candidates, review_page
from pipeline.audit import run as audit_run
from pipeline.audit.candidates import Candidates
from pipeline.audit.inputs import Readers
from pipeline.audit.review_page import Pictures, Row
from pipeline.config.commands import AuditConfig
from sharding.commands.options import ReshardOptions
from sharding.commands.reshard import reshard
from sharding.dataset.ground_truth import read_ground_truth
from sharding.dataset.lookup import read_credits, read_images
from sharding.dataset.quarantine import Quarantine
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED, LabelTable
from sharding.layout import ATTRIBUTION_FILE, QUARANTINE_FILE
from sharding.manifest import Dataset
from sharding.thumbnails import thumbnail
from tests.support.models import write_checkpoint

K = 8
NOTHING = Pictures(photo="data:,", ratio=1, maps=[])


@pytest.fixture(scope="module")
def dataset(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = Path(shutil.copytree(squares, tmp_path_factory.mktemp("review") / "dataset"))
    Quarantine(entries=()).write(copy / QUARANTINE_FILE)
    return copy


@pytest.fixture(scope="module")
def checkpoint(dataset: Path) -> Path:
    # Its maps can be seen, untrained as it is.
    return write_checkpoint(dataset.parent / "checkpoint", dataset, backbone="resnet18")


def found_in(dataset: Path, epoch: int = 2) -> Candidates:
    """Eight unobserved entries of the training split, two of them of one image."""
    table = Dataset.open(dataset).labels("train")
    free_NK = table.dense(np.arange(len(table)), K) == UNOBSERVED
    rows = np.array([3, 50, 3, 80, 81, 7, 8, 9])
    classes = np.array([np.flatnonzero(free_NK[row])[i % 3] for i, row in enumerate(rows)])
    losses = np.linspace(6, 0.1, len(rows)).astype(np.float32)
    return Candidates(
        epoch=epoch,
        method="ll-r",
        labels="first",
        images_seen=96 * epoch,
        unobserved=480,
        modified=3,
        image_ids_N=table.image_ids_N[rows],
        classes_N=classes.astype(np.uint16),
        losses_N=losses,
        probabilities_N=(1 - np.exp(-losses)).astype(np.float32),
        decisions_N=np.array(["rejected"] * 3 + ["kept"] * 5),
    )


@pytest.fixture
def run(dataset: Path, tmp_path: Path) -> Path:
    """A run directory as training leaves it, as far as an audit looks."""
    folder = tmp_path / "first"
    (folder / "candidates").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"dataset": str(dataset)}))
    for epoch in (1, 2):
        content = found_in(dataset, epoch).to_parquet(Dataset.open(dataset).classes)
        (folder / f"candidates/epoch-{epoch:03d}.parquet").write_bytes(content)
    return folder


def export(run: Path, output: Path, **options: object) -> str:
    config = AuditConfig(run=str(run), output=output, **options)  # type: ignore[arg-type]
    readers = Readers(images=read_images, credits=read_credits, truth=read_ground_truth)
    return audit_run.run(config, readers)


class Sheet(HTMLParser):
    """What a browser would find in a sheet."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.rows: list[tuple[str | None, str | None]] = []
        self.images: list[bytes] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "article":
            self.rows.append((found["data-image"], found["data-mid"]))
        locations = [found.get(name) for name in ("src", "href", "srcset", "action")]
        locations += re.findall(r"url\((.*?)\)", found.get("style") or "")
        for location in filter(None, locations):
            if not location.startswith("data:"):
                self.loaded.append(location)
            else:
                self.images.append(base64.b64decode(location.partition(",")[2]))


def entries(found: Candidates, dataset: Path) -> list[tuple[str, str]]:
    mids = Dataset.open(dataset).classes.mids
    ids = format_image_ids(found.image_ids_N)
    return [(i, mids[int(k)]) for i, k in zip(ids, found.classes_N, strict=True)]


def test_a_run_on_complete_labels_says_why_there_are_no_candidates(
    dataset: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "labels first know every label"
    assert reason not in export(run, tmp_path / "out", min_probability=1.0)
    monkeypatch.setattr(Dataset, "is_complete", lambda self, name: name == "first")
    assert reason in export(run, tmp_path / "out", min_probability=1.0)


def test_a_run_that_is_not_there_names_those_that_are(run: Path) -> None:
    with pytest.raises(InputError, match=f"frist: no such directory. Fix: pass {run}$"):
        export(run.parent / "frist", run.parent / "out")


def test_the_sheet_shows_every_candidate(
    dataset: Path, checkpoint: Path, run: Path, tmp_path: Path
) -> None:
    output = export(run, tmp_path / "out", checkpoint=str(checkpoint))
    assert str(tmp_path / "out/sheet.html") in output
    assert "--annotations reviewed-first-epoch-002-train.csv" in output
    sheet = Sheet(tmp_path / "out/sheet.html")
    assert sheet.rows == entries(found_in(dataset), dataset)
    assert sheet.loaded == []
    assert len(sheet.images) == 3 * len(sheet.rows)
    photo, raw, boosted = (np.asarray(Image.open(io.BytesIO(b))) for b in sheet.images[:3])
    original = next(b for i, b in read_images(Dataset.open(dataset), "train", [sheet.rows[0][0]]))
    pixels = np.asarray(Image.open(io.BytesIO(original)))
    assert photo.shape == pixels.shape
    assert np.abs(photo.astype(int) - pixels).mean() < 6  # encoded once more
    assert raw.shape == boosted.shape == (2, 2, 4)  # of a 64 px image, with transparency
    assert np.abs(raw.astype(int) - boosted).mean() > 1
    text = (tmp_path / "out/sheet.html").read_text()
    assert text.count("rejected (ll-r, epoch 2)") == 3
    assert not re.search(r"https?://", text)


def test_answers_are_laid_over_the_labels_trained_on(
    dataset: Path, checkpoint: Path, run: Path, tmp_path: Path
) -> None:
    reshard(ReshardOptions(dataset=str(dataset), known=0.5, name="half"), _nothing_to_do)
    found = dataclasses.replace(found_in(dataset, 3), labels="half")
    content = found.to_parquet(Dataset.open(dataset).classes)
    (run / "candidates/epoch-003.parquet").write_bytes(content)
    newest = export(run, tmp_path / "3", top=1, checkpoint=str(checkpoint))
    assert "--labels reviewed-first-epoch-003 --base half" in newest
    assert "--base" not in export(run, tmp_path / "2", epoch=2, top=1, checkpoint=str(checkpoint))


def test_a_photograph_is_credited(
    dataset: Path, checkpoint: Path, run: Path, tmp_path: Path
) -> None:
    (first, _), *_ = entries(found_in(dataset), dataset)
    credit = {
        "image_id": [first, "f" * 16],
        "author": ["Ann &lt;A&gt;", "B"],
        "license": ["CC BY", ""],
    }
    pq.write_table(pa.table(credit), dataset / ATTRIBUTION_FILE)
    try:
        export(run, tmp_path / "out", checkpoint=str(checkpoint))
        text = (tmp_path / "out/sheet.html").read_text()
        assert text.count("<dt>by</dt><dd>Ann &lt;A&gt;, CC BY</dd>") == 2  # two candidates of it
        assert text.count("<dt>by</dt>") == 2
    finally:
        (dataset / ATTRIBUTION_FILE).unlink()


@pytest.mark.parametrize("rows", [100, 2000])
def test_a_sheet_of_many_rows_stays_small(shared: Path, rows: int) -> None:
    photos = sorted((shared / "data/coco256").rglob("*.jpg"))[:40]
    assert photos
    per_row = 14_000_000 // rows
    for path in photos:
        uri = thumbnail(Image.open(path).convert("RGB"), per_row * 2 // 3)
        assert len(uri) < per_row


def test_a_dataset_in_a_bucket_is_read_from_the_cache(
    dataset: Path, checkpoint: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/dev/null")  # of the default cache
    config = json.loads((run / "config.json").read_text())
    cached, url = Path(shutil.copytree(run, tmp_path / "run")), dataset.as_uri()
    (cached / "config.json").write_text(json.dumps({**config, "cache": str(tmp_path / "cache")}))
    output = export(cached, tmp_path / "out", checkpoint=str(checkpoint), dataset=url)
    copied = {path.name for path in (tmp_path / "cache").glob("*/images/*.tar")}
    assert copied == {Path(shard.path).name for shard in Dataset.open(dataset).shards("train")}
    assert f"--dataset {url} " in output
    assert Sheet(tmp_path / "out/sheet.html").rows == entries(found_in(dataset), dataset)
    own = {"cache": str(tmp_path / "own"), "cache_gb": 1e-6}
    with pytest.raises(InputError, match=r"GB of images to copy to .*own, .*raise --cache-gb"):
        export(cached, tmp_path / "out", checkpoint=str(checkpoint), dataset=url, **own)


def test_only_what_is_asked_for_is_exported(dataset: Path, run: Path, tmp_path: Path) -> None:
    found = found_in(dataset)
    every = entries(found, dataset)

    def exported(**options: object) -> list[tuple[str, str]]:
        export(run, tmp_path / "out", sheet=False, **options)
        header, *rows = (tmp_path / "out/train.csv").read_text().splitlines()
        assert header == "ImageID,Source,LabelName,Confidence"
        assert all(row.endswith(",1") and ",large-loss," in row for row in rows)
        return [(row.split(",")[0], row.split(",")[2]) for row in rows]

    assert exported() == every
    assert exported(top=3) == every[:3]
    assert exported(decisions=("kept",), top=2) == every[3:5]
    assert exported(min_loss=float(found.losses_N[5])) == every[:6]
    assert exported(min_probability=float(found.probabilities_N[1])) == every[:2]
    assert not (tmp_path / "out/sheet.html").exists()


def states(table: LabelTable) -> np.ndarray:
    return table.dense(np.argsort(table.image_ids_N), K)


def test_what_is_saved_becomes_labels(dataset: Path, tmp_path: Path) -> None:
    found = found_in(dataset)
    answers = [POSITIVE, NEGATIVE, UNOBSERVED, POSITIVE]  # and no answer to the rest
    lines = [
        f"{image_id},reviewed,{mid},{answer}"
        for (image_id, mid), answer in zip(entries(found, dataset), answers, strict=False)
        if answer != UNOBSERVED
    ]
    saved = tmp_path / "reviewed-first-epoch-002-train.csv"
    saved.write_text("\n".join(["ImageID,Source,LabelName,Confidence", *lines, ""]))
    before = Dataset.open(dataset)
    expected = states(before.labels("train"))
    rows = np.searchsorted(np.sort(before.labels("train").image_ids_N), found.image_ids_N)
    expected[rows[:4], found.classes_N[:4]] = answers

    reshard(ReshardOptions(dataset=dataset, annotations=saved, name="reviewed"), _nothing_to_do)
    after = Dataset.open(dataset)
    assert np.array_equal(states(after.labels("train", "reviewed")), expected)
    assert np.array_equal(states(after.labels("train", "first")), states(before.labels("train")))
    assert set(after.manifest.shards) == set(before.manifest.shards)


def test_unreviewed_candidates_become_labels_as_well(
    dataset: Path, run: Path, tmp_path: Path
) -> None:
    export(run, tmp_path / "export-all", sheet=False)
    options = ReshardOptions(dataset=dataset, annotations=tmp_path / "export-all", base="first")
    reshard(options, _nothing_to_do)
    opened, found = Dataset.open(dataset), found_in(dataset)
    expected = states(opened.labels("train", "first"))
    rows = np.searchsorted(np.sort(opened.labels("train").image_ids_N), found.image_ids_N)
    expected[rows, found.classes_N] = POSITIVE
    assert np.array_equal(states(opened.labels("train", "export-all")), expected)


def test_the_audit_is_told_where_the_truth_is_known(
    dataset: Path, run: Path, tmp_path: Path
) -> None:
    mids = Dataset.open(dataset).classes.mids
    found, table = found_in(dataset), Dataset.open(dataset).labels("train")
    present = [*entries(found, dataset)[:2], *((i, mids[0]) for i in table_ids(table))]
    rows = "".join(f"{image_id},{mid}\n" for image_id, mid in dict.fromkeys(present))
    (tmp_path / "truth.csv").write_text(f"ImageID,LabelName\n{rows}")
    output = export(run, tmp_path / "out", sheet=False, truth=str(tmp_path / "truth.csv"))
    assert [line.split()[0] for line in output.splitlines()[2:4]] == ["1", "2"]
    assert "judged      3 of 8 exported are right (38 %)" in output
    with pytest.raises(InputError, match="no candidates of epoch 7"):
        export(run, tmp_path / "out", epoch=7)


def table_ids(table: LabelTable) -> list[str]:
    return format_image_ids(table.image_ids_N)


def test_images_that_are_not_there_are_named(dataset: Path) -> None:
    with pytest.raises(InputError, match="no pixels of ffffffffffffffff"):
        list(read_images(Dataset.open(dataset), "train", ["f" * 16]))


def test_names_cannot_break_the_page() -> None:
    name = '<b>"R&D" /*script*/</b>'
    row = Row(image_id="0" * 16, mid="/m/0a", name=name, facts=[("a<", "b>")], pictures=NOTHING)
    text = review_page.page("t<", "n", 'f".csv', [row], "c &")
    assert html.escape(name) in text
    assert "<b>" not in text
    assert text.count('"use strict"') == 1
    assert "t&lt;" in text
    assert 'data-file="f&quot;.csv"' in text


def test_the_page_saves_rows_as_the_dump_reader_wants_them() -> None:
    text = review_page.page("t", "n", "f.csv", [], "c")
    assert 'const lines = ["ImageID,Source,LabelName,Confidence"];' in text
    assert '[row.dataset.image, "reviewed", row.dataset.mid, value].join(",")' in text


def test_a_directory_without_candidates_is_one_line(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not a run: config\.json is missing"):
        export(tmp_path, tmp_path / "out")
    (tmp_path / "config.json").write_text(json.dumps({"dataset": str(dataset)}))
    with pytest.raises(InputError, match="the run has no candidates"):
        export(tmp_path, tmp_path / "out")
    assert candidates.FOLDER == "candidates"


def _nothing_to_do(function: object, tasks: object) -> object:
    assert not tasks
    return iter(())


def test_other_tools_get_the_pictures_of_the_candidates(run: Path, tmp_path: Path) -> None:
    report = export(run, tmp_path / "out", sheet=False, tools=("label-studio", "fiftyone"))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"train.csv", "data", "label-studio.json", "label-studio.xml", "labels.json"}
    assert all(name in report for name in names - {"data"})
    # two of the eight candidates are of one image
    assert len(list((tmp_path / "out/data").iterdir())) == 7
