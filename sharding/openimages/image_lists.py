"""Read the image lists of a dump: listed images, licences, and the credit that CC BY demands.

An image list (`images.csv` in V3, `...-images-with-labels-with-rotation.csv` and others from V4
on) has a row per image with its URL, author, licence, size and MD5. 59 % of V3's training images
are in no shard, since nobody annotated them; the report of the labels counts them.

`attribution.parquet` holds who took each image. There is a row for each image that the annotations
name, also while it has no pixels: it may get them by `--retry-failed`.

Shapes: B rows of a block, M of them chosen, N images of a label table.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from sharding.image_ids import format_id_column, parse_id_column
from sharding.labels import LabelTable
from sharding.openimages.dump import Dump
from sharding.openimages.dump_files import DumpFile
from sharding.openimages.layouts import ALL_SPLITS_LIST
from sharding.storage.files import replacing, sha256_of

LICENSE = "license "
"""Prefix of the keys of a report that count labelled images by licence."""
MOST_LICENSES = 20

_CREDIT = {
    "license": "License",
    "author": "Author",
    "title": "Title",
    "original_url": "OriginalURL",
    "landing_url": "OriginalLandingURL",
}
"""Column of an image list by column of `attribution.parquet`."""
SCHEMA = pa.schema([(name, pa.string()) for name in ("image_id", "split", *_CREDIT)])

_BLOCK_BYTES = 16 << 20
_ROW_WITHIN = re.compile(rb"\n(?:[^\n]*,)?\"?[0-9a-f]{16}\"?(?:,|\r|\n|\Z)")
"""A line of a value that names an image; titles may have lines, but none of these."""


def count_listed(dump: Dump, split: str, table: LabelTable) -> dict[str, int]:
    """Count the images of a split's image list, for the report of its labels.

    ``listed`` counts all images of the list, ``listed_without_rows`` those that no row of the
    annotations names, ``license NAME`` the others by licence, the most frequent ones by name.

    Returns:
        The counts; none where the dump has no list.

    Raises:
        InputError: the list is damaged.
    """
    file = dump.images_file(split)
    if file is None:
        return {}
    listed = without_rows = 0
    licenses: Counter[str] = Counter()
    for rows_B, batch in _rows_of_split(file, split, table, ("License",)):
        listed += len(rows_B)
        without_rows += int(np.count_nonzero(rows_B < 0))
        labelled = batch.column("License").filter(pa.array(rows_B >= 0)).drop_null()
        for license in labelled.value_counts().to_pylist():
            name = license["values"].decode(errors="replace").strip()
            licenses[name or "not said"] += license["counts"]
    frequent, rare = licenses.most_common()[:MOST_LICENSES], licenses.most_common()[MOST_LICENSES:]
    counts = {"listed": listed, "listed_without_rows": without_rows}
    counts |= {f"{LICENSE}{name}": count for name, count in frequent}
    if rare:
        counts[f"{LICENSE}of other names"] = sum(count for _, count in rare)
    return counts


def write_attribution(
    path: Path, lists: Mapping[str, DumpFile], tables: Mapping[str, LabelTable]
) -> str | None:
    """Write the credit of the images of label tables, in the order of the lists.

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
        block
        for split, file in lists.items()
        for block in _attribution_blocks(file, split, tables[split])
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


def read_listed(
    file: DumpFile, columns: Sequence[str] = (), optional: Sequence[str] = ()
) -> Iterator[tuple[npt.NDArray[np.uint64], pa.RecordBatch]]:
    """Read image ids (uint64, B) and further columns of an image list, block by block.

    Args:
        file: the list.
        columns: names of columns that it must have.
        optional: names of columns that hold nulls where the list does not have them.

    Raises:
        InputError: the list is damaged, lacks a column, or an image id is malformed.
    """
    row = 2  # the header is row 1
    for batch in _read_blocks(file, ("ImageID", *columns), optional):
        image_ids_B, is_valid_B = parse_id_column(batch.column("ImageID"))
        if not is_valid_B.all():
            index = int(np.argmin(is_valid_B))
            malformed = batch.column("ImageID")[index].as_py()[:64].decode(errors="replace")
            problem = f"image id {malformed!r} is not 16 lowercase hex characters"
            raise file.error(problem, row=row + index, fix="download the image list again")
        yield image_ids_B, batch
        row += len(batch)


def _rows_of_split(
    file: DumpFile, split: str, table: LabelTable, optional: Sequence[str]
) -> Iterator[tuple[npt.NDArray[np.int64], pa.RecordBatch]]:
    """Read the rows of a split, block by block: row in the label table (-1: none), and columns."""
    is_of_all = file.name.startswith(ALL_SPLITS_LIST)
    for image_ids_B, batch in read_listed(file, ("Subset",) if is_of_all else (), optional):
        if is_of_all:
            is_ours_B = pc.equal(batch.column("Subset"), split.encode())
            image_ids_B, batch = image_ids_B[np.asarray(is_ours_B)], batch.filter(is_ours_B)
        yield table.rows_of(image_ids_B), batch


def _attribution_blocks(file: DumpFile, split: str, table: LabelTable) -> Iterator[pa.RecordBatch]:
    """Yield the rows of `attribution.parquet`; the first mention of an image counts."""
    is_new_N = np.ones(len(table), np.bool_)
    for rows_B, batch in _rows_of_split(file, split, table, list(_CREDIT.values())):
        if batch.column("License").null_count:
            return  # a list of ids alone
        indices_M = np.flatnonzero(rows_B >= 0)
        indices_M = indices_M[is_new_N[rows_B[indices_M]]]
        _, first = np.unique(rows_B[indices_M], return_index=True)
        indices_M = indices_M[np.sort(first)]
        is_new_N[rows_B[indices_M]] = False
        if len(indices_M):
            listed = batch.take(pa.array(indices_M))
            image_ids = format_id_column(table.image_ids_N[rows_B[indices_M]])
            splits = pa.array([split] * len(listed))
            credit = [_as_text(listed.column(name)) for name in _CREDIT.values()]
            yield pa.record_batch([image_ids, splits, *credit], schema=SCHEMA)


def _as_text(column: pa.Array) -> pa.Array:
    """Decode a binary column; now and then a title is no UTF-8."""
    try:
        return column.cast(pa.string()).fill_null("")
    except pa.ArrowInvalid:
        words = (word or b"" for word in column.to_pylist())
        return pa.array([word.decode(errors="replace") for word in words], pa.string())


def _read_blocks(
    file: DumpFile, columns: Sequence[str], optional: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Read columns of an image list as binary, block by block; titles may hold anything."""
    row = 2  # the header is row 1
    try:
        names = [*columns, *optional, *_header(file)]
        with file.open() as stream:
            for batch in csv.open_csv(
                stream,
                read_options=csv.ReadOptions(block_size=_BLOCK_BYTES),
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=csv.ConvertOptions(
                    check_utf8=False,
                    include_columns=list(dict.fromkeys(names)),
                    include_missing_columns=True,
                    column_types=dict.fromkeys(names, pa.binary()),
                    null_values=[],
                ),
            ):
                missing = [name for name in columns if batch.column(name).null_count]
                if missing:
                    raise pa.ArrowInvalid(f"there is no {missing[0]}")
                _refuse_swallowed(file, batch, row)
                row += len(batch)
                yield batch
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0]
        raise file.error(
            f"not an image list with {', '.join(columns)} ({reason})",
            fix="give an image list of V4 or later for rotations",
        ) from None


def _header(file: DumpFile) -> list[str]:
    """Read the names of the columns of an image list."""
    with file.open() as stream:
        line = stream.readline(_BLOCK_BYTES).decode("utf-8-sig", errors="replace")
    return line.rstrip("\r\n").replace('"', "").split(",")


def _refuse_swallowed(file: DumpFile, batch: pa.RecordBatch, row: int) -> None:
    """Refuse a value that holds another row, as it does where its quote is not closed.

    Args:
        file: the list.
        batch: all its columns.
        row: of the first of the batch.
    """
    for column in batch.columns:
        with_lines = pc.match_substring(column, b"\n")
        if not pc.any(with_lines).as_py():
            continue
        for index, value in zip(
            np.flatnonzero(with_lines), column.filter(with_lines).to_pylist(), strict=True
        ):
            if _ROW_WITHIN.search(value):
                problem = "a quote is not closed: the value holds rows that follow"
                raise file.error(
                    problem, row=row + int(index), fix="close the quote, or download the list again"
                )
