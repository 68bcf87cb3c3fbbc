"""Labels that a method adds over the read-only label table: sparse, by image id and class.

Equal on all ranks and kept in checkpoints; about 12 bytes per entry, 16 with a value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipeline.data.labels import to_device
from pipeline.methods.parts.collectives import Collectives
from sharding.labels import UNOBSERVED

_IDS, _COUNTS, _CLASSES, _VALUES = "image_ids", "counts", "classes", "values"
_NONE = tuple(torch.zeros(0, dtype=kind) for kind in (torch.int64, torch.int32, torch.float32))


class LabelOverlay:
    """Entries sorted by (image id, class), plus those this rank added since the last merge.

    Ids are int64, the bit pattern of the uint64 image ids; the order is that of int64. Every
    entry has a fp32 value, NaN where the set alone matters.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[torch.Tensor, ...]] = []
        self.replace(np.zeros(0, np.int64), np.zeros(0, np.int32))

    def __len__(self) -> int:
        return len(self._ids_M)

    def add(
        self,
        sample_ids_B: torch.Tensor,
        mask_BK: torch.Tensor,
        values_BK: torch.Tensor | None = None,
    ) -> None:
        """Add the entries set in ``mask_BK``, with effect from the next `merge` on."""
        rows_M, classes_M = torch.nonzero(mask_BK, as_tuple=True)
        if not len(rows_M):
            return
        nans_M = torch.full((len(rows_M),), torch.nan)
        values_M = nans_M if values_BK is None else values_BK[rows_M, classes_M].float()
        ids_M = sample_ids_B.cpu()[rows_M.cpu()]
        self._pending.append((ids_M, classes_M.to(torch.int32).cpu(), values_M.cpu()))

    def discard_pending(self) -> None:
        """Discard what was added since the last merge."""
        self._pending.clear()

    def pending(self) -> tuple[torch.Tensor, ...]:
        """Return what this rank added since the last merge: ids, classes and values."""
        return tuple(torch.cat(parts) for parts in zip(_NONE, *self._pending, strict=True))

    def set_pending(self, columns: tuple[torch.Tensor, ...]) -> None:
        """Restore this rank's `pending`."""
        self._pending = [tuple(columns)]

    def merge(self, ranks: Collectives) -> None:
        """Add what all ranks added; afterwards the overlay is equal on all of them."""
        columns = self.pending()
        self.extend(*(ranks.concatenate(column).numpy() for column in columns))

    def extend(
        self, ids_M: np.ndarray, classes_M: np.ndarray, values_M: np.ndarray | None = None
    ) -> None:
        """Add entries, equal on all ranks; of a repeated one the older value stays."""
        nans_M = np.full(len(ids_M), np.nan, np.float32)
        self.replace(
            np.concatenate([self._ids_M, ids_M]),
            np.concatenate([self._classes_M, classes_M.astype(np.int32)]),
            np.concatenate([self._values_M, nans_M if values_M is None else values_M]),
        )

    def replace(
        self, ids_M: np.ndarray, classes_M: np.ndarray, values_M: np.ndarray | None = None
    ) -> None:
        """Replace all entries."""
        self._pending.clear()
        order = np.lexsort((classes_M, ids_M))
        ids_M, classes_M = ids_M[order], classes_M[order]
        new = np.ones(len(ids_M), bool)
        new[1:] = (ids_M[1:] != ids_M[:-1]) | (classes_M[1:] != classes_M[:-1])
        self._ids_M, self._classes_M = ids_M[new], classes_M[new].astype(np.int32)
        nans = np.full(len(order), np.nan) if values_M is None else values_M[order]
        self._values_M = nans[new].astype(np.float32)

    def find(self, sample_ids_B: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Look up a batch's entries: (rows_M, classes_M, values_M), in host memory."""
        ids_B = sample_ids_B.cpu().numpy()
        first_B = np.searchsorted(self._ids_M, ids_B, "left")
        counts_B = np.searchsorted(self._ids_M, ids_B, "right") - first_B
        rows_M = np.repeat(np.arange(len(ids_B)), counts_B)
        starts_M = np.repeat(first_B - (np.cumsum(counts_B) - counts_B), counts_B)
        positions_M = starts_M + np.arange(len(rows_M))
        classes_M = self._classes_M[positions_M].astype(np.int64)
        columns = (rows_M, classes_M, self._values_M[positions_M])
        return tuple(torch.from_numpy(column) for column in columns)

    def apply(
        self, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor, state: int | None = None
    ) -> torch.Tensor:
        """Set the overlay's entries in labels; observed labels stay as they are.

        Args:
            labels_BK: int8 (B, K).
            sample_ids_B: the images' ids.
            state: what to set; the entries' own values where none is given.
        """
        rows_M, classes_M, values_M = (
            to_device(part, labels_BK.device) for part in self.find(sample_ids_B)
        )
        if not len(rows_M):
            return labels_BK
        old_M = labels_BK[rows_M, classes_M]
        new_M = values_M.to(torch.int8) if state is None else torch.full_like(old_M, state)
        labels_BK = labels_BK.clone()
        labels_BK[rows_M, classes_M] = torch.where(old_M == UNOBSERVED, new_M, old_M)
        return labels_BK

    def entries(self) -> tuple[torch.Tensor, torch.Tensor]:
        """List (ids_M, classes_M), both int64, sorted by id and class, without repetition."""
        return torch.from_numpy(self._ids_M), torch.from_numpy(self._classes_M.astype(np.int64))

    def state_dict(self) -> dict[str, Any]:
        """Return the merged entries as tensors: each image once, with its number of entries."""
        ids, counts = np.unique(self._ids_M, return_counts=True)
        columns = {_IDS: ids, _COUNTS: counts.astype(np.int32), _CLASSES: self._classes_M}
        if not np.isnan(self._values_M).all():
            columns[_VALUES] = self._values_M
        return {name: torch.from_numpy(column) for name, column in columns.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the merged entries."""
        ids_M = np.repeat(state[_IDS].numpy(), state[_COUNTS].numpy())
        values = state.get(_VALUES)
        self.replace(ids_M, state[_CLASSES].numpy(), None if values is None else values.numpy())
