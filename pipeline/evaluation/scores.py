"""Score the annotated entries of a split, gather them over ranks, keep them in a Parquet file.

Only entries that a human annotated can be judged, so only they are scored: 1.7 million of 627
million in the test split of Open Images V3. The scores are fp32 logits; sigmoid would saturate
and tie them. From the file every number of an evaluation can be computed again.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline.data.labels import LabelledBatch, LabelledSplit
from pipeline.models.cam_net import CamNet
from pipeline.ranks import has_group
from sharding.errors import InputError
from sharding.image_ids import format_id_column, parse_image_ids
from sharding.labels import UNOBSERVED
from sharding.storage.parquet import as_input_error

BOOST_OFF, BOOST_ON = "BoostLU off", "BoostLU on"
_DTYPES = {
    "image_ids_E": np.uint64,
    "classes_E": np.int64,
    "labels_E": np.int8,
    "raw_E": np.float32,
    "boosted_E": np.float32,
}
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
class Scores:
    """Annotated entries of a split with both logits, flat, length E, in any order.

    Attributes:
        image_ids_E: uint64 (`sharding.image_ids.parse_image_ids`).
        classes_E: class indices, integers in [0, K).
        labels_E: int8, POSITIVE or NEGATIVE.
        raw_E: fp32 logits without BoostLU.
        boosted_E: fp32 logits with BoostLU at the model's inference slope.
    """

    image_ids_E: npt.NDArray[np.uint64]
    classes_E: npt.NDArray[np.integer]
    labels_E: npt.NDArray[np.int8]
    raw_E: npt.NDArray[np.float32]
    boosted_E: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.image_ids_E.shape != self.labels_E.shape or (self.labels_E == UNOBSERVED).any():
            raise InputError(
                "entries without label, or with another number of images than of labels",
                fix="pass annotated entries only, with the image of each",
            )

    @classmethod
    def concatenate(cls, parts: Sequence[Scores]) -> Scores:
        """Join the entries of several ranks or batches; without parts there are no entries."""
        return cls(
            **{
                name: np.concatenate([np.empty(0, dtype), *(getattr(p, name) for p in parts)])
                for name, dtype in _DTYPES.items()
            }
        )

    def logits(self, *, boosted: bool) -> npt.NDArray[np.float32]:
        """Choose the logits with BoostLU or those without, (E,)."""
        return self.boosted_E if boosted else self.raw_E

    def to_parquet(self, about: Mapping[str, str] = MappingProxyType({})) -> bytes:
        """Write rows ordered by image and class as Parquet: equal entries, equal bytes.

        Args:
            about: what was scored, kept as the schema's metadata.
        """
        order_E = np.lexsort([self.classes_E, self.image_ids_E])
        columns = [
            format_id_column(self.image_ids_E[order_E]),
            pa.array(self.classes_E[order_E].astype(np.uint16)),
            pa.array(self.labels_E[order_E]),
            pa.array(self.raw_E[order_E]),
            pa.array(self.boosted_E[order_E]),
        ]
        file = io.BytesIO()
        table = pa.table(columns, schema=SCHEMA.with_metadata(dict(about)))
        pq.write_table(table, file, compression="zstd")
        return file.getvalue()

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Scores:
        """Read a file made by `to_parquet`.

        Raises:
            InputError: the file is missing or is not a score file.
        """
        fix = "evaluate the run again; the evaluate job writes this file"
        with as_input_error(path, kind="score file", fix=fix):
            table = pq.read_table(path, columns=SCHEMA.names).cast(SCHEMA)
            return cls(
                image_ids_E=parse_image_ids(table["image_id"].combine_chunks()),
                classes_E=table["class_index"].to_numpy(),
                labels_E=table["label"].to_numpy(),
                raw_E=table["score_no_boost"].to_numpy(),
                boosted_E=table["score"].to_numpy(),
            )


def read_about(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read what a score file says that it is of; empty where it says nothing."""
    metadata = pq.read_schema(path).metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items()}


@torch.inference_mode()
def score(
    model: CamNet, split: LabelledSplit, on_batch: Callable[[], None] = lambda: None
) -> Scores:
    """Score a share of a split, BoostLU off and on from one class activation map.

    Args:
        model: to score with; its head may search a beam (`inference.beam`).
        split: the share.
        on_batch: called after every batch.
    """
    model.eval()
    parts = []
    for batch in split.epoch(0):
        if len(batch):
            parts.append(_score_batch(model, batch))
        on_batch()
    return Scores.concatenate(parts)


def gather(scores: Scores) -> Scores:
    """Gather all ranks' entries on every rank; the identity without a process group."""
    if not has_group():
        return scores
    parts: list[Scores | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, scores)
    return Scores.concatenate([part for part in parts if part is not None])


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
