"""IMCL: labels and features of an image as sparse combinations of the same dictionary atoms.

Huynh and Elhamifar 2020, "Interactive Multi-Label CNN Learning with Partial Labels". Both
residuals are added to the cross-entropy of known entries.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.methods.parts import matching_pursuit
from pipeline.methods.parts.imcl_dictionary import Dictionary, DictionaryBuilder
from pipeline.methods.parts.owned_parameters import OwnedParameters
from pipeline.methods.protocol import Method, nothing_modified
from pipeline.models.cam_head import CamHead
from sharding.errors import InputError
from sharding.labels import POSITIVE, UNOBSERVED


class Imcl(Method):
    """Interactive learning (IMCL): images alike, and classes seen together, share labels.

    `attach` it to the head before training. The dictionary and the label graph come from the
    pass after each epoch; until the first, only known entries count. Differences from the
    reference: the dictionary is refreshed per epoch, not every 250 steps; the graph's non-zero
    entries are trained by Adam, not RMSProp; no schedule on a moving average of the validation
    score; ImageNet weights, not weights trained on Open Images.

    Args:
        num_classes: K.
        alpha_colab: weight of the label residual, relative to the cross-entropy of the first
            batch.
        alpha_feature: weight of the feature residual, likewise; 0 leaves it out.
        num_atoms: atoms per image (k; 3 end to end, 1 on fixed features).
        atoms_per_class: positives of each class in the dictionary.
        graph_lr: learning rate of the label graph.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        alpha_colab: float = 1.0,
        alpha_feature: float = 0.5,
        num_atoms: int = 3,
        atoms_per_class: int = 1,
        graph_lr: float = 5e-4,
    ) -> None:
        super().__init__(num_classes)
        if alpha_colab < 0 or alpha_feature < 0 or num_atoms < 1 or atoms_per_class < 1:
            raise InputError(
                "alpha_colab or alpha_feature below 0, or num_atoms or atoms_per_class below 1",
                fix="pass weights >= 0 and counts >= 1",
            )
        self.alphas = (alpha_colab, alpha_feature)
        self.num_atoms, self.atoms_per_class, self.graph_lr = num_atoms, atoms_per_class, graph_lr
        self.dictionary: Dictionary | None = None
        self.weights: tuple[float, float] | None = None
        self.graph: OwnedParameters | None = None
        self._head: CamHead | None = None
        self._features_BD: torch.Tensor | None = None
        self._builder = DictionaryBuilder(num_classes, atoms_per_class)

    def attach(self, head: CamHead) -> None:
        """Record the features a CAM head is given; its ``classifier`` scores the atoms."""
        self._head = head
        head.register_forward_pre_hook(self._record_features)

    def compute(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Average the known entries' cross-entropy; add both residuals given a dictionary."""
        known_BK = labels_BK != UNOBSERVED
        target = (labels_BK[known_BK] == POSITIVE).float()
        total = F.binary_cross_entropy_with_logits(logits_BK[known_BK], target, reduction="sum")
        known = self.ranks.sum(known_BK.sum()).clamp(min=1)
        loss = self.ranks.share(total / known)
        if self.dictionary is not None and self.graph is not None and self._head is not None:
            loss = self._with_residuals(loss, logits_BK, labels_BK)
        return loss, nothing_modified(labels_BK)

    def passes_wanted(self) -> int:
        """Ask for a pass after each epoch, for the dictionary's features."""
        return int(self._head is not None)

    def observe(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, sample_ids_B: torch.Tensor
    ) -> None:
        """Add a batch to the next dictionary."""
        self._builder.add(self._features(len(logits_BK)).detach(), labels_BK, sample_ids_B)

    def end_pass(self) -> None:
        """Replace the dictionary; the first one also makes the label graph."""
        self.dictionary = self._builder.build(self.ranks)
        self._builder = DictionaryBuilder(self.num_classes, self.atoms_per_class)
        if self.graph is None:
            self.set_graph(matching_pursuit.normalised_graph(self.dictionary.graph_KK))

    def state_dict(self) -> dict[str, Any]:
        """Return the dictionary, the trained graph and the weights set at the first batch."""
        if self.dictionary is None or self.graph is None:
            return {}
        weights = None if self.weights is None else torch.tensor(self.weights)
        return {
            "dictionary": dict(vars(self.dictionary)),
            "graph": self.graph.state_dict(),
            "weights": weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the dictionary, the graph and the weights."""
        if not state:
            return
        self.dictionary = Dictionary(**state["dictionary"])
        self.set_graph(state["graph"]["tensors"]["graph"])
        assert self.graph is not None
        self.graph.load_state_dict(state["graph"])
        weights = state["weights"]
        self.weights = None if weights is None else (float(weights[0]), float(weights[1]))

    def _with_residuals(
        self, logistic: torch.Tensor, logits_BK: torch.Tensor, labels_BK: torch.Tensor
    ) -> torch.Tensor:
        assert self.graph is not None
        leaves = self.graph.leaves(logits_BK.device)
        graph_KK = leaves["graph"]
        # Only co-occurrences that exist are trained.
        terms = self._residuals(logits_BK, labels_BK, graph_KK * (graph_KK != 0))
        if self.weights is None:
            self.weights = self._balance(logistic, terms)
        weighted = sum(w * term for w, term in zip(self.weights, terms, strict=True))
        loss = logistic + weighted
        if loss.requires_grad:
            self.graph.step(loss, leaves, self.ranks)
        return loss

    def _residuals(
        self, logits_BK: torch.Tensor, labels_BK: torch.Tensor, graph_KK: torch.Tensor
    ) -> list[torch.Tensor]:
        """Average the squared norms of the label and feature residuals over the global batch."""
        assert self.dictionary is not None
        assert self._head is not None
        features_BD = self._features(len(logits_BK))
        atoms_AD = self.dictionary.features_AD.to(logits_BK.device)
        weight, bias = self._head.classifier.weight.flatten(1), self._head.classifier.bias
        atom_logits_AK = F.linear(atoms_AD[:, :-1], weight, bias)
        atoms_AK = matching_pursuit.dictionary_labels(
            atom_logits_AK, graph_KK, self.dictionary.labels_AK.to(logits_BK.device)
        )
        completed_BK = matching_pursuit.completed(
            matching_pursuit.asymmetric_sigmoid(logits_BK), labels_BK
        )
        selected_BT, label_BT, feature_BT = matching_pursuit.pursue(
            completed_BK.detach(),
            features_BD.detach(),
            atoms_AK.detach(),
            atoms_AD,
            count=self.num_atoms,
            weights=self.weights or self.alphas,
        )
        pairs = ((completed_BK, atoms_AK, label_BT), (features_BD, atoms_AD, feature_BT))
        B = self.ranks.batch_size(logits_BK)
        return [
            self.ranks.share((matching_pursuit.residual(x, a, selected_BT, c) ** 2).sum() / B)
            for x, a, c in pairs
        ]

    def _balance(self, logistic: torch.Tensor, terms: list[torch.Tensor]) -> tuple[float, float]:
        values = self.ranks.sum(torch.stack([logistic, *terms]).detach()).tolist()
        label, feature = self.alphas
        return (
            label * values[0] / values[1] if values[1] else 0.0,
            feature * values[0] / values[2] if values[2] else 0.0,
        )

    def _features(self, B: int) -> torch.Tensor:
        if self._features_BD is None:
            raise InputError("method 'imcl' sees no features", fix="attach() it to the head")
        features_BD = self._features_BD[:B].float()
        return torch.cat([features_BD, features_BD.new_ones(B, 1)], 1)

    def _record_features(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._features_BD = inputs[0].mean((2, 3))

    def set_graph(self, graph_KK: torch.Tensor) -> None:
        """Train a label graph from these values on."""
        self.graph = OwnedParameters({"graph": graph_KK}, learning_rate=self.graph_lr)
