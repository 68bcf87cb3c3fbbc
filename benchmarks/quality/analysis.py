"""Look into the networks of a finished study as the paper does: maps, and labels that are missing.

Needs a collection whose truth is the label version "complete".
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from pipeline.audit import candidates, judge
from pipeline.config.study import StudyConfig
from pipeline.data.labels import LabelledSplit, labels_of
from pipeline.data.staging import open_dataset
from pipeline.evaluation import attribution
from pipeline.evaluation.attribution import EDGES, Attributions
from pipeline.inference import locate
from pipeline.models.checkpoint import load_model
from pipeline.study.plan import COMPLETE, RUNS, Plan, PlannedRun
from pipeline.study.run import read_records
from pipeline.study.statistics import estimate
from pipeline.tables import Table, half_width, percent

FULL = "full@1"
"""Training of the networks that others are compared with."""
SLOPE = 5.0
"""Of BoostLU, in the paper."""
IMAGES = 200
"""Images of the scored split whose maps are looked at."""
DEPTH = 100
"""Candidates of largest loss that are judged, for each epoch."""
_CENTRES = (EDGES[:-1] + EDGES[1:]) / 2


def tables(config: StudyConfig, planned: Plan) -> str:
    """Write both tables of a finished study, in Markdown with a sentence before each.

    Args:
        config: of the study, with absolute places.
        planned: its plan, with a training `FULL`.
    """
    records = read_records(config, planned)
    trained = [
        run
        for run in planned.runs
        if (record := records[run.name]) is not None and record.status == "finished"
    ]
    return "\n\n".join(
        [
            "### Attribution scores",
            f"Scores of the activation maps of verified positives ({IMAGES} test pictures), before "
            "BoostLU. *Distance*: how far their distribution is from that of the networks trained "
            "on full labels with the same seed (Wasserstein, in logits), as it is and behind "
            f"BoostLU with slope {SLOPE:g}. The paper (section 3) says that partial labels lower "
            "the positive end and that BoostLU mends this.",
            attribution_table(config, trained).markdown(),
            "### What the audit finds, by epoch",
            f"Percent of the {DEPTH} unobserved entries of largest loss that are labels really "
            "missing.",
            audit_table(config, trained).markdown(),
        ]
    )


def attribution_table(config: StudyConfig, trained: Sequence[PlannedRun]) -> Table:
    """Compare the scores of each training with those of the network of full labels."""
    scores = {(trained_as(run), run.seed): scores_of(config, run) for run in trained}
    rows = []
    for name in dict.fromkeys(name for name, _ in scores):
        own = {seed: found for (trained, seed), found in scores.items() if trained == name}
        pairs = [(own[seed], scores[FULL, seed]) for seed in own if (FULL, seed) in scores]
        rows.append(
            [
                name,
                _mean([100 * each.above_zero for each in own.values()]),
                _mean([each.mean_above_zero for each in own.values()]),
                _mean([distance(each, full) for each, full in pairs]),
                _mean([distance(each, full, SLOPE) for each, full in pairs]),
            ]
        )
    headers = ["trained as", "above 0, %", "mean of these", "distance", "behind BoostLU"]
    return Table(headers=headers, sections=[rows])


def audit_table(config: StudyConfig, trained: Sequence[PlannedRun]) -> Table:
    """Judge the candidates of every epoch by the complete truth."""
    dataset = open_dataset(config.dataset, tars=False)
    truth = labels_of(dataset, "train", COMPLETE)
    found = dict[str, list[list[float]]]()
    base = float("nan")
    for run in trained:
        if not candidates.read_names(_directory(config, run)):
            continue  # of full labels, which have no unobserved entry
        epochs = candidates.read_run(_directory(config, run))
        missing = judge.Truth(labels_of(dataset, "train", epochs[-1].labels), truth)
        verdicts = [judge.judge(each, missing, [DEPTH]) for each in epochs]
        precisions = [100 * each.precision_at[DEPTH] for each in verdicts]
        found.setdefault(trained_as(run), []).append(precisions)
        base = missing.base_rate
    rows = [
        [name, *(_mean(values) for values in zip_longest(*runs, fillvalue=math.nan))]
        for name, runs in found.items()
    ]
    epochs_E = range(1, 1 + max(len(row) - 1 for row in rows))
    note = f"Guessing is right in {percent(base)} %."
    return Table(
        headers=["trained as", *(f"epoch {n}" for n in epochs_E)], sections=[rows], notes=[note]
    )


def scores_of(config: StudyConfig, run: PlannedRun) -> Attributions:
    """Count the attribution scores of a run's best checkpoint."""
    model, meta = load_model(locate.checkpoint_directory(_directory(config, run)))
    split = LabelledSplit.open(
        open_dataset(config.dataset),
        config.split,
        None,
        torch.device("cpu"),
        image_size=meta.train_config.data.image_size,
        threads=1,
        batch_size=attribution.BATCH,
    )
    batches = -(-IMAGES // attribution.BATCH)
    first = split.part(0, 1, batches * attribution.BATCH)
    return attribution.study(model, first, IMAGES).attributions


def distance(scores: Attributions, full: Attributions, slope: float = 1.0) -> float:
    """Compute Wasserstein's distance of scores behind BoostLU to those of another network."""
    boosted: npt.NDArray[np.float64] = np.maximum(_CENTRES, slope * _CENTRES)
    return float(stats.wasserstein_distance(boosted, _CENTRES, scores.counts_H, full.counts_H))


def trained_as(run: PlannedRun) -> str:
    """Name a training by method and slope: rows that differ only at inference share it."""
    return run.rows[0].partition("/")[0]


def _directory(config: StudyConfig, run: PlannedRun) -> str:
    return os.path.join(config.output, RUNS, run.name)


def _mean(values: Sequence[float]) -> str:
    if not len(values):
        return "–"
    found = estimate(np.array(values)[:, None])
    return f"{found.mean:.2f} {half_width(found.low / 100, found.high / 100)}"
