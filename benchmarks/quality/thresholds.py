"""Compare operating points with one global threshold, by verified labels and by the complete truth.

    python -m benchmarks.quality.thresholds --run demo/runs/demo --dataset results/demo/dataset

The dataset is the demo's with its truth as label version "complete", which
`benchmarks.quality.results` makes for the study "methods". Thresholds and temperatures are chosen
on verified validation entries; the run's checkpoint is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tyro

from pipeline.config.commands import EvaluateConfig
from pipeline.evaluation import figures
from pipeline.evaluation.run import evaluate
from pipeline.inference import choose_points
from pipeline.inference.choose_points import Entries, Floats
from pipeline.study.plan import COMPLETE
from pipeline.tables import Table, percent
from sharding.layout import Split

PRECISION = 0.9


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is judged."""

    run: str
    """Run directory of a training on the demo's collection."""
    dataset: str
    """Dataset directory, with a label version "complete"."""
    labels: str = "2017_11"
    """Label version to choose by, and the first to judge by."""


def main(options: Options) -> None:
    """Score three times, choose, and print the table."""
    validation, groups_K = entries_of(options, "validation", options.labels)
    test, _ = entries_of(options, "test", options.labels)
    truth, _ = entries_of(options, "test", COMPLETE)
    found = cuts(validation, groups_K)
    rows = [[name, *judged(test, cut_K), *judged(truth, cut_K)] for name, cut_K in found.items()]
    measures = ("macro F1", "micro F1", "precision", "recall")
    headers = ["thresholds", *measures, *(f"true {name}" for name in measures)]
    print(Table(headers=headers, sections=[rows]).markdown())
    positives_K = validation.counts(len(groups_K), validation.is_positive_E)
    negatives_K = validation.counts(len(groups_K), ~validation.is_positive_E)
    print(
        f"{len(validation.logits_E)} validation entries, a median of "
        f"{np.median(np.minimum(positives_K, negatives_K)):g} of a class's rarer state; "
        f"{len(test.logits_E)} verified test entries, {len(truth.logits_E)} in the truth"
    )
    temperatures_K = choose_points.temperatures(validation, groups_K)
    for name, entries in (("verified", test), ("truth", truth)):
        legend = figures.reliability(entries, temperatures_K).axes[0].get_legend()
        print(f"{name}:", *(text.get_text() for text in legend.get_texts()), sep="\n  ")


def entries_of(options: Options, split: Split, labels: str) -> tuple[Entries, np.ndarray]:
    """Score a split by a label version: its entries, and the group of each class."""
    found = evaluate(
        EvaluateConfig(
            checkpoint=options.run,
            dataset=options.dataset,
            split=split,
            labels=labels,
            attribution=0,
        )
    )
    scores = found.scores
    entries = Entries.of(scores.boosted_E, scores.labels_E, scores.classes_E)
    return entries, found.subject.dataset.classes.groups_K


def cuts(validation: Entries, groups_K: np.ndarray) -> Mapping[str, Floats]:
    """Choose thresholds in every way: logits (K,) by name."""
    shrunk_K, own_K, weights_K = choose_points.thresholds(validation, groups_K)
    group_K = (shrunk_K - weights_K * np.nan_to_num(own_K)) / (1 - weights_K)
    return {
        "one global probability of 0.5": np.zeros(len(groups_K)),
        "per group": group_K,
        "per class, own alone": np.where(np.isnan(own_K), group_K, own_K),
        "per class, shrunk to the group's (what is kept)": shrunk_K,
        f"`--precision {PRECISION}`": choose_points.thresholds(validation, groups_K, PRECISION)[0],
    }


def judged(entries: Entries, thresholds_K: Floats) -> list[str]:
    """Compute macro and micro F1, precision and recall, in percent."""
    means = choose_points.f1(entries, thresholds_K)
    taken_E = entries.logits_E >= thresholds_K[entries.classes_E]
    right = (taken_E & entries.is_positive_E).sum()
    shares = (right / taken_E.sum(), right / entries.is_positive_E.sum())
    return [percent(value) for value in (means["macro"], means["micro"], *shares)]


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
