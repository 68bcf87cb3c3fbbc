"""The protocol of a training method: a loss, the entries it modified, hooks around an epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from pipeline.data.loader import Batch
from pipeline.methods.parts.collectives import Collectives
from pipeline.models.cam_head import CamHead
from sharding.errors import InputError
from sharding.labels import UNOBSERVED


@dataclass(frozen=True, kw_only=True)
class Phase:
    """How the trainer trains in an epoch.

    Attributes:
        backbone_frozen: the head alone learns; the backbone stays in evaluation mode.
        rate: what all learning rates are multiplied with.
        resets_optimizer: the optimizer forgets its state first.
    """

    backbone_frozen: bool = False
    rate: float = 1.0
    resets_optimizer: bool = False


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """The outcome of a training step on this rank.

    Attributes:
        batch: the images it used.
        loss: scalar; its mean over ranks is the global batch's loss.
        logits_BK: fp32, detached.
        labels_BK: int8 in {+1, 0, -1}.
        modified_BK: bool, the entries that the method rejected or corrected.
    """

    batch: Batch
    loss: torch.Tensor
    logits_BK: torch.Tensor
    labels_BK: torch.Tensor
    modified_BK: torch.Tensor


class Method:
    """One system of the paper's tables; a method without state gives `compute` alone.

    The batch of a loss is the global batch: where torch.distributed is initialised, every rank
    calls `loss` for every step, an empty share included, and the mean over the ranks' losses
    (which is what DDP makes of their gradients) is the loss of one process.

    Args:
        num_classes: K.

    Attributes:
        ranks: collectives over the global batch.
        epoch: the one under way, counted from 1.
        uses_confidences: whether it trains on a machine's confidences, in
            `compute_with_confidences`.
    """

    uses_confidences = False

    def __init__(self, num_classes: int) -> None:
        if num_classes < 1:
            raise InputError(f"{num_classes} classes", fix="pass at least one class")
        self.num_classes = num_classes
        self.ranks = Collectives()
        self.epoch = 1

    def begin_epoch(self, epoch: int) -> None:
        """Enter an epoch, counted from 1; schedules depend on nothing else."""
        if epoch < 1:
            raise ValueError(f"epoch {epoch}: epochs are counted from 1")
        self.epoch = epoch

    def phase(self) -> Phase:
        """Return how to train in the epoch just begun."""
        return Phase()

    def loss(
        self,
        logits_BK: torch.Tensor,
        labels_BK: torch.Tensor,
        sample_ids_B: torch.Tensor | None = None,
        confidences_BK: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the loss, and mask the unobserved entries modified.

        Args:
            logits_BK: this rank's share; cast to fp32 inside.
            labels_BK: int8 in {+1, 0, -1} (`sharding.labels`).
            sample_ids_B: int64, the bit pattern of the uint64 image ids; methods that remember
                images need it.
            confidences_BK: fp32 in [0, 1], NaN where there is none; methods that use them need it.

        Returns:
            (scalar fp32 loss, bool mask (B, K)).
        """
        if logits_BK.shape != labels_BK.shape or logits_BK.shape[1:] != (self.num_classes,):
            raise ValueError(
                f"logits {tuple(logits_BK.shape)} and labels {tuple(labels_BK.shape)} "
                f"are not both (B, {self.num_classes})"
            )
        if not self.uses_confidences:
            return self.compute(logits_BK.float(), labels_BK, sample_ids_B)
        if confidences_BK is None:
            raise needs_confidences(type(self).__name__)
        # A human's word about an entry is the last.
        unobserved_BK = labels_BK == UNOBSERVED
        confidences_BK = confidences_BK.where(unobserved_BK, torch.nan)
        return self.compute_with_confidences(logits_BK.float(), labels_BK, confidences_BK)

    def compute_with_confidences(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, confidences_BK: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute `loss` of a method that uses confidences; they are NaN where a label is."""
        raise TypeError(f"{type(self).__name__} uses no confidences")

    def compute(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute `loss` on fp32 logits of a checked shape."""
        raise TypeError(f"{type(self).__name__} defines no loss")

    def batch_mean(self, total: torch.Tensor, logits_BK: torch.Tensor) -> torch.Tensor:
        """Divide this rank's sum of losses by the B x K entries of the global batch."""
        return self.ranks.share(total / (self.ranks.batch_size(logits_BK) * self.num_classes))

    def end_epoch(self) -> None:
        """Leave the epoch, and merge over the ranks what they gathered."""

    def passes_wanted(self) -> int:
        """Ask for passes over the training images, without gradient, after `end_epoch`.

        The trainer then runs the model over its images that many times, gives each batch to
        `observe` and calls `end_pass` after each pass; several passes are made with dropout.
        """
        return 0

    def observe(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor
    ) -> None:
        """Take in the predictions of one batch of a pass; arguments as of `loss`."""

    def end_pass(self) -> None:
        """Update the state from what all ranks observed in the pass."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the last completed epoch, equal on all ranks."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`, written at any world size."""

    def pending_state(self) -> dict[str, Any]:
        """Return what this rank gathered since `begin_epoch`, for `end_epoch` to merge."""
        return {}

    def load_pending_state(self, state: dict[str, Any]) -> None:
        """Restore `pending_state`, on the same rank of the same world size."""


@runtime_checkable
class WatchesHead(Protocol):
    """A method that also needs the features the CAM head is given."""

    def attach(self, head: CamHead) -> None:
        """Record the features of the head that will be trained; called once, before training."""


def needs_confidences(method: str) -> InputError:
    """Make the error of a method that got no confidences."""
    return InputError(
        f"method {method!r} trains on a machine's confidences, and there are none",
        fix="pass --confidences VERSION, which reshard --confidences TABLE writes",
    )


def nothing_modified(labels_BK: torch.Tensor) -> torch.Tensor:
    """Make the mask of a method that modifies no entry."""
    return torch.zeros(labels_BK.shape, dtype=torch.bool, device=labels_BK.device)


def require_ids(sample_ids_B: torch.Tensor | None, method: str) -> torch.Tensor:
    """Return the ids, or refuse a call without them."""
    if sample_ids_B is None:
        raise InputError(
            f"method {method!r} remembers images and got no sample ids",
            fix="pass sample_ids_B to loss()",
        )
    return sample_ids_B
