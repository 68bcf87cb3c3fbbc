"""Score classes by a decoder over the positions of the feature map (Ridnik et al. 2021).

"ML-Decoder: Scalable and Versatile Classification Head", sections 2.2 and 2.3: one decoder layer
without self-attention, a fixed random query per group of classes, and a fully-connected layer per
group. Its cost grows with the groups, not with the classes, so that it serves thousands. Written
from the paper's text.

Shapes: B batch, D feature channels, K classes, H W space, S = H W positions, G groups, M width of
the decoder, C = ceil(K / G) classes of a group, A attention heads.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import nn

from sharding.errors import InputError

_FORWARD, _DROPOUT = 2048, 0.1


class MlDecoder(nn.Module):
    """Score K classes by G group queries that attend to the feature map.

    It has no activation maps, and so nothing for BoostLU to boost.

    Args:
        in_features: feature channels D.
        num_classes: K.
        groups: G, at most K.
        width: M.
        attention_heads: A.
    """

    alpha_infer = 1.0
    queries_GM: torch.Tensor

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        groups: int = 100,
        width: int = 768,
        attention_heads: int = 8,
    ) -> None:
        super().__init__()
        G = min(groups, num_classes)
        self.num_classes, self.attention_heads = num_classes, attention_heads
        self.embed = nn.Linear(in_features, width)
        # Fixed: learning them gained nothing in the paper.
        self.register_buffer("queries_GM", torch.randn(G, width))
        self.query, self.key, self.value, self.merge = (nn.Linear(width, width) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.feed_forward = nn.Sequential(
            nn.Linear(width, _FORWARD), nn.ReLU(), nn.Dropout(_DROPOUT), nn.Linear(_FORWARD, width)
        )
        self.dropout = nn.Dropout(_DROPOUT)
        self.weight_GMC = nn.Parameter(torch.empty(G, width, -(-num_classes // G)))
        nn.init.normal_(self.weight_GMC, std=width**-0.5)
        self.bias_K = nn.Parameter(torch.zeros(num_classes))

    def forward(self, features_BDHW: torch.Tensor) -> torch.Tensor:
        """Compute fp32 logits (B, K) of features (B, D, H, W)."""
        memory_BSM = F.relu(self.embed(features_BDHW.flatten(2).transpose(1, 2)))
        decoded_BGM = self._decode(memory_BSM)
        # Logits rounded to bf16 would tie.
        with torch.autocast(features_BDHW.device.type, enabled=False):
            by_group_GBC = decoded_BGM.float().transpose(0, 1) @ self.weight_GMC.float()
            logits_BX = by_group_GBC.transpose(0, 1).flatten(1)
            return logits_BX[:, : self.num_classes] + self.bias_K.float()

    def both(self, features_BDHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute fp32 logits (B, K) twice, as a CAM head does without and with the boost."""
        logits_BK = self(features_BDHW)
        return logits_BK, logits_BK

    def pair_scores(
        self, features_BDHW: torch.Tensor, rows_E: torch.Tensor, classes_E: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute fp32 logits (E,) of chosen (row, class) pairs, twice as `both` does."""
        logits_E = self(features_BDHW)[rows_E, classes_E]
        return logits_E, logits_E

    def cam(self, features_BDHW: torch.Tensor) -> NoReturn:
        """Refuse: there are no class activation maps.

        Raises:
            InputError: always.
        """
        raise no_maps()

    def _decode(self, memory_BSM: torch.Tensor) -> torch.Tensor:
        """Let the queries attend to the positions, then pass a feed-forward layer, (B, G, M)."""
        first, second, third = self.norms
        # Without self-attention, what it would add to a query is the query itself.
        queries_BGM = self.queries_GM.expand(memory_BSM.shape[0], -1, -1)
        queries_BGM = first(queries_BGM + self.dropout(queries_BGM))
        seen_BGM = self._attend(queries_BGM, memory_BSM)
        queries_BGM = second(queries_BGM + self.dropout(seen_BGM))
        return third(queries_BGM + self.dropout(self.feed_forward(queries_BGM)))

    def _attend(self, queries_BGM: torch.Tensor, memory_BSM: torch.Tensor) -> torch.Tensor:
        """Attend with A heads from the queries to the positions, (B, G, M)."""

        def by_head(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(2, (self.attention_heads, -1)).transpose(1, 2)

        seen_BAGX = F.scaled_dot_product_attention(
            by_head(self.query(queries_BGM)),
            by_head(self.key(memory_BSM)),
            by_head(self.value(memory_BSM)),
            dropout_p=_DROPOUT if self.training else 0.0,
        )
        return self.merge(seen_BAGX.transpose(1, 2).flatten(2))


def no_maps(checkpoint: str | Path | None = None) -> InputError:
    """Make the error of who asks for activation maps of this head."""
    return InputError(
        "ML-Decoder scores without class activation maps",
        file=checkpoint,
        fix="use a run with --head cam",
    )
