"""Build the per-class table of an evaluation: average precision and supports of every class."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.commands import Rule
from pipeline.evaluation.metrics import Summary, average_precision, summarize
from pipeline.evaluation.scores import BOOST_OFF, BOOST_ON, Scores
from sharding.classes import ClassTable
from sharding.labels import POSITIVE

_SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("mid", pa.string()),
        ("name", pa.string()),
        ("group", pa.int64()),
        ("positives", pa.int64()),
        ("negatives", pa.int64()),
        ("ap", pa.float64()),
        ("ap_no_boost", pa.float64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class PerClass:
    """AP of every class without and with BoostLU, and the annotated entries behind it.

    Attributes:
        classes: of the evaluated dataset.
        rule: which classes count.
        ap_no_boost_K, ap_K: float64 in [0, 1]; NaN where the rule skips the class.
        positives_K, negatives_K: int64; entries of the evaluated split, not of training.
    """

    classes: ClassTable
    rule: Rule
    ap_no_boost_K: npt.NDArray[np.float64]
    ap_K: npt.NDArray[np.float64]
    positives_K: npt.NDArray[np.int64]
    negatives_K: npt.NDArray[np.int64]

    @classmethod
    def of(cls, scores: Scores, classes: ClassTable, rule: Rule = "boostlu") -> PerClass:
        """Compute the table from the scores of a whole split.

        Raises:
            InputError: as of `metrics.average_precision`.
        """
        K, labels_E, classes_E = len(classes), scores.labels_E, scores.classes_E
        return cls(
            classes=classes,
            rule=rule,
            ap_no_boost_K=average_precision(scores.raw_E, labels_E, classes_E, K, rule),
            ap_K=average_precision(scores.boosted_E, labels_E, classes_E, K, rule),
            positives_K=np.bincount(classes_E[labels_E == POSITIVE], minlength=K),
            negatives_K=np.bincount(classes_E[labels_E != POSITIVE], minlength=K),
        )

    def summaries(self) -> dict[str, Summary]:
        """Average over groups and over all classes, keyed "BoostLU off" and "BoostLU on"."""
        supports = self.classes.groups_K, self.positives_K, self.negatives_K
        return {
            BOOST_OFF: summarize(self.ap_no_boost_K, *supports, rule=self.rule),
            BOOST_ON: summarize(self.ap_K, *supports, rule=self.rule),
        }

    def columns(self) -> dict[str, list[Any]]:
        """List one row per class, as columns; AP is None where the rule skips the class."""
        values = (
            range(len(self.classes)),
            self.classes.mids,
            self.classes.names,
            self.classes.groups_K.tolist(),
            self.positives_K.tolist(),
            self.negatives_K.tolist(),
            map(none_for_nan, self.ap_K.tolist()),
            map(none_for_nan, self.ap_no_boost_K.tolist()),
        )
        return dict(zip(_SCHEMA.names, map(list, values), strict=True))

    def ranked(self) -> dict[str, list[Any]]:
        """List the same rows to be read: AP third, the lowest first, classes without one last."""
        columns = self.columns()
        order = np.argsort(self.ap_K, kind="stable")  # NaN last
        names = ("name", "group", "ap", "ap_no_boost", "positives", "negatives", "mid", "index")
        return {name: [columns[name][k] for k in order] for name in names}

    def to_parquet(self, about: Mapping[str, str] = MappingProxyType({})) -> bytes:
        """Write `columns` as Parquet, with what they are ``about`` as the schema's metadata."""
        file = io.BytesIO()
        schema = _SCHEMA.with_metadata(dict(about))
        pq.write_table(pa.Table.from_pydict(self.columns(), schema), file)
        return file.getvalue()


def none_for_nan(value: float) -> float | None:
    """Replace NaN by None: readers of JSON and Parquet disagree about NaN, null is null to all."""
    return None if math.isnan(value) else value
