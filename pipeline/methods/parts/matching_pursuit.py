"""Orthogonal matching pursuit over labels and features, as IMCL's code does it.

Huynh and Elhamifar 2020, "Interactive Multi-Label CNN Learning with Partial Labels", section 3.

Shapes: B batch, K classes, D features (the last one constant 1), A dictionary atoms, T atoms
selected per image.
"""

from __future__ import annotations

import math

import torch

from sharding.labels import NEGATIVE, POSITIVE

_CLIP, _NEAR, _ACCEPT, _BALANCE = 80.0, 1e-3, 1e-3, 1e-4
_C = 2.0  # of the asymmetric sigmoid: negatives count half
Pair = tuple[torch.Tensor, torch.Tensor]
"""Of labels and of features."""


def asymmetric_sigmoid(x: torch.Tensor) -> torch.Tensor:
    """Squash logits to scores between -1/2 and 1, 0 at 0."""
    y = (x + 0.5 * math.log(1 / _C)).clamp(-_CLIP, _CLIP)
    rising, falling = torch.exp(y), torch.exp(-y)
    return (rising - falling / _C) / (rising + falling)


def completed(scores_BK: torch.Tensor, labels_BK: torch.Tensor) -> torch.Tensor:
    """Replace the scores of observed entries: 1 where positive, -1/2 where negative."""
    known_BK = torch.where(labels_BK == NEGATIVE, -1 / _C, scores_BK)
    return torch.where(labels_BK == POSITIVE, 1.0, known_BK)


def normalised_graph(graph_KK: torch.Tensor) -> torch.Tensor:
    """Normalise co-occurrence: diagonal 1, then columns that sum to 1."""
    graph_KK = graph_KK.clone().fill_diagonal_(1.0)
    return graph_KK / graph_KK.sum(0, keepdim=True)


def dictionary_labels(
    logits_AK: torch.Tensor, graph_KK: torch.Tensor, labels_AK: torch.Tensor
) -> torch.Tensor:
    """Spread the atoms' scores over the graph and replace observed entries, fp32 (A, K)."""
    return completed(asymmetric_sigmoid(logits_AK) @ graph_KK, labels_AK)


@torch.no_grad()
def pursue(
    labels_BK: torch.Tensor,
    features_BD: torch.Tensor,
    atoms_AK: torch.Tensor,
    atoms_AD: torch.Tensor,
    *,
    count: int,
    weights: tuple[float, float],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Select atoms by orthogonal matching pursuit over labels and features together.

    Args:
        labels_BK: completed labels of the batch.
        features_BD: its features.
        atoms_AK: completed labels of the dictionary.
        atoms_AD: its features.
        count: atoms per image, T.
        weights: loss weights of the label and the feature residual.

    Returns:
        (selected_BT int64, coefficients_label_BT, coefficients_feature_BT); an image that accepts
        fewer atoms has coefficient 0 at atom 0.
    """
    strongest = max(weights) + _BALANCE
    balance = (weights[0] / strongest, weights[1] / strongest)
    B = len(labels_BK)
    selected_BT = torch.zeros(B, count, dtype=torch.int64, device=labels_BK.device)
    coefficients_2BT = torch.zeros(2, B, count, device=labels_BK.device)
    for b in range(B):
        targets = (labels_BK[b], features_BD[b])
        allowed_A = (atoms_AD - features_BD[b]).norm(dim=1) >= _NEAR
        chosen, coefficients = _pursue_one(targets, (atoms_AK, atoms_AD), allowed_A, count, balance)
        selected_BT[b, : len(chosen)] = chosen
        for row_BT, values in zip(coefficients_2BT, coefficients, strict=True):
            row_BT[b, : len(chosen)] = values
    return selected_BT, coefficients_2BT[0], coefficients_2BT[1]


def residual(
    targets_BX: torch.Tensor,
    atoms_AX: torch.Tensor,
    selected_BT: torch.Tensor,
    coefficients_BT: torch.Tensor,
) -> torch.Tensor:
    """Subtract the selected atoms from the targets; gradient through both, fp32 (B, X)."""
    return targets_BX - torch.einsum("bt,btx->bx", coefficients_BT, atoms_AX[selected_BT])


def _pursue_one(
    targets: Pair,
    atoms: Pair,
    allowed_A: torch.Tensor,
    count: int,
    balance: tuple[float, float],
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    chosen: list[int] = []
    coefficients = [targets[0].new_zeros(0), targets[1].new_zeros(0)]
    residuals = list(targets)
    for _ in range(count):
        scores_A = _scores(residuals, atoms, balance)
        scores_A[~allowed_A] = -math.inf
        best = int(scores_A.argmax()) if len(scores_A) else -1
        if best < 0 or scores_A[best] < _ACCEPT or best in chosen:
            break
        chosen.append(best)
        for i, (target, atoms_AX) in enumerate(zip(targets, atoms, strict=True)):
            basis_XT = atoms_AX[chosen].T
            coefficients[i] = torch.linalg.lstsq(basis_XT, target[:, None]).solution[:, 0]
            residuals[i] = target - basis_XT @ coefficients[i]
    return torch.tensor(chosen, dtype=torch.int64), coefficients


def _scores(
    residuals: list[torch.Tensor], atoms: Pair, balance: tuple[float, float]
) -> torch.Tensor:
    """Score each atom's agreement with both residuals; negative if it points against them."""
    strength_A = agreement_A = torch.zeros(len(atoms[0]), device=atoms[0].device)
    for residual_X, atoms_AX, weight in zip(residuals, atoms, balance, strict=True):
        products_A = atoms_AX @ residual_X
        explained_A = products_A**2 / (atoms_AX**2).sum(1)
        strength_A = strength_A + weight * explained_A / explained_A.max()
        agreement_A = agreement_A + products_A.sign() * math.copysign(1, weight) * (weight != 0)
    return strength_A * agreement_A
