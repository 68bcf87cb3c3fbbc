"""Read what an evaluation is compared with: published results, and another evaluation.

Published Open Images V3 results are data with their sources: mAP in percent over groups 1..5 and
all classes, test split, 5,000 classes. The groups' count rule (positives and negatives, or
positives alone) and the number of classes counted are not published; a comparison is therefore
indicative (docs/evaluation.md). The other evaluation (``--against``) is the baseline.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.evaluation.attribution import Attributions
from pipeline.evaluation.scores import Scores, read_about
from pipeline.tracking import runs
from sharding.classes import ClassTable
from sharding.errors import InputError
from sharding.labels import LabelTable, entry_keys
from sharding.log import count
from sharding.storage.parquet import as_input_error

PAPER = "Bridging the Gap between Model Explanations, CVPR 2023, arXiv 2304.01804"
LARGE_LOSS = "Large Loss Matters, CVPR 2022, arXiv 2206.03740"
_RELEASE, _SPLIT, _CLASSES = "v3", "test", 5000

SCORES = "eval/scores.parquet"
"""Artifact of an evaluation's run."""
ATTRIBUTION = "eval/attribution.json"
"""Artifact of an evaluation's run."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One row of a published table: mAP in percent, groups 1..5, then all classes."""

    method: str
    values: tuple[float, float, float, float, float, float]
    source: str


def _rows(source: str, table: Mapping[str, tuple[float, ...]]) -> dict[str, Published]:
    return {
        method: Published(method=method, values=values, source=source)  # type: ignore[arg-type]
        for method, values in table.items()
    }


OPEN_IMAGES_V3: Mapping[str, Published] = _rows(
    PAPER,
    {
        "CNN-RNN": (68.76, 69.70, 74.18, 78.52, 84.61, 75.16),
        "Curriculum Labeling": (70.37, 71.32, 76.23, 80.54, 86.81, 77.05),
        "IMCL": (70.95, 72.59, 77.64, 81.83, 87.34, 78.07),
        "P-ASL": (73.19, 78.61, 85.11, 87.70, 90.61, 83.03),
        "LL-R": (77.76, 79.07, 81.94, 84.51, 89.36, 82.53),
        "LL-R+BoostLU": (79.28, 80.81, 83.32, 85.63, 90.27, 83.86),
        "LL-Ct": (77.76, 79.18, 81.97, 84.46, 89.51, 82.58),
        "LL-Ct+BoostLU": (79.43, 80.75, 83.41, 85.70, 90.41, 83.94),
        "LL-Cp": (77.49, 79.22, 81.89, 84.51, 89.18, 82.46),
        "LL-Cp+BoostLU": (79.53, 81.04, 83.40, 85.85, 90.39, 84.04),
    },
)

LARGE_LOSS_OPEN_IMAGES_V3: Mapping[str, Published] = _rows(
    LARGE_LOSS,
    {
        "Naive IU": (69.5, 70.3, 74.8, 79.2, 85.5, 75.9),
        "Curriculum": (70.4, 71.3, 76.2, 80.5, 86.8, 77.1),
        "IMCL": (71.0, 72.6, 77.6, 81.8, 87.3, 78.1),
        "Naive AN": (77.1, 78.7, 81.5, 84.1, 88.8, 82.0),
        "WAN": (71.8, 72.8, 76.3, 79.7, 84.7, 77.0),
        "LSAN": (68.4, 69.3, 73.7, 77.9, 85.6, 75.0),
        "LL-R": (77.4, 79.1, 82.0, 84.5, 89.5, 82.5),
        "LL-Ct": (77.7, 79.3, 82.1, 84.7, 89.4, 82.6),
        "LL-Cp": (77.6, 79.1, 81.9, 84.6, 89.4, 82.5),
    },
)


_BY_METHOD: Mapping[str, tuple[Published, ...]] = {
    "an": (LARGE_LOSS_OPEN_IMAGES_V3["Naive AN"],),
    "ls": (LARGE_LOSS_OPEN_IMAGES_V3["LSAN"],),
    "wan": (LARGE_LOSS_OPEN_IMAGES_V3["WAN"],),
    "iu": (LARGE_LOSS_OPEN_IMAGES_V3["Naive IU"],),
    **{
        method: tuple(OPEN_IMAGES_V3[row] for row in (name, f"{name}+BoostLU"))
        for method, name in {"ll-r": "LL-R", "ll-ct": "LL-Ct", "ll-cp": "LL-Cp"}.items()
    },
    "p-asl": (OPEN_IMAGES_V3["P-ASL"],),
    "curriculum": (OPEN_IMAGES_V3["Curriculum Labeling"],),
    "imcl": (OPEN_IMAGES_V3["IMCL"],),
    "cnn-rnn": (OPEN_IMAGES_V3["CNN-RNN"],),
}
"""Rows of our methods, by name; of the earlier paper those that the later one has not."""


def published(method: str) -> tuple[Published, ...]:
    """Find the published rows of a method, without and with BoostLU; empty without any."""
    return _BY_METHOD.get(method.replace("_", "-").lower(), ())


def published_beside(
    method: str, *, release: str, split: str, num_classes: int
) -> tuple[Published, ...]:
    """Find the published rows of a method if the evaluated data are those of the papers.

    Args:
        method: its name.
        release: annotation release of the labels.
        split: that was evaluated.
        num_classes: K.
    """
    same = (release, split, num_classes) == (_RELEASE, _SPLIT, _CLASSES)
    return published(method) if same else ()


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The results of another evaluation, to compare with.

    Attributes:
        name: the MLflow run id or the path it was asked for by.
        scores: of its annotated entries.
        attributions: of its maps, by the name of its run; empty if it counted none.
        about: what its scores are of: split, labels, checkpoint, epoch, class list.
    """

    name: str
    scores: Scores
    attributions: Mapping[str, Attributions]
    about: Mapping[str, str]

    @classmethod
    def read(cls, against: str) -> Baseline:
        """Read the evaluation of an MLflow run id, or that of a `scores.parquet`.

        Raises:
            InputError: there is no such run or file, or it is damaged.
        """
        if Path(against).is_file():
            counts = Path(against).with_name(Path(ATTRIBUTION).name)
            return cls._of(against, against, counts)
        with tempfile.TemporaryDirectory() as directory:
            path = runs.download(against, SCORES, directory)
            try:
                counts = Path(runs.download(against, ATTRIBUTION, directory))
            except InputError:  # it was made with --attribution 0
                counts = Path(directory, Path(ATTRIBUTION).name)
            return cls._of(against, path, counts)

    @classmethod
    def _of(cls, name: str, path: str, counts: Path) -> Baseline:
        scores = Scores.read(path)
        return cls(
            name=name, scores=scores, attributions=_attributions(counts), about=read_about(path)
        )

    def check_entries(self, table: LabelTable, classes: ClassTable) -> None:
        """Refuse scores of another class list, or of entries that the label table does not have.

        Older files do not say their class list.

        Raises:
            InputError: naming both lists; or they are of another split or label version.
        """
        scored_by = self.about.get("classes_sha256", classes.sha256)
        if scored_by != classes.sha256:
            raise InputError(
                f"scores of class list {scored_by[:12]}, dataset of class list "
                f"{classes.sha256[:12]} ({count(len(classes), 'class')})",
                file=self.name,
                fix="pass the dataset that was evaluated, or evaluate on this one",
            )
        entries, scores = table.entries(), self.scores
        rows_E = table.rows_of(scores.image_ids_E)
        known = (entry_keys(entries.rows_E, entries.classes_E) << 1) + entries.states_E
        scored = (entry_keys(rows_E, scores.classes_E) << 1) + scores.labels_E
        unknown = int((~np.isin(scored, known)).sum())
        if unknown:
            raise InputError(
                f"{unknown:,} of {len(scored):,} scores are of other images or labels",
                file=self.name,
                fix="evaluate both on the same split and label version",
            )


def _attributions(path: Path) -> dict[str, Attributions]:
    """The counts in a file, by the name of the run; empty without the file."""
    if not path.is_file():
        return {}
    with as_input_error(path, kind="file of attribution scores", fix="evaluate that run again"):
        raw = json.loads(path.read_text(encoding="utf-8"))
        return {str(raw["run"]): Attributions.from_json(raw)}
