"""Read golden vectors of one batch; compare a loss and its gradient with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

CORES = ("core_spml_b16_c20", "core_mixed_b12_c20", "core_oi_b8_c5000")
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Core:
    """One core file: every loss of the references on one batch."""

    values: Any

    @classmethod
    def load(cls, shared: Path, name: str) -> Core:
        return cls(np.load(shared / "golden" / f"{name}.npz"))

    def __contains__(self, key: str) -> bool:
        return key in self.values.files

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    @property
    def logits_BK(self) -> torch.Tensor:
        return torch.from_numpy(self["logits"])

    @property
    def labels_BK(self) -> torch.Tensor:
        if "labels" in self:
            return torch.from_numpy(self["labels"])
        labels_BK = torch.full(self.logits_BK.shape, -1, dtype=torch.int8)
        rows, columns, states = torch.from_numpy(self["labels_coo_row_col_val"]).long()
        labels_BK[rows, columns] = states.to(torch.int8)
        return labels_BK

    def check(self, loss: Loss, key: str, at: tuple[int, ...] = (), gradient: str = "") -> None:
        """Compare the loss and its gradient with those stored as ``key``."""
        logits_BK = self.logits_BK.requires_grad_()
        value = loss(logits_BK, self.labels_BK)
        value.backward()
        if f"{key}_loss_f64" in self:  # the references in float64: what fp32 should come close to
            exact = self[f"{key}_loss_f64"][at]
            np.testing.assert_allclose(value.item(), exact, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(value.item(), self[f"{key}_loss"][at], rtol=1e-5, atol=1e-9)
        assert logits_BK.grad is not None
        self.check_gradient(logits_BK.grad.numpy(), gradient or f"{key}_grad", at)

    def check_gradient(self, gradient_BK: Any, key: str, at: tuple[int, ...] = ()) -> None:
        if key in self:
            np.testing.assert_allclose(gradient_BK, self[key][at], rtol=1e-4, atol=1e-6)
            return
        sampled = gradient_BK.reshape(-1)[self["grad_idx"]]
        np.testing.assert_allclose(sampled, self[f"{key}__at_idx"][at], rtol=1e-4, atol=1e-6)
        norm = np.linalg.norm(gradient_BK.astype(np.float64))
        np.testing.assert_allclose(norm, self[f"{key}__l2"][at], rtol=1e-4)
        total = gradient_BK.astype(np.float64).sum()
        np.testing.assert_allclose(total, self[f"{key}__sum"][at], rtol=1e-4, atol=1e-4)

    def mask(self, key: str, scheme: int, epoch: int) -> Any:
        """Read a stored mask of modified entries, bool (B, K)."""
        shape = self["logits"].shape
        if f"{key}_modified" in self:
            packed = self[f"{key}_modified"][scheme, epoch]
            return np.unpackbits(packed, axis=-1, count=shape[1]).astype(bool)
        mask_BK = np.zeros(shape, bool)
        coordinates = self[f"{key}_modified_coo"]
        rows = (coordinates[0] == scheme) & (coordinates[1] == epoch)
        mask_BK[coordinates[2, rows], coordinates[3, rows]] = True
        return mask_BK
