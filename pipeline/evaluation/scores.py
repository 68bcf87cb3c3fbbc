"""Scores of annotated entries, gathered over ranks, summarised per class group.

Only entries that a human annotated can be judged, so only they are scored: 1.7 million of 627
million in the test split of Open Images V3. The scores are fp32 logits; sigmoid would saturate
and tie them.

The scores of an evaluation as a Parquet file: whoever has it can recompute every number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline.config.commands import Rule
from pipeline.data.labels import LabelledBatch, LabelledSplit
from pipeline.data.loader import Batch
from pipeline.evaluation.metrics import Summary, average_precision, summarize
from pipeline.models.cam_net import CamNet
from sharding.classes import ClassTable
from sharding.errors import InputError
from sharding.image_ids import format_image_ids, parse_image_ids
from sharding.labels import POSITIVE, UNOBSERVED
from sharding.storage.files import replacing

BOOST_OFF, BOOST_ON = "BoostLU off", "BoostLU on"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Annotated entries of a split, flat, length E.

    Attributes:
        image_ids_E: uint64.
        classes_E: int64 class indices.
        labels_E: int8 in {+1, 0}.
        raw_E: fp32 logits without BoostLU.
        boosted_E: fp32 logits with BoostLU at the model's inference slope.
    """

    image_ids_E: npt.NDArray[np.uint64]
    classes_E: npt.NDArray[np.int64]
    labels_E: npt.NDArray[np.int8]
    raw_E: npt.NDArray[np.float32]
    boosted_E: npt.NDArray[np.float32]

    @classmethod
    def concatenate(cls, parts: Sequence[Scores]) -> Scores:
        """All entries of several ranks or batches."""
        return cls(
            image_ids_E=np.concatenate([part.image_ids_E for part in parts]),
            classes_E=np.concatenate([part.classes_E for part in parts]),
            labels_E=np.concatenate([part.labels_E for part in parts]),
            raw_E=np.concatenate([part.raw_E for part in parts]),
            boosted_E=np.concatenate([part.boosted_E for part in parts]),
        )

    def supports(self, num_classes: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(positives_K, negatives_K) among these entries."""
        positive_E = self.labels_E == POSITIVE
        return (
            np.bincount(self.classes_E[positive_E], minlength=num_classes),
            np.bincount(self.classes_E[~positive_E], minlength=num_classes),
        )


@torch.inference_mode()
def score(
    model: CamNet,
    split: LabelledSplit,
    on_batch: Callable[[Batch], None] = lambda batch: None,
) -> Scores:
    """Score this rank's share of a split, BoostLU off and on from one class activation map."""
    model.eval()
    parts = [_score_batch(model, batch) for batch in _watched(split, on_batch) if len(batch)]
    return Scores.concatenate(parts or [_empty()])


def per_class(scores: Scores, num_classes: int, rule: Rule = "boostlu") -> dict[str, np.ndarray]:
    """AP per class (float64, NaN where the rule skips the class), BoostLU off and on."""
    return {
        name: average_precision(values_E, scores.labels_E, scores.classes_E, num_classes, rule)
        for name, values_E in ((BOOST_OFF, scores.raw_E), (BOOST_ON, scores.boosted_E))
    }


def summaries(
    scores: Scores,
    ap_by_name: dict[str, np.ndarray],
    classes: ClassTable,
    rule: Rule = "boostlu",
) -> dict[str, Summary]:
    """Group and overall mAP for each of `per_class`'s results."""
    supports = scores.supports(len(classes))
    return {
        name: summarize(ap_K, classes.groups_K, *supports, rule=rule)
        for name, ap_K in ap_by_name.items()
    }


def gather(scores: Scores) -> Scores:
    """All ranks' entries on every rank; the identity without a process group."""
    if not torch.distributed.is_initialized():
        return scores
    parts: list[Scores | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, scores)
    return Scores.concatenate([part for part in parts if part is not None])


def _watched(split: LabelledSplit, on_batch: Callable[[Batch], None]) -> Iterable[LabelledBatch]:
    for batch in split.epoch(0):
        yield batch
        on_batch(batch)


def _score_batch(model: CamNet, batch: LabelledBatch) -> Scores:
    entries, device = batch.observed, batch.images_BHWC.device
    rows_E = torch.from_numpy(entries.rows_E).to(device)
    classes_E = torch.from_numpy(entries.classes_E).to(device)
    features_BDHW = model.features(batch.images_BHWC)
    raw_E, boosted_E = model.head.pair_scores(features_BDHW, rows_E, classes_E)
    return Scores(
        image_ids_E=batch.image_ids_B[entries.rows_E],
        classes_E=entries.classes_E,
        labels_E=entries.states_E,
        raw_E=raw_E.float().cpu().numpy(),
        boosted_E=boosted_E.float().cpu().numpy(),
    )


def _empty() -> Scores:
    return Scores(
        image_ids_E=np.empty(0, np.uint64),
        classes_E=np.empty(0, np.int64),
        labels_E=np.empty(0, np.int8),
        raw_E=np.empty(0, np.float32),
        boosted_E=np.empty(0, np.float32),
    )


SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("class_index", pa.uint16()),
        ("label", pa.int8()),
        ("score_no_boost", pa.float32()),
        ("score", pa.float32()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class ScoreFile:
    """Annotated entries with both logits, length E; rows are (image, class) pairs.

    Attributes:
        image_ids_E: uint64 (`sharding.labels.parse_image_ids`).
        classes_E: class indices.
        labels_E: int8 in {POSITIVE, NEGATIVE}.
        raw_E, boosted_E: float32 logits without and with BoostLU.
    """

    image_ids_E: npt.NDArray[np.uint64]
    classes_E: npt.NDArray[np.integer]
    labels_E: npt.NDArray[np.int8]
    raw_E: npt.NDArray[np.float32]
    boosted_E: npt.NDArray[np.float32]

    def judged(self, *, boosted: bool) -> Judged:
        """One of the two runs that the file holds, for `bootstrap` and `significance`."""
        return Judged(
            scores_E=self.boosted_E if boosted else self.raw_E,
            labels_E=self.labels_E,
            class_ids_E=self.classes_E,
            image_ids_E=self.image_ids_E,
        )

    def write(
        self, path: str | os.PathLike[str], about: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Write atomically, rows ordered by image and class: equal entries, equal bytes.

        Args:
            path: of the file.
            about: what was scored, kept as the schema's metadata.
        """
        order_E = np.lexsort([self.classes_E, self.image_ids_E])
        columns = [
            pa.array(format_image_ids(self.image_ids_E[order_E]), pa.string()),
            pa.array(self.classes_E[order_E].astype(np.uint16)),
            pa.array(self.labels_E[order_E]),
            pa.array(self.raw_E[order_E]),
            pa.array(self.boosted_E[order_E]),
        ]
        with replacing(path) as temporary:
            table = pa.table(columns, schema=SCHEMA.with_metadata(dict(about)))
            pq.write_table(table, temporary, compression="zstd")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ScoreFile:
        """Read what `write` wrote.

        Raises:
            InputError: the file is missing or is not a score file.
        """
        fix = "evaluate the run again; the evaluate job writes this file"
        try:
            table = pq.read_table(path, columns=SCHEMA.names).cast(SCHEMA)
        except FileNotFoundError:
            raise InputError("score file is missing", file=path, fix=fix) from None
        except (pa.ArrowInvalid, pa.ArrowTypeError, KeyError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"not a score file ({reason})", file=path, fix=fix) from None
        return cls(
            image_ids_E=parse_image_ids(table["image_id"].to_pylist()),
            classes_E=table["class_index"].to_numpy(),
            labels_E=table["label"].to_numpy(),
            raw_E=table["score_no_boost"].to_numpy(),
            boosted_E=table["score"].to_numpy(),
        )


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One run's scores of annotated entries, flat, length E, in any order.

    Attributes:
        scores_E: float32 or float64 logits.
        labels_E: int8, POSITIVE or NEGATIVE.
        class_ids_E: integers in [0, K).
        image_ids_E: the image of each entry, any integers.
    """

    scores_E: npt.NDArray[np.floating]
    labels_E: npt.NDArray[np.int8]
    class_ids_E: npt.NDArray[np.integer]
    image_ids_E: npt.NDArray[np.integer]

    def __post_init__(self) -> None:
        if self.image_ids_E.shape != self.labels_E.shape or (self.labels_E == UNOBSERVED).any():
            raise InputError(
                "entries without label, or with another number of images than of labels",
                fix="pass annotated entries only, with the image of each",
            )
