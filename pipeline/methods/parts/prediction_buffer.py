"""Keep predictions for all training images, for methods that relabel from them.

Dense N x K, so for data of single-positive scale; larger sets are refused before they fill the
memory.
"""

from __future__ import annotations

import numpy as np
import torch

from pipeline.methods.parts.collectives import Collectives
from sharding.errors import InputError

_LIMIT = 4 * 1024**3
_BYTES = 5  # a fp32 logit and an int8 label
_ENTRY_BYTES = 16  # of an overlay: image, class and value


def refuse_dense(num_images: int, num_classes: int, bytes_each: int, what: str) -> None:
    """Refuse a matrix of images x classes that takes more than 4 GiB, showing the arithmetic.

    Raises:
        InputError: it does not fit.
    """
    _refuse(
        num_images * num_classes * bytes_each,
        f"{what}: {num_images:,} images x {num_classes:,} classes x {bytes_each} bytes",
        fix="use it on single-positive data sets; at Open Images scale use ll-r, ll-ct, ll-cp or "
        "p-asl",
    )


def refuse_predictions(num_images: int, num_classes: int) -> None:
    """Refuse to keep the predictions of so many images."""
    refuse_dense(num_images, num_classes, _BYTES, "predictions of the training set")


def refuse_added(entries: int) -> None:
    """Refuse labels added so far that take more than 4 GiB on every worker.

    Raises:
        InputError: they do not fit.
    """
    _refuse(
        entries * _ENTRY_BYTES,
        f"labels added from predictions: {entries:,} entries x {_ENTRY_BYTES} bytes",
        fix="pass --method-options negative_threshold=-inf, which adds positives alone, or "
        "thresholds further from 0",
    )


def _refuse(size: int, arithmetic: str, fix: str) -> None:
    if size > _LIMIT:
        limit = f"{_LIMIT / 1024**3:.0f} GiB"
        raise InputError(
            f"{arithmetic} = {size / 1024**3:,.1f} GiB, and the limit is {limit}", fix=fix
        )


class PredictionBuffer:
    """Logits and labels of the images seen by this rank in one pass."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._count = 0
        self._parts: list[tuple[torch.Tensor, ...]] = []

    def add(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor
    ) -> None:
        """Keep a batch in host memory."""
        self._count += len(logits_BK)
        refuse_predictions(self._count, self._num_classes)
        batch = (logits_BK.detach().float(), labels_BK, sample_ids_B)
        self._parts.append(tuple(part.cpu() for part in batch))

    def gather(self, ranks: Collectives) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Collect what all ranks keep, each image once, and empty the buffer.

        Returns:
            (logits_NK fp32, labels_NK int8, ids_N int64), sorted by id.
        """
        K = self._num_classes
        none = (torch.zeros(0, K), torch.zeros(0, K, dtype=torch.int8), torch.zeros(0).long())
        columns = [torch.cat(parts) for parts in zip(none, *self._parts, strict=True)]
        self._parts.clear()
        self._count = 0
        logits_NK, labels_NK, ids_N = (ranks.concatenate(part).numpy() for part in columns)
        # Ranks may repeat images to keep in step.
        ids_N, first = np.unique(ids_N, return_index=True)
        return logits_NK[first], labels_NK[first], ids_N
