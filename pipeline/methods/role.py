"""ROLE: regularised online label estimation, and ROLE + LI.

Cole et al. 2021, "Multi-Label Learning from Single Positive Labels", section 4. Each image has a
row of learnable logits, the label estimator. Classifier and estimator are trained on each other's
predictions, held fixed; both keep the expected number of positives.
"""

from __future__ import annotations

from typing import Any

import torch

from pipeline.methods.assume_negative import ExpectedPositive
from pipeline.methods.parts.bce import negative_log
from pipeline.methods.parts.label_estimator import LabelEstimator
from pipeline.methods.parts.prediction_buffer import refuse_dense
from pipeline.methods.protocol import Phase, nothing_modified, require_ids
from sharding.errors import InputError
from sharding.labels import POSITIVE


class Role(ExpectedPositive):
    """Online estimation (ROLE): unknown labels are estimated while the network learns.

    The estimator learns inside `loss`, one dense Adam step per global batch.

    Args:
        num_classes: K.
        expected_num_pos: mean number of positives per image (VOC 1.5, COCO 2.9, NUS 1.9,
            CUB 31.4).
        estimator_lr: the estimator's learning rate; the reference uses ten times the classifier's.
        num_images: of the training set, to refuse at once what does not fit (0: unknown).
        seed: of the estimator's initial values, which depend on it and the image id alone.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        expected_num_pos: float,
        estimator_lr: float = 1e-4,
        num_images: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(num_classes, expected_num_pos=expected_num_pos)
        if estimator_lr <= 0:
            raise InputError(f"estimator_lr {estimator_lr:g}", fix="pass a positive number")
        refuse_dense(num_images, num_classes, LabelEstimator.BYTES, "the label estimator of ROLE")
        self.estimator = LabelEstimator(num_classes, learning_rate=estimator_lr, seed=seed)

    def compute(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Average both halves of the loss; step the estimator where gradients are wanted."""
        ids_B = require_ids(sample_ids_B, "role")
        # Every rank needs every new row: rows move by momentum long after their batch.
        all_ids, all_labels = (self.ranks.concatenate(part) for part in (ids_B, labels_BK))
        self.estimator.add_rows(all_ids, all_labels)
        estimates_BK = self.estimator.rows(ids_B).to(logits_BK.device).requires_grad_()
        loss = self._loss(logits_BK, estimates_BK, labels_BK == POSITIVE)
        if loss.requires_grad:
            (gradient_BK,) = torch.autograd.grad(loss, estimates_BK, retain_graph=True)
            gradient_BK = self.ranks.concatenate(gradient_BK / self.ranks.world_size)
            self.estimator.step(all_ids, gradient_BK)
        return loss, nothing_modified(labels_BK)

    def state_dict(self) -> dict[str, Any]:
        """Return the estimator with its Adam moments."""
        return self.estimator.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the estimator."""
        self.estimator.load_state_dict(state)

    def _loss(
        self, logits_BK: torch.Tensor, estimates_BK: torch.Tensor, positive_BK: torch.Tensor
    ) -> torch.Tensor:
        B = self.ranks.batch_size(logits_BK)
        p_BK, q_BK = torch.sigmoid(logits_BK), torch.sigmoid(estimates_BK)
        regulariser = 0.5 * (self.regulariser(p_BK, B) + self.regulariser(q_BK, B))
        main = terms(p_BK, q_BK, positive_BK).sum() / (B * self.num_classes)
        return self.ranks.share(main) + self.ranks.whole(regulariser)


class RoleLinearInit(Role):
    """ROLE with linear initialisation (LI): a classifier on a frozen backbone, then everything.

    When the second phase begins, the estimator is re-made from its clipped probabilities, and both
    Adams are reset. Differences from the reference: it goes on from the best epoch of the first
    phase, this from the last; its first phase reads features extracted once, this augments.

    Args:
        num_classes: K.
        expected_num_pos: mean number of positives per image.
        estimator_lr: the estimator's learning rate.
        linear_epochs: epochs with the backbone frozen.
        linear_rate: multiple of all learning rates in those epochs (COLE: 1e-3 against 1e-5).
        num_images: as of `Role`.
        seed: as of `Role`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        expected_num_pos: float,
        estimator_lr: float = 1e-4,
        linear_epochs: int = 25,
        linear_rate: float = 1.0,
        num_images: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            num_classes,
            expected_num_pos=expected_num_pos,
            estimator_lr=estimator_lr,
            num_images=num_images,
            seed=seed,
        )
        if linear_epochs < 1 or linear_rate <= 0:
            raise InputError(
                f"linear_epochs {linear_epochs}, linear_rate {linear_rate:g}",
                fix="pass at least 1 epoch and a positive rate",
            )
        self.linear_epochs, self.linear_rate = linear_epochs, linear_rate
        self._estimator_lr = estimator_lr
        self._handed_over = self._hands_over = False

    def phase(self) -> Phase:
        """Train the head alone at first; then everything, with a fresh optimizer."""
        if self.epoch <= self.linear_epochs:
            return Phase(backbone_frozen=True, rate=self.linear_rate)
        return Phase(resets_optimizer=self._hands_over)

    def begin_epoch(self, epoch: int) -> None:
        """Hand the estimator over when the second phase begins.

        Only once: an interrupted epoch may begin again from state that has been handed over.
        """
        super().begin_epoch(epoch)
        self._hands_over = epoch > self.linear_epochs and not self._handed_over
        if self._hands_over:
            self.estimator.hand_over()
            self._handed_over = True
        self.estimator.learning_rate = self._estimator_lr * self.phase().rate

    def state_dict(self) -> dict[str, Any]:
        """Return the estimator, and whether the second phase has begun."""
        return super().state_dict() | {"handed_over": torch.tensor(self._handed_over)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the estimator and the phase."""
        super().load_state_dict(state)
        self._handed_over = bool(state["handed_over"])


def terms(p_BK: torch.Tensor, q_BK: torch.Tensor, positive_BK: torch.Tensor) -> torch.Tensor:
    """Compute each entry's part of the loss without the regulariser, fp32 (B, K).

    Args:
        p_BK: the classifier's probabilities.
        q_BK: the estimator's.
        positive_BK: bool, the observed positives.
    """
    classifier_BK = _half(p_BK, q_BK.detach(), positive_BK)
    return 0.5 * (classifier_BK + _half(q_BK, p_BK.detach(), positive_BK))


def _half(p_BK: torch.Tensor, other_BK: torch.Tensor, positive_BK: torch.Tensor) -> torch.Tensor:
    """Compute the loss of one network, given the other's predictions, fp32 (B, K)."""
    present_BK, absent_BK = negative_log(p_BK), negative_log(1 - p_BK)
    return positive_BK * present_BK + other_BK * present_BK + (1 - other_BK) * absent_BK
