"""Curriculum labelling with partial cross-entropy.

Durand et al. 2019, "Learning a Deep ConvNet for Multi-label Classification with Partial Labels",
equations 1, 2 and section 3.3.

There is no official code. The loss equals two independent derivations; the thresholds follow
third-party ports and are not known to be the paper's.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.methods.parts.label_overlay import LabelOverlay
from pipeline.methods.parts.prediction_buffer import (
    PredictionBuffer,
    refuse_added,
    refuse_predictions,
)
from pipeline.methods.protocol import Method
from sharding.errors import InputError
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED

Strategy = Literal["score", "top", "uncertainty"]


class Curriculum(Method):
    """Curriculum labelling: partial BCE on known entries, confident predictions added.

    The loss of an image is ``g(p) / K`` times the cross-entropy of its known entries, with
    ``g(p) = alpha p^gamma + beta`` and p the share of known entries. Images without known entries
    contribute 0. Every ``relabel_every`` epochs the labels added are replaced by those of new
    predictions; observed labels are never overwritten. State: the labels added, by image id.

    Args:
        num_classes: K.
        alpha: of g; the defaults give g(0.1) = 5 and g(1) = 1.
        beta: of g.
        gamma: of g; -1 with beta 0 and alpha 1 is the mean over known entries.
        normalise: "classes" divides by K as the paper does; "known" by the known entries of the
            image (a third-party port).
        known_rate: p of every image, where it is taken as a constant of the data set; 0 takes
            each image's own.
        relabel_every: epochs between relabellings; 0 never relabels.
        strategy: "score" (logits beyond the thresholds), "top" (the share ``top`` of each
            class's entries with the largest logits, positive) or "uncertainty" (the sign of the
            mean logit over ``passes`` passes with dropout, where its variance is below
            ``variance``).
        positive_threshold: logit above which an entry is labelled positive.
        negative_threshold: logit below which it is labelled negative; -inf adds positives only.
        top: share for strategy "top".
        passes: passes for strategy "uncertainty".
        variance: threshold for strategy "uncertainty".
        num_images: of the training set, to refuse at once predictions that do not fit (0: unknown).
    """

    def __init__(
        self,
        num_classes: int,
        *,
        alpha: float = -4.45,
        beta: float = 5.45,
        gamma: float = 1.0,
        normalise: Literal["classes", "known"] = "classes",
        known_rate: float = 0.0,
        relabel_every: int = 0,
        strategy: Strategy = "score",
        positive_threshold: float = 4.0,
        negative_threshold: float = -4.0,
        top: float = 0.01,
        passes: int = 20,
        variance: float = 0.01,
        num_images: int = 0,
    ) -> None:
        super().__init__(num_classes)
        if relabel_every < 0 or passes < 2 or not 0 <= top <= 1 or not 0 <= known_rate <= 1:
            raise InputError(
                f"relabel_every {relabel_every}, passes {passes}, top {top:g}, known_rate "
                f"{known_rate:g}",
                fix="keep relabel_every >= 0, passes >= 2, top and known_rate from 0 to 1",
            )
        if relabel_every and strategy != "score":
            kept = passes if strategy == "uncertainty" else 1
            refuse_predictions(num_images * kept, num_classes)
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.normalise, self.known_rate = normalise, known_rate
        self.relabel_every, self.strategy = relabel_every, strategy
        self.thresholds = (negative_threshold, positive_threshold)
        self.top, self.passes, self.variance = top, passes, variance
        self.overlay, self._fresh = LabelOverlay(), LabelOverlay()
        self._added = 0  # by this rank in the running pass
        self._predictions = PredictionBuffer(num_classes)
        self._passed: list[np.ndarray] = []

    def compute(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Average over the images of the global batch; the mask holds the labels added."""
        known_BK = labels_BK
        if sample_ids_B is not None:
            known_BK = self.overlay.apply(labels_BK, sample_ids_B)
        mask_BK = known_BK != UNOBSERVED
        losses_BK = F.binary_cross_entropy_with_logits(
            logits_BK, (known_BK == POSITIVE).float(), reduction="none"
        )
        sums_B = torch.where(mask_BK, losses_BK, 0).sum(1)
        loss = (self.factor(mask_BK.sum(1)) * sums_B).sum() / self.ranks.batch_size(logits_BK)
        return self.ranks.share(loss), mask_BK & (labels_BK == UNOBSERVED)

    def factor(self, counts_B: torch.Tensor) -> torch.Tensor:
        """Compute the factor of an image's sum from its number of known entries, fp32 (B,)."""
        p_B = counts_B / self.num_classes
        if self.known_rate:
            p_B = torch.full_like(p_B, self.known_rate)
        g_B = self.alpha * p_B**self.gamma + self.beta
        divisor_B = counts_B.clamp(min=1) if self.normalise == "known" else self.num_classes
        return torch.where(counts_B > 0, g_B / divisor_B, 0)

    def passes_wanted(self) -> int:
        """Count the passes due after this epoch; those of "uncertainty" need dropout."""
        due = self.relabel_every > 0 and self.epoch % self.relabel_every == 0
        return int(due) * (self.passes if self.strategy == "uncertainty" else 1)

    def observe(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor
    ) -> None:
        """Label by the thresholds, or keep the predictions until the pass ends."""
        if self.strategy != "score":
            self._predictions.add(logits_BK, labels_BK, sample_ids_B)
            return
        states_BK = torch.full_like(labels_BK, UNOBSERVED)
        states_BK[logits_BK < self.thresholds[0]] = NEGATIVE
        states_BK[logits_BK > self.thresholds[1]] = POSITIVE
        chosen_BK = (labels_BK == UNOBSERVED) & (states_BK != UNOBSERVED)
        self._added += int(chosen_BK.sum())
        refuse_added(self._added * self.ranks.world_size)
        self._fresh.add(sample_ids_B, chosen_BK, states_BK)

    def end_pass(self) -> None:
        """Replace the added labels once all passes are made."""
        if self.strategy != "score" and not self._label_from_predictions():
            return
        self._fresh.merge(self.ranks)
        self.overlay, self._fresh, self._added = self._fresh, LabelOverlay(), 0

    def state_dict(self) -> dict[str, Any]:
        """Return the labels added."""
        return self.overlay.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the labels added."""
        self.overlay.load_state_dict(state)

    def _label_from_predictions(self) -> bool:
        """Label from the predictions of all ranks; false while passes are missing."""
        logits_NK, labels_NK, ids_N = self._predictions.gather(self.ranks)
        states_NK = np.full(labels_NK.shape, UNOBSERVED, np.int8)
        if self.strategy == "top":
            count = math.ceil(self.top * len(ids_N))
            best = np.argsort(-logits_NK, axis=0, kind="stable")[:count]
            np.put_along_axis(states_NK, best, POSITIVE, axis=0)
        else:
            self._passed.append(logits_NK)
            if len(self._passed) < self.passes:
                return False
            mean_NK, variance_NK = np.mean(self._passed, 0), np.var(self._passed, 0)
            self._passed.clear()
            sure_NK = variance_NK < self.variance
            states_NK[sure_NK] = np.where(mean_NK > 0, POSITIVE, NEGATIVE)[sure_NK]
        rows, classes = np.nonzero((labels_NK == UNOBSERVED) & (states_NK != UNOBSERVED))
        # Gathered already, so equal on all ranks: nothing is pending for the merge.
        self._fresh.extend(ids_N[rows], classes, states_NK[rows, classes].astype(np.float32))
        return True
