"""A graph network over classes that refines logits (Durand et al. 2019, section 3.2; after a
third-party port, for want of official code).

Every class is a node whose first state is its score. Messages between all pairs of classes would
cost K squared; the message to a node is the mean over the others, which one sum gives all nodes.

A CAM head whose logits are refined by a graph network over the classes (curriculum's).
"""

from __future__ import annotations

import torch
from torch import nn

from pipeline.models.cam_head import RefinedHead


class LabelGraph(nn.Module):
    """Maps logits (B, K) to refined logits (B, K); memory B x K x ``hidden`` floats per step.

    Args:
        hidden: size of a node's state.
        steps: rounds of messages.
    """

    def __init__(self, hidden: int = 1024, steps: int = 3) -> None:
        super().__init__()
        self.steps = steps
        self.message = nn.Linear(hidden, hidden)
        self.update = nn.GRUCell(hidden, hidden)
        self.readout = nn.Linear(hidden, 1)

    def forward(self, logits_BK: torch.Tensor) -> torch.Tensor:
        """Refined logits (B, K)."""
        B, K = logits_BK.shape
        hidden = self.message.out_features
        states_BKH = nn.functional.pad(logits_BK[:, :, None], (0, hidden - 1))
        for _ in range(self.steps):
            sent_BKH = torch.relu(self.message(states_BKH))
            others_BKH = (sent_BKH.sum(1, keepdim=True) - sent_BKH) / max(K - 1, 1)
            updated = self.update(others_BKH.flatten(0, 1), states_BKH.flatten(0, 1))
            states_BKH = updated.view(B, K, hidden)
        return self.readout(states_BKH)[:, :, 0]


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
