"""Collect an epoch's candidates while it trains: the unobserved entries with the largest losses.

Whatever the method, an unobserved entry has a loss as if it were negative, and it grows with the
logit: the candidates are the entries with the largest logits at the moment they were trained on.
Exact over all ranks and the same however entries are spread over them: ties are broken by a hash
of image and class. Nothing waits for the device before the epoch's end.

Shapes: B batch, K classes, E = B K, F entries looked at in a step, N candidates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pipeline.audit.candidates import CORRECTED, KEPT, REJECTED, Candidates
from pipeline.data.labels import to_device
from pipeline.methods.parts.collectives import Collectives
from pipeline.methods.parts.float_order import floats_of, ordered_integers
from pipeline.methods.parts.label_overlay import LabelOverlay
from pipeline.methods.protocol import StepResult
from sharding.labels import UNOBSERVED

_REJECTING = frozenset({"ll-r", "p-asl"})
"""Methods that leave out what they modify; the others train on a label that they choose."""
_NONE = torch.iinfo(torch.int64).min


class Collector:
    """Keep this rank's candidates while an epoch runs.

    Args:
        most: candidates per epoch over all ranks; 0 collects nothing.
        device: where the logits are.
    """

    def __init__(self, most: int, device: torch.device) -> None:
        self.most, self._device = most, device
        self.begin()

    def begin(self) -> None:
        """Enter an epoch."""
        self._counts = torch.zeros(2, dtype=torch.int64, device=self._device)
        kinds = (torch.int64, torch.int64, torch.int32, torch.bool)
        self._columns = tuple(torch.zeros(0, dtype=kind, device=self._device) for kind in kinds)
        self._bound = -math.inf

    @torch.no_grad()
    def add(self, result: StepResult) -> None:
        """Add one step of this rank."""
        if not self.most:
            return
        logits_E, labels_E = result.logits_BK.reshape(-1), result.labels_BK.reshape(-1)
        modified_E = result.modified_BK.reshape(-1)
        counted = (labels_E == UNOBSERVED, modified_E)
        self._counts += torch.stack([torch.count_nonzero(mask_E) for mask_E in counted])
        places_F = self._places(logits_E, labels_E)
        ids_B = to_device(result.batch.sample_ids, self._device)
        K = result.logits_BK.shape[1]
        ids_F, classes_F = ids_B[places_F // K], places_F % K
        keys_F = _keys(logits_E[places_F], ids_F, classes_F)
        keys_F = torch.where(labels_E[places_F] == UNOBSERVED, keys_F, _NONE)
        new = (keys_F, ids_F, classes_F.to(torch.int32), modified_E[places_F])
        self._keep_largest(tuple(torch.cat(pair) for pair in zip(self._columns, new, strict=True)))

    def _places(self, logits_E: torch.Tensor, labels_E: torch.Tensor) -> torch.Tensor:
        """List the flat positions that may be candidates."""
        if self._device.type == "cpu":
            mask_E = logits_E.numpy() >= np.float32(self._bound)
            mask_E &= labels_E.numpy() == UNOBSERVED
            return torch.from_numpy(np.flatnonzero(mask_E))
        # To list those that reach the bound would wait for the device.
        return torch.arange(len(logits_E), device=self._device)

    def _keep_largest(self, columns: tuple[torch.Tensor, ...]) -> None:
        keys = columns[0]
        if len(keys) > self.most:
            best = torch.topk(keys, self.most, sorted=False).indices
            columns = tuple(column[best] for column in columns)
            if self._device.type == "cpu":
                self._bound = float(_logits_of(columns[0].min()))
        self._columns = columns

    def state_dict(self) -> dict[str, Any]:
        """Copy this rank's candidates and counts within an epoch to the host."""
        return {"counts": self._counts.cpu(), "columns": [c.cpu() for c in self._columns]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`, of a collector for more or fewer; an empty one begins the epoch."""
        self.begin()
        if state and self.most:
            self._counts = state["counts"].to(self._device)
            self._keep_largest(tuple(c.to(self._device) for c in state["columns"]))

    def finish(
        self,
        *,
        epoch: int,
        method: str,
        labels: str,
        images_seen: int,
        overlay: LabelOverlay | None = None,
    ) -> Candidates:
        """Gather the candidates of all ranks, equal on each; every rank calls it.

        Args:
            epoch, method, labels, images_seen: see `Candidates`.
            overlay: labels that the method trained on in this epoch in place of "unobserved";
                their entries count as corrected although no step selected them.
        """
        ranks = Collectives()
        unobserved, modified = ranks.sum(self._counts).tolist()
        keys, ids, classes, flags = (
            ranks.concatenate(column.to(torch.int64)).cpu() for column in self._columns
        )
        order = np.lexsort((classes.numpy(), ids.numpy(), ~keys.numpy()))
        order = order[keys.numpy()[order] != _NONE][: self.most]
        logits_N = _logits_of(keys[order])
        ids_N, classes_N, modified_N = ids[order], classes[order], flags[order].bool()
        word = REJECTED if method in _REJECTING else CORRECTED
        decisions_N = np.where(modified_N.numpy(), word, KEPT)
        if overlay is not None:
            rows_M, found_M, _ = overlay.find(ids_N)
            decisions_N[rows_M[found_M == classes_N[rows_M]].numpy()] = CORRECTED
        return Candidates(
            epoch=epoch,
            method=method,
            labels=labels,
            images_seen=images_seen,
            unobserved=unobserved,
            modified=modified,
            image_ids_N=ids_N.numpy().view(np.uint64),
            classes_N=classes_N.numpy().astype(np.uint16),
            losses_N=torch.nn.functional.softplus(logits_N).numpy(),
            probabilities_N=torch.sigmoid(logits_N).numpy(),
            decisions_N=decisions_N,
        )


def _keys(logits_F: torch.Tensor, ids_F: torch.Tensor, classes_F: torch.Tensor) -> torch.Tensor:
    """Make int64 keys that sort as the fp32 logits do; ties by a hash of image and class."""
    tie_F = (ids_F ^ (classes_F * 0x632BE59BD9B4E019)) * 0x5851F42D4C957F2D
    tie_F = (tie_F ^ (tie_F >> 32)) & 0xFFFFFFFF
    return (ordered_integers(logits_F).long() << 32) | tie_F


def _logits_of(keys: torch.Tensor) -> torch.Tensor:
    return floats_of((keys >> 32).to(torch.int32))
