"""Labels joined to the images of a batch by their ids.

From the host's memory to the device that trains, without waiting for what the device does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from sharding.labels import UNOBSERVED, LabelTable, Observed


@dataclass(frozen=True, kw_only=True)
class LabelJoin:
    """Labels of a batch, looked up by image id and densified on the training device.

    Attributes:
        table: the label version trained or evaluated on.
        num_classes: K.
        device: where `dense` puts its result.
    """

    table: LabelTable
    num_classes: int
    device: torch.device

    def observed(self, image_ids_B: npt.NDArray[np.uint64]) -> Observed:
        """Observed entries of the batch, sparse, on the host."""
        return self.table.observed(self.table.rows_of(image_ids_B))

    def dense(self, image_ids_B: npt.NDArray[np.uint64]) -> torch.Tensor:
        """int8 (B, K) in {+1, 0, -1}; only the observed entries cross to the device."""
        entries = self.observed(image_ids_B)
        shape = (len(image_ids_B), self.num_classes)
        labels_BK = torch.full(shape, UNOBSERVED, dtype=torch.int8, device=self.device)
        flat_E = torch.from_numpy(entries.rows_E * self.num_classes + entries.classes_E)
        states_E = torch.from_numpy(entries.states_E)
        labels_BK.view(-1)[to_device(flat_E, self.device)] = to_device(states_E, self.device)
        return labels_BK


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device; of one in the host's memory a copy that is still under way.

    What is computed there with it comes after. A copy from ordinary memory would wait until a GPU
    has done all it was given.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
