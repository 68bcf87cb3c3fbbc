"""Entropy maximisation, asymmetric pseudo labels, and pseudo positives of another model.

Zhou et al. 2022, "Acknowledging the Unknown for Multi-label Learning with Single Positive Labels",
equations 3 to 5 and algorithm 1; Xing et al. 2024, "Vision-Language Pseudo-Labels for Single-
Positive Multi-Label Learning" (VLPL).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from pipeline.data.labels import to_device
from pipeline.methods.parts.bce import negative_log
from pipeline.methods.parts.label_overlay import LabelOverlay
from pipeline.methods.parts.prediction_buffer import PredictionBuffer, refuse_predictions
from pipeline.methods.protocol import Method, nothing_modified, require_ids
from sharding.errors import InputError
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED

ObservedNegatives = Literal["unobserved", "cross-entropy"]
_PSEUDO_TARGET = 0.9
"""Of VLPL's pseudo positives, in its code."""


class EntropyMaximization(Method):
    """Entropy maximisation (EM): positives by cross-entropy, all others kept uncertain.

    The loss can be negative; that is intended.

    Args:
        num_classes: K.
        alpha: weight of the entropy (VOC 0.2, COCO 0.1, NUS 0.1, CUB 0.01).
        observed_negatives: "unobserved" gives them the entropy term, as the reference does, which
            knows none; "cross-entropy" lets them push down (inferred, for tri-state labels).
    """

    def __init__(
        self,
        num_classes: int,
        *,
        alpha: float = 0.1,
        observed_negatives: ObservedNegatives = "unobserved",
    ) -> None:
        super().__init__(num_classes)
        if alpha < 0:
            raise InputError(f"alpha {alpha:g}", fix="pass a number >= 0")
        self.alpha = alpha
        self.uses_negatives = observed_negatives == "cross-entropy"

    def compute(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Average over B x K."""
        terms_BK = self.terms(torch.sigmoid(logits_BK), labels_BK)
        return self.batch_mean(terms_BK.sum(), logits_BK), nothing_modified(labels_BK)

    def terms(self, p_BK: torch.Tensor, labels_BK: torch.Tensor) -> torch.Tensor:
        """Compute the loss of each entry, fp32 (B, K)."""
        present_BK, absent_BK = negative_log(p_BK), negative_log(1 - p_BK)
        entropy_BK = p_BK * present_BK + (1 - p_BK) * absent_BK
        terms_BK = torch.where(labels_BK == POSITIVE, present_BK, -self.alpha * entropy_BK)
        if self.uses_negatives:
            terms_BK = torch.where(labels_BK == NEGATIVE, absent_BK, terms_BK)
        return terms_BK


class MachinePseudoLabels(EntropyMaximization):
    """VLPL: after a warm-up, what another model is confident of becomes a pseudo positive.

    A pseudo positive has ``beta`` times the cross-entropy against the soft target 0.9. The paper
    takes the confidences of CLIP; here they are those of the run (``--confidences``).

    Args:
        num_classes: K.
        alpha: weight of the entropy.
        beta: weight of the pseudo positives.
        threshold: least confidence of a pseudo positive (ours: machines differ in scale).
        warmup_epochs: epochs of EM alone.
        observed_negatives: as of `EntropyMaximization`; by default they push down (ours).
    """

    uses_confidences = True

    def __init__(
        self,
        num_classes: int,
        *,
        alpha: float = 0.2,
        beta: float = 0.7,
        threshold: float = 0.8,
        warmup_epochs: int = 5,
        observed_negatives: ObservedNegatives = "cross-entropy",
    ) -> None:
        super().__init__(num_classes, alpha=alpha, observed_negatives=observed_negatives)
        if not (0 < threshold <= 1 and beta >= 0 and warmup_epochs >= 0):
            raise InputError(
                f"threshold {threshold:g}, beta {beta:g}, warmup_epochs {warmup_epochs}",
                fix="keep 0 < threshold <= 1, beta >= 0 and warmup_epochs >= 0",
            )
        self.beta, self.threshold, self.warmup_epochs = beta, threshold, warmup_epochs

    def compute_with_confidences(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, confidences_BK: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Average EM with the pseudo positives, which the mask holds."""
        p_BK = torch.sigmoid(logits_BK)
        terms_BK, mask_BK = self.terms(p_BK, labels_BK), nothing_modified(labels_BK)
        if self.epoch > self.warmup_epochs:
            mask_BK = confidences_BK >= self.threshold  # false for NaN
            soft_BK = _soft_cross_entropy(p_BK, _PSEUDO_TARGET)
            terms_BK = torch.where(mask_BK, self.beta * soft_BK, terms_BK)
        return self.batch_mean(terms_BK.sum(), logits_BK), mask_BK


class PseudoLabeling(EntropyMaximization):
    """EM with pseudo-labels (APL): after a warm-up, unlikely entries become soft negatives.

    State: the pseudo labels as a sparse overlay by image id, and how many entries of each class
    were unobserved at the start. Unlike the reference, a prediction that underflows to exactly 0
    makes a pseudo label too, and a training set of a single batch is labelled.

    Args:
        num_classes: K.
        alpha: weight of the entropy.
        beta: weight of the pseudo labels (VOC 0.02, COCO 0.9, NUS 0.2, CUB 0.4).
        warmup_epochs: epochs before the first pseudo labels (VOC, COCO 5, NUS 4, CUB 3).
        total_epochs: epochs of the run; one that is prolonged keeps those it began with.
        theta: share of the unobserved entries of a class labelled by the end.
        num_images: of the training set, to refuse at once what does not fit (0: unknown).
        observed_negatives: as of `EntropyMaximization`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        alpha: float = 0.1,
        beta: float = 0.9,
        warmup_epochs: int = 5,
        total_epochs: int = 10,
        theta: float = 0.9,
        num_images: int = 0,
        observed_negatives: ObservedNegatives = "unobserved",
    ) -> None:
        super().__init__(num_classes, alpha=alpha, observed_negatives=observed_negatives)
        if not 0 < warmup_epochs < total_epochs or not 0 <= theta <= 1 or beta < 0:
            raise InputError(
                f"warmup_epochs {warmup_epochs} of {total_epochs}, theta {theta:g}, beta {beta:g}",
                fix="keep 0 < warmup_epochs < total_epochs (if not set, --epochs), "
                "0 <= theta <= 1 and beta >= 0",
            )
        refuse_predictions(num_images, num_classes)
        self.beta, self.theta = beta, theta
        self.warmup_epochs, self.total_epochs = warmup_epochs, total_epochs
        self.overlay = LabelOverlay()
        self.initially_unobserved_K: np.ndarray | None = None
        self._predictions = PredictionBuffer(num_classes)

    def compute(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Average EM with soft cross-entropy on pseudo labels, which the mask holds."""
        rows_M, classes_M, soft_M = (
            to_device(part, logits_BK.device)
            for part in self.overlay.find(require_ids(sample_ids_B, "em-apl"))
        )
        p_BK = torch.sigmoid(logits_BK)
        p_M = p_BK[rows_M, classes_M]
        labelled_M = _soft_cross_entropy(p_M, soft_M)
        terms_BK = self.terms(p_BK, labels_BK)
        terms_BK[rows_M, classes_M] = self.beta * labelled_M
        mask_BK = nothing_modified(labels_BK)
        mask_BK[rows_M, classes_M] = True
        return self.batch_mean(terms_BK.sum(), logits_BK), mask_BK

    def passes_wanted(self) -> int:
        """Ask for a pass after each epoch from the warm-up's last to the last but one.

        The reference also runs one after the last epoch, which nothing trains on.
        """
        return int(self.warmup_epochs <= self.epoch < self.total_epochs)

    def observe(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor
    ) -> None:
        """Keep the predictions."""
        self._predictions.add(logits_BK, labels_BK, sample_ids_B)

    def end_pass(self) -> None:
        """Label the least likely unlabelled entries of each class, the same number each time."""
        logits_NK, labels_NK, ids_N = self._predictions.gather(self.ranks)
        p_NK = torch.sigmoid(torch.from_numpy(logits_NK)).numpy()
        free_NK = (labels_NK == UNOBSERVED) | ((labels_NK == NEGATIVE) & (not self.uses_negatives))
        if self.initially_unobserved_K is None:
            self.initially_unobserved_K = free_NK.sum(0)
        labelled_rows, labelled_classes, _ = self.overlay.find(torch.from_numpy(ids_N))
        free_NK[labelled_rows.numpy(), labelled_classes.numpy()] = False
        rows_M, classes_M = self._least_likely(p_NK, free_NK, self.initially_unobserved_K)
        self.overlay.extend(ids_N[rows_M], classes_M, p_NK[rows_M, classes_M])

    def _least_likely(
        self, p_NK: np.ndarray, free_NK: np.ndarray, initially_K: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Choose each class's free entries of smallest probability; returns (rows_M, classes_M)."""
        steps = self.total_epochs - self.warmup_epochs
        chosen = []
        for k, initially in enumerate(initially_K):
            rows = np.flatnonzero(free_NK[:, k])
            order = np.argsort(p_NK[rows, k], kind="stable")
            chosen.append(rows[order[: int(self.theta * initially / steps)]])
        classes_M = np.repeat(np.arange(len(chosen)), [len(rows) for rows in chosen])
        return np.concatenate(chosen), classes_M

    def state_dict(self) -> dict[str, Any]:
        """Return the pseudo labels, the initial counts and the schedule."""
        counts: dict[str, Any] = {"total_epochs": self.total_epochs}
        if self.initially_unobserved_K is not None:
            counts["initially_unobserved"] = torch.from_numpy(self.initially_unobserved_K)
        return self.overlay.state_dict() | counts

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the pseudo labels, the initial counts and the schedule."""
        self.total_epochs = state.get("total_epochs", self.total_epochs)
        self.overlay.load_state_dict(state)
        counts = state.get("initially_unobserved")
        self.initially_unobserved_K = None if counts is None else counts.numpy().copy()


def _soft_cross_entropy(p: torch.Tensor, target: torch.Tensor | float) -> torch.Tensor:
    """Compute the cross-entropy of probabilities against targets from 0 to 1."""
    return target * negative_log(p) + (1 - target) * negative_log(1 - p)
