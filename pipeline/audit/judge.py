"""Judge candidates and a method's decisions by labels known in full: precision and recall.

The *missing* entries are unobserved in training and positive in truth. Precision is the share of
the candidates that is missing, recall the share of the missing entries that are candidates, and
the base rate is the precision of guessing. Entries whose truth is unknown are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.audit.candidates import KEPT, Candidates
from pipeline.tables import Table, percent
from sharding.errors import InputError
from sharding.image_ids import IdIndex
from sharding.labels import POSITIVE, UNOBSERVED, LabelTable, entry_keys

DEPTHS = (100, 300, 1000, 3000)
_MOST_DEPTHS = 3  # that a row of 80 columns has room for; the column P goes on from there


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Precision and recall of one epoch, as fractions, NaN where they would divide by zero.

    Attributes:
        epoch, images_seen: as of the candidates.
        known: candidates whose truth is known.
        precision_at: by depth, among the known ones of so many candidates of largest loss; only
            depths that there are candidates for.
        precision, recall: of all candidates.
        decided: candidates that the method rejected or corrected.
        modified: entries it rejected or corrected in the whole epoch; more than ``decided`` where
            the file is too short to hold them.
        decision_precision, decision_recall: of ``decided``.
    """

    epoch: int
    images_seen: int
    known: int
    precision_at: Mapping[int, float]
    precision: float
    recall: float
    decided: int
    modified: int
    decision_precision: float
    decision_recall: float

    def metrics(self) -> Iterator[tuple[str, float]]:
        """Give (name, value) of every metric that is not NaN, for MLflow."""
        values = {f"audit/precision_at_{depth}": v for depth, v in self.precision_at.items()}
        values |= {
            "audit/precision": self.precision,
            "audit/recall": self.recall,
            "audit/decision_precision": self.decision_precision,
            "audit/decision_recall": self.decision_recall,
        }
        return ((name, value) for name, value in values.items() if not math.isnan(value))


class Truth:
    """Look up the true state of entries that training did not observe.

    Args:
        observed: the labels trained on; images without pixels (no shard) do not count.
        truth: the labels to judge by, of any of the same images.

    Raises:
        InputError: the two have no image in common.
    """

    def __init__(self, observed: LabelTable, truth: LabelTable) -> None:
        self._images = observed
        rows_N = truth.rows_of(observed.image_ids_N)
        rows_N[[not shard for shard in observed.shards]] = -1
        if (rows_N < 0).all():
            raise InputError(
                "the truth speaks of none of the training images",
                fix="pass the truth of the split and collection that was trained on",
            )
        entries = truth.observed(rows_N)
        keys_E = entry_keys(entries.rows_E, entries.classes_E)
        trained = observed.observed(np.where(rows_N < 0, -1, np.arange(len(observed))))
        new_E = ~np.isin(keys_E, entry_keys(trained.rows_E, trained.classes_E))
        self._index = IdIndex(keys_E[new_E])
        self._states_E = entries.states_E[new_E]

    @property
    def known(self) -> int:
        """Unobserved entries whose truth is known."""
        return len(self._states_E)

    @property
    def missing(self) -> int:
        """Known entries that are positive."""
        return _count(self._states_E == POSITIVE)

    @property
    def base_rate(self) -> float:
        """Share of the known entries that is positive."""
        return _share(self.missing, self.known)

    def states(self, candidates: Candidates) -> npt.NDArray[np.int8]:
        """Look up the truth of each candidate, int8 (N,), UNOBSERVED where it is not known."""
        rows_N = self._images.rows_of(candidates.image_ids_N)
        entries_N = self._index.rows_of(entry_keys(rows_N, candidates.classes_N))
        states_N = np.full(len(candidates), UNOBSERVED, np.int8)
        states_N[entries_N >= 0] = self._states_E[entries_N[entries_N >= 0]]
        return states_N


def judge(candidates: Candidates, truth: Truth, depths: Sequence[int] = DEPTHS) -> Verdict:
    """Judge one epoch's candidates, which are ordered by loss."""
    states_N = truth.states(candidates)
    decided_N = candidates.decisions_N != KEPT

    def precision(states: npt.NDArray[np.int8]) -> float:
        return _share(_count(states == POSITIVE), _count(states != UNOBSERVED))

    def recall(states: npt.NDArray[np.int8]) -> float:
        return _share(_count(states == POSITIVE), truth.missing)

    return Verdict(
        epoch=candidates.epoch,
        images_seen=candidates.images_seen,
        known=_count(states_N != UNOBSERVED),
        precision_at={d: precision(states_N[:d]) for d in depths if d <= len(candidates)},
        precision=precision(states_N),
        recall=recall(states_N),
        decided=_count(decided_N),
        modified=candidates.modified,
        decision_precision=precision(states_N[decided_N]),
        decision_recall=recall(states_N[decided_N]),
    )


def table(verdicts: Sequence[Verdict], truth: Truth) -> str:
    """Write one row per epoch for a terminal, and what its columns mean; shares in percent."""
    depths = sorted({depth for verdict in verdicts for depth in verdict.precision_at})
    depths = depths[:_MOST_DEPTHS]
    headers = ["epoch", *(f"P@{depth}" for depth in depths)]
    headers += ["listed", "P", "R", "decided", "listed", "P", "R"]
    rows = [
        [
            str(v.epoch),
            *(percent(v.precision_at.get(depth, math.nan), 1) for depth in depths),
            f"{v.known:,}",
            percent(v.precision, 1),
            percent(v.recall, 1),
            f"{v.modified:,}",
            f"{v.decided:,}",
            percent(v.decision_precision, 1),
            percent(v.decision_recall, 1),
        ]
        for v in verdicts
    ]
    notes = [
        "P@d: percent of the d largest losses that are labels really missing (right).",
        "listed: candidates of the epoch. P: percent of them that are right; R: percent of all "
        "missing labels that they are.",
        "decided: entries that the method rejected or corrected, those of them that are listed, "
        "and P and R of these.",
        f"Guessing: {truth.missing:,} of {truth.known:,} unobserved entries whose truth is known "
        f"are missing labels, {percent(truth.base_rate, 1)} %.",
    ]
    return Table(headers=headers, sections=[rows], notes=notes, text_columns=0).terminal()


def describe(chosen: Candidates, truth: Truth) -> str:
    """Say how many of the exported candidates are right."""
    states_N = truth.states(chosen)
    right, known = _count(states_N == POSITIVE), _count(states_N != UNOBSERVED)
    unknown = len(chosen) - known
    rest = f"; of {unknown:,} the truth is not known" if unknown else ""
    return f"{right:,} of {known:,} exported are right ({percent(_share(right, known), 0)} %){rest}"


def _count(mask: npt.NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(mask))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
