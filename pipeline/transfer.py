"""From the host's memory to the device that trains, without waiting for what the device does."""

from __future__ import annotations

import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device; of one in the host's memory a copy that is still under way.

    What is computed there with it comes after. A copy from ordinary memory would wait until a GPU
    has done all it was given.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
