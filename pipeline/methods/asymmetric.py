"""Asymmetric Loss (Ridnik et al. 2021, equations 4 to 8): easy negatives count little.

The loss is the SUM over B x K, as in its code: learning rates do not carry over from the methods
that take a mean.
"""

from __future__ import annotations

import torch

from pipeline.methods.protocol import BaseMethod, nothing_modified
from pipeline.methods.ranks import Group
from sharding.errors import InputError
from sharding.labels import POSITIVE

_FLOOR = 1e-8


def shifted_absence(probabilities: torch.Tensor, clip: float) -> torch.Tensor:
    """Probability of absence, raised by the margin ``clip`` and at most 1."""
    absence = 1 - probabilities
    return (absence + clip).clamp(max=1) if clip > 0 else absence


def clamped_log(probabilities: torch.Tensor) -> torch.Tensor:
    """Logarithm that does not fall below log(1e-8), as in both codes of this family."""
    return torch.log(probabilities.clamp(min=_FLOOR))


def require_exponents(**exponents: float) -> None:
    """Refuse negative focusing exponents and margins outside [0, 1)."""
    for name, value in exponents.items():
        if value < 0 or (name == "clip" and value >= 1):
            raise InputError(f"{name} {value:g}", fix="pass a number >= 0 (clip: below 1)")


class AsymmetricLoss(BaseMethod):
    """ASL with unobserved entries negative.

    Args:
        num_classes: K.
        gamma_neg: focusing exponent of negatives.
        gamma_pos: focusing exponent of positives.
        clip: margin by which the probability of a negative is lowered.
        detach: keep the focusing weight out of the gradient (the code's default; its memory
            optimised variant defaults to false).
        group: process group of the global batch.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        gamma_neg: float = 4.0,
        gamma_pos: float = 1.0,
        clip: float = 0.05,
        detach: bool = True,
        group: Group = None,
    ) -> None:
        super().__init__(num_classes, group=group)
        require_exponents(gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip)
        self.gamma_neg, self.gamma_pos = gamma_neg, gamma_pos
        self.clip, self.detach = clip, detach

    def compute(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the focused cross-entropy."""
        p_BK, positive_BK = torch.sigmoid(logits_BK), labels_BK == POSITIVE
        right_BK = torch.where(positive_BK, p_BK, shifted_absence(p_BK, self.clip))
        loss_BK = -clamped_log(right_BK)
        if self.gamma_neg > 0 or self.gamma_pos > 0:
            gamma_BK = torch.where(positive_BK, self.gamma_pos, self.gamma_neg)
            focus_BK = (1 - (right_BK.detach() if self.detach else right_BK)) ** gamma_BK
            loss_BK = loss_BK * focus_BK
        return self.ranks.share(loss_BK.sum()), nothing_modified(labels_BK)
