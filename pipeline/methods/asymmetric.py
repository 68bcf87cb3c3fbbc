"""Asymmetric losses: ASL, and P-ASL for partial annotations.

ASL (Ridnik et al. 2021, "Asymmetric Loss for Multi-Label Classification", equations 4 to 8) lets
easy negatives count little. P-ASL (Ben-Baruch et al. 2022, "Multi-label Classification with
Partial Annotations using Class-aware Selective Loss", equations 4 to 10) gives observed positives,
observed negatives and unobserved entries focusing exponents of their own, and ignores the
unobserved ones that are likely positive: those of classes with a high prior, and the most likely
entries of the batch.

Both are the SUM over B x K, as in their code: learning rates do not carry over from the methods
that take a mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F

from pipeline.methods.parts.selection import unobserved_top
from pipeline.methods.protocol import Method, nothing_modified
from sharding.errors import InputError
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED

_FLOOR = 1e-8


Mode = Literal["negative", "ignore", "ignore_normalize_classes", "selective"]
"""What becomes of unobserved entries in P-ASL."""


class AsymmetricLoss(Method):
    """Asymmetric loss (ASL): easy negatives weigh less; unobserved entries are negative.

    Args:
        num_classes: K.
        gamma_neg: focusing exponent of negatives.
        gamma_pos: focusing exponent of positives.
        clip: margin by which the probability of a negative is lowered.
        detach: keep the focusing weight out of the gradient (the code's default; its memory
            optimised variant defaults to false).
    """

    def __init__(
        self,
        num_classes: int,
        *,
        gamma_neg: float = 4.0,
        gamma_pos: float = 1.0,
        clip: float = 0.05,
        detach: bool = True,
    ) -> None:
        super().__init__(num_classes)
        _refuse_exponents(gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip)
        self.gamma_neg, self.gamma_pos = gamma_neg, gamma_pos
        self.clip, self.detach = clip, detach

    def compute(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum the focused cross-entropy."""
        p_BK, positive_BK = torch.sigmoid(logits_BK), labels_BK == POSITIVE
        right_BK = torch.where(positive_BK, p_BK, _shifted_absence(p_BK, self.clip))
        loss_BK = -_clamped_log(right_BK)
        if self.gamma_neg > 0 or self.gamma_pos > 0:
            gamma_BK = torch.where(positive_BK, self.gamma_pos, self.gamma_neg)
            focus_BK = (1 - (right_BK.detach() if self.detach else right_BK)) ** gamma_BK
            loss_BK = loss_BK * focus_BK
        return self.ranks.share(loss_BK.sum()), nothing_modified(labels_BK)


class PartialAsymmetricLoss(Method):
    """Partial ASL (P-ASL): ASL that leaves out unobserved entries of frequent classes.

    The prior of a class is the mean of its predicted probability over training in mode ignore.
    It can come from an earlier run (``prior``), or from the first ``prior_epochs`` epochs of this
    one, which then run in mode ignore (the reference restarts training after them).

    Args:
        num_classes: K.
        mode: what becomes of unobserved entries; "ignore_normalize_classes" weights observed
            ones by 1 + 1 / (1 + #observed).
        gamma_pos: focusing exponent of observed positives.
        gamma_neg: of observed negatives.
        gamma_unann: of unobserved entries.
        alpha_pos: weight of observed positives.
        alpha_neg: of observed negatives.
        alpha_unann: of unobserved entries.
        clip: margin by which the probability of an absent class is lowered.
        likelihood_topk: unobserved entries ignored per image, taken over the whole batch: exactly
            so many, also where probabilities tie (the reference leaves to chance which of those).
        prior_threshold: classes with a prior above it are ignored where unobserved.
        prior: one number per class, in class order; a training takes a file of them or a
            checkpoint of an earlier P-ASL run, both keyed by MID
            (`pipeline.methods.parts.class_prior`).
        prior_epochs: epochs at the start that estimate the prior.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        mode: Mode = "selective",
        gamma_pos: float = 0.0,
        gamma_neg: float = 1.0,
        gamma_unann: float = 2.0,
        alpha_pos: float = 1.0,
        alpha_neg: float = 1.0,
        alpha_unann: float = 1.0,
        clip: float = 0.0,
        likelihood_topk: int = 5,
        prior_threshold: float = 0.05,
        prior: Sequence[float] | torch.Tensor | None = None,
        prior_epochs: int = 0,
    ) -> None:
        super().__init__(num_classes)
        if likelihood_topk < 0 or prior_epochs < 0:
            raise InputError("likelihood_topk or prior_epochs below 0", fix="pass 0 or more")
        if prior is not None and len(prior) != num_classes:
            raise InputError(
                f"prior of {len(prior)} classes for {num_classes}",
                fix="read it with pipeline.methods.parts.class_prior.read, by MID",
            )
        _refuse_exponents(
            gamma_pos=gamma_pos, gamma_neg=gamma_neg, gamma_unann=gamma_unann, clip=clip
        )
        self.mode, self.clip, self.prior_epochs = mode, clip, prior_epochs
        self.gammas = (gamma_pos, gamma_neg, gamma_unann)
        self.alphas = (alpha_pos, alpha_neg, alpha_unann)
        self.likelihood_topk, self.prior_threshold = likelihood_topk, prior_threshold
        self.given_K = None if prior is None else torch.as_tensor(prior, dtype=torch.float64)
        self._sum_K = torch.zeros(num_classes, dtype=torch.float64)
        self._images = 0.0
        self._discard_pending()

    def begin_epoch(self, epoch: int) -> None:
        """Discard the sums of an interrupted epoch."""
        super().begin_epoch(epoch)
        self._discard_pending()

    def compute(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum the weighted, focused cross-entropy; the mask holds what `selective` ignores."""
        weights_BK, ignored_BK = self.weights(logits_BK, labels_BK)
        p_BK = torch.sigmoid(logits_BK)
        self._add_to_estimate(p_BK.detach())
        right_BK = torch.where(labels_BK == POSITIVE, p_BK, _shifted_absence(p_BK, self.clip))
        alpha_BK, gamma_BK = (_by_state(v, labels_BK) for v in (self.alphas, self.gammas))
        with torch.no_grad():
            weights_BK = weights_BK * alpha_BK * (1 - right_BK) ** gamma_BK
        total = -(weights_BK * _clamped_log(right_BK)).sum()
        return self.ranks.share(total), ignored_BK

    def weights(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight each entry before focusing, and mask the entries that `selective` ignores.

        Returns:
            (fp32 weights (B, K), bool mask (B, K)).
        """
        observed_BK, nothing_BK = labels_BK != UNOBSERVED, nothing_modified(labels_BK)
        mode = self._mode
        if mode == "negative":
            return torch.ones_like(logits_BK), nothing_BK
        if mode == "ignore":
            return observed_BK.float(), nothing_BK
        if mode == "ignore_normalize_classes":
            weight_B1 = 1 + 1 / (1 + observed_BK.sum(1, keepdim=True))
            return observed_BK * weight_B1, nothing_BK
        k = self.likelihood_topk * self.ranks.batch_size(logits_BK)
        absence_BK = _shifted_absence(torch.sigmoid(logits_BK), self.clip)
        ignored_BK = unobserved_top(-absence_BK, labels_BK, k, self.ranks)
        prior_K = self.prior()
        if prior_K is not None:
            ignored_BK |= ~observed_BK & (prior_K > self.prior_threshold).to(logits_BK.device)
        return (~ignored_BK).float(), ignored_BK

    @property
    def _mode(self) -> Mode:
        """What becomes of unobserved entries in this epoch."""
        return "ignore" if self.epoch <= self.prior_epochs else self.mode

    def prior(self) -> torch.Tensor | None:
        """Return the prior given or estimated by completed epochs, float64 (K,), or None."""
        if self.given_K is not None:
            return self.given_K
        return self._sum_K / self._images if self.prior_epochs and self._images else None

    def end_epoch(self) -> None:
        """Add the sums of all ranks in an epoch of mode ignore, as long as prior_epochs say."""
        sums = self.ranks.sum(self._pending)
        if self._mode == "ignore" and self.epoch <= (self.prior_epochs or self.epoch):
            self._sum_K += sums[:-1].cpu()
            self._images += float(sums[-1])
        self._discard_pending()

    def state_dict(self) -> dict[str, Any]:
        """Return the sums behind the prior, in the class order of the checkpoint's MIDs."""
        images = torch.tensor(self._images, dtype=torch.float64)
        return {"prior_sum": self._sum_K.clone(), "prior_images": images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the sums."""
        self._sum_K = state["prior_sum"].clone()
        self._images = float(state["prior_images"])
        self._discard_pending()

    def pending_state(self) -> dict[str, Any]:
        """Return this rank's sums of the running epoch."""
        return {"sum": self._pending[:-1].cpu(), "images": self._pending[-1:].cpu()}

    def load_pending_state(self, state: dict[str, Any]) -> None:
        """Restore this rank's sums."""
        self._pending = torch.cat([state["sum"], state["images"]])

    def _add_to_estimate(self, p_BK: torch.Tensor) -> None:
        sums = F.pad(p_BK.sum(0, dtype=torch.float64), (0, 1), value=len(p_BK))
        self._pending = self._pending.to(p_BK.device) + sums

    def _discard_pending(self) -> None:
        # Sums of probabilities per class, then the number of images.
        self._pending = torch.zeros(self.num_classes + 1, dtype=torch.float64)


def _by_state(values: tuple[float, float, float], labels_BK: torch.Tensor) -> torch.Tensor:
    """Look up each entry's value of (positive, negative, unobserved), fp32 (B, K)."""
    positive, negative, unobserved = values
    table = torch.empty(3, device=labels_BK.device)
    # States run from -1; index -1 is the last row.
    table[POSITIVE], table[NEGATIVE], table[UNOBSERVED] = positive, negative, unobserved
    return table[labels_BK.long()]


def _shifted_absence(probabilities: torch.Tensor, clip: float) -> torch.Tensor:
    """Raise the probability of absence by the margin ``clip``, to at most 1."""
    absence = 1 - probabilities
    return (absence + clip).clamp(max=1) if clip > 0 else absence


def _clamped_log(probabilities: torch.Tensor) -> torch.Tensor:
    """Take the logarithm, at least log(1e-8), as in both codes of this family."""
    return torch.log(probabilities.clamp(min=_FLOOR))


def _refuse_exponents(**exponents: float) -> None:
    """Refuse negative focusing exponents and margins outside [0, 1)."""
    for name, value in exponents.items():
        if value < 0 or (name == "clip" and value >= 1):
            raise InputError(f"{name} {value:g}", fix="pass a number >= 0 (clip: below 1)")
