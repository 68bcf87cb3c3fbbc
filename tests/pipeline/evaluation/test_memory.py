"""An evaluation takes memory for the annotated entries, not for images x classes."""

from __future__ import annotations

import tracemalloc

import numpy as np

from pipeline.evaluation import bootstrap
from pipeline.evaluation.per_class import PerClass
from pipeline.evaluation.scores import BOOST_ON, Scores
from sharding.classes import ClassTable, assign_groups

N, K, E = 200_000, 5_000, 500_000
REPLICATES = 4


def entries() -> Scores:
    rng = np.random.default_rng(0)
    keys = np.unique(rng.integers(0, N, E) << 16 | rng.integers(0, K, E))
    labels_E = rng.integers(0, 2, len(keys)).astype(np.int8)
    raw_E = (rng.normal(size=len(keys)) + labels_E).astype(np.float32)
    return Scores(
        image_ids_E=(keys >> 16).astype(np.uint64),
        classes_E=keys & 0xFFFF,
        labels_E=labels_E,
        raw_E=raw_E,
        boosted_E=2 * raw_E,
    )


def classes_of(scores: Scores) -> ClassTable:
    counts_K = np.bincount(scores.classes_E, minlength=K)
    mids = [f"/m/0{k:04d}" for k in range(K)]
    return ClassTable(
        mids=mids,
        names=mids,
        positives_K=counts_K,
        negatives_K=counts_K,
        groups_K=assign_groups(counts_K),
    )


def test_an_evaluation_allocates_a_tenth_of_a_byte_for_each_image_and_class() -> None:
    scores = entries()
    classes = classes_of(scores)
    tracemalloc.start()
    per_class = PerClass.of(scores, classes)
    summary = per_class.summaries()[BOOST_ON]
    means = bootstrap.resample(
        scores,
        classes.groups_K,
        boosted=True,
        rule="boostlu",
        replicates=REPLICATES,
    )
    found = bootstrap.intervals(summary, means)
    written = scores.to_parquet()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found["all"].low <= summary.map_all <= found["all"].high
    assert len(written) < N * K / 10
    assert peak < N * K / 10
