"""Large Loss Matters: LL-R, LL-Ct and LL-Cp.

Kim et al. 2022, "Large Loss Matters in Weakly Supervised Multi-Label Classification", section 4,
as re-run by the BoostLU paper. An unobserved entry that is assumed negative and has a large loss
is likely a false negative. From the second epoch on, the k largest losses of the unobserved
entries of the global batch are rejected, or corrected for this step, or corrected for good.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from pipeline.methods.parts.bce import modified_bce_sum
from pipeline.methods.parts.label_overlay import LabelOverlay
from pipeline.methods.parts.selection import select_largest
from pipeline.methods.protocol import Method, nothing_modified, require_ids
from sharding.errors import InputError
from sharding.labels import POSITIVE


def clean_rate(epoch: int, delta_rel: float) -> float:
    """Compute the share of entries trusted in an epoch; ``delta_rel`` in percent per epoch.

    Subtracted epoch by epoch as the reference does: k depends on these very rounding errors.
    """
    rate = 1.0
    for _ in range(epoch - 1):
        rate -= delta_rel / 100
    return rate


class _LargeLoss(Method):
    """Schedule and selection common to the three methods.

    Args:
        num_classes: K.
        delta_rel: percent of all B x K entries added to the selection per epoch (for LL-Cp:
            selected in each epoch). Defaults: LL-Ct's 0.2 and LL-Cp's 0.1 are those of the BoostLU
            code's README; LL-R's 0.2 is ours, the demo's, as the papers' 0.5 (of 20 to 312
            classes) and 0.01 (of 5,000) follow the collection.
    """

    rejects = False
    """Whether selected entries are left out; otherwise their target becomes 1."""

    def __init__(self, num_classes: int, *, delta_rel: float = 0.2) -> None:
        super().__init__(num_classes)
        if not 0 < delta_rel <= 100:
            raise InputError(
                f"delta_rel {delta_rel:g}", fix="pass percent per epoch, above 0 and at most 100"
            )
        self.delta_rel = delta_rel

    def k(self, entries: int) -> int:
        """Count the entries to select of B x K of a global batch; 0 in the first epoch."""
        return math.ceil(entries * (1 - clean_rate(self.epoch, self.delta_rel)))

    def compute(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Average over B x K of the global batch, rejected entries included in the count."""
        entries = self.ranks.batch_size(logits_BK) * self.num_classes
        k = min(self.k(entries), entries)
        if k == 0:
            loss = modified_bce_sum(logits_BK, labels_BK) / entries
            return self.ranks.share(loss), nothing_modified(labels_BK)
        selected_BK = select_largest(logits_BK, labels_BK, k, self.ranks)
        change = {"rejected" if self.rejects else "corrected": selected_BK}
        total = modified_bce_sum(logits_BK, labels_BK, **change)
        return self.ranks.share(total / entries), selected_BK


class LargeLossReject(_LargeLoss):
    """Large Loss, rejection (LL-R): unobserved entries of the largest losses are left out."""

    rejects = True


class LargeLossCorrectTemporary(_LargeLoss):
    """Large Loss, temporary correction (LL-Ct): they count as positive in this step."""


class LargeLossCorrectPermanent(_LargeLoss):
    """Large Loss, permanent correction (LL-Cp): they count as positive from this step on.

    The corrections of an epoch enter the labels when it ends, merged over the ranks; the labels
    themselves are never touched. State is the overlay after the last completed epoch.
    """

    def __init__(self, num_classes: int, *, delta_rel: float = 0.1) -> None:
        super().__init__(num_classes, delta_rel=delta_rel)
        self.overlay = LabelOverlay()

    def k(self, entries: int) -> int:
        """Count the entries to select: the same number in every epoch from the second on."""
        return 0 if self.epoch == 1 else math.ceil(entries * (self.delta_rel / 100))

    def begin_epoch(self, epoch: int) -> None:
        """Discard the corrections of an interrupted epoch."""
        super().begin_epoch(epoch)
        self.overlay.discard_pending()

    def compute(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute LL-Ct on corrected labels, and record what it selects."""
        ids_B = require_ids(sample_ids_B, "ll-cp")
        labels_BK = self.overlay.apply(labels_BK, ids_B, POSITIVE)
        loss, selected_BK = super().compute(logits_BK, labels_BK, ids_B)
        if self.epoch > 1:
            self.overlay.add(ids_B, selected_BK)
        return loss, selected_BK

    def end_epoch(self) -> None:
        """Merge the corrections of all ranks."""
        self.overlay.merge(self.ranks)

    def corrections(self) -> tuple[torch.Tensor, torch.Tensor]:
        """List all merged corrections: (image ids int64, classes int64), sorted by id and class."""
        return self.overlay.entries()

    def state_dict(self) -> dict[str, Any]:
        """Return the corrections."""
        return self.overlay.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the corrections."""
        self.overlay.load_state_dict(state)

    def pending_state(self) -> dict[str, Any]:
        """Return the corrections of this rank that the epoch's end will merge."""
        return {"corrections": self.overlay.pending()}

    def load_pending_state(self, state: dict[str, Any]) -> None:
        """Restore the corrections of this rank."""
        self.overlay.set_pending(state["corrections"])
