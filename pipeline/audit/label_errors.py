"""Find verified labels that are likely wrong: those that every network contradicts.

The networks may be moving averages, those of several epochs or seeds, or such as were trained on
draws of the labels (`reshard --known`): one that was trained on a wrong label may have learned it.

Shapes: E entries of one evaluation, A different entries of all of them, N label errors, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharding.image_ids import Ids
from sharding.labels import NEGATIVE, POSITIVE, LabelTable, entry_keys

Floats = npt.NDArray[np.float64]
_SMALLEST = 1e-300


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """What one network says of verified labels: equally long, in any order.

    Attributes:
        image_ids_E, classes_E: the entries, each once.
        labels_E: int8, POSITIVE or NEGATIVE.
        logits_E: that the class is present.
    """

    image_ids_E: Ids
    classes_E: npt.NDArray[np.integer]
    labels_E: npt.NDArray[np.int8]
    logits_E: npt.NDArray[np.floating]

    def select(self, mask_E: npt.NDArray[np.bool_]) -> Opinion:
        """Select entries."""
        fields = (field.name for field in dataclasses.fields(self))
        return Opinion(**{name: getattr(self, name)[mask_E] for name in fields})

    def held_out(self, trained: LabelTable) -> Opinion:
        """Select the entries that a network did not train on, by the labels that it had."""
        rows_E = trained.rows_of(self.image_ids_E)
        entries = trained.entries()
        learned = entry_keys(entries.rows_E, entries.classes_E)
        known_E = rows_E >= 0
        known_E &= np.isin(entry_keys(np.maximum(rows_E, 0), self.classes_E), learned)
        return self.select(~known_E)


@dataclass(frozen=True, kw_only=True)
class LabelErrors:
    """Labels that all networks contradict, largest loss first.

    Attributes:
        image_ids_N, classes_N, labels_N: the entries and their verified labels.
        losses_N: cross-entropy of the label by the mean of the networks' probabilities.
        probabilities_N: that mean, of the class being present.
        networks_N: how many networks judged the entry.
        judged: entries that any network judged.
    """

    image_ids_N: Ids
    classes_N: npt.NDArray[np.integer]
    labels_N: npt.NDArray[np.int8]
    losses_N: Floats
    probabilities_N: Floats
    networks_N: npt.NDArray[np.int64]
    judged: int

    def __len__(self) -> int:
        return len(self.image_ids_N)

    def first(self, count: int) -> LabelErrors:
        """Select the first ones."""
        columns = [f.name for f in dataclasses.fields(self) if f.name.endswith("_N")]
        return dataclasses.replace(self, **{name: getattr(self, name)[:count] for name in columns})


def find(opinions: Sequence[Opinion], num_classes: int) -> LabelErrors:
    """Find the entries that every network that judged them contradicts (`contradicts`).

    Args:
        opinions: one per network; an entry has the same label in all.
        num_classes: K.
    """
    ids_E, classes_E, labels_E = (
        np.concatenate([getattr(opinion, name) for opinion in opinions])
        for name in ("image_ids_E", "classes_E", "labels_E")
    )
    logits_E = np.concatenate([opinion.logits_E for opinion in opinions]).astype(np.float64)
    against_E = np.concatenate([contradicts(opinion, num_classes) for opinion in opinions])
    kinds = [("image", np.uint64), ("class", np.int64)]
    entries_E = np.empty(len(ids_E), kinds)
    entries_E["image"], entries_E["class"] = ids_E, classes_E
    _, first_A, entry_E = np.unique(entries_E, return_index=True, return_inverse=True)
    networks_A = np.bincount(entry_E)
    agreed_A = np.bincount(entry_E, against_E) == networks_A
    present_A = np.bincount(entry_E, _probabilities(logits_E)) / networks_A
    labels_A = labels_E[first_A]
    own_E = _probabilities(np.where(labels_E == POSITIVE, logits_E, -logits_E))
    losses_A = -np.log(np.maximum(np.bincount(entry_E, own_E) / networks_A, _SMALLEST))
    order = np.argsort(-losses_A, kind="stable")  # ties by image and class
    order = order[agreed_A[order]]
    return LabelErrors(
        image_ids_N=ids_E[first_A[order]],
        classes_N=classes_E[first_A[order]],
        labels_N=labels_A[order],
        losses_N=losses_A[order],
        probabilities_N=present_A[order],
        networks_N=networks_A[order],
        judged=len(first_A),
    )


def contradicts(opinion: Opinion, num_classes: int) -> npt.NDArray[np.bool_]:
    """Tell which labels a network contradicts by confident learning, (E,).

    Source: Northcutt et al. 2021, equations 1 and 2, a class being present or absent. The other
    state is as probable as it is on average where people chose it for this class, and the label's
    own state is either less probable than that, or than the other. A state that no entry of the
    class has takes the average over all classes.
    """
    present_E = _probabilities(opinion.logits_E.astype(np.float64))
    is_positive_E = opinion.labels_E == POSITIVE
    bounds = {
        state: _mean_per_class(
            np.where(state == POSITIVE, present_E, 1 - present_E),
            opinion.classes_E,
            opinion.labels_E == state,
            num_classes,
        )[opinion.classes_E]
        for state in (POSITIVE, NEGATIVE)
    }
    own_E = np.where(is_positive_E, present_E, 1 - present_E)
    own_bound_E = np.where(is_positive_E, bounds[POSITIVE], bounds[NEGATIVE])
    other_bound_E = np.where(is_positive_E, bounds[NEGATIVE], bounds[POSITIVE])
    own_passes_E = (own_E >= own_bound_E) & (own_E >= 0.5)
    return np.asarray((1 - own_E >= other_bound_E) & ~own_passes_E)


def _mean_per_class(
    values_E: Floats,
    classes_E: npt.NDArray[np.integer],
    chosen_E: npt.NDArray[np.bool_],
    num_classes: int,
) -> Floats:
    """Average the chosen entries of each class, (K,); of all classes where one has none."""
    values_C, classes_C = values_E[chosen_E], classes_E[chosen_E]
    counts_K = np.bincount(classes_C, minlength=num_classes)
    sums_K = np.bincount(classes_C, values_C, num_classes)
    everywhere = float(values_C.mean()) if len(values_C) else 0.5
    return np.where(counts_K > 0, sums_K / np.maximum(counts_K, 1), everywhere)


def _probabilities(logits: Floats) -> Floats:
    return np.asarray(np.exp(-np.logaddexp(0, -logits)))
