"""The audit's collector: the largest losses of an epoch, the same on any number of ranks."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audit.candidates import CORRECTED, KEPT, REJECTED, Candidates
from pipeline.audit.collector import Collector
from pipeline.data.loader import Batch
from pipeline.methods.parts.label_overlay import LabelOverlay
from pipeline.methods.protocol import StepResult
from sharding.labels import UNOBSERVED
from tests.support.distributed import run_ranks
from tests.support.memory import forget_peak, memory_of

K = 6
ABOUT: dict[str, Any] = {"epoch": 2, "method": "ll-ct", "labels": "first", "images_seen": 24}


def step_of(seed: int, images: range, spread: float = 3.0) -> StepResult:
    """A step over ``images``; an image's logits and labels depend on nothing but its number."""
    rows = [np.random.default_rng([seed, number]) for number in images]
    logits_BK = np.array([rng.normal(0, spread, K) for rng in rows], np.float32).reshape(-1, K)
    labels_BK = np.array([rng.integers(-1, 2, K) for rng in rows], np.int8).reshape(-1, K)
    # Ids from the upper half of uint64: negative as int64.
    ids_B = np.array([number * 0x9E3779B97F4A7C15 % 2**64 for number in images], np.uint64)
    labels = torch.from_numpy(labels_BK)
    logits = torch.from_numpy(logits_BK)
    return StepResult(
        batch=Batch(images_BHWC=torch.zeros(len(images), 1, 1, 3), image_ids_B=ids_B),
        loss=torch.tensor(0.0),
        logits_BK=logits,
        labels_BK=labels,
        modified_BK=(labels == UNOBSERVED) & (logits > 2),
    )


def collect(most: int, steps: list[StepResult], **about: Any) -> Candidates:
    collector = Collector(most, torch.device("cpu"))
    for step in steps:
        collector.add(step)
    return collector.finish(**{**ABOUT, **about})


def literal(most: int, steps: list[StepResult]) -> list[tuple[int, int, float]]:
    """(image, class, logit) of every unobserved entry, sorted."""
    found = [
        (int(step.batch.image_ids_B[b]), k, float(step.logits_BK[b, k]))
        for step in steps
        for b in range(len(step.batch))
        for k in range(K)
        if step.labels_BK[b, k] == UNOBSERVED
    ]
    return sorted(found, key=lambda entry: -entry[2])[:most]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    most=st.integers(1, 80),
    sizes=st.lists(st.integers(0, 9), max_size=5),
)
def test_they_are_the_largest_of_the_epoch(seed: int, most: int, sizes: list[int]) -> None:
    ends = np.cumsum([0, *sizes]).tolist()
    steps = [step_of(seed, range(a, b)) for a, b in itertools.pairwise(ends)]
    found, expected = collect(most, steps), literal(most, steps)
    assert [*zip(found.image_ids_N.tolist(), found.classes_N.tolist(), strict=True)] == [
        entry[:2] for entry in expected
    ]
    losses = [np.log1p(np.exp(np.float64(logit))) for _, _, logit in expected]
    assert found.losses_N == pytest.approx(losses, rel=1e-5)
    assert found.probabilities_N == pytest.approx(1 - np.exp(-np.array(losses)), rel=1e-4, abs=1e-6)
    flat = [(s.labels_BK == UNOBSERVED, s.modified_BK) for s in steps]
    assert found.unobserved == sum(int(unobserved.sum()) for unobserved, _ in flat)
    assert found.modified == sum(int(modified.sum()) for _, modified in flat)
    assert [d == CORRECTED for d in found.decisions_N] == [logit > 2 for _, _, logit in expected]


def _of_rank(rank: int, world: int, seed: int, spread: float) -> tuple[Any, ...]:
    # Uneven shares; the last rank's second step is empty.
    bounds = np.linspace(0, 24, world + 1).astype(int).tolist()
    mine = range(bounds[rank], bounds[rank + 1])
    cut = mine.start + (len(mine) if rank == world - 1 else 3)
    steps = [
        step_of(seed, range(mine.start, cut), spread),
        step_of(seed, range(cut, mine.stop), spread),
    ]
    found = collect(17, steps)
    return found.image_ids_N, found.classes_N, found.losses_N, found.unobserved, found.modified


@pytest.mark.parametrize("spread", [3.0, 0.0], ids=["random", "all equal"])
@pytest.mark.parametrize("world", [2, 3])
def test_they_do_not_depend_on_the_ranks(world: int, spread: float) -> None:
    (alone,) = [_of_rank(0, 1, 5, spread)]
    for theirs in run_ranks(_of_rank, world, world, 5, spread):
        for ours, other in zip(alone, theirs, strict=True):
            assert np.array_equal(ours, other)


def test_devices_that_must_not_be_waited_for_find_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = [step_of(3, range(n, n + 8)) for n in (0, 8, 16)]
    expected = collect(12, steps)
    # There every entry of a step is looked at.
    everything = lambda self, logits_E, labels_E: torch.arange(len(logits_E))  # noqa: E731
    monkeypatch.setattr(Collector, "_places", everything)
    found = collect(12, steps)
    assert np.array_equal(found.image_ids_N, expected.image_ids_N)
    assert np.array_equal(found.classes_N, expected.classes_N)
    few = collect(1000, steps)
    assert len(few) == few.unobserved, "observed entries are never candidates"


def test_they_survive_a_pause() -> None:
    steps = [step_of(1, range(n, n + 8)) for n in (0, 8, 16)]
    first = Collector(10, torch.device("cpu"))
    first.add(steps[0])
    first.add(steps[1])
    second = Collector(10, torch.device("cpu"))
    second.add(step_of(9, range(40)))  # of an epoch that is given up
    second.load_state_dict(first.state_dict())
    second.add(steps[2])
    expected = collect(10, steps)
    found = second.finish(**ABOUT)
    for name in ("image_ids_N", "classes_N", "losses_N", "decisions_N"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))
    assert (found.unobserved, found.modified) == (expected.unobserved, expected.modified)


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [(1000, 0, 0), (0, 10, 10), (5, 1, 1), (1, 5, 5), (0, 0, 0)],
)
def test_more_or_fewer_are_kept_after_a_pause(before: int, after: int, kept: int) -> None:
    first, second = (Collector(most, torch.device("cpu")) for most in (before, after))
    first.add(step_of(1, range(8)))
    second.load_state_dict(first.state_dict())
    second.add(step_of(1, range(8, 24)))
    assert len(second.finish(**ABOUT)) == kept


def test_a_new_epoch_begins_empty() -> None:
    collector = Collector(10, torch.device("cpu"))
    collector.add(step_of(1, range(8)))
    collector.begin()
    found = collector.finish(**ABOUT)
    assert (len(found), found.unobserved, found.modified) == (0, 0, 0)


def test_zero_collects_nothing() -> None:
    assert len(collect(0, [step_of(1, range(8))])) == 0


def test_what_is_modified_is_told_in_the_methods_words() -> None:
    found = collect(100, [step_of(1, range(8))], method="ll-r")
    assert set(found.decisions_N) == {KEPT, REJECTED}


def test_an_overlay_in_force_counts_as_corrected() -> None:
    step = step_of(1, range(8))
    plain = collect(100, [step])
    row = int(np.flatnonzero(plain.decisions_N == KEPT)[3])
    entry = plain.image_ids_N[row : row + 1].view(np.int64), plain.classes_N[row : row + 1]
    overlay = LabelOverlay()
    overlay.extend(entry[0], entry[1].astype(np.int64))
    laid = collect(100, [step], overlay=overlay)
    changed = np.flatnonzero(laid.decisions_N != plain.decisions_N)
    assert changed.tolist() == [row]
    assert laid.decisions_N[row] == CORRECTED


def test_order_of_floats_is_order_of_keys() -> None:
    from pipeline.audit.collector import _keys, _logits_of

    logits = torch.tensor([-3e38, -60.0, -1e-30, 0.0, 1e-30, 1.0, 1.0000001, 60.0, 3e38])
    ids = torch.arange(len(logits)) * -(2**59)
    keys = _keys(logits, ids, torch.arange(len(logits)))
    assert torch.equal(keys, keys.sort().values)
    assert torch.equal(_logits_of(keys), logits)


def test_memory_follows_the_candidates_and_the_step_not_the_epoch() -> None:
    images, classes, steps, most = 16, 5_000, 2_000, 1_000
    torch.manual_seed(0)
    labels_BK = torch.full((images, classes), UNOBSERVED, dtype=torch.int8)
    logits_BK = torch.randn(images, classes)
    modified_BK = logits_BK > 3
    collector = Collector(most, torch.device("cpu"))

    def add(number: int) -> None:
        ids_B = np.arange(images, dtype=np.uint64) + np.uint64(number * images)
        batch = Batch(images_BHWC=torch.zeros(images, 1, 1, 3), image_ids_B=ids_B)
        step = StepResult(
            batch=batch,
            loss=torch.tensor(0.0),
            logits_BK=logits_BK + number * 1e-3,  # ever larger: all of them are looked at
            labels_BK=labels_BK,
            modified_BK=modified_BK,
        )
        collector.add(step)

    for number in range(20):
        add(number)
    before = memory_of("VmRSS")
    forget_peak()
    for number in range(20, steps):
        add(number)
    peak = memory_of("VmHWM") - before
    assert peak < images * steps * classes / 10
    kept = collector.state_dict()["columns"]
    assert {len(column) for column in kept} == {most}
