"""A CAM head whose logits are refined by a graph network over the classes (curriculum's)."""

from __future__ import annotations

import torch

from pipeline.methods.label_graph import LabelGraph
from pipeline.refinedhead import RefinedHead


class GraphHead(RefinedHead):
    """`CamHead`, then `LabelGraph`.

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

    def refined(self, logits_BK: torch.Tensor) -> torch.Tensor:
        """fp32 logits (B, K) after the messages between classes."""
        return self.graph(logits_BK)
