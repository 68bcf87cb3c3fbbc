"""The scores of an evaluation as a Parquet file: whoever has it can recompute every number."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.bootstrap import Judged
from sharding.atomic import replacing
from sharding.errors import InputError
from sharding.labels import format_image_ids, parse_image_ids

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
