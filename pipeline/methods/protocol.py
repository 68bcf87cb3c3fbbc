"""What a training method is: a loss, the entries it modified, and hooks around an epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from pipeline.data.loader import Batch
from pipeline.methods.parts.collectives import Collectives, Group
from pipeline.models.cam_head import CamHead
from sharding.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Phase:
    """How the trainer trains in an epoch.

    Attributes:
        backbone_frozen: the head alone learns; the backbone stays in evaluation mode.
        rate: what all learning rates are multiplied with.
        begins: the optimizer forgets its state first.
    """

    backbone_frozen: bool = False
    rate: float = 1.0
    begins: bool = False


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step did on this rank.

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


class Method(Protocol):
    """One system of the paper's tables.

    The batch of a loss is the global batch: where torch.distributed is initialised, every rank
    calls `loss` for every step, an empty share included, and the mean over the ranks' losses
    (which is what DDP makes of their gradients) is the loss of one process.
    """

    def begin_epoch(self, epoch: int) -> None:
        """Enter an epoch, counted from 1; schedules depend on nothing else."""

    def phase(self) -> Phase:
        """How to train in the epoch just begun."""

    def loss(
        self,
        logits_BK: torch.Tensor,
        labels_BK: torch.Tensor,
        sample_ids_B: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The scalar fp32 loss and the bool mask (B, K) of the unobserved entries modified.

        Args:
            logits_BK: this rank's share; cast to fp32 inside.
            labels_BK: int8 in {+1, 0, -1} (`sharding.labels`).
            sample_ids_B: int64, the bit pattern of the uint64 image ids; methods that remember
                images need it.
        """

    def end_epoch(self) -> None:
        """Leave the epoch; merges over the ranks what they remembered."""

    def passes_wanted(self) -> int:
        """Passes over the training images, without gradient, asked for after `end_epoch`.

        The trainer then runs the model over its images that many times, gives each batch to
        `observe` and calls `end_pass` after each pass; several passes are made with dropout.
        """

    def observe(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor
    ) -> None:
        """Take in the predictions of one batch of a pass; arguments as of `loss`."""

    def end_pass(self) -> None:
        """Draw conclusions over all ranks; state changes here."""

    def state_dict(self) -> dict[str, Any]:
        """State after the last completed epoch, equal on all ranks."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`, whatever world size wrote it."""

    def pending_state(self) -> dict[str, Any]:
        """What this rank alone gathered since `begin_epoch`, which `end_epoch` would merge."""

    def load_pending_state(self, state: dict[str, Any]) -> None:
        """Restore `pending_state`, on the same rank of the same world size."""


@runtime_checkable
class WatchesHead(Protocol):
    """A method that also needs the features the CAM head is given."""

    def attach(self, head: CamHead) -> None:
        """Watch the head that will be trained; called once, before training."""


class BaseMethod:
    """Checks and casts common to all methods; those without state need nothing more.

    Subclasses give `compute`, with fp32 logits.
    """

    def __init__(self, num_classes: int, *, group: Group = None) -> None:
        if num_classes < 1:
            raise InputError(f"{num_classes} classes", fix="pass at least one class")
        self.num_classes = num_classes
        self.ranks = Collectives(group)
        self.epoch = 1

    def begin_epoch(self, epoch: int) -> None:
        """Enter an epoch, counted from 1."""
        if epoch < 1:
            raise ValueError(f"epoch {epoch}: epochs are counted from 1")
        self.epoch = epoch

    def loss(
        self,
        logits_BK: torch.Tensor,
        labels_BK: torch.Tensor,
        sample_ids_B: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Method.loss`."""
        if logits_BK.shape != labels_BK.shape or logits_BK.shape[1:] != (self.num_classes,):
            raise ValueError(
                f"logits {tuple(logits_BK.shape)} and labels {tuple(labels_BK.shape)} "
                f"are not both (B, {self.num_classes})"
            )
        return self.compute(logits_BK.float(), labels_BK, sample_ids_B)

    def compute(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`loss` on fp32 logits of a checked shape."""
        raise TypeError(f"{type(self).__name__} defines no loss")

    def batch_mean(self, total: torch.Tensor, logits_BK: torch.Tensor) -> torch.Tensor:
        """Divide this rank's sum of losses by the B x K entries of the global batch."""
        return self.ranks.share(total / (self.ranks.batch_size(logits_BK) * self.num_classes))

    def phase(self) -> Phase:
        """The same in all epochs."""
        return Phase()

    def end_epoch(self) -> None:
        """Nothing to merge."""

    def passes_wanted(self) -> int:
        """None."""
        return 0

    def observe(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor
    ) -> None:
        """Nothing to take in."""

    def end_pass(self) -> None:
        """Nothing to conclude."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep: schedules follow from the epoch."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""

    def pending_state(self) -> dict[str, Any]:
        """Nothing gathered."""
        return {}

    def load_pending_state(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


def nothing_modified(labels_BK: torch.Tensor) -> torch.Tensor:
    """The mask of a method that modifies no entry."""
    return torch.zeros(labels_BK.shape, dtype=torch.bool, device=labels_BK.device)


def require_ids(sample_ids_B: torch.Tensor | None, method: str) -> torch.Tensor:
    """The ids, or an error that says which method remembers images."""
    if sample_ids_B is None:
        raise InputError(
            f"method {method!r} remembers images and got no sample ids",
            fix="pass sample_ids_B to loss()",
        )
    return sample_ids_B
