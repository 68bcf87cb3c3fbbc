"""A CAM head whose logits go through something that sees those of all classes together."""

from __future__ import annotations

import torch

from pipeline.head import CamHead


class RefinedHead(CamHead):
    """`CamHead`, then `refined`; the maps stay those of the classes themselves.

    Every score needs the logits of all classes, so pairs cost as much as the whole.
    """

    def forward(self, features_BDHW: torch.Tensor) -> torch.Tensor:
        """fp32 refined logits (B, K)."""
        return self._in_fp32(super().forward(features_BDHW))

    def both(self, features_BDHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """fp32 refined logits (B, K) without and with the boost of evaluation."""
        raw_BK, boosted_BK = super().both(features_BDHW)
        return self._in_fp32(raw_BK), self._in_fp32(boosted_BK)

    def pair_scores(
        self, features_BDHW: torch.Tensor, rows_E: torch.Tensor, classes_E: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """fp32 refined logits (E,) of the pairs (row, class), without and with the boost."""
        raw_BK, boosted_BK = self.both(features_BDHW)
        return raw_BK[rows_E, classes_E], boosted_BK[rows_E, classes_E]

    def refined(self, logits_BK: torch.Tensor) -> torch.Tensor:
        """fp32 logits (B, K) from those of the maps; as they are by default."""
        return logits_BK

    def _in_fp32(self, logits_BK: torch.Tensor) -> torch.Tensor:
        # Logits rounded to bf16 would tie.
        with torch.autocast(logits_BK.device.type, enabled=False):
            return self.refined(logits_BK)
