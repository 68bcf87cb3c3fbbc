"""Annotated entries made of a few arrays."""

from __future__ import annotations

import numpy as np

from pipeline.evaluation.scores import Scores


def make_scores(
    logits_E: np.ndarray,
    labels_E: np.ndarray,
    classes_E: np.ndarray,
    image_ids_E: np.ndarray | None = None,
) -> Scores:
    """Entries whose logits BoostLU does not change; by default each of another image."""
    logits_E = np.asarray(logits_E, np.float32)
    return Scores(
        image_ids_E=np.arange(len(logits_E)) if image_ids_E is None else image_ids_E,
        classes_E=np.asarray(classes_E),
        labels_E=np.asarray(labels_E, np.int8),
        raw_E=logits_E,
        boosted_E=logits_E,
    )


def reordered(scores: Scores, order_E: np.ndarray) -> Scores:
    """The same entries in another order, or some of them."""
    return Scores(**{name: values_E[order_E] for name, values_E in vars(scores).items()})
