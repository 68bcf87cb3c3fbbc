"""A sparse set of (image, class) entries that outlives epochs, ranks and restarts.

Images are immutable and the label table is read-only: what a method learns about labels lies
over them, keyed by image id, about 10 bytes per entry.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipeline.methods.ranks import Ranks
from sharding.labels import UNOBSERVED

_KEYS, _CLASSES = "image_ids", "classes"


class Overlay:
    """Entries sorted by (image id, class), plus those this rank added since the last merge.

    Ids are int64, the bit pattern of the uint64 image ids; the order is that of int64.
    """

    def __init__(self) -> None:
        self._ids_M = np.zeros(0, np.int64)
        self._classes_M = np.zeros(0, np.int32)
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []

    def __len__(self) -> int:
        return len(self._ids_M)

    def add(self, sample_ids_B: torch.Tensor, mask_BK: torch.Tensor) -> None:
        """Remember the entries set in ``mask_BK``; they count from the next `merge` on."""
        rows_M, classes_M = torch.nonzero(mask_BK, as_tuple=True)
        if len(rows_M):
            ids_M = sample_ids_B.cpu().numpy()[rows_M.cpu().numpy()]
            self._pending.append((ids_M, classes_M.cpu().numpy().astype(np.int32)))

    def discard_pending(self) -> None:
        """Forget what was added since the last merge."""
        self._pending.clear()

    def merge(self, ranks: Ranks) -> None:
        """Take in what all ranks added; afterwards the overlay is equal on all of them."""
        empty = (np.zeros(0, np.int64), np.zeros(0, np.int32))
        ids, classes = (np.concatenate(parts) for parts in zip(empty, *self._pending, strict=True))
        self._pending.clear()
        ids = ranks.concatenate(torch.from_numpy(ids)).numpy()
        classes = ranks.concatenate(torch.from_numpy(classes)).numpy()
        self._store(np.concatenate([self._ids_M, ids]), np.concatenate([self._classes_M, classes]))

    def find(self, sample_ids_B: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """(rows_M, classes_M), int64: the entries of a batch's images."""
        ids_B = sample_ids_B.cpu().numpy()
        first_B = np.searchsorted(self._ids_M, ids_B, "left")
        counts_B = np.searchsorted(self._ids_M, ids_B, "right") - first_B
        rows_M = np.repeat(np.arange(len(ids_B)), counts_B)
        starts_M = np.repeat(first_B - (np.cumsum(counts_B) - counts_B), counts_B)
        return rows_M, self._classes_M[starts_M + np.arange(len(rows_M))].astype(np.int64)

    def apply(
        self, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor, state: int
    ) -> torch.Tensor:
        """The labels with ``state`` in the overlay's entries; observed labels stay as they are."""
        rows_M, classes_M = (torch.from_numpy(a) for a in self.find(sample_ids_B))
        if not len(rows_M):
            return labels_BK
        rows_M, classes_M = rows_M.to(labels_BK.device), classes_M.to(labels_BK.device)
        labels_BK = labels_BK.clone()
        old_M = labels_BK[rows_M, classes_M]
        labels_BK[rows_M, classes_M] = torch.where(old_M == UNOBSERVED, state, old_M)
        return labels_BK

    def entries(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids_M, classes_M), both int64, sorted by id and class, without repetition."""
        return torch.from_numpy(self._ids_M), torch.from_numpy(self._classes_M.astype(np.int64))

    def state_dict(self) -> dict[str, Any]:
        """The merged entries as tensors."""
        return {
            _KEYS: torch.from_numpy(self._ids_M),
            _CLASSES: torch.from_numpy(self._classes_M),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace all entries."""
        self._pending.clear()
        self._store(state[_KEYS].numpy().copy(), state[_CLASSES].numpy().copy())

    def _store(self, ids_M: np.ndarray, classes_M: np.ndarray) -> None:
        order = np.lexsort((classes_M, ids_M))
        ids_M, classes_M = ids_M[order], classes_M[order]
        new = np.ones(len(ids_M), bool)
        new[1:] = (ids_M[1:] != ids_M[:-1]) | (classes_M[1:] != classes_M[:-1])
        self._ids_M, self._classes_M = ids_M[new], classes_M[new]
