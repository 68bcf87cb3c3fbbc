"""A CAM head whose logits are refined by a graph network over the classes (curriculum's)."""

from __future__ import annotations

import torch

from pipeline.head import CamHead
from pipeline.methods.label_graph import LabelGraph


class GraphHead(CamHead):
    """`CamHead`, then `LabelGraph`; the maps stay those of the classes themselves.

    Every score needs the logits of all classes, so pairs cost as much as the whole.

    Args:
        in_features: feature channels D.
        num_classes: K.
        alpha_train: BoostLU factor in training mode.
        alpha_infer: BoostLU factor in evaluation mode.
        hidden: size of a node's state; memory is B x K x ``hidden`` floats per round.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        alpha_train: float = 1.0,
        alpha_infer: float = 5.0,
        *,
        hidden: int,
    ) -> None:
        super().__init__(in_features, num_classes, alpha_train, alpha_infer)
        self.graph = LabelGraph(hidden)

    def forward(self, features_BDHW: torch.Tensor) -> torch.Tensor:
        """fp32 refined logits (B, K)."""
        return self._refined(super().forward(features_BDHW))

    def both(self, features_BDHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """fp32 refined logits (B, K) without and with the boost of evaluation."""
        raw_BK, boosted_BK = super().both(features_BDHW)
        return self._refined(raw_BK), self._refined(boosted_BK)

    def pair_scores(
        self, features_BDHW: torch.Tensor, rows_E: torch.Tensor, classes_E: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """fp32 refined logits (E,) of the pairs (row, class), without and with the boost."""
        raw_BK, boosted_BK = self.both(features_BDHW)
        return raw_BK[rows_E, classes_E], boosted_BK[rows_E, classes_E]

    def _refined(self, logits_BK: torch.Tensor) -> torch.Tensor:
        # In fp32: logits rounded to bf16 would tie.
        with torch.autocast(logits_BK.device.type, enabled=False):
            return self.graph(logits_BK)
