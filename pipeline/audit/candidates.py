"""Store the label audit's candidates: an epoch's unobserved entries with the largest losses.

One Parquet file per epoch in the run's directory, written whole or not at all; repeating an epoch
replaces its file.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config.commands import DECISIONS
from pipeline.config.train import TrainConfig
from pipeline.tracking.run_log import RunLog
from sharding.classes import ClassTable
from sharding.confidences import ConfidenceTable
from sharding.errors import InputError
from sharding.image_ids import IdIndex, format_image_ids, parse_image_ids
from sharding.log import count
from sharding.storage.parquet import as_input_error

FOLDER = "candidates"
SOURCE = "large-loss"
"""Of the rows of an annotation CSV; labels of this source yield to any human's."""
KEPT, REJECTED, CORRECTED = DECISIONS
_METADATA = b"audit"
_ABOUT = ("epoch", "method", "labels", "images_seen", "unobserved", "modified")
"""Fields of `Candidates` that are metadata of the file."""
_LARGEST_ARTIFACT = 4 << 20
_MOST_SHOWN = 200
"""Bytes of the largest file that is uploaded to MLflow too."""
SCHEMA = pa.schema(
    [
        ("epoch", pa.uint16()),
        ("image_id", pa.string()),
        ("class", pa.uint16()),
        ("mid", pa.string()),
        ("loss", pa.float32()),
        ("probability", pa.float32()),
        ("decision", pa.string()),
    ]
)
_CONFIDENCE = pa.field("confidence", pa.float32())
"""Column of those of a training with confidences."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The candidates of one epoch, largest loss first.

    Attributes:
        epoch: counted from 1.
        method: that trained.
        labels: label version trained on.
        images_seen: training images consumed up to the epoch's end over all workers.
        unobserved, modified: entries of the epoch that were unobserved, and those of them that
            the method rejected or corrected, whether they are candidates or not.
        image_ids_N: uint64.
        classes_N: uint16 class indices.
        losses_N: fp32, of the entry as if it were negative.
        probabilities_N: fp32, that the class is present.
        decisions_N: of `DECISIONS`, what the method made of the entry in this epoch.
        confidences_N: fp32 of a machine, NaN where it said nothing; None without a machine.
    """

    epoch: int
    method: str
    labels: str
    images_seen: int
    unobserved: int
    modified: int
    image_ids_N: npt.NDArray[np.uint64]
    classes_N: npt.NDArray[np.uint16]
    losses_N: npt.NDArray[np.float32]
    probabilities_N: npt.NDArray[np.float32]
    decisions_N: npt.NDArray[np.str_]
    confidences_N: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.image_ids_N)

    def select(
        self,
        *,
        top: int | None = None,
        min_probability: float = 0.0,
        min_loss: float = 0.0,
        decisions: Sequence[str] = DECISIONS,
    ) -> Candidates:
        """Select those that pass every test, of these the first ``top``."""
        passes_N = (self.probabilities_N >= min_probability) & (self.losses_N >= min_loss)
        passes_N &= np.isin(self.decisions_N, decisions)
        kept = np.flatnonzero(passes_N)[:top]
        return self._take(kept)

    def with_confidences(self, table: ConfidenceTable) -> Candidates:
        """Add the column of a machine's confidences.

        Args:
            table: with a row for each image of the split.
        """
        rows_N = IdIndex(table.image_ids_N).rows_of(self.image_ids_N)
        return dataclasses.replace(self, confidences_N=table.look_up(rows_N, self.classes_N))

    def by_disagreement(self) -> Candidates:
        """Order by how far probability and confidence differ; a machine that is silent says 0."""
        assert self.confidences_N is not None
        gaps_N = np.abs(self.probabilities_N - np.nan_to_num(self.confidences_N))
        return self._take(np.argsort(-gaps_N, kind="stable"))

    def _take(self, rows: npt.NDArray[np.int64]) -> Candidates:
        columns = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        arrays = {n: a[rows] for n, a in columns.items() if n.endswith("_N") and a is not None}
        return dataclasses.replace(self, **arrays)

    def to_csv(self, classes: ClassTable) -> str:
        """Write annotations that call every candidate present; they yield to any human's."""
        return annotation_csv(self.image_ids_N, self.classes_N, SOURCE, classes)

    def to_parquet(self, classes: ClassTable) -> bytes:
        """Encode as a Parquet file (equal candidates, equal bytes)."""
        columns = [
            pa.array(np.full(len(self), self.epoch, np.uint16)),
            pa.array(format_image_ids(self.image_ids_N), pa.string()),
            pa.array(self.classes_N),
            pa.array([classes.mids[int(k)] for k in self.classes_N], pa.string()),
            pa.array(self.losses_N),
            pa.array(self.probabilities_N),
            pa.array(self.decisions_N.tolist(), pa.string()),
        ]
        about = {name: getattr(self, name) for name in _ABOUT}
        schema = SCHEMA
        if self.confidences_N is not None:
            columns.append(pa.array(self.confidences_N, from_pandas=True))
            schema = schema.append(_CONFIDENCE)
        schema = schema.with_metadata({_METADATA: json.dumps(about).encode()})
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns, schema=schema), buffer, compression="zstd")
        return buffer.getvalue()

    @classmethod
    def from_parquet(cls, content: bytes, location: str, classes: ClassTable) -> Candidates:
        """Decode what `to_parquet` wrote.

        Args:
            content: of the file.
            location: of the file.
            classes: whose indices those of the file have to be.

        Raises:
            InputError: the content is something else, or of another class list; names
                ``location``.
        """
        kind, fix = "table of an epoch's candidates", "pass a run directory, which has candidates/"
        with as_input_error(location, kind=kind, fix=fix):
            table = pq.read_table(io.BytesIO(content))
            about = json.loads(table.schema.metadata[_METADATA])
            has_confidences = _CONFIDENCE.name in table.schema.names
            table = table.cast(SCHEMA.append(_CONFIDENCE) if has_confidences else SCHEMA)
            found = cls(
                **{name: about[name] for name in _ABOUT},
                image_ids_N=parse_image_ids(table["image_id"].combine_chunks()),
                classes_N=table["class"].to_numpy(),
                losses_N=table["loss"].to_numpy(),
                probabilities_N=table["probability"].to_numpy(),
                decisions_N=np.array(table["decision"].to_pylist(), np.str_),
                confidences_N=table[_CONFIDENCE.name].to_numpy() if has_confidences else None,
            )
            mids = table["mid"].to_pylist()
        _check_classes(found.classes_N, mids, classes, location)
        return found


def _check_classes(
    classes_N: npt.NDArray[np.uint16], mids: Sequence[str], classes: ClassTable, location: str
) -> None:
    """Refuse indices that name other classes in the dataset than where they were written.

    Raises:
        InputError: naming the class of the first such row in both lists.
    """
    for k, mid in zip(classes_N.tolist(), mids, strict=True):
        known = classes.mids[k] if k < len(classes) else "none"
        if known != mid:
            raise InputError(
                f"class {k} is {mid} in the class list that the run trained on, {known} in the "
                f"dataset's list {classes.sha256[:12]} ({count(len(classes), 'class')})",
                file=location,
                fix="pass --dataset DIR, the dataset with the class list that it trained on",
            )


def annotation_csv(
    image_ids_M: npt.NDArray[np.uint64],
    classes_M: npt.NDArray[np.integer],
    source: str,
    classes: ClassTable,
) -> str:
    """Write entries as rows of a V3 dump that call each of them present.

    Args:
        image_ids_M, classes_M: the entries.
        source: of the rows; `sharding` knows which sources yield to others.
        classes: whose indices they are.
    """
    rows = zip(format_image_ids(image_ids_M), classes_M, strict=True)
    lines = (f"{image_id},{source},{classes.mids[int(k)]},1\n" for image_id, k in rows)
    return "".join(["ImageID,Source,LabelName,Confidence\n", *lines])


def publish(candidates: Candidates, classes: ClassTable, config: TrainConfig, log: RunLog) -> None:
    """Write an epoch's candidates to the run's directory and, if the file is small, to MLflow.

    The first of them also as a table that MLflow shows.
    """
    name, content = f"epoch-{candidates.epoch:03d}.parquet", candidates.to_parquet(classes)
    with storage.storage_errors():
        storage.write_bytes(storage.join(config.storage, config.run_name, FOLDER, name), content)
    if len(content) <= _LARGEST_ARTIFACT:
        log.artifact(content, f"{FOLDER}/{name}")
    first = candidates.select(top=_MOST_SHOWN)
    columns = {
        "class": [classes.names[int(k)] for k in first.classes_N],
        "image_id": format_image_ids(first.image_ids_N),
        "loss": first.losses_N.tolist(),
        "probability": first.probabilities_N.tolist(),
        "decision": first.decisions_N.tolist(),
    }
    if first.confidences_N is not None:
        columns["confidence"] = first.confidences_N.tolist()
    log.table(columns, f"{FOLDER}/{name.removesuffix('.parquet')}.json")


def of_epoch(epochs: Sequence[Candidates], epoch: int | None) -> Candidates:
    """Choose the candidates of an epoch, by default of the last.

    Raises:
        InputError: there are none of that epoch; names the epochs there are.
    """
    by_epoch = {candidates.epoch: candidates for candidates in epochs}
    if epoch is not None and epoch not in by_epoch:
        raise InputError(
            f"no candidates of epoch {epoch}",
            fix=f"pass --epoch {min(by_epoch)} to {max(by_epoch)}",
        )
    return epochs[-1] if epoch is None else by_epoch[epoch]


def read_names(run: str) -> list[str]:
    """List a run's files of candidates, in the order of epochs."""
    folder = storage.join(storage.absolute(run), FOLDER)
    return sorted(name for name in storage.names_in(folder) if name.endswith(".parquet"))


def read_run(run: str, classes: ClassTable) -> list[Candidates]:
    """Read the candidates of every epoch of a run (a directory or URL), in order.

    Raises:
        InputError: it has none, or some of another class list than ``classes``.
    """
    folder = storage.join(storage.absolute(run), FOLDER)
    names = read_names(run)
    if not names:
        raise InputError(
            "the run has no candidates",
            file=folder,
            fix="train with --candidates-per-epoch above 0, and pass runs/NAME",
        )
    locations = [storage.join(folder, name) for name in names]
    return [
        Candidates.from_parquet(storage.read_bytes(place), place, classes) for place in locations
    ]
