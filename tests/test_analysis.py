"""An analysis compares maps with those of full labels, and judges candidates by the truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks.quality import analysis
from pipeline.audit.candidates import KEPT, Candidates
from pipeline.config.study import StudyConfig
from pipeline.evaluation.attribution import Attributions
from sharding.image_ids import format_image_ids
from sharding.labels import LabelTable

NORMAL = np.random.default_rng(0).normal(-1, 3, 4000)
CONFIG = StudyConfig(dataset="dataset", output="study")
IMAGES, POSITIVE_IMAGES = 300, 60


def run(row: str, seed: int) -> Any:
    return SimpleNamespace(rows=(row,), seed=seed, name=f"{row.partition('@')[0]}-{seed}")


def test_distance_is_that_of_the_scores_behind_boostlu() -> None:
    partial, full = Attributions.of(NORMAL / 2), Attributions.of(NORMAL + 1)
    for slope in (1.0, 5.0):
        boosted = np.maximum(NORMAL / 2, slope * NORMAL / 2)
        exact = stats.wasserstein_distance(boosted, NORMAL + 1)
        # Scores are counted in bins of a quarter, which a slope widens.
        assert analysis.distance(partial, full, slope) == pytest.approx(exact, abs=0.13 * slope)
    assert analysis.distance(full, full) == 0


def test_each_training_is_compared_with_full_labels_of_its_seed() -> None:
    shift = {("an@1", 0): 1, ("an@1", 1): 2, ("full@1", 0): 0, ("full@1", 1): -1}
    looks = {
        key: analysis.Look(epoch=1, attributions=Attributions.of(NORMAL - by))
        for key, by in shift.items()
    }
    an, full = analysis.attribution_table(looks).sections[0]
    assert (an[0], full[0]) == ("an@1", "full@1")
    above = [100 * np.mean(shift["an@1", seed] <= NORMAL) for seed in (0, 1)]
    assert an[1].startswith(f"{np.mean(above):.2f} ±")
    # Both are one and three away; a whole shift keeps the bins' places.
    assert an[3].startswith("2.00 ±")
    assert full[3] == "0.00 ±0.00"


def test_what_was_found_in_a_run_is_read_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config, found = replace(CONFIG, output=str(tmp_path)), Attributions.of(NORMAL)
    monkeypatch.setattr(analysis, "scores_of", lambda *_: found)
    monkeypatch.setattr(analysis, "precisions_of", lambda *_: ([0.25, 0.5], 0.125))
    first = analysis.look(config, run("an@1/1", 0), 6)
    monkeypatch.setattr(analysis, "precisions_of", lambda *_: ([1.0], 0.125))
    again = analysis.look(config, run("an@1/1", 0), 6)
    assert analysis.look(config, run("an@1/1", 0), 7).precisions == [1.0], "of another epoch"
    for each in (first, again):
        assert np.array_equal(each.attributions.counts_H, found.counts_H)
        assert each.attributions.positive_sum == found.positive_sum
        assert (each.precisions, each.guessing) == ([0.25, 0.5], 0.125)


def test_candidates_of_every_epoch_are_judged_by_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Class 1 is nowhere observed, and present in the first images."""
    ids = np.arange(IMAGES, dtype=np.uint64)
    shards = ["a.tar"] * IMAGES
    names = format_image_ids(ids)
    seen = LabelTable.from_lists(names, [[0]] * IMAGES, [[]] * IMAGES, shards)
    present = [[0, 1] if i < POSITIVE_IMAGES else [0] for i in range(IMAGES)]
    absent = [[] if i < POSITIVE_IMAGES else [1] for i in range(IMAGES)]
    truth = LabelTable.from_lists(names, present, absent, shards)
    tables = {"partial": seen, "complete": truth}
    monkeypatch.setattr(analysis, "open_dataset", lambda *_, **__: SimpleNamespace(classes=None))
    monkeypatch.setattr(analysis, "labels_of", lambda dataset, split, labels: tables[labels])

    def found(first: int, epoch: int) -> Candidates:
        N = analysis.DEPTH
        return Candidates(
            epoch=epoch,
            method="an",
            labels="partial",
            images_seen=IMAGES * epoch,
            unobserved=IMAGES,
            modified=0,
            image_ids_N=ids[first : first + N],
            classes_N=np.ones(N, np.uint16),
            losses_N=np.linspace(2, 1, N, dtype=np.float32),
            probabilities_N=np.full(N, 0.8, np.float32),
            decisions_N=np.full(N, KEPT),
        )

    # Of the hundred from image 40 on twenty are right; the second epoch begins at 10, or at 30.
    begins = {"an-0": [40, 10], "an-1": [40, 30]}
    monkeypatch.setattr(
        analysis.candidates,
        "read_run",
        lambda folder, classes: [
            found(first, epoch) for epoch, first in enumerate(begins[folder.split("/")[-1]], 1)
        ],
    )
    monkeypatch.setattr(
        analysis.candidates, "read_names", lambda folder: [] if "full" in folder else ["a"]
    )
    none, looks = Attributions.of(NORMAL), {}
    for each in (run("an@1/1", 0), run("an@1/1", 1), run("full@1/1", 0)):
        precisions, guessing = analysis.precisions_of(CONFIG, each)
        looks[analysis.trained_as(each), each.seed] = analysis.Look(
            epoch=2, attributions=none, precisions=precisions, guessing=guessing
        )
    table = analysis.audit_table(looks)
    assert table.headers == ["trained as", "epoch 1", "epoch 2"]
    ((name, first, second),) = table.sections[0]
    assert (name, first) == ("an@1", "20.00 ±0.00")
    assert second.startswith("40.00 ±")
    assert table.notes == ["Guessing is right in 20.00 %."]
    wrong = analysis.Look(epoch=2, attributions=none, precisions=[0.0, None], guessing=0.2)
    table = analysis.audit_table({("an@1", 0): wrong})
    assert table.sections[0] == [["an@1", "0.00", "–"]]
