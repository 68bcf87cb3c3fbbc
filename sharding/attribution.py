"""`attribution.parquet`: who took each image, from the image lists of the dump.

CC BY owes every author a name and a link wherever an image goes. There is a row for each image that
the annotations name, also while it has no pixels: it may get them by `--retry-failed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sharding.atomic import replacing
from sharding.dumpfiles import DumpFile
from sharding.files import sha256_of
from sharding.ids import format_id_column
from sharding.imagelists import listed_rows
from sharding.labels import LabelTable

FILE = "attribution.parquet"
HASH = "attribution_file_sha256"
"""Key in the manifest's ``created_by``; absent where the dump has no image lists."""

_LISTED = {
    "license": "License",
    "author": "Author",
    "title": "Title",
    "original_url": "OriginalURL",
    "landing_url": "OriginalLandingURL",
}
SCHEMA = pa.schema([(name, pa.string()) for name in ("image_id", "split", *_LISTED)])


def write_attribution(
    path: Path, lists: Mapping[str, DumpFile], tables: Mapping[str, LabelTable]
) -> str | None:
    """Write what the lists say of the images of the tables, in the lists' order, block by block.

    Args:
        path: of the Parquet file.
        lists: image list by split.
        tables: labels by split.

    Returns:
        The file's SHA-256; None, and no file, where no list names a licence.

    Raises:
        InputError: a list is damaged.
    """
    blocks = (
        block for split, file in lists.items() for block in _blocks(file, split, tables[split])
    )
    first = next(blocks, None)
    if first is None:
        return None
    with replacing(path) as temporary:
        with pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
            writer.write_batch(first)
            for block in blocks:
                writer.write_batch(block)
        return sha256_of(temporary)


def _blocks(file: DumpFile, split: str, table: LabelTable) -> Iterator[pa.RecordBatch]:
    new_N = np.ones(len(table), np.bool_)
    for rows_B, batch in listed_rows(file, split, table, list(_LISTED.values())):
        if batch.column("License").null_count:
            return  # a list of ids alone
        wanted_M = np.flatnonzero(rows_B >= 0)
        wanted_M = wanted_M[new_N[rows_B[wanted_M]]]
        _, first = np.unique(rows_B[wanted_M], return_index=True)  # the first mention counts
        wanted_M = wanted_M[np.sort(first)]
        new_N[rows_B[wanted_M]] = False
        if len(wanted_M):
            listed = batch.take(pa.array(wanted_M))
            ids = format_id_column(table.image_ids_N[rows_B[wanted_M]])
            splits = pa.array([split] * len(listed))
            columns = [_text(listed.column(name)) for name in _LISTED.values()]
            yield pa.record_batch([ids, splits, *columns], schema=SCHEMA)


def _text(column: pa.Array) -> pa.Array:
    """As text; titles are anything, and now and then no UTF-8."""
    try:
        return column.cast(pa.string()).fill_null("")
    except pa.ArrowInvalid:
        words = (word or b"" for word in column.to_pylist())
        return pa.array([word.decode(errors="replace") for word in words], pa.string())
