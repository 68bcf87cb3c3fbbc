"""Look into the networks of a finished study as the paper does: maps, and labels that are missing.

Needs a collection whose truth is the label version "complete".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from pipeline import storage
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
KEPT = "analysis"
"""Directory below a study of what was found in each run."""
_CENTRES = (EDGES[:-1] + EDGES[1:]) / 2


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is found in the networks of one run.

    Attributes:
        epoch: of its best checkpoint, which was looked into.
        attributions: scores of the maps of it, before BoostLU.
        precisions: by epoch, share of the first `DEPTH` candidates that are really missing; None
            where there are fewer, empty for a training of full labels, which has none.
        guessing: share of all unobserved entries that are.
    """

    epoch: int
    attributions: Attributions
    precisions: Sequence[float | None] = ()
    guessing: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values; the inverse of `from_dict`."""
        scores = self.attributions.as_json()
        del scores["edges"]  # the same for all
        return {
            "epoch": self.epoch,
            "attributions": scores,
            "precisions": list(self.precisions),
            "guessing": self.guessing,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Rebuild what was kept."""
        scores = Attributions.from_json({"edges": EDGES, **raw["attributions"]})
        return cls(**{**raw, "attributions": scores})


def look(config: StudyConfig, run: PlannedRun, epoch: int) -> Look:
    """Look into the networks of a run, or read what was found before, on whatever machine.

    Args:
        config: of the study.
        run: with scores.
        epoch: that they are of; what was found in another is out of date.
    """
    kept = Path(config.output) / KEPT / f"{run.name}.json"
    if kept.is_file():
        found = Look.from_dict(json.loads(kept.read_text(encoding="utf-8")))
        if found.epoch == epoch:
            return found
    precisions, guessing = precisions_of(config, run)
    scores = scores_of(config, run)
    found = Look(epoch=epoch, attributions=scores, precisions=precisions, guessing=guessing)
    storage.write_json(str(kept), found.to_dict())
    return found


def looks(config: StudyConfig, planned: Plan) -> dict[tuple[str, int], Look]:
    """Look into every run of a plan that has scores, by the training's name and seed."""
    records = read_records(config, planned)
    return {
        (trained_as(run), run.seed): look(config, run, record.epoch)
        for run in planned.runs
        if (record := records[run.name]) is not None and record.status == "finished"
    }


def tables(config: StudyConfig, planned: Plan) -> str:
    """Write both tables of a finished study, in Markdown with a sentence before each.

    Args:
        config: of the study, with absolute places.
        planned: its plan, with a training `FULL`.
    """
    found = looks(config, planned)
    return "\n\n".join(
        [
            "### Attribution scores",
            f"Scores of the activation maps of verified positives ({IMAGES} test pictures), before "
            "BoostLU. *Distance*: how far their distribution is from that of the networks trained "
            "on full labels with the same seed (Wasserstein, in logits), as it is and behind "
            f"BoostLU with slope {SLOPE:g}. The paper (section 3) says that partial labels lower "
            "the positive end and that BoostLU mends this.",
            attribution_table(found).markdown(),
            "### What the audit finds, by epoch",
            f"Percent of the {DEPTH} unobserved entries of largest loss that are labels really "
            "missing.",
            audit_table(found).markdown(),
        ]
    )


def attribution_table(found: Mapping[tuple[str, int], Look]) -> Table:
    """Compare the scores of each training, by name and seed, with those of full labels."""
    rows = []
    for name, own in _by_name(found).items():
        pairs = [
            (each.attributions, found[FULL, seed].attributions)
            for seed, each in own.items()
            if (FULL, seed) in found
        ]
        scores = [each.attributions for each in own.values()]
        rows.append(
            [
                name,
                _mean([100 * each.above_zero for each in scores]),
                _mean([each.mean_above_zero for each in scores]),
                _mean([distance(each, full) for each, full in pairs]),
                _mean([distance(each, full, SLOPE) for each, full in pairs]),
            ]
        )
    headers = ["trained as", "above 0, %", "mean of these", "distance", "behind BoostLU"]
    return Table(headers=headers, sections=[rows])


def audit_table(found: Mapping[tuple[str, int], Look]) -> Table:
    """Tabulate by training and epoch how many candidates the truth says are right."""
    rows, guessing = [], float("nan")
    for name, own in _by_name(found).items():
        runs = [
            [math.nan if share is None else 100 * share for share in each.precisions]
            for each in own.values()
        ]
        if any(runs):
            by_epoch = zip_longest(*runs, fillvalue=math.nan)
            rows.append([name, *(_mean(values) for values in by_epoch)])
            guessing = next(each.guessing for each in own.values() if each.guessing is not None)
    epochs_E = range(1, max((len(row) for row in rows), default=1))
    note = f"Guessing is right in {percent(guessing)} %."
    return Table(
        headers=["trained as", *(f"epoch {n}" for n in epochs_E)], sections=[rows], notes=[note]
    )


def precisions_of(config: StudyConfig, run: PlannedRun) -> tuple[list[float | None], float | None]:
    """Judge the candidates of every epoch by the complete truth; also the share of guessing."""
    if not candidates.read_names(_directory(config, run)):
        return [], None
    dataset = open_dataset(config.dataset, tars=False)
    epochs = candidates.read_run(_directory(config, run), dataset.classes)
    known = labels_of(dataset, "train", epochs[-1].labels)
    missing = judge.Truth(known, labels_of(dataset, "train", COMPLETE))
    verdicts = [judge.judge(each, missing, [DEPTH]) for each in epochs]
    precisions = [each.precision_at.get(DEPTH) for each in verdicts]
    if all(each is None for each in precisions):
        return [], None
    return precisions, missing.base_rate


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


def _by_name(found: Mapping[tuple[str, int], Look]) -> dict[str, dict[int, Look]]:
    by_name = dict[str, dict[int, Look]]()
    for (name, seed), each in found.items():
        by_name.setdefault(name, {})[seed] = each
    return by_name


def _directory(config: StudyConfig, run: PlannedRun) -> str:
    return str(Path(config.output) / RUNS / run.name)


def _mean(values: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "–"
    found = estimate(np.array(known)[:, None])
    width = half_width(found.low / 100, found.high / 100) if len(known) > 1 else ""
    return f"{found.mean:.2f} {width}".rstrip()
