"""A page of results says of an order what intervals do; its collections are drawn once."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from scipy import stats

from benchmarks.quality import kept, study_data
from benchmarks.quality.results import STUDIES, Options, Study, extended, order, part, verdict
from pipeline.study import render
from pipeline.study import results as records
from pipeline.study import run as studies
from pipeline.study.results import Record
from pipeline.study.rows import parse
from pipeline.study.statistics import Estimate
from pipeline.study.table import tabulate
from sharding.synthetic.dump import make_dump
from sharding.synthetic.options import DumpOptions

SCORES = {
    "an@1/1": [0.60, 0.62, 0.61],
    "ll-r@1/1": [0.66, 0.69, 0.66],
    "ll-r@5/5": [0.7, 0.6, 0.66],
}


@pytest.mark.parametrize("name", STUDIES)
def test_what_the_paper_orders_is_a_row(name: str) -> None:
    study = STUDIES[name]
    claimed = {row for pair in (*study.order, *study.group_effect) for row in pair}
    assert claimed <= {row.label for row in parse(study.rows)}


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.01, 0.02, "confirmed"), (-0.02, -0.01, "refuted"), (-0.01, 0.02, "undecided")],
)
def test_an_interval_without_zero_decides(low: float, high: float, said: str) -> None:
    assert verdict(Estimate(mean=(low + high) / 2, low=low, high=high, p=0.5, count=3)) == said


def test_the_order_is_that_of_paired_differences(tmp_path: Path, squares: Path) -> None:
    study = Study(
        title="Squares",
        about="Coloured squares.",
        collection="squares",
        rows=tuple(SCORES),
        order=[("ll-r@1/1", "an@1/1"), ("ll-r@5/5", "ll-r@1/1")],
        group_effect=[("ll-r@5/5", "ll-r@1/1")],
        preset="demo",
    )
    config = replace(study.config("s", Options(work=tmp_path)), dataset=str(squares))
    config, planned = studies.prepare(config)
    effect = dict.fromkeys(SCORES, [0.0] * 3) | {"ll-r@5/5": [0.06, 0.04, 0.05]}
    for label, values in SCORES.items():
        for seed, (cell, value) in enumerate(zip(planned.cells[label], values, strict=True)):
            (run,) = (run for run in planned.runs if run.name == cell.run)
            means = {"all": value, "group_1": value + effect[label][seed], "group_5": value}
            record = Record(
                status="finished",
                config=run.config.to_dict(),
                split="test",
                labels=planned.labels,
                scores={1.0: means, cell.slope: means},
            )
            records.write(config.output, run, record)
    first, second, groups = order(config, study).splitlines()[2:]
    sure = stats.ttest_rel(SCORES["ll-r@1/1"], SCORES["an@1/1"]).confidence_interval()
    assert sure.low > 0
    assert "confirmed" in first
    assert f"+6.00 ±{50 * (sure.high - sure.low):.2f}" in first
    assert "undecided" in second
    more = stats.ttest_1samp(effect["ll-r@5/5"], 0).confidence_interval()
    assert "ll-r@5/5 gains more on ll-r@1/1 in group 1 than in group 5" in groups
    assert f"+5.00 ±{50 * (more.high - more.low):.2f} " in groups
    assert "confirmed" in groups
    page = render.markdown(
        tabulate(planned, studies.read_records(config, planned)), "S", ["a fact"]
    )
    (tmp_path / "s/study.md").write_text(page)
    (tmp_path / "squares").mkdir()
    (tmp_path / "squares/dataset").symlink_to(squares)
    (tmp_path / "docs").mkdir()
    text = part("s", study, Options(work=tmp_path, page=tmp_path / "docs/results.md"))
    assert (tmp_path / "docs/images/results-s.png").read_bytes().startswith(b"\x89PNG")
    assert "make results STUDIES=s" in text
    assert "[s.jsonl](results/s.jsonl)" in text
    assert "adds at inference is below 0 for no row, in no group." in text
    assert text.startswith("## Squares\n\nColoured squares.\n\n- a fact\n- all of it: `make")
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## Squares"]
    assert first in text


def test_runs_are_taken_up_on_another_machine(tmp_path: Path) -> None:
    file = tmp_path / "docs/results/s.jsonl"
    here, there = tmp_path / "here/s", tmp_path / "there/s"
    kept.restore(file, there)  # nothing was kept yet
    for folder in ("results", "analysis"):
        (here / folder).mkdir(parents=True)
    for name, value in (("an-seed0", 1), ("gr-seed0", 2)):
        weights = str(tmp_path / "here/photographs/w.pth")
        text = json.dumps(
            {"value": value, "weights": weights, "beside": str(tmp_path / "here-old")}
        )
        (here / f"results/{name}.json").write_text(text)
    (here / "analysis/an-seed0.json").write_text('{"precisions": [0.5]}')
    file.parent.parent.mkdir()
    kept.save(here, file)
    assert f'"{tmp_path}/here/' not in file.read_text()
    written = file.read_text()
    kept.save(there, file)  # which has no result yet
    assert file.read_text() == written
    assert len(file.read_text().splitlines()) == 2

    (there / "results").mkdir(parents=True)
    (there / "results/gr-seed0.json").write_text('{"value": 3}')
    kept.restore(file, there)
    found = json.loads((there / "results/an-seed0.json").read_text())
    assert found["weights"] == str(tmp_path / "there/photographs/w.pth")
    assert (found["value"], found["beside"]) == (1, str(tmp_path / "here-old"))
    assert json.loads((there / "analysis/an-seed0.json").read_text()) == {"precisions": [0.5]}
    assert json.loads((there / "results/gr-seed0.json").read_text()) == {"value": 3}
    assert not (there / "analysis/gr-seed0.json").exists()


def test_a_page_keeps_the_studies_of_other_machines() -> None:
    first, second, third = (study.title for study in STUDIES.values())
    page = extended("", {third: f"## {third}\n\nnew\n\n### Rows\n\n| 1 |"})
    page = extended(page, {first: f"## {first}\n\nnew"})
    assert page == extended(page, {})
    page = extended(page, {third: f"## {third}\n\nnewer\n\n### Rows\n\n| 2 |"})
    parts = page.split("\n## ")
    assert parts[0].startswith("# Results")
    assert parts[1:] == [f"{first}\n\nnew\n", f"{third}\n\nnewer\n\n### Rows\n\n| 2 |\n"]
    assert second not in page


def test_the_complete_truth_has_every_class_of_every_labelled_image(tmp_path: Path) -> None:
    sizes = {"train": 40, "validation": 10, "test": 10}
    make_dump(DumpOptions(classes=20, **sizes), tmp_path / "dump", workers=1)
    study_data.write_complete(tmp_path / "dump", tmp_path / "complete")
    for split in sizes:
        rows = list(study_data._rows(tmp_path / f"complete/{split}/annotations-human"))
        known = {(row["ImageID"], row["LabelName"]): row["Confidence"] for row in rows}
        images = {image for image, _ in known}
        assert len(rows) == len(known) == 20 * len(images)
        truth = list(study_data._rows(tmp_path / f"dump/ground_truth/{split}"))
        present = {(row["ImageID"], row["LabelName"]) for row in truth if row["ImageID"] in images}
        assert {entry for entry, confidence in known.items() if confidence == "1"} == present
        people = list(study_data._rows(tmp_path / f"dump/2017_11/{split}/annotations-human"))
        said = {(row["ImageID"], row["LabelName"]): row["Confidence"] for row in people}
        assert len(images) > 5
        for entry, confidence in said.items():
            assert known.get(entry, confidence) == confidence
    again = (tmp_path / "complete/classes-trainable.txt").read_text()
    assert again == (tmp_path / "dump/2017_11/classes-trainable.txt").read_text()


def test_weights_of_another_scale_give_the_same_features() -> None:
    network = torchvision.models.mobilenet_v2(weights=None)
    stem = network.features[0].eval()
    stem[1].running_mean.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    pixels_BCHW = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    before = stem((pixels_BCHW - 0.5) / 0.5)
    network.load_state_dict(study_data.rescaled(network.state_dict()))
    mean, std = (each.view(1, 3, 1, 1) for each in (study_data.MEAN, study_data.STD))
    after = stem((pixels_BCHW - mean) / std)
    # The border sees padding, which is another colour now.
    torch.testing.assert_close(after[..., 1:-1, 1:-1], before[..., 1:-1, 1:-1])


def test_the_photographs_are_cut_once_and_keep_frequent_words(tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    rows = [f"{i}.jpg,train,sky|{'sun' if i % 2 else 'rare' + str(i)},x" for i in range(200)]
    rows += [f"{i}.jpg,test,rare{i},x" for i in range(200, 220)]
    source.write_text("\n".join(["image,split,labels_260,labels_374", *rows]))
    study_data.write_table(source, target)
    first = target.read_bytes()
    study_data.write_table(source, target)
    assert target.read_bytes() == first
    with target.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert {row["labels"] for row in found} == {"sky", "sky|sun"}
    assert Counter(row["split"] for row in found) == {"train": 140, "validation": 20, "test": 40}
    assert len({row["image"] for row in found}) == 200
