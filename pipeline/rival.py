"""The other evaluation that ours is compared with (``--against``), read before ours begins."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import tracking
from pipeline.attribution import Attributions
from pipeline.scorefile import ScoreFile
from sharding.errors import InputError
from sharding.labels import LabelTable

# Where an evaluation leaves them among its run's artifacts.
SCORES = "eval/scores.parquet"
ATTRIBUTION = "eval/attribution.json"


@dataclass(frozen=True, kw_only=True)
class Rival:
    """What another evaluation found.

    Attributes:
        name: the MLflow run id or the path it was asked for by.
        scores: of its annotated entries.
        attributions: of its maps, by the name of its run; empty if it counted none.
    """

    name: str
    scores: ScoreFile
    attributions: dict[str, Attributions]

    @classmethod
    def read(cls, against: str) -> Rival:
        """The evaluation of an MLflow run id, or that of a `scores.parquet`.

        Raises:
            InputError: there is no such run or file, or it is damaged.
        """
        if Path(against).is_file():
            counts = Path(against).with_name(Path(ATTRIBUTION).name)
            attributions = _attributions(counts) if counts.is_file() else {}
            return cls(name=against, scores=ScoreFile.read(against), attributions=attributions)
        with tempfile.TemporaryDirectory() as directory:
            scores = ScoreFile.read(tracking.download(against, SCORES, directory))
            try:
                counts = Path(tracking.download(against, ATTRIBUTION, directory))
            except InputError:  # of --attribution 0
                return cls(name=against, scores=scores, attributions={})
            return cls(name=against, scores=scores, attributions=_attributions(counts))

    def check_entries(self, table: LabelTable) -> None:
        """Refuse scores of anything that the labels to be judged by do not say.

        Raises:
            InputError: they are of another split or label version.
        """
        rows_N, places_E = np.arange(len(table)), table.rows_of(self.scores.image_ids_E)
        rows_E = np.repeat(rows_N, np.diff(table.offsets_N1))
        ours = _packed(rows_E, table.classes_E, table.states_E)
        theirs = _packed(places_E, self.scores.classes_E, self.scores.labels_E)
        strange = int((~np.isin(theirs, ours)).sum())
        if strange:
            raise InputError(
                f"{strange:,} of {len(theirs):,} scores are of other images or labels",
                file=self.name,
                fix="evaluate both on the same split and label version",
            )


def _attributions(path: Path) -> dict[str, Attributions]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return {str(raw["run"]): Attributions.from_json(raw, str(path))}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"no attribution scores of ours ({error})", file=path, fix="evaluate that run again"
        ) from None


def _packed(rows: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """One integer per entry; classes fit 16 bits."""
    return (rows.astype(np.int64) << 17) + (classes.astype(np.int64) << 1) + labels
