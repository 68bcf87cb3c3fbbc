"""Precision over recall, averaged over the classes of each group."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pipeline import ranking
from pipeline.bootstrap import Judged
from pipeline.metrics import average_precision
from sharding.classes import NUM_GROUPS

# Middles of a thousand equal slices of recall: their mean is the area under the step curve.
LEVELS_L = (np.arange(1000) + 0.5) / 1000


def by_group(
    judged: Judged, groups_K: npt.NDArray[np.integer], rule: str = "boostlu"
) -> Mapping[str, npt.NDArray[np.float64]]:
    """Mean precision (L,) at `LEVELS_L` for "Group 1" .. "Group 5" and "All".

    The classes averaged are those that the rule counts; one without positive is a line at 0. The
    area under a curve is the group's mAP, up to 1 / L times the jumps of the curve.
    """
    num_classes = len(groups_K)
    columns = (judged.scores_E, judged.labels_E, judged.class_ids_E)
    ap_K = average_precision(*columns, num_classes, rule)
    keys_E = ranking.sorted_keys(*columns)
    curves_KL = ranking.precision_at_recall(keys_E, num_classes, LEVELS_L)
    counted_K = ~np.isnan(ap_K)
    curves_KL[counted_K & np.isnan(curves_KL[:, 0])] = 0
    members = {f"Group {g}": (groups_K == g) & counted_K for g in range(1, NUM_GROUPS + 1)}
    members["All"] = counted_K
    return {
        name: curves_KL[of].mean(axis=0) if of.any() else np.full(len(LEVELS_L), np.nan)
        for name, of in members.items()
    }
