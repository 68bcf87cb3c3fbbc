"""An approximation of CNN-RNN (Wang et al. 2016, "CNN-RNN: A Unified Framework for Multi-label
Image Classification").

There is no official code, and how the tables' numbers were made on partial labels is unknown:
rows of this method are NOT comparable with the paper's. What is kept: labels of an image are
predicted one after another, most frequent first, by a softmax over a joint projection of the
image and of an LSTM over the embeddings of the labels before.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.func import functional_call

from pipeline.methods.parts.owned_parameters import OwnedParameters
from pipeline.methods.protocol import Method, nothing_modified
from pipeline.models.beam_head import Recurrence
from sharding.errors import InputError
from sharding.labels import POSITIVE


class CnnRnn(Method):
    """CNN-RNN: a recurrent network predicts the labels as a sequence, from the model's logits.

    Labels are ordered by their number of positives in all completed epochs, by class index in
    the first. Only observed positives train it. The recurrent part belongs to the method and
    learns inside `loss`. Training and its validation score an image by its own part of the logits;
    the paper's prediction, a beam search over sequences, is an option of scoring
    (`pipeline.inference.beam`).

    Args:
        num_classes: K.
        embedding: size of a label's embedding (64 in the paper).
        hidden: size of the LSTM (512 in the paper).
        learning_rate: of the recurrent part.
        max_labels: labels of an image that are predicted; rarer ones are cut off.
        seed: of the recurrent part's initial values.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        embedding: int = 64,
        hidden: int = 512,
        learning_rate: float = 1e-3,
        max_labels: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__(num_classes)
        if min(embedding, hidden, max_labels) < 1 or learning_rate <= 0:
            raise InputError(
                f"embedding {embedding}, hidden {hidden}, max_labels {max_labels}, learning_rate "
                f"{learning_rate:g}",
                fix="pass positive numbers",
            )
        self.max_labels = max_labels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._module = Recurrence(num_classes, embedding, hidden)
        self._owned = OwnedParameters(
            dict(self._module.named_parameters()), learning_rate=learning_rate
        )
        self.frequency_K = torch.zeros(num_classes)
        self._pending_K = torch.zeros(num_classes)

    def begin_epoch(self, epoch: int) -> None:
        """Discard the counts of an interrupted epoch."""
        super().begin_epoch(epoch)
        self._pending_K.zero_()

    def compute(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Average the next label's cross-entropy over the labels of the global batch."""
        self._pending_K += (labels_BK == POSITIVE).sum(0).cpu()
        labels_BT = self._sequences(labels_BK)
        leaves = self._owned.leaves(logits_BK.device)
        scores_BTK = logits_BK[:, None] + functional_call(
            self._module, leaves, (labels_BT[:, :-1],)
        )
        total = F.cross_entropy(
            scores_BTK.flatten(0, 1), labels_BT.flatten(), ignore_index=-1, reduction="sum"
        )
        count = self.ranks.sum((labels_BT >= 0).sum()).clamp(min=1)
        loss = self.ranks.share(total / count)
        if loss.requires_grad:
            self._owned.step(loss, leaves, self.ranks)
        return loss, nothing_modified(labels_BK)

    def recurrence(self) -> Recurrence:
        """Return the recurrent part with its present weights, for `beam_head.search`."""
        self._module.load_state_dict(self._owned.state_dict()["tensors"])
        return self._module

    def end_epoch(self) -> None:
        """Add the positives of all ranks to the frequencies."""
        self.frequency_K = self.frequency_K + self.ranks.sum(self._pending_K)
        self._pending_K.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Return the recurrent part and the label frequencies."""
        return {"recurrence": self._owned.state_dict(), "frequency": self.frequency_K.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the recurrent part and the label frequencies."""
        self._owned.load_state_dict(state["recurrence"])
        self.frequency_K = state["frequency"].clone()

    def pending_state(self) -> dict[str, Any]:
        """Return this rank's label counts of the running epoch."""
        return {"frequency": self._pending_K.clone()}

    def load_pending_state(self, state: dict[str, Any]) -> None:
        """Restore this rank's label counts."""
        self._pending_K = state["frequency"].clone()

    def _sequences(self, labels_BK: torch.Tensor) -> torch.Tensor:
        """List each image's positives, most frequent first, then -1: int64 (B, T), T at least 1."""
        order_K = torch.argsort(self.frequency_K, descending=True, stable=True).to(labels_BK.device)
        positive_BK = labels_BK[:, order_K] == POSITIVE
        longest = int(positive_BK.sum(1).max()) if len(labels_BK) else 0
        T = max(1, min(self.max_labels, longest))
        # Stable: positives to the front, in the order of frequency.
        places_BT = torch.argsort(positive_BK.int(), dim=1, descending=True, stable=True)[:, :T]
        return torch.where(positive_BK.take_along_dim(places_BT, 1), order_K[places_BT], -1)
