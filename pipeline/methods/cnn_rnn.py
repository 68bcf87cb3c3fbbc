"""CNN-RNN (Wang et al. 2016, "CNN-RNN: A Unified Framework for Multi-label Image Classification"),
an approximation.

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

from pipeline.methods.owned import OwnedParameters
from pipeline.methods.protocol import BaseMethod, nothing_modified
from pipeline.methods.ranks import Group
from sharding.errors import InputError
from sharding.labels import POSITIVE


class _Recurrence(torch.nn.Module):
    """What the labels so far add to the logits of the next: (B, T) labels to (B, T, K)."""

    def __init__(self, num_classes: int, embedding: int, hidden: int) -> None:
        super().__init__()
        # The last row stands for the start of a sequence.
        self.embed = torch.nn.Embedding(num_classes + 1, embedding)
        self.lstm = torch.nn.LSTM(embedding, hidden, batch_first=True)
        self.project = torch.nn.Linear(hidden, embedding)

    def forward(self, previous_BT: torch.Tensor) -> torch.Tensor:
        states_BTH, _ = self.lstm(self.embed(previous_BT))
        # Labels are scored by their own embeddings, as in the paper.
        return torch.tanh(self.project(states_BTH)) @ self.embed.weight[:-1].T


class CnnRnn(BaseMethod):
    """CNN-RNN with the model's logits as the image's part of the joint projection.

    Labels are ordered by their number of positives in all completed epochs, by class index in
    the first. Only observed positives train it. The recurrent part belongs to the method and
    learns inside `loss`; `scores` does the beam search.

    Args:
        num_classes: K.
        embedding: size of a label's embedding (64 in the paper).
        hidden: size of the LSTM (512 in the paper).
        learning_rate: of the recurrent part.
        max_labels: labels of an image that are predicted; rarer ones are cut off.
        seed: of the recurrent part's initial values.
        group: process group of the global batch.
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
        group: Group = None,
    ) -> None:
        super().__init__(num_classes, group=group)
        if min(embedding, hidden, max_labels) < 1 or learning_rate <= 0:
            raise InputError(
                f"embedding {embedding}, hidden {hidden}, max_labels {max_labels}, learning_rate "
                f"{learning_rate:g}",
                fix="pass positive numbers",
            )
        self.max_labels = max_labels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._module = _Recurrence(num_classes, embedding, hidden)
        self._owned = OwnedParameters(
            dict(self._module.named_parameters()), learning_rate=learning_rate
        )
        self.frequency_K = torch.zeros(num_classes)
        self._pending_K = torch.zeros(num_classes)

    def begin_epoch(self, epoch: int) -> None:
        """Forget what an interrupted epoch had counted."""
        super().begin_epoch(epoch)
        self._pending_K.zero_()

    def compute(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean cross-entropy of the next label, over the labels of the global batch."""
        self._pending_K += (labels_BK == POSITIVE).sum(0).cpu()
        labels_BT = self._sequences(labels_BK)
        leaves = self._owned.leaves(logits_BK.device)
        scores_BTK = logits_BK[:, None] + self._recur(leaves, labels_BT[:, :-1])
        total = F.cross_entropy(
            scores_BTK.flatten(0, 1), labels_BT.flatten(), ignore_index=-1, reduction="sum"
        )
        count = self.ranks.sum((labels_BT >= 0).sum()).clamp(min=1)
        loss = self.ranks.share(total / count)
        if loss.requires_grad:
            self._owned.step(loss, leaves, self.ranks)
        return loss, nothing_modified(labels_BK)

    @torch.no_grad()
    def scores(self, logits_BK: torch.Tensor, beam: int = 2) -> torch.Tensor:
        """fp32 (B, K): the largest probability of each class at any step of any path kept."""
        B, K = logits_BK.shape
        leaves = self._owned.leaves(logits_BK.device)
        best_BK = torch.zeros(B, K, device=logits_BK.device)
        paths_BWT = torch.zeros(B, 1, 0, dtype=torch.int64, device=logits_BK.device)
        weights_BW = torch.zeros(B, 1, device=logits_BK.device)
        for _ in range(min(self.max_labels, K)):
            W = paths_BWT.shape[1]
            steps_BWK = self._recur(leaves, paths_BWT.flatten(0, 1))[:, -1].view(B, W, K)
            log_BWK = torch.log_softmax(logits_BK[:, None].float() + steps_BWK, 2)
            best_BK = torch.maximum(best_BK, log_BWK.exp().amax(1))
            # A path names a label once.
            log_BWK.scatter_(2, paths_BWT, -torch.inf)
            joint_BX = (weights_BW[:, :, None] + log_BWK).flatten(1)
            weights_BW, places_BW = joint_BX.topk(min(beam, joint_BX.shape[1]), dim=1)
            kept_BWT = paths_BWT.take_along_dim((places_BW // K)[:, :, None], 1)
            paths_BWT = torch.cat([kept_BWT, (places_BW % K)[:, :, None]], 2)
        return best_BK

    def end_epoch(self) -> None:
        """Count the positives of all ranks."""
        self.frequency_K = self.frequency_K + self.ranks.sum(self._pending_K)
        self._pending_K.zero_()

    def state_dict(self) -> dict[str, Any]:
        """The recurrent part and the label frequencies."""
        return {"recurrence": self._owned.state_dict(), "frequency": self.frequency_K.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore both."""
        self._owned.load_state_dict(state["recurrence"])
        self.frequency_K = state["frequency"].clone()

    def pending_state(self) -> dict[str, Any]:
        """This rank's label counts of the running epoch."""
        return {"frequency": self._pending_K}

    def load_pending_state(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self._pending_K = state["frequency"].clone()

    def _sequences(self, labels_BK: torch.Tensor) -> torch.Tensor:
        """int64 (B, T): positives, most frequent first, then -1; T at least 1."""
        order_K = torch.argsort(self.frequency_K, descending=True, stable=True).to(labels_BK.device)
        positive_BK = labels_BK[:, order_K] == POSITIVE
        longest = int(positive_BK.sum(1).max()) if len(labels_BK) else 0
        T = max(1, min(self.max_labels, longest))
        # Stable: positives to the front, in the order of frequency.
        places_BT = torch.argsort(positive_BK.int(), dim=1, descending=True, stable=True)[:, :T]
        return torch.where(positive_BK.take_along_dim(places_BT, 1), order_K[places_BT], -1)

    def _recur(self, leaves: dict[str, torch.Tensor], previous_BT: torch.Tensor) -> torch.Tensor:
        start_B1 = previous_BT.new_full((len(previous_BT), 1), self.num_classes)
        # What follows the end of a sequence is ignored by the loss: any label will do.
        inputs_BT = torch.cat([start_B1, previous_BT.clamp(min=0)], 1)
        if not len(inputs_BT):
            return torch.zeros(0, inputs_BT.shape[1], self.num_classes, device=inputs_BT.device)
        return functional_call(self._module, leaves, (inputs_BT,))
