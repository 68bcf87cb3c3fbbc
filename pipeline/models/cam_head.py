"""Score classes by their activation maps: 1x1 convolution, BoostLU, mean (paper eq. 2 and 3).

The mean of a boosted map is ``mean(x) + (alpha - 1) * mean(relu(x))``: the first term is a linear
classifier on pooled features, and the second needs the maps of a few classes at a time. So no
pass holds the maps (B, K, H, W), which at 5,000 classes outweigh everything else the head makes;
the backward pass needs their signs alone, one byte each. An exported graph does hold them, since it
has to consist of standard operators.

Shapes: B batch, D feature channels, K classes, H W space, S = H W, R = B S positions, E annotated
(image, class) pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_CHUNK = 512
"""Classes whose maps are made at a time: wide enough for a fast GEMM, narrow enough for a buffer
that is small beside the gradients."""
_SLAB = 16
"""Pairs of one image scored by one batched GEMM; more would pad images that have few."""


def boostlu(x: torch.Tensor, alpha: float) -> torch.Tensor:
    """Multiply positive values by ``alpha``; the derivative at 0 is 1 (paper section 4).

    Not ``max(x, alpha * x)``: the two differ for alpha below 1.
    """
    return x if alpha == 1 else torch.where(x > 0, alpha * x, x)


class CamHead(nn.Module):
    """Score classes by the mean of their boosted activation maps.

    The bias lies inside the boost, as in the paper's code (its equation 2 shows none). With
    alpha 1 the head equals global average pooling and a linear classifier. Features are best
    channels_last: any other layout is copied once.

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
        """Compute fp32 logits (B, K) of features (B, D, H, W)."""
        alpha = self.alpha_train if self.training else self.alpha_infer
        if torch.compiler.is_exporting():
            return boostlu(self.cam(features_BDHW), alpha).mean((2, 3))
        weight_KD, bias_K = self._parameters_as(features_BDHW)
        if alpha == 1:
            return _pooled_linear(features_BDHW, weight_KD, bias_K)
        return _BoostedMean.apply(features_BDHW, weight_KD, bias_K, alpha)

    def cam(self, features_BDHW: torch.Tensor) -> torch.Tensor:
        """Compute the class activation maps (B, K, H, W) before the boost, bias included."""
        return self.classifier(features_BDHW)

    def both(self, features_BDHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute fp32 logits (B, K) without and with the boost of evaluation in one pass."""
        weight_KD, bias_K = self._parameters_as(features_BDHW)
        raw_BK = _pooled_linear(features_BDHW, weight_KD, bias_K)
        return raw_BK, _BoostedMean.apply(features_BDHW, weight_KD, bias_K, self.alpha_infer)

    def pair_scores(
        self, features_BDHW: torch.Tensor, rows_E: torch.Tensor, classes_E: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute fp32 logits (E,) of chosen (row, class) pairs, without and with the boost.

        Args:
            features_BDHW: features of the batch.
            rows_E: int64 position in the batch of each pair, in any order.
            classes_E: int64 class of each pair.
        """
        weight_KD, bias_K = self._parameters_as(features_BDHW)
        features_BSD = _positions(features_BDHW).view(len(features_BDHW), -1, weight_KD.shape[1])
        scores_2E = features_BDHW.new_zeros((2, len(rows_E)), dtype=torch.float32)
        for images, pairs_IP, filled_IP in _slabs(rows_E, len(features_BDHW)):
            weight_IPD = weight_KD[classes_E[pairs_IP]]
            cam_IPS = torch.bmm(weight_IPD, features_BSD[images].transpose(1, 2)).float()
            if bias_K is not None:
                cam_IPS += bias_K[classes_E[pairs_IP], None]
            both_2IP = torch.stack([cam_IPS.mean(2), boostlu(cam_IPS, self.alpha_infer).mean(2)])
            scores_2E[:, pairs_IP[filled_IP]] = both_2IP[:, filled_IP]
        return scores_2E[0], scores_2E[1]

    def _parameters_as(
        self, features_BDHW: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Cast the weight (K, D) and the bias (K,) to the precision of the features."""
        weight_KD, bias_K = self.classifier.weight.flatten(1), self.classifier.bias
        kind = features_BDHW.dtype
        return weight_KD.to(kind), None if bias_K is None else bias_K.to(kind)


class RefinedHead(CamHead):
    """Score classes by a function, `refined`, of the logits of all classes of a `CamHead`.

    The maps stay those of the classes themselves. Pairs cost as much as all scores.
    """

    def forward(self, features_BDHW: torch.Tensor) -> torch.Tensor:
        """Compute fp32 refined logits (B, K) of features (B, D, H, W)."""
        return self._in_fp32(super().forward(features_BDHW))

    def both(self, features_BDHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute fp32 refined logits (B, K) without and with the boost of evaluation."""
        raw_BK, boosted_BK = super().both(features_BDHW)
        return self._in_fp32(raw_BK), self._in_fp32(boosted_BK)

    def pair_scores(
        self, features_BDHW: torch.Tensor, rows_E: torch.Tensor, classes_E: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute fp32 refined logits (E,) of (row, class) pairs, without and with the boost."""
        raw_BK, boosted_BK = self.both(features_BDHW)
        return raw_BK[rows_E, classes_E], boosted_BK[rows_E, classes_E]

    def refined(self, logits_BK: torch.Tensor) -> torch.Tensor:
        """Refine fp32 logits (B, K); a subclass says how, by default they stay as they are."""
        return logits_BK

    def _in_fp32(self, logits_BK: torch.Tensor) -> torch.Tensor:
        # Logits rounded to bf16 would tie.
        with torch.autocast(logits_BK.device.type, enabled=False):
            return self.refined(logits_BK)


class _BoostedMean(torch.autograd.Function):
    """Average the boosted maps over space; save the maps' signs, not the maps."""

    @staticmethod
    def forward(
        ctx: Any,
        features_BDHW: torch.Tensor,
        weight_KD: torch.Tensor,
        bias_K: torch.Tensor | None,
        alpha: float,
    ) -> torch.Tensor:
        B, K = len(features_BDHW), len(weight_KD)
        rows_RD = _positions(features_BDHW)
        logits_BK = _pooled_linear(features_BDHW, weight_KD, bias_K)
        training = any(ctx.needs_input_grad)
        signs = []
        buffer = rows_RD.new_empty(len(rows_RD) * min(K, _CHUNK))
        for k in _chunks(K):
            cam_RK = buffer[: len(rows_RD) * (k.stop - k.start)].view(len(rows_RD), -1)
            torch.mm(rows_RD, weight_KD[k].T, out=cam_RK)
            if bias_K is not None:
                cam_RK += bias_K[k]
            if training:
                signs.append(cam_RK > 0)
            positive_BK = cam_RK.clamp_(min=0).view(B, -1, k.stop - k.start)
            logits_BK[:, k] += (alpha - 1) * positive_BK.mean(1, dtype=torch.float32)
        ctx.save_for_backward(features_BDHW, weight_KD, bias_K, *signs)
        ctx.alpha = alpha
        return logits_BK

    @staticmethod
    def backward(ctx: Any, upstream_BK: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        features_BDHW, weight_KD, bias_K, *signs = ctx.saved_tensors
        B, D, H, W = features_BDHW.shape
        K, S = len(weight_KD), H * W
        rows_RD = _positions(features_BDHW)
        # Half precision would lose the small terms of later chunks.
        gradient_RD = torch.zeros_like(rows_RD, dtype=torch.float32)
        gradient_KD = torch.empty_like(weight_KD)
        gradient_K = None if bias_K is None else torch.empty_like(bias_K)
        buffer = rows_RD.new_empty(len(rows_RD) * min(K, _CHUNK))
        for k, sign_RK in zip(_chunks(K), signs, strict=True):
            width = k.stop - k.start
            slope_BSK = buffer[: len(rows_RD) * width].view(B, S, width)
            base_BK = (upstream_BK[:, None, k] / S).to(rows_RD.dtype)
            # Derivative of the boost, 1 or alpha, times what comes from above.
            torch.mul(sign_RK.view(B, S, width), (ctx.alpha - 1) * base_BK, out=slope_BSK)
            slope_BSK += base_BK
            slope_RK = slope_BSK.view(-1, width)
            if rows_RD.dtype is torch.float32:
                gradient_RD.addmm_(slope_RK, weight_KD[k])
            else:
                gradient_RD += slope_RK @ weight_KD[k]
            torch.mm(slope_RK.T, rows_RD, out=gradient_KD[k])
            if gradient_K is not None:
                torch.sum(slope_RK, 0, out=gradient_K[k])
        gradient_BDHW = gradient_RD.to(rows_RD.dtype).view(B, H, W, D).permute(0, 3, 1, 2)
        return gradient_BDHW, gradient_KD, gradient_K, None


def _pooled_linear(
    features_BDHW: torch.Tensor, weight_KD: torch.Tensor, bias_K: torch.Tensor | None
) -> torch.Tensor:
    """Compute fp32 logits (B, K) of spatially averaged features.

    In fp32 whatever the precision of the features: logits rounded to bf16 would tie.
    """
    with torch.autocast(features_BDHW.device.type, enabled=False):
        pooled_BD = features_BDHW.mean((2, 3), dtype=torch.float32)
        bias = None if bias_K is None else bias_K.float()
        return nn.functional.linear(pooled_BD, weight_KD.float(), bias)


def _positions(features_BDHW: torch.Tensor) -> torch.Tensor:
    """Flatten features to (R, D): a view if they are channels_last."""
    return features_BDHW.permute(0, 2, 3, 1).reshape(-1, features_BDHW.shape[1])


def _chunks(K: int) -> list[slice]:
    return [slice(start, min(start + _CHUNK, K)) for start in range(0, K, _CHUNK)]


def _slabs(
    rows_E: torch.Tensor, B: int
) -> Iterator[tuple[torch.Tensor | slice, torch.Tensor, torch.Tensor]]:
    """Cut the pairs into rectangles of images x pairs: (images, pairs_IP, filled_IP).

    ``pairs_IP`` holds positions in ``rows_E``; where ``filled_IP`` is false there is none and
    the position is arbitrary.
    """
    if not len(rows_E):
        return
    order_E = torch.argsort(rows_E, stable=True)
    counts_B = torch.bincount(rows_E, minlength=B)
    starts_B = torch.cumsum(counts_B, 0) - counts_B
    for first in range(0, int(counts_B.max()), _SLAB):
        images = torch.nonzero(counts_B > first)[:, 0]
        width = min(_SLAB, int(counts_B.max()) - first)
        within_IP = first + torch.arange(width, device=rows_E.device).expand(len(images), -1)
        filled_IP = within_IP < counts_B[images, None]
        places_IP = starts_B[images, None] + torch.where(filled_IP, within_IP, first)
        # Indexing with every image would copy all features.
        yield slice(None) if len(images) == B else images, order_E[places_IP], filled_IP
