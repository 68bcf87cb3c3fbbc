"""Write Parquet files atomically with their hash, read them with errors of one line."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sharding.errors import REPEAT_COMMAND, InputError
from sharding.log import first_line
from sharding.storage.files import replacing, sha256_of

Compression = Literal["zstd", "snappy"]


def write_table(
    table: pa.Table, path: str | os.PathLike[str], *, compression: Compression = "zstd"
) -> str:
    """Write a Parquet file atomically; return its SHA-256 (equal tables, equal bytes).

    Raises:
        InputError: the disk is full.
    """
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression=compression)
        return sha256_of(temporary)


def read_table(
    path: str | os.PathLike[str],
    schema: pa.Schema,
    *,
    kind: str,
    fix: str,
    content: bytes | None = None,
    nulls: bool = True,
) -> pa.Table:
    """Read the columns of ``schema`` from a Parquet file, cast to its types; metadata is kept.

    Args:
        path: of the file; with ``content`` only its name in errors.
        schema: the columns wanted, in this order; others are not read.
        kind: what the file should be, for errors: "label table".
        fix: what to do where it is not, for errors.
        content: the file's bytes, where they were read already (from a bucket, say).
        nulls: whether values may be missing.

    Raises:
        InputError: the file is missing, damaged, lacks a column or holds other types.
    """
    with as_input_error(path, kind=kind, fix=fix):
        source = Path(path) if content is None else io.BytesIO(content)
        table = pq.read_table(source, columns=schema.names)
        metadata = table.schema.metadata
        table = table.select(schema.names).cast(schema).replace_schema_metadata(metadata)
        if not nulls and any(column.null_count for column in table.columns):
            raise InputError("it holds nulls")
        return table


def read_parts(
    path: str | os.PathLike[str], schema: pa.Schema, *, kind: str, fix: str
) -> Iterator[pa.Table]:
    """Read a table without nulls by its row groups, of which one is in memory at a time.

    Args:
        path: of the file.
        schema, kind, fix: as of `read_table`.

    Raises:
        InputError: as of `read_table`.
    """
    with as_input_error(path, kind=kind, fix=fix), pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=schema.names)
            rows = rows.select(schema.names).cast(schema)
            if any(column.null_count for column in rows.columns):
                raise InputError("it holds nulls")
            yield rows
            del rows
    pa.default_memory_pool().release_unused()


class Column:
    """Collects the parts of a column, which are never in memory twice as when concatenated.

    Args:
        dtype: of its values.
    """

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._room, self._filled = np.empty(0, dtype), 0

    def add(self, part: npt.NDArray[Any]) -> None:
        """Append values."""
        begin, self._filled = self._filled, self._filled + len(part)
        if self._filled > len(self._room):
            # The system moves the pages of a large block; nothing is copied.
            self._room.resize(self._filled + self._filled // 8, refcheck=False)
        self._room[begin : self._filled] = part

    def whole(self) -> npt.NDArray[Any]:
        """Give all values; none can be appended after this."""
        self._room.resize(self._filled, refcheck=False)
        return self._room


def decoded(column: pa.ChunkedArray) -> list[str]:
    """Convert a text column of few distinct values to a list, decoding each value once."""
    encoded = column.combine_chunks().dictionary_encode()
    words = np.array([*encoded.dictionary.to_pylist(), None], object)
    names: list[str] = words[encoded.indices.to_numpy()].tolist()
    return names


def remove_rows(path: str | os.PathLike[str], column: str, values: Sequence[str]) -> str:
    """Write a Parquet file again without the rows that have one of the values; return its SHA-256.

    One row group is in memory at a time. Done twice it gives the same bytes.

    Raises:
        InputError: the file is missing or damaged, or the disk is full.
    """
    unwanted = pa.array(values, pa.string())
    with as_input_error(path, kind="table of images", fix=REPEAT_COMMAND):
        table = pq.ParquetFile(path)
    with replacing(path) as temporary:
        with pq.ParquetWriter(temporary, table.schema_arrow, compression="zstd") as writer:
            for group in range(table.num_row_groups):
                with as_input_error(path, kind="table of images", fix=REPEAT_COMMAND):
                    rows = table.read_row_group(group)
                    rows = rows.filter(pc.invert(pc.is_in(rows[column], unwanted)))
                if len(rows):
                    writer.write_table(rows)
        return sha256_of(temporary)


@contextlib.contextmanager
def as_input_error(path: str | os.PathLike[str], *, kind: str, fix: str) -> Iterator[None]:
    """Turn what reading and parsing a file may raise into one line that names it.

    Raises:
        InputError: "KIND is missing" or "not a KIND (reason)", with the file and the fix.
    """
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{kind} is missing", file=path, fix=fix) from None
    except (pa.ArrowException, InputError, KeyError, TypeError, ValueError, OSError) as error:
        reason = first_line(error, 120)
        raise InputError(f"not a {kind} ({reason})", file=path, fix=fix) from None
