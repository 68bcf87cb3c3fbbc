"""Study the class activation maps of verified positives: their scores, and where they point.

A model trained on partial labels has maps of much the same shape as one trained on full labels,
but their positive end is lower (paper section 3); that is what BoostLU mends. Scores are counted
in fixed bins, so that runs are compared without running any of them again.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.labels import LabelledSplit
from pipeline.evaluation.pointing_game import Boxes, points_inside
from pipeline.inference.cams import positive_maps
from pipeline.models.cam_net import CamNet
from sharding.classes import NUM_GROUPS
from sharding.errors import InputError

BATCH = 16
"""Images per forward pass of a study; their maps depend on it in the last bits."""
# Zero is an edge: what is above it is counted exactly. The outermost bins hold all beyond.
WIDTH, LIMIT = 0.25, 60.0
EDGES = np.linspace(-LIMIT, LIMIT, round(2 * LIMIT / WIDTH) + 1)
# Sums of its multiples are exact, and so the same in any order, up to 2**33.
_GRAIN = 2.0**-20


@dataclass(frozen=True, kw_only=True)
class Attributions:
    """Scores of all positions of some class activation maps, before the boost.

    Attributes:
        counts_H: int64, scores per bin of `EDGES`.
        positive_sum: sum of the scores above zero, each rounded to `_GRAIN`.
    """

    counts_H: npt.NDArray[np.int64]
    positive_sum: float

    @classmethod
    def of(cls, scores: npt.NDArray[np.floating]) -> Attributions:
        """Count scores of any shape.

        Raises:
            InputError: a score is not finite.
        """
        flat = np.asarray(scores, np.float64).ravel()
        if not np.isfinite(flat).all():
            raise InputError("an attribution score is not finite", fix="use another checkpoint")
        # Counted from zero: adding the limit first would round what is just below zero up to it.
        bins = np.floor(flat / WIDTH).astype(np.int64) + (len(EDGES) - 1) // 2
        bins = np.clip(bins, 0, len(EDGES) - 2)
        counts_H = np.bincount(bins, minlength=len(EDGES) - 1)
        grains = np.rint(flat[flat > 0] / _GRAIN)
        return cls(counts_H=counts_H, positive_sum=float(grains.sum() * _GRAIN))

    def __add__(self, other: Attributions) -> Attributions:
        return Attributions(
            counts_H=self.counts_H + other.counts_H,
            positive_sum=self.positive_sum + other.positive_sum,
        )

    @property
    def above_zero(self) -> float:
        """Share of the scores that are evidence for their class; NaN of none."""
        total = self.counts_H.sum()
        return float(self.counts_H[EDGES[:-1] >= 0].sum() / total) if total else float("nan")

    @property
    def mean_above_zero(self) -> float:
        """Mean of the scores above zero; NaN of none."""
        count = self.counts_H[EDGES[:-1] >= 0].sum()
        return float(self.positive_sum / count) if count else float("nan")

    @property
    def density_H(self) -> npt.NDArray[np.float64]:
        """Density over `EDGES`, with area 1."""
        return self.counts_H / (max(1, self.counts_H.sum()) * WIDTH)

    def as_json(self) -> dict[str, Any]:
        """Convert to plain values; the inverse of `from_json`."""
        return {
            "edges": [float(edge) for edge in EDGES],
            "counts": self.counts_H.tolist(),
            "positive_sum": self.positive_sum,
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Attributions:
        """Rebuild the counts that an evaluation stored.

        Raises:
            KeyError, TypeError, ValueError: it is damaged, or counted in other bins.
        """
        counts_H = np.array(raw["counts"], np.int64)
        if not np.array_equal(raw["edges"], EDGES) or counts_H.shape != (len(EDGES) - 1,):
            raise ValueError("other bins")
        return cls(counts_H=counts_H, positive_sum=float(raw["positive_sum"]))


NONE = Attributions(counts_H=np.zeros(len(EDGES) - 1, np.int64), positive_sum=0.0)


@dataclass(frozen=True, kw_only=True)
class MapStudy:
    """Statistics of the maps of verified positives, before the boost.

    Attributes:
        attributions: scores of the maps of a split's first images.
        hits_K, pointed_K: int64; maps that point into a box of their class, and maps with a box.
    """

    attributions: Attributions
    hits_K: npt.NDArray[np.int64]
    pointed_K: npt.NDArray[np.int64]

    def __add__(self, other: MapStudy) -> MapStudy:
        return MapStudy(
            attributions=self.attributions + other.attributions,
            hits_K=self.hits_K + other.hits_K,
            pointed_K=self.pointed_K + other.pointed_K,
        )

    def pointing_game(self, groups_K: npt.NDArray[np.integer]) -> dict[str, float]:
        """Average the share of hits over classes, by group and over all; empty without boxes."""
        seen_K = self.pointed_K > 0
        if not seen_K.any():
            return {}
        rate_K = self.hits_K / np.maximum(1, self.pointed_K)
        means = {"all": float(rate_K[seen_K].mean())}
        for group in range(1, NUM_GROUPS + 1):
            chosen_K = seen_K & (groups_K == group)
            if chosen_K.any():
                means[f"group_{group}"] = float(rate_K[chosen_K].mean())
        return means


@torch.inference_mode()
def study(model: CamNet, split: LabelledSplit, images: int, boxes: Boxes | None = None) -> MapStudy:
    """Study the maps of a share of a split.

    Args:
        model: to compute the maps with.
        split: the share, in batches of `BATCH`.
        images: count the scores of this many images from the beginning of the whole split.
        boxes: play the pointing game with all images of the share.
    """
    model.eval()
    hits_K, pointed_K = (np.zeros(split.join.num_classes, np.int64) for _ in range(2))
    attributions = NONE
    places = itertools.count(split.loader.first, split.loader.batch_size)
    for first, batch in zip(places, split.epoch(0), strict=False):
        if boxes is None and first >= images:
            break
        if not len(batch):
            continue
        rows_P, classes_P, cam_PHW = positive_maps(model, batch)
        maps = zip(rows_P.tolist(), classes_P.tolist(), cam_PHW.cpu().numpy(), strict=True)
        for row, class_index, cam_HW in maps:
            if first + row < images:
                attributions += Attributions.of(cam_HW)
            if boxes is None:
                continue
            edges_M4 = boxes.of(int(batch.image_ids_B[row]), class_index)
            pointed_K[class_index] += len(edges_M4) > 0
            hits_K[class_index] += points_inside(cam_HW, edges_M4)
    return MapStudy(attributions=attributions, hits_K=hits_K, pointed_K=pointed_K)
