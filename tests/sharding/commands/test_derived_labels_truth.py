"""Derived labels against the demo's complete truth: all true, draws fair, closures right."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sharding.commands.options import ReshardOptions
from sharding.commands.reshard import reshard
from sharding.dataset.ground_truth import read_ground_truth
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED, LabelTable
from sharding.maintenance.derive import close
from sharding.manifest import Dataset
from sharding.openimages.hierarchy import read_hierarchy
from sharding.synthetic.dump import make_dump
from sharding.synthetic.options import DumpOptions
from sharding.synthetic.vocabulary import Vocabulary
from tests.support.commands import backwards, shard

K, IMAGES, SIGMAS = 40, 400, 5
Dense = npt.NDArray[np.int8]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo dump, and the dataset made of it."""
    root = tmp_path_factory.mktemp("demo")
    options = DumpOptions(train=IMAGES, validation=4, test=4, classes=K, side=48)
    make_dump(options, root / "dump", progress=False)
    shard((root / "dump", root / "dump/images"), root / "dataset", images_per_shard=500)
    return root


@pytest.fixture(scope="module")
def truth_NK(demo: Path) -> Dense:
    """What is present (+1) and absent (0) in every training image, in the order of the tables."""
    dataset = Dataset.open(demo / "dataset")
    truth = read_ground_truth(dataset, str(demo / "dump/ground_truth"))
    dense_NK = truth.dense(truth.rows_of(dataset.labels("train").image_ids_N), K)
    assert (dense_NK != UNOBSERVED).all()
    return dense_NK


@pytest.fixture(scope="module")
def tree(demo: Path) -> Path:
    """A plain shape of a colour is the kind of which striped and dotted ones are kinds, as JSON."""
    kinds = Vocabulary.make(K, 0).kinds
    plain = {(kind.shape, kind.colour): kind.mid for kind in kinds if kind.texture == "plain"}
    below: dict[str, list[Any]] = {mid: [] for mid in plain.values()}
    for kind in kinds:
        if kind.texture != "plain":
            below[plain[kind.shape, kind.colour]].append({"LabelName": kind.mid})
    nodes = [{"LabelName": mid, "Subcategory": found} for mid, found in below.items() if found]
    assert nodes
    path = demo / "hierarchy.json"
    path.write_text(json.dumps({"LabelName": "/m/0bl9f", "Subcategory": nodes}))
    return path


def derived(demo: Path, **rule: Any) -> tuple[Dense, dict[str, int]]:
    """Labels of a derived version, dense (N, K), and its report."""
    dataset = demo / "dataset"
    done = reshard(ReshardOptions(dataset=str(dataset), **rule), backwards)
    opened = Dataset.open(dataset)
    table = opened.labels("train", done.name)
    report = opened.manifest.labels[done.name].report["train"]
    return table.dense(np.arange(len(table)), K), dict(report)


def base_of(demo: Path) -> Dense:
    table = Dataset.open(demo / "dataset").labels("train", "2017_11")
    return table.dense(np.arange(len(table)), K)


def assert_fair(chosen: int, of: int, share: float) -> None:
    """The number is one that draws of this share give."""
    assert abs(chosen - share * of) <= SIGMAS * np.sqrt(of * share * (1 - share)) + 1


@pytest.mark.parametrize("draw", [0, 3])
def test_known_labels_are_true_and_their_share_is_fair_in_every_class(
    demo: Path, truth_NK: Dense, draw: int
) -> None:
    base_NK = base_of(demo)
    kept_NK, report = derived(demo, known=0.1, draw=draw)
    known_NK = kept_NK != UNOBSERVED
    assert (kept_NK[known_NK] == truth_NK[known_NK]).all()
    assert (kept_NK[known_NK] == base_NK[known_NK]).all()
    count = int((base_NK != UNOBSERVED).sum())
    assert int(known_NK.sum()) == round(0.1 * count) == count - report["derived_left_out"]
    for state in (POSITIVE, NEGATIVE):
        assert_fair(int((kept_NK == state).sum()), int((base_NK == state).sum()), 0.1)
    for k in range(K):
        assert_fair(int(known_NK[:, k].sum()), int((base_NK[:, k] != UNOBSERVED).sum()), 0.1)


def test_single_positives_are_true_and_each_positive_is_as_likely(
    demo: Path, truth_NK: Dense
) -> None:
    base_NK = base_of(demo)
    kept_NK, _ = derived(demo, single_positive=True, draw=1)
    assert set(np.unique(kept_NK)) == {UNOBSERVED, POSITIVE}
    assert (truth_NK[kept_NK == POSITIVE] == POSITIVE).all()
    positives_N = (base_NK == POSITIVE).sum(1)
    np.testing.assert_array_equal((kept_NK == POSITIVE).sum(1), positives_N > 0)
    # Of images with m positives the first by class index is kept in one of m.
    for m in range(2, int(positives_N.max()) + 1):
        rows = np.flatnonzero(positives_N == m)
        first = (base_NK[rows] == POSITIVE).argmax(1)
        assert_fair(int((kept_NK[rows, first] == POSITIVE).sum()), len(rows), 1 / m)


def test_a_closure_of_consistent_labels_adds_only_what_is_true(
    demo: Path, truth_NK: Dense, tree: Path
) -> None:
    """Where a striped red star is a red star, too, and humans say so."""
    dataset = Dataset.open(demo / "dataset")
    hierarchy = read_hierarchy(tree, dataset.classes.mids)
    wide_NK = truth_NK.copy()
    for k in range(K):
        _, above = hierarchy.ancestors.expand(np.array([k]))
        wide_NK[:, above] |= truth_NK[:, [k]]
    base_NK = base_of(demo)
    said_NK = np.where(base_NK == UNOBSERVED, base_NK, wide_NK)
    ids_N = dataset.labels("train").image_ids_N
    closed, report = close(LabelTable.from_dense(ids_N, said_NK), hierarchy)
    closed_NK = closed.dense(np.arange(len(closed)), K)
    known_NK = closed_NK != UNOBSERVED
    assert (closed_NK[known_NK] == wide_NK[known_NK]).all(), "a label against the truth"
    assert (closed_NK[base_NK != UNOBSERVED] == said_NK[base_NK != UNOBSERVED]).all()
    assert report["derived_conflicts"] == report["derived_both_ways"] == 0
    added = int(known_NK.sum() - (base_NK != UNOBSERVED).sum())
    assert added == report["derived_positives"] + report["derived_negatives"]
    assert min(report["derived_positives"], report["derived_negatives"]) > 0


def test_a_closure_of_contradicting_labels_counts_them_and_keeps_what_humans_said(
    demo: Path, tree: Path
) -> None:
    """The demo's own labels say of a striped red star that no red star is there."""
    dataset = Dataset.open(demo / "dataset")
    hierarchy = read_hierarchy(tree, dataset.classes.mids)
    base_NK = base_of(demo)
    closed_NK, report = derived(demo, hierarchy=tree)
    observed_NK = base_NK != UNOBSERVED
    assert (closed_NK[observed_NK] == base_NK[observed_NK]).all()
    positives, negatives, conflicts, both = 0, 0, set(), 0
    for n, k in itertools.product(range(len(base_NK)), range(K)):
        below = hierarchy.descendants.expand(np.array([k]))[1]
        above = hierarchy.ancestors.expand(np.array([k]))[1]
        present = bool((base_NK[n, below] == POSITIVE).any())
        absent = bool((base_NK[n, above] == NEGATIVE).any())
        label = base_NK[n, k]
        if (present and label == NEGATIVE) or (absent and label == POSITIVE):
            conflicts.add((n, k))
        if label == UNOBSERVED:
            both += present and absent
            positives += present and not absent
            negatives += absent and not present
            implied = POSITIVE if present else NEGATIVE
            expected = implied if present != absent else UNOBSERVED
            assert closed_NK[n, k] == expected
    assert len(conflicts) > 0
    assert report["derived_conflicts"] == len(conflicts)
    assert (report["derived_positives"], report["derived_negatives"]) == (positives, negatives)
    assert report["derived_both_ways"] == both
