"""Write tables of machine confidences as the releases and `predict` write them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.dumpmaking import HEADER

Row = tuple[str, str, float | str]
"""(image id, MID, confidence)."""


def write_csv(path: Path, rows: Iterable[Row], source: str = "machine") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{image_id},{source},{mid},{value}" for image_id, mid, value in rows]
    path.write_text("\n".join([HEADER, *lines, ""]))
    return path


def write_rows(path: Path, rows: Iterable[Row]) -> Path:
    ids, mids, values = zip(*rows, strict=True)
    pq.write_table(pa.table({"image_id": ids, "mid": mids, "confidence": values}), path)
    return path


def write_predictions(
    folder: Path, images: Mapping[str, Mapping[str, float] | None], name: str = "part-000000"
) -> Path:
    """Write probabilities by image and MID; None is an image that could not be read."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "image": image,
            "mid": None if found is None else list(found),
            "probability": None if found is None else list(found.values()),
            "error": "not an image" if found is None else None,
        }
        for image, found in images.items()
    ]
    lists = {"mid": pa.list_(pa.string()), "probability": pa.list_(pa.float32())}
    schema = pa.schema({"image": pa.string(), **lists, "error": pa.string()})
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / f"{name}.parquet")
    (folder / "_SUCCESS").write_text("{}")
    return folder
