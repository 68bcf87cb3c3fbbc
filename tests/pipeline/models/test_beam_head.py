"""Beam search over label sequences equals a search over lists, and its scores keep their order."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pipeline.models.beam_head import BeamHead, Recurrence, search
from pipeline.models.cam_head import CamHead


@pytest.mark.parametrize("beam", [1, 2, 5, 100])
def test_the_search_equals_one_over_lists(beam: int) -> None:
    torch.manual_seed(beam)
    K, steps = 5, 3
    recurrence = Recurrence(K, 4, 8)
    with torch.no_grad():
        recurrence.embed.weight.mul_(4)  # so that what comes before matters
    logits_BK = torch.randn(6, K)
    found_BK = search(recurrence, logits_BK, beam=beam, steps=steps)
    for logits_K, found_K in zip(logits_BK, found_BK, strict=True):
        best, kept = [-math.inf] * K, [(0.0, ())]
        for _ in range(steps):
            grown: list[Any] = []
            for weight, path in kept:
                with torch.no_grad():
                    added_K = recurrence(torch.tensor([path], dtype=torch.int64))[0, -1]
                logs = (logits_K + added_K).double().log_softmax(0).tolist()
                for k in set(range(K)) - set(path):
                    best[k] = max(best[k], logs[k])
                    grown.append((weight + logs[k], (*path, k)))
            kept = sorted(grown, reverse=True)[:beam]
        assert found_K.tolist() == pytest.approx(best, abs=1e-6)


def test_probabilities_near_1_do_not_tie() -> None:
    head = BeamHead(CamHead(2, 3), Recurrence(3, 2, 2), beam=1, steps=1)
    torch.nn.init.zeros_(head.recurrence.embed.weight)
    scores_BK = head.refined(torch.tensor([[25.0, 0, 0], [26.0, 0, 0], [900.0, 0, 0]]))
    assert scores_BK[0, 0] < scores_BK[1, 0] < scores_BK[2, 0] < torch.inf
    assert scores_BK.isfinite().all()
