"""Refine logits with a graph network over the classes (Durand et al. 2019, section 3.2).

Every class is a node whose first state is its score. The message to a node is the mean over the
others, which one sum gives all nodes; messages between all pairs would cost K squared. There is no
official code; the details are those of a third-party port.
"""

from __future__ import annotations

import torch
from torch import nn

from pipeline.models.cam_head import RefinedHead


class LabelGraph(nn.Module):
    """Pass messages between classes.

    Args:
        hidden: size of a node's state; memory is B x K x ``hidden`` floats per round.
        steps: rounds of messages.
    """

    def __init__(self, hidden: int = 1024, steps: int = 3) -> None:
        super().__init__()
        self.steps = steps
        self.message = nn.Linear(hidden, hidden)
        self.update = nn.GRUCell(hidden, hidden)
        self.readout = nn.Linear(hidden, 1)

    def forward(self, logits_BK: torch.Tensor) -> torch.Tensor:
        """Refine logits (B, K)."""
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
    """Refine the logits of a CAM head with a `LabelGraph`; the head of curriculum labelling.

    Args:
        in_features: feature channels D.
        num_classes: K.
        alpha_train: BoostLU factor in training mode.
        alpha_infer: BoostLU factor in evaluation mode.
        hidden: see `LabelGraph`.
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
        """Compute fp32 logits (B, K) after the messages between classes."""
        return self.graph(logits_BK)
