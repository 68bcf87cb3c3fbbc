"""ROLE's label estimator: an N x K matrix of learnable logits under dense Adam.

Under dense Adam every row moves in every step: a row outside the batch has no gradient but still
has momentum. Lazy or sparse variants are a different optimiser. A row whose image was never seen
has no momentum either, so rows can be made when their image first comes up.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from pipeline.methods.parts.prediction_buffer import refuse_dense
from sharding.labels import NEGATIVE, POSITIVE

_BETAS, _EPSILON = (0.9, 0.999), 1e-8
_POSITIVE_LOGIT, _NEGATIVE_LOGIT = math.log(0.995 / 0.005), math.log(0.005 / 0.995)
_RANGE = math.log(0.6 / 0.4)
_CLIP = 1e-5


class LabelEstimator:
    """Rows of learnable logits by image id, equal on all ranks.

    Args:
        num_classes: K.
        learning_rate: of Adam (default betas, no weight decay).
        seed: of the initial values.
    """

    BYTES = 12
    """Per entry: the logit and Adam's two moments."""

    def __init__(self, num_classes: int, *, learning_rate: float, seed: int) -> None:
        self.learning_rate = learning_rate
        self._num_classes, self._seed = num_classes, seed
        self._steps = 0
        self._row_by_id: dict[int, int] = {}
        # Logits and first and second moments.
        self._matrices_3NK = torch.zeros(3, 0, num_classes)

    def __len__(self) -> int:
        return len(self._row_by_id)

    def add_rows(self, ids_B: torch.Tensor, labels_BK: torch.Tensor) -> None:
        """Append initial rows for the images that have none.

        Raises:
            InputError: the matrices outgrow the limit; the message has the arithmetic.
        """
        new = {int(i): row for row, i in enumerate(ids_B.tolist()) if i not in self._row_by_id}
        if not new:
            return
        refuse_dense(
            len(self) + len(new), self._num_classes, self.BYTES, "the label estimator of ROLE"
        )
        labels_MK = labels_BK[list(new.values())]
        initial_MK = torch.from_numpy(np.stack([self._draw(image_id) for image_id in new]))
        initial_MK = initial_MK.to(labels_MK.device)
        initial_MK[labels_MK == POSITIVE] = _POSITIVE_LOGIT
        initial_MK[labels_MK == NEGATIVE] = _NEGATIVE_LOGIT
        self.set_rows(torch.tensor(list(new)), initial_MK)

    def set_rows(self, ids_M: torch.Tensor, logits_MK: torch.Tensor) -> None:
        """Append rows with given logits and no momentum."""
        self._row_by_id |= {i: len(self) + m for m, i in enumerate(ids_M.tolist())}
        self._grow(logits_MK.device, len(self))
        rows_M = self._rows_of(ids_M)
        self._matrices_3NK[:, rows_M] = 0
        self._matrices_3NK[0, rows_M] = logits_MK.float()

    def rows(self, ids_B: torch.Tensor) -> torch.Tensor:
        """Copy the images' logits, fp32 (B, K)."""
        return self._matrices_3NK[0, self._rows_of(ids_B)]

    def step(self, ids_B: torch.Tensor, gradient_BK: torch.Tensor) -> None:
        """Take one Adam step over all rows; those not named have gradient 0."""
        self._steps += 1
        logits_NK, mean_NK, square_NK = self._matrices_3NK[:, : len(self)]
        gradient_NK = torch.zeros_like(logits_NK)
        gradient_NK.index_add_(0, self._rows_of(ids_B), gradient_BK.to(logits_NK.device))
        mean_NK.lerp_(gradient_NK, 1 - _BETAS[0])
        square_NK.mul_(_BETAS[1]).addcmul_(gradient_NK, gradient_NK, value=1 - _BETAS[1])
        corrections = [1 - beta**self._steps for beta in _BETAS]
        divisor_NK = gradient_NK.copy_(square_NK).sqrt_().div_(math.sqrt(corrections[1]))
        divisor_NK.add_(_EPSILON)
        logits_NK.addcdiv_(mean_NK, divisor_NK, value=-self.learning_rate / corrections[0])

    def hand_over(self) -> None:
        """Re-make the logits from clipped probabilities and reset Adam (Linear Init)."""
        p_NK = torch.sigmoid(self._matrices_3NK[0]).clamp(_CLIP, 1 - _CLIP)
        self._matrices_3NK[0] = torch.log(p_NK / (1 - p_NK))
        self._matrices_3NK[1:] = 0
        self._steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Return ids, matrices and the number of steps."""
        return {
            "image_ids": torch.tensor(list(self._row_by_id), dtype=torch.int64),
            "matrices": self._matrices_3NK[:, : len(self)].cpu().clone(),
            "steps": torch.tensor(self._steps),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ids, matrices and the number of steps."""
        self._row_by_id = {i: row for row, i in enumerate(state["image_ids"].tolist())}
        self._matrices_3NK = state["matrices"].clone()
        self._steps = int(state["steps"])

    def _draw(self, image_id: int) -> np.ndarray:
        """Draw an image's initial logits from the seed and its id, equal at any world size."""
        bits = np.random.Philox(key=np.array([self._seed, image_id % 2**64], np.uint64))
        uniform = np.random.Generator(bits).random(self._num_classes, np.float32)
        return (_RANGE * (2 * uniform - 1)).astype(np.float32)

    def _rows_of(self, ids_B: torch.Tensor) -> torch.Tensor:
        rows = [self._row_by_id[i] for i in ids_B.tolist()]
        return torch.tensor(rows, dtype=torch.int64, device=self._matrices_3NK.device)

    def _grow(self, device: torch.device, rows: int) -> None:
        capacity = self._matrices_3NK.shape[1]
        wanted = capacity if rows <= capacity else max(rows, 2 * capacity)
        if wanted == capacity and self._matrices_3NK.device == device:
            return
        grown_3NK = torch.zeros(3, wanted, self._num_classes, device=device)
        grown_3NK[:, :capacity] = self._matrices_3NK.to(device)
        self._matrices_3NK = grown_3NK
