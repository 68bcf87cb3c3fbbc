"""Every loss against a loop over its formula, entry by entry, on batches made to be awkward."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import methods

Batch = tuple[torch.Tensor, torch.Tensor]
# (logit, its fp32 probability, its fp32 complement, label, known entries of the image, classes).
Entry = tuple[float, float, float, int, int, int]


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Ties, negative losses of 0, saturation, B = 1, rows without and full of observations."""
    B, K = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    kinds = [st.sampled_from(tied) for tied in ([-1.0, 0.5, 2.0], [-20.0, -15.0, -14.0])]
    values = draw(st.sampled_from([*kinds, st.floats(-60, 60, width=32)]))
    logits = draw(st.lists(values, min_size=B * K, max_size=B * K))
    rows = []
    for _ in range(B):
        states = draw(st.sampled_from([[-1], [0, 1], [-1, 0, 1]]))
        rows.append(draw(st.lists(st.sampled_from(states), min_size=K, max_size=K)))
    return torch.tensor(logits).view(B, K), torch.tensor(rows, dtype=torch.int8)


def entries(batch: Batch) -> list[Entry]:
    logits_BK, labels_BK = batch
    # In fp32 as the references: what 1 - p rounds to is part of their losses.
    p_BK = logits_BK.sigmoid()
    q_BK = 1 - p_BK
    known_B = (labels_BK >= 0).sum(1)
    B, K = logits_BK.shape
    return [
        (
            logits_BK[b, c].item(),
            p_BK[b, c].item(),
            q_BK[b, c].item(),
            int(labels_BK[b, c]),
            int(known_B[b]),
            K,
        )
        for b in range(B)
        for c in range(K)
    ]


def nl(probability: float) -> float:
    return -math.log(probability + 1e-5)


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def asl(entry: Entry) -> float:
    _, p, q, label, _, _ = entry
    right = p if label == 1 else min(q + 0.05, 1)
    return (1 - right) ** (1 if label == 1 else 4) * -math.log(max(right, 1e-8))


def p_asl(entry: Entry, weight: float) -> float:
    _, p, q, label, _, _ = entry
    right, gamma = (p, 0) if label == 1 else (q, 1 if label == 0 else 2)
    return weight * (1 - right) ** gamma * -math.log(max(right, 1e-8))


def focal(x: float, gamma: float = 2.0) -> float:
    return (1 / (1 + math.exp(x))) ** gamma * softplus(-x)


def hill(entry: Entry) -> float:
    x, p, _, label, _, _ = entry
    return (1.5 - p) * p**2 if label < 0 else focal((x if label else -x) - 1)


def splc(entry: Entry) -> float:
    x, _, _, label, _, _ = entry
    return focal(x - 1 if label == 1 else -x)


def gr(entry: Entry) -> float:
    """In the first of eight epochs."""
    x, p, _, label, _, _ = entry
    if label >= 0:
        return -math.log(1 / (1 + math.exp(-x if label else x)) + 1e-7)
    share, weight = 1 / (1 + math.exp(2)), math.exp(-(((p - 0.5375) / 1.8125) ** 2) / 2)
    return weight * (share * (1 - p**0.01) / 0.01 + (1 - share) * p)


def em(entry: Entry) -> float:
    _, p, q, label, _, _ = entry
    return nl(p) if label == 1 else -0.1 * (p * nl(p) + q * nl(q))


def partial_bce(entry: Entry) -> float:
    x, _, _, label, known, K = entry
    if label < 0:
        return 0.0
    return (-4.45 * known / K + 5.45) / K * softplus(-x if label == 1 else x)


# What an entry adds, and what the sum is divided by, of (B, K).
Term = Callable[[Entry], float]
Divisor = Callable[[int, int], float]


def mean(B: int, K: int) -> float:
    return B * K


def total(B: int, K: int) -> float:
    return 1


CASES: dict[str, tuple[str, dict[str, Any], Term, Divisor]] = {
    "an": ("an", {}, lambda e: softplus(-e[0] if e[3] == 1 else e[0]), mean),
    "an, Cole": ("an", {"epsilon": 1e-5}, lambda e: nl(e[1] if e[3] == 1 else e[2]), mean),
    "ls": (
        "ls",
        {"ls_coef": 0.1},
        lambda e: (
            (0.9 * nl(e[1]) + 0.1 * nl(e[2])) if e[3] == 1 else (0.9 * nl(e[2]) + 0.1 * nl(e[1]))
        ),
        mean,
    ),
    "wan": ("wan", {}, lambda e: nl(e[1]) if e[3] == 1 else nl(e[2]) / max(e[5] - 1, 1), mean),
    "iu": ("iu", {}, lambda e: 0 if e[3] < 0 else softplus(-e[0] if e[3] else e[0]), mean),
    "asl": ("asl", {}, asl, total),
    "hill": ("hill", {}, hill, total),
    "splc": ("splc", {}, splc, total),
    "gr": ("gr", {}, gr, mean),
    "em": ("em", {"alpha": 0.1}, em, mean),
    "p-asl negative": ("p-asl", {"mode": "negative"}, lambda e: p_asl(e, 1), total),
    "p-asl ignore": ("p-asl", {"mode": "ignore"}, lambda e: p_asl(e, e[3] >= 0), total),
    "p-asl normalised": (
        "p-asl",
        {"mode": "ignore_normalize_classes"},
        lambda e: p_asl(e, (e[3] >= 0) * (1 + 1 / (1 + e[4]))),
        total,
    ),
    "curriculum": ("curriculum", {}, partial_bce, lambda B, K: B),
}


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=40, deadline=None)
@given(batch=batches())
def test_losses_equal_the_literal_formula(case: str, batch: Batch) -> None:
    name, options, term, divisor = CASES[case]
    loss, mask_BK = methods.create(name, batch[0].shape[1], **options).loss(*batch)
    expected = sum(term(entry) for entry in entries(batch)) / divisor(*batch[0].shape)
    assert loss.item() == pytest.approx(expected, rel=2e-5, abs=1e-6)
    assert not mask_BK.any()


@settings(max_examples=60, deadline=None)
@given(batch=batches(), topk=st.integers(0, 8), high=st.sets(st.integers(0, 5)))
def test_selective_ignores_what_the_formula_ignores(
    batch: Batch, topk: int, high: set[int]
) -> None:
    logits_BK, labels_BK = batch
    B, K = logits_BK.shape
    prior = [0.9 if c in high else 0.0 for c in range(K)]
    method = methods.create("p-asl", K, likelihood_topk=topk, prior=prior)
    loss, mask_BK = method.loss(logits_BK, labels_BK)
    flat = entries(batch)
    unobserved = [i for i, e in enumerate(flat) if e[3] == -1]
    # By the probability of absence, as it is in fp32; the first of those that tie.
    likely = set(sorted(unobserved, key=lambda i: flat[i][2])[: topk * B])
    expected = [e[3] == -1 and (i in likely or prior[i % K] > 0.05) for i, e in enumerate(flat)]
    assert mask_BK.flatten().tolist() == expected
    literal = sum(p_asl(e, not ignored) for e, ignored in zip(flat, expected, strict=True))
    assert loss.item() == pytest.approx(literal, rel=2e-5, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(batch=batches())
def test_epr_equals_the_literal_formula(batch: Batch) -> None:
    B, K = batch[0].shape
    flat = entries(batch)
    positives = sum(nl(e[1]) for e in flat if e[3] == 1) / (B * K)
    regulariser = (sum(e[1] for e in flat) / B - 1.5) ** 2 / K**2
    loss, _ = methods.create("epr", K, expected_num_pos=1.5).loss(*batch)
    assert loss.item() == pytest.approx(positives + regulariser, rel=2e-5, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(batch=batches(), name=st.sampled_from(("ll-r", "ll-ct", "ll-cp")), epoch=st.integers(2, 9))
def test_observed_labels_are_never_modified(batch: Batch, name: str, epoch: int) -> None:
    """Whatever k is: here it is up to everything there is."""
    logits_BK, labels_BK = batch
    method: Any = methods.create(name, labels_BK.shape[1], delta_rel=100 / epoch)
    method.begin_epoch(epoch)
    given = labels_BK.clone()
    ids_B = torch.arange(len(labels_BK))
    _, mask_BK = method.loss(logits_BK, labels_BK, ids_B)
    assert not mask_BK[labels_BK >= 0].any()
    assert torch.equal(labels_BK, given), "the caller's labels stay as they are"
    method.end_epoch()
    if name == "ll-cp":
        corrected_BK = method.overlay.apply(labels_BK, ids_B, 1)
        assert torch.equal(corrected_BK != labels_BK, mask_BK)


def literal_half(own: tuple[float, float], other: float, positive: bool) -> float:
    """ROLE's loss of one network at one entry, of its (p, 1 - p) and the other's probability."""
    p, absent = own
    return positive * nl(p) + other * nl(p) + (1 - other) * nl(absent)


@settings(max_examples=60, deadline=None)
@given(batch=batches(), seed=st.integers(0, 99))
def test_role_equals_the_literal_formula(batch: Batch, seed: int) -> None:
    logits_BK, labels_BK = batch
    B, K = logits_BK.shape
    method: Any = methods.create("role", K, expected_num_pos=1.5)
    estimates_BK = torch.randn(B, K, generator=torch.Generator().manual_seed(seed)) * 20
    method.estimator.set_rows(torch.arange(B), estimates_BK)
    loss, _ = method.loss(logits_BK, labels_BK, torch.arange(B))
    classifier, estimator = entries(batch), entries((estimates_BK, labels_BK))
    main = sum(
        literal_half(f[1:3], g[1], f[3] == 1) + literal_half(g[1:3], f[1], f[3] == 1)
        for f, g in zip(classifier, estimator, strict=True)
    )
    regularisers = sum(
        (sum(e[1] for e in flat) / B - 1.5) ** 2 / K**2 for flat in (classifier, estimator)
    )
    expected = 0.5 * main / (B * K) + 0.5 * regularisers
    assert loss.item() == pytest.approx(expected, rel=2e-5, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(batch=batches(), soft=st.floats(0, 1, width=32), every=st.integers(1, 3))
def test_pseudo_labels_enter_as_the_literal_formula_says(
    batch: Batch, soft: float, every: int
) -> None:
    logits_BK, labels_BK = batch
    B, K = logits_BK.shape
    method: Any = methods.create("em-apl", K, alpha=0.1, beta=0.7)
    flat = entries(batch)
    labelled = [i for i, e in enumerate(flat) if e[3] == -1][::every]
    places = np.array(labelled, np.int64)
    method.overlay.extend(places // K, places % K, np.full(len(places), soft, np.float32))
    loss, mask_BK = method.loss(logits_BK, labels_BK, torch.arange(B))
    assert torch.nonzero(mask_BK.flatten())[:, 0].tolist() == labelled
    expected = sum(
        0.7 * (soft * nl(e[1]) + (1 - soft) * nl(e[2])) if i in labelled else em(e)
        for i, e in enumerate(flat)
    )
    assert loss.item() == pytest.approx(expected / (B * K), rel=2e-5, abs=1e-6)
