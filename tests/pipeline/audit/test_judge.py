"""Precision and recall of an epoch's candidates against complete labels."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audit import judge
from pipeline.audit.candidates import CORRECTED, KEPT, Candidates
from sharding.dataset.ground_truth import read_ground_truth
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED, LabelTable
from sharding.manifest import Dataset
from tests.support.dumpmaking import write_labels

N, K = 12, 5
IDS = np.arange(N, dtype=np.uint64) * np.uint64(0x1234567890ABCDEF)


def table_of(states_NK: np.ndarray, ids: np.ndarray = IDS, shard: str = "a.tar") -> LabelTable:
    return LabelTable.from_lists(
        format_image_ids(ids),
        [np.flatnonzero(row == POSITIVE).tolist() for row in states_NK],
        [np.flatnonzero(row == NEGATIVE).tolist() for row in states_NK],
        [shard] * len(ids),
    )


def candidates_of(rows: np.ndarray, classes: np.ndarray, decided: np.ndarray) -> Candidates:
    losses = np.linspace(9, 1, len(rows)).astype(np.float32)
    return Candidates(
        epoch=3,
        method="ll-ct",
        labels="first",
        images_seen=36,
        unobserved=30,
        modified=7,
        image_ids_N=IDS[rows],
        classes_N=classes.astype(np.uint16),
        losses_N=losses,
        probabilities_N=(1 - np.exp(-losses)).astype(np.float32),
        decisions_N=np.where(decided, CORRECTED, KEPT),
    )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 30))
def test_it_equals_a_literal_count(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    truth_NK = rng.choice([POSITIVE, NEGATIVE, UNOBSERVED], (N, K), p=[0.4, 0.4, 0.2])
    observed_NK = np.where(rng.random((N, K)) < 0.4, truth_NK, UNOBSERVED)
    unseen = np.argwhere(observed_NK == UNOBSERVED)
    rows, classes = rng.permutation(unseen)[:count].T
    decided = rng.random(len(rows)) < 0.5
    order = rng.permutation(N)  # the truth need not come in the order of the shards
    truth = judge.Truth(table_of(observed_NK), table_of(truth_NK[order], IDS[order], ""))
    verdict = judge.judge(candidates_of(rows, classes, decided), truth, depths=(3, 8, 20))

    missing = int(((observed_NK == UNOBSERVED) & (truth_NK == POSITIVE)).sum())
    known = int(((observed_NK == UNOBSERVED) & (truth_NK != UNOBSERVED)).sum())
    assert (truth.missing, truth.known) == (missing, known)

    def share(hits: list[int]) -> float:
        judged = [state for state in hits if state != UNOBSERVED]
        return judged.count(POSITIVE) / len(judged) if judged else math.nan

    states = truth_NK[rows, classes].tolist()
    chosen = [state for state, flag in zip(states, decided, strict=True) if flag]
    expected = {depth: share(states[:depth]) for depth in (3, 8, 20) if depth <= len(states)}
    assert verdict.precision_at == pytest.approx(expected, nan_ok=True)
    assert verdict.precision == pytest.approx(share(states), nan_ok=True)
    assert verdict.decision_precision == pytest.approx(share(chosen), nan_ok=True)
    found = states.count(POSITIVE) / missing if missing else math.nan
    assert verdict.recall == pytest.approx(found, nan_ok=True)
    assert (verdict.decided, verdict.modified) == (len(chosen), 7)
    assert all(not math.isnan(value) for _, value in verdict.metrics())


def test_images_without_pixels_are_not_missing_anything() -> None:
    observed = table_of(np.full((N, K), UNOBSERVED))
    observed.shards[0] = ""  # type: ignore[index]
    truth = judge.Truth(observed, table_of(np.full((N, K), POSITIVE)))
    assert truth.missing == (N - 1) * K


def test_the_truth_of_other_images_is_refused() -> None:
    with pytest.raises(InputError, match="none of the training images"):
        judge.Truth(table_of(np.zeros((N, K))), table_of(np.zeros((N, K)), IDS + np.uint64(1)))


def test_the_table_tells_the_base_rate() -> None:
    truth_NK = np.zeros((N, K), int)
    truth_NK[:3, 0] = POSITIVE
    truth = judge.Truth(table_of(np.full((N, K), UNOBSERVED)), table_of(truth_NK))
    found = candidates_of(np.array([0, 1, 5, 6]), np.zeros(4, int), np.array([1, 0, 0, 1]) > 0)
    shown = judge.table([judge.judge(found, truth, depths=(2, 9))], truth)
    header, _, row, *_ = (" ".join(line.split()) for line in shown.splitlines())
    assert header == "epoch P@2 listed P R decided listed P R"
    assert row == "3 100.0 4 50.0 66.7 7 2 50.0 33.3"
    text = " ".join(shown.split())
    assert "3 of 60 unobserved entries whose truth is known are missing labels, 5.0 %" in text


def test_a_full_table_fits_a_terminal() -> None:
    verdict = judge.Verdict(
        epoch=300,
        images_seen=1,
        known=10_000,
        precision_at=dict.fromkeys(judge.DEPTHS, 1.0),
        precision=1.0,
        recall=1.0,
        decided=10_000,
        modified=99_999,
        decision_precision=1.0,
        decision_recall=1.0,
    )
    truth = judge.Truth(table_of(np.full((N, K), UNOBSERVED)), table_of(np.zeros((N, K))))
    assert max(map(len, judge.table([verdict], truth).splitlines())) <= 80


def test_the_exported_are_counted() -> None:
    observed_NK, truth_NK = np.full((N, K), UNOBSERVED), np.zeros((N, K), int)
    truth_NK[0, 0], truth_NK[1, 0] = POSITIVE, UNOBSERVED
    truth = judge.Truth(table_of(observed_NK), table_of(truth_NK))
    exported = candidates_of(np.array([0, 1, 5]), np.zeros(3, int), np.zeros(3, bool))
    expected = "1 of 2 exported are right (50 %); of 1 the truth is not known"
    assert judge.describe(exported, truth) == expected


def test_truth_is_read_from_a_list_of_what_is_present(squares: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(squares)
    rows = ["ImageID,LabelName", f"{2:016x},/m/0003", f"{2:016x},/m/0007", f"{0:016x},/m/0000"]
    (tmp_path / "train.csv").write_text("\n".join([*rows, f"{0:016x},/m/elsewhere", ""]))
    truth = read_ground_truth(dataset, str(tmp_path))
    assert truth.image_ids_N.tolist() == [0, 2]
    expected = [[1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 1]]
    assert truth.dense(np.arange(2), 8).tolist() == expected
    truth.write(tmp_path / "truth.parquet")
    again = read_ground_truth(dataset, str(tmp_path / "truth.parquet"))
    assert again.dense(np.arange(2), 8).tolist() == expected


def test_truth_is_read_from_versions_and_dumps(squares: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(squares)
    version = read_ground_truth(dataset, "first")
    assert np.array_equal(version.states_E, dataset.labels("train").states_E)
    lines = [f"{5:016x},verification,/m/0001,1", f"{5:016x},verification,/m/0002,0"]
    dump = read_ground_truth(dataset, str(write_labels(tmp_path, {"train": lines})))
    assert dump.dense(np.array([0]), 8).tolist() == [[-1, 1, 0, -1, -1, -1, -1, -1]]


def test_a_mistyped_truth_is_one_line(squares: Path) -> None:
    with pytest.raises(InputError, match=r"elsewhere: neither .* version of the dataset \(first\)"):
        read_ground_truth(Dataset.open(squares), "elsewhere")
