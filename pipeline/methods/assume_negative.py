"""Losses that count unobserved entries as negative (AN and its variants) or ignore them.

Full Label, AN, label smoothing, weak AN, expected positive regularisation (Cole et al. 2021,
"Multi-Label Learning from Single Positive Labels", section 3) and ignoring the unobserved.
"""

from __future__ import annotations

import math
from typing import Literal

import torch

from pipeline.methods.parts.bce import modified_bce_sum, negative_log
from pipeline.methods.protocol import Method, nothing_modified
from sharding.errors import InputError
from sharding.labels import POSITIVE, UNOBSERVED


class AssumeNegative(Method):
    """Assume negative (AN): binary cross-entropy, every unobserved entry as negative.

    Args:
        num_classes: K.
        epsilon: 0 for cross-entropy of logits (code of Large Loss and of this paper), 1e-5 for
            ``-log(p + 1e-5)`` (code of Cole et al.).
    """

    def __init__(self, num_classes: int, *, epsilon: float = 0.0) -> None:
        super().__init__(num_classes)
        if epsilon < 0:
            raise InputError(f"epsilon {epsilon:g}", fix="pass 0 or a small positive number")
        self.epsilon = epsilon

    def compute(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Average the cross-entropy over B x K."""
        if self.epsilon:
            total = _negative_logs(logits_BK, labels_BK == POSITIVE, self.epsilon).sum()
        else:
            total = modified_bce_sum(logits_BK, labels_BK)
        return self.batch_mean(total, logits_BK), nothing_modified(labels_BK)


class FullLabel(AssumeNegative):
    """Full labels: AN where every entry is known, an upper bound; refuses others."""

    def compute(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Average the cross-entropy over complete labels."""
        loss, mask_BK = super().compute(logits_BK, labels_BK, sample_ids_B)
        # After the collectives: a rank that raised before them would leave the others waiting.
        if bool((labels_BK == UNOBSERVED).any()):
            raise InputError(
                "method 'full' got labels with unobserved entries",
                fix="train on complete labels, or use method ll-r",
            )
        return loss, mask_BK


class IgnoreUnobserved(Method):
    """Ignore unobserved (IU): binary cross-entropy of the known entries alone.

    The Large Loss paper reports it without a definition; the denominator is inferred.

    Args:
        num_classes: K.
        normalise: "entries" divides by B x K, as all of that code does; "observed" by the number
            of observed entries of the global batch.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        normalise: Literal["entries", "observed"] = "entries",
    ) -> None:
        super().__init__(num_classes)
        self.normalise = normalise

    def compute(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Average the cross-entropy of the observed entries."""
        unobserved_BK = labels_BK == UNOBSERVED
        total = modified_bce_sum(logits_BK, labels_BK, rejected=unobserved_BK)
        if self.normalise == "entries":
            return self.batch_mean(total, logits_BK), nothing_modified(labels_BK)
        observed = self.ranks.sum((~unobserved_BK).sum()).clamp(min=1)
        return self.ranks.share(total / observed), nothing_modified(labels_BK)


class LabelSmoothing(Method):
    """Label smoothing (LS): AN with targets e and 1 - e (the code's e is the paper's e/2).

    Args:
        num_classes: K.
        ls_coef: e, 0.1 in the code of Cole et al.
    """

    def __init__(self, num_classes: int, *, ls_coef: float = 0.1) -> None:
        super().__init__(num_classes)
        if not 0 <= ls_coef <= 1:
            raise InputError(f"ls_coef {ls_coef:g}", fix="pass a number from 0 to 1")
        self.ls_coef = ls_coef

    def compute(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Average the cross-entropy against smoothed targets over B x K."""
        positive_BK = labels_BK == POSITIVE
        target = _negative_logs(logits_BK, positive_BK).sum()
        opposite = _negative_logs(logits_BK, ~positive_BK).sum()
        total = (1 - self.ls_coef) * target + self.ls_coef * opposite
        return self.batch_mean(total, logits_BK), nothing_modified(labels_BK)


class WeakAssumeNegative(Method):
    """Weak assume negative (WAN): AN with the negatives' terms divided by K - 1."""

    def compute(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Average the weighted cross-entropy over B x K."""
        positive_BK = labels_BK == POSITIVE
        weight = 1 / max(self.num_classes - 1, 1)
        terms_BK = _negative_logs(logits_BK, positive_BK)
        total = torch.where(positive_BK, terms_BK, weight * terms_BK).sum()
        return self.batch_mean(total, logits_BK), nothing_modified(labels_BK)


class ExpectedPositive(Method):
    """Expected positives (EPR): observed positives, and how many are predicted on average.

    Args:
        num_classes: K.
        expected_num_pos: mean number of positives per image (VOC 1.5, COCO 2.9, NUS 1.9,
            CUB 31.4).
    """

    def __init__(self, num_classes: int, *, expected_num_pos: float) -> None:
        super().__init__(num_classes)
        if not (expected_num_pos >= 0 and math.isfinite(expected_num_pos)):
            raise InputError(f"expected_num_pos {expected_num_pos}", fix="pass a number >= 0")
        self.expected_num_pos = expected_num_pos

    def compute(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the positives' mean and the regulariser of the global batch."""
        B, p_BK = self.ranks.batch_size(logits_BK), torch.sigmoid(logits_BK)
        positives = negative_log(p_BK[labels_BK == POSITIVE]).sum() / (B * self.num_classes)
        regulariser = self.regulariser(p_BK, B)
        loss = self.ranks.share(positives) + self.ranks.whole(regulariser)
        return loss, nothing_modified(labels_BK)

    def regulariser(self, probabilities_BK: torch.Tensor, batch_size: int) -> torch.Tensor:
        """Compute the squared error of all ranks' mean number of positives, over K squared."""
        mean = self.ranks.total(probabilities_BK.sum()) / batch_size
        return (mean - self.expected_num_pos) ** 2 / self.num_classes**2


def _negative_logs(
    logits_BK: torch.Tensor, positive_BK: torch.Tensor, epsilon: float = 1e-5
) -> torch.Tensor:
    """Compute ``-log(p + epsilon)`` of each entry's target state, fp32 (B, K)."""
    p_BK = torch.sigmoid(logits_BK)
    return negative_log(torch.where(positive_BK, p_BK, 1 - p_BK), epsilon)
