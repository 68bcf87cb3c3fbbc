"""The CAM head: 1x1 convolution, BoostLU on its maps, spatial mean (paper equations 2 and 3).

Shapes: B batch, D feature channels, K classes, H W space, E annotated (image, class) pairs.
"""

from __future__ import annotations

import torch
from torch import nn


def boostlu(x: torch.Tensor, alpha: float) -> torch.Tensor:
    """Multiply what is positive by ``alpha``; the derivative at 0 is 1 (paper section 4).

    Not ``max(x, alpha * x)``: the two differ for alpha below 1.
    """
    return x if alpha == 1 else torch.where(x > 0, alpha * x, x)


class CamHead(nn.Module):
    """Scores classes by the boosted mean of their activation maps.

    The bias lies inside the boost, as in the paper's code (its equation 2 shows none). With
    alpha 1 the head equals global average pooling and a linear classifier.

    Args:
        in_features: feature channels D.
        num_classes: K.
        alpha_train: BoostLU factor in training mode.
        alpha_infer: BoostLU factor in evaluation mode.
        bias: add a bias per class to the maps.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        alpha_train: float = 1.0,
        alpha_infer: float = 5.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(in_features, num_classes, kernel_size=1, bias=bias)
        self.alpha_train, self.alpha_infer = alpha_train, alpha_infer

    def forward(self, features_BDHW: torch.Tensor) -> torch.Tensor:
        """Logits (B, K)."""
        alpha = self.alpha_train if self.training else self.alpha_infer
        return boostlu(self.cam(features_BDHW), alpha).mean((2, 3))

    def cam(self, features_BDHW: torch.Tensor) -> torch.Tensor:
        """Class activation maps (B, K, H, W) before the boost, bias included."""
        return self.classifier(features_BDHW)

    def both(self, features_BDHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, K) without and with the boost of evaluation, from one CAM."""
        cam_BKHW = self.cam(features_BDHW)
        return cam_BKHW.mean((2, 3)), boostlu(cam_BKHW, self.alpha_infer).mean((2, 3))

    def pair_scores(
        self, features_BDHW: torch.Tensor, rows_E: torch.Tensor, classes_E: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (E,) of the pairs (row, class) alone, without and with the boost.

        Args:
            features_BDHW: features of the batch.
            rows_E: int64 position in the batch of each pair.
            classes_E: int64 class of each pair.
        """
        weight_KD = self.classifier.weight.flatten(1)
        cam_ES = torch.einsum("ed,eds->es", weight_KD[classes_E], features_BDHW.flatten(2)[rows_E])
        if self.classifier.bias is not None:
            cam_ES = cam_ES + self.classifier.bias[classes_E, None]
        return cam_ES.mean(1), boostlu(cam_ES, self.alpha_infer).mean(1)
