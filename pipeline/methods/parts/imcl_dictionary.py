"""Build IMCL's dictionary of training images and its label graph in one pass.

The reference reads both from files that are not in its repository; the rules here are inferred:
per class the positives with the smallest ids, and the share of a class's positives that also
show another.
"""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass

import torch

from pipeline.methods.parts.collectives import Collectives
from sharding.labels import POSITIVE


@dataclass(frozen=True, kw_only=True)
class Dictionary:
    """Atoms in the order of their ids.

    Attributes:
        ids_A: int64 image ids.
        features_AD: fp32 pooled features, a constant 1 appended.
        labels_AK: int8 tri-state labels.
        graph_KK: fp32 label graph, before normalisation.
    """

    ids_A: torch.Tensor
    features_AD: torch.Tensor
    labels_AK: torch.Tensor
    graph_KK: torch.Tensor


class DictionaryBuilder:
    """A dictionary collected batch by batch; the result does not depend on their order.

    Args:
        num_classes: K.
        atoms_per_class: positives to keep of each class.
    """

    def __init__(self, num_classes: int, atoms_per_class: int) -> None:
        self._atoms_per_class = atoms_per_class
        self._cooccurrence_KK = torch.zeros(num_classes, num_classes)
        self._ids_by_class: list[list[int]] = [[] for _ in range(num_classes)]
        self._images: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def add(self, features_BD: torch.Tensor, labels_BK: torch.Tensor, ids_B: torch.Tensor) -> None:
        """Add a batch."""
        labels_BK, features_BD = labels_BK.cpu(), features_BD.cpu()
        positive_BK = (labels_BK == POSITIVE).float()
        self._cooccurrence_KK += positive_BK.T @ positive_BK
        self._keep(features_BD, labels_BK, ids_B.cpu())

    def build(self, ranks: Collectives) -> Dictionary:
        """Merge what all ranks collected into one dictionary."""
        ids = self._kept_ids()
        K = len(self._ids_by_class)
        features = [self._images[i][0] for i in ids]
        labels = [self._images[i][1] for i in ids]
        width = self._width(features, ranks)
        parts = (
            torch.tensor(ids, dtype=torch.int64),
            torch.stack(features) if ids else torch.zeros(0, width),
            torch.stack(labels) if ids else torch.zeros(0, K, dtype=torch.int8),
        )
        ids_A, features_AD, labels_AK = (ranks.concatenate(part) for part in parts)
        # What each rank kept is more than the whole needs: choose again.
        whole = DictionaryBuilder(K, self._atoms_per_class)
        whole._keep(features_AD, labels_AK, ids_A)
        row_of = {i: row for row, i in enumerate(ids_A.tolist())}
        rows_A = torch.tensor([row_of[i] for i in whole._kept_ids()], dtype=torch.int64)
        cooccurrence_KK = ranks.sum(self._cooccurrence_KK)
        return Dictionary(
            ids_A=ids_A[rows_A],
            features_AD=features_AD[rows_A],
            labels_AK=labels_AK[rows_A],
            graph_KK=cooccurrence_KK / cooccurrence_KK.diagonal().clamp(min=1),
        )

    def _kept_ids(self) -> list[int]:
        return sorted(set(itertools.chain.from_iterable(self._ids_by_class)))

    def _keep(
        self, features_BD: torch.Tensor, labels_BK: torch.Tensor, ids_B: torch.Tensor
    ) -> None:
        ids = ids_B.tolist()
        for row, k in torch.nonzero(labels_BK == POSITIVE).tolist():
            smallest = self._ids_by_class[k]
            if ids[row] in smallest:
                continue
            bisect.insort(smallest, ids[row])
            del smallest[self._atoms_per_class :]
            if ids[row] in smallest:
                self._images[ids[row]] = (features_BD[row].clone(), labels_BK[row].clone())

    @staticmethod
    def _width(features: list[torch.Tensor], ranks: Collectives) -> int:
        """Find the feature width, also on a rank that kept nothing."""
        widths = ranks.concatenate(torch.tensor([len(f) for f in features[:1]]).long())
        return int(widths.max()) if len(widths) else 0
