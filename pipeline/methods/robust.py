"""Losses that a wrong negative harms little: Hill, SPLC and GR.

Hill and SPLC (Zhang et al. 2021, "Simple and Robust Loss Design for Multi-Label Learning with
Missing Labels") lower the loss of unobserved entries that are predicted present, or make them
positive. GR (Chen et al. 2024, "Boosting Single Positive Multi-label Classification with
Generalized Robust Loss") weighs for each unobserved entry the loss of both labels.

Hill and SPLC are the SUM over B x K, as in their code; GR is the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F

from pipeline.methods.parts.bce import negative_log
from pipeline.methods.protocol import Method, Phase, nothing_modified
from sharding.errors import InputError
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED

ObservedNegatives = Literal["negative", "unobserved"]
"""Whether verified negatives push down and are never flipped, or count as unobserved."""
_GR_EPSILON = 1e-7


class _Robust(Method):
    """A loss whose reference knows positives only: verified negatives are an option."""

    def __init__(self, num_classes: int, *, observed_negatives: ObservedNegatives) -> None:
        super().__init__(num_classes)
        self.uses_negatives = observed_negatives == "negative"

    def verified(self, labels_BK: torch.Tensor) -> torch.Tensor:
        """Mask the entries to train as verified negatives, bool (B, K)."""
        return (labels_BK == NEGATIVE) & self.uses_negatives

    def mixed(
        self,
        logits_BK: torch.Tensor,
        labels_BK: torch.Tensor,
        of_right: Callable[[torch.Tensor], torch.Tensor],
        unobserved_BK: torch.Tensor,
    ) -> torch.Tensor:
        """Sum the losses of observed and unobserved entries of this rank.

        Args:
            logits_BK, labels_BK: of the batch.
            of_right: loss of an observed entry by its logit for being right; a verified negative's
                is the positive's mirrored.
            unobserved_BK: loss of every entry as if it were unobserved.
        """
        verified_BK = self.verified(labels_BK)
        observed_BK = (labels_BK == POSITIVE) | verified_BK
        observed_loss_BK = of_right(torch.where(verified_BK, -logits_BK, logits_BK))
        return torch.where(observed_BK, observed_loss_BK, unobserved_BK).sum()


class Hill(_Robust):
    """Hill: the loss of an unobserved entry falls again where it is predicted present.

    Args:
        num_classes: K.
        lamb: lambda of the unobserved entries' loss ``(lambda - p) p^2``.
        margin: taken off the logits of positives.
        gamma: focusing exponent of positives.
        observed_negatives: "negative" gives verified ones the positives' loss mirrored, margin
            and focus included (ours); "unobserved" that of unobserved ones, as the reference.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        lamb: float = 1.5,
        margin: float = 1.0,
        gamma: float = 2.0,
        observed_negatives: ObservedNegatives = "negative",
    ) -> None:
        super().__init__(num_classes, observed_negatives=observed_negatives)
        _refuse_negative(lamb=lamb, margin=margin, gamma=gamma)
        self.lamb, self.margin, self.gamma = lamb, margin, gamma

    def compute(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum the entries' losses."""
        p_BK = torch.sigmoid(logits_BK)
        total = self.mixed(
            logits_BK,
            labels_BK,
            lambda right_BK: _focal(right_BK - self.margin, self.gamma),
            (self.lamb - p_BK) * p_BK**2,
        )
        return self.ranks.share(total), nothing_modified(labels_BK)


class SelfPacedCorrection(_Robust):
    """SPLC: from the second epoch, unobserved entries predicted above tau become positive.

    Args:
        num_classes: K.
        tau: probability above which an unobserved entry counts as positive, in its step alone.
        margin: taken off the logits of observed positives.
        gamma: focusing exponent.
        observed_negatives: "negative" never flips verified ones; "unobserved" treats them as
            unobserved, as the reference.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        tau: float = 0.6,
        margin: float = 1.0,
        gamma: float = 2.0,
        observed_negatives: ObservedNegatives = "negative",
    ) -> None:
        super().__init__(num_classes, observed_negatives=observed_negatives)
        _refuse_negative(margin=margin, gamma=gamma)
        if not 0 <= tau <= 1:
            raise InputError(f"tau {tau:g}", fix="pass a probability from 0 to 1")
        self.tau, self.margin, self.gamma = tau, margin, gamma

    def compute(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum the entries' focal losses; the mask holds the unobserved ones made positive."""
        positive_BK = labels_BK == POSITIVE
        flipped_BK = nothing_modified(labels_BK)
        if self.epoch > 1:
            likely_BK = torch.sigmoid(logits_BK.detach()) > self.tau
            flipped_BK = likely_BK & ~positive_BK & ~self.verified(labels_BK)
        shifted_BK = torch.where(positive_BK, logits_BK - self.margin, logits_BK)
        right_BK = torch.where(positive_BK | flipped_BK, shifted_BK, -shifted_BK)
        loss = self.ranks.share(_focal(right_BK, self.gamma).sum())
        return loss, flipped_BK & (labels_BK == UNOBSERVED)


class GeneralizedRobust(_Robust):
    """GR: an unobserved entry has a share of both labels' losses, less where it is uncertain.

    With p the probability, without gradient in the two weights: ``V (K (1 - p^q2) / q2 +
    (1 - K) (1 - (1 - p)^q3) / q3)``, ``K = sigmoid(w p + b)``,
    ``V = exp(-((p - mu) / sigma)^2 / 2)``. w, b, mu and sigma go from their first to their last
    value over the epochs after the linear ones.

    Args:
        num_classes: K.
        total_epochs: epochs of the run; one that is prolonged keeps the schedule it began with.
        linear_epochs: epochs at the start in which the backbone is frozen and the schedule waits.
        beta: (first w, last w, first b, last b); w and b end one epoch short of the last.
        alpha: (first mu, first sigma, last mu, last sigma).
        q: (q2, q3), of the losses as positive and as negative.
        confidence_weight: how far an unobserved entry's share as positive, K, moves to the
            confidence of the run's machine about it, in [0, 1]; 0 asks for none (ours).
        observed_negatives: "negative" gives verified ones the cross-entropy, as positives have it
            (ours); "unobserved" that of unobserved ones, as the reference.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        total_epochs: int = 8,
        linear_epochs: int = 0,
        beta: Sequence[float] = (0.0, 2.0, -2.0, -2.0),
        alpha: Sequence[float] = (0.5, 2.0, 0.8, 0.5),
        q: Sequence[float] = (0.01, 1.0),
        confidence_weight: float = 0.0,
        observed_negatives: ObservedNegatives = "negative",
    ) -> None:
        super().__init__(num_classes, observed_negatives=observed_negatives)
        if not 0 <= linear_epochs < total_epochs:
            raise InputError(
                f"linear_epochs {linear_epochs} of {total_epochs}",
                fix="keep 0 <= linear_epochs < total_epochs (if not set, --epochs)",
            )
        for name, given, example in (
            ("beta", beta, "0,2,-2,-2"),
            ("alpha", alpha, "0.5,2,0.8,0.5"),
        ):
            _refuse_other_length(name, given, example)
        _refuse_other_length("q", q, "0.01,1")
        if min(alpha[1], alpha[3], *q) <= 0:
            raise InputError("a sigma or q of 0 or less", fix="pass positive numbers")
        if not 0 <= confidence_weight <= 1:
            raise InputError(
                f"confidence_weight {confidence_weight:g}", fix="pass a number from 0 to 1"
            )
        self.confidence_weight = confidence_weight
        self.uses_confidences = confidence_weight > 0
        self.total_epochs, self.linear_epochs = total_epochs, linear_epochs
        self.beta, self.alpha, self.q = tuple(beta), tuple(alpha), tuple(q)

    def phase(self) -> Phase:
        """Train the head alone in the linear epochs."""
        return Phase(backbone_frozen=self.epoch <= self.linear_epochs)

    def compute(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Average the entries' losses over B x K."""
        return self._average(logits_BK, labels_BK, None)

    def compute_with_confidences(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, confidences_BK: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Average the entries' losses, their shares moved to the confidences."""
        return self._average(logits_BK, labels_BK, confidences_BK)

    def _average(
        self,
        logits_BK: torch.Tensor,
        labels_BK: torch.Tensor,
        confidences_BK: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        share_BK, weight_BK = self.weights(torch.sigmoid(logits_BK.detach()))
        if confidences_BK is not None:
            given_BK = torch.where(confidences_BK.isnan(), share_BK, confidences_BK)
            share_BK = torch.lerp(share_BK, given_BK, self.confidence_weight)
        present_BK = _robust(logits_BK, self.q[0])
        absent_BK = _robust(-logits_BK, self.q[1])
        total = self.mixed(
            logits_BK,
            labels_BK,
            lambda right_BK: negative_log(torch.sigmoid(right_BK), _GR_EPSILON),
            weight_BK * (share_BK * present_BK + (1 - share_BK) * absent_BK),
        )
        return self.batch_mean(total, logits_BK), nothing_modified(labels_BK)

    def weights(self, p_BK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute an unobserved entry's share as positive and its weight, K and V, (B, K)."""
        w, b, mu, sigma = self.schedule()
        return torch.sigmoid(w * p_BK + b), torch.exp(-0.5 * ((p_BK - mu) / sigma) ** 2)

    def schedule(self) -> tuple[float, float, float, float]:
        """Return w, b, mu and sigma of the epoch under way."""
        epochs = self.total_epochs - self.linear_epochs
        done = min(max(self.epoch - self.linear_epochs, 0), epochs)
        late, now = max(done - 1, 0) / epochs, done / epochs
        (w, w_last, b, b_last), (mu, sigma, mu_last, sigma_last) = self.beta, self.alpha
        return (
            w + (w_last - w) * late,
            b + (b_last - b) * late,
            mu + (mu_last - mu) * now,
            sigma + (sigma_last - sigma) * now,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the length of the schedule."""
        return {"total_epochs": self.total_epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the length of the schedule."""
        self.total_epochs = state["total_epochs"]


def _focal(right_BK: torch.Tensor, gamma: float) -> torch.Tensor:
    """Compute ``-(1 - p)^gamma log p`` of logits for being right, fp32 (B, K).

    The power is taken of the logarithm: at 0 it has a gradient for any gamma.
    """
    return torch.exp(gamma * F.logsigmoid(-right_BK)) * F.softplus(-right_BK)


def _robust(right_BK: torch.Tensor, q: float) -> torch.Tensor:
    """Compute ``(1 - p^q) / q`` of logits for being right, fp32 (B, K)."""
    return -torch.expm1(q * F.logsigmoid(right_BK)) / q


def _refuse_negative(**numbers: float) -> None:
    for name, value in numbers.items():
        if not value >= 0:
            raise InputError(f"{name} {value:g}", fix="pass a number >= 0")


def _refuse_other_length(name: str, given: Sequence[float], example: str) -> None:
    """Refuse what is not as many numbers as the example."""
    count = len(example.split(","))
    if isinstance(given, str) or len(given) != count:
        raise InputError(f"{name} {given}", fix=f"pass {count} numbers, such as {name}={example}")
