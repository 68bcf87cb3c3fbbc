"""What the image lists of a dump say of a split: images that nobody annotated, and licences.

59 % of V3's training images are in no shard, since nothing could be learnt from them; the report
says how many they are.

`attribution.parquet`: who took each image, from the image lists of the dump.

CC BY owes every author a name and a link wherever an image goes. There is a row for each image that
the annotations name, also while it has no pixels: it may get them by `--retry-failed`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from sharding.errors import InputError
from sharding.image_ids import format_id_column, parse_id_column
from sharding.labels import LabelTable
from sharding.openimages.annotations import SplitLabels
from sharding.openimages.dump import Dump
from sharding.openimages.dump_files import DumpFile
from sharding.openimages.layouts import ALL_SPLITS_LIST
from sharding.storage.files import replacing, sha256_of

LICENSE = "license "
"""Begins the keys of the report that count labelled images by licence."""

MOST_LICENSES = 20


def with_listed(dump: Dump, split: str, labels: SplitLabels) -> SplitLabels:
    """The labels of a split, their report with what the split's image list says of them.

    ``listed`` counts the images of the list, ``listed_without_rows`` those that no row of the
    annotations names, ``license NAME`` the others by licence, the most frequent ones by name;
    all are absent where the dump has no list.

    Raises:
        InputError: the list is damaged.
    """
    file = dump.images_file(split)
    if file is None:
        return labels
    listed = without = 0
    licenses: Counter[str] = Counter()
    for rows_B, batch in listed_rows(file, split, labels.table, ("License",)):
        listed += len(rows_B)
        without += int(np.count_nonzero(rows_B < 0))
        named = batch.column("License").filter(pa.array(rows_B >= 0)).drop_null()
        for found in named.value_counts().to_pylist():
            name = found["values"].decode(errors="replace").strip()
            licenses[name or "not said"] += found["counts"]
    report = {**labels.report, "listed": listed, "listed_without_rows": without}
    by_number = licenses.most_common()
    report |= {f"{LICENSE}{name}": number for name, number in by_number[:MOST_LICENSES]}
    if rare := sum(number for _, number in by_number[MOST_LICENSES:]):
        report[f"{LICENSE}of other names"] = rare
    return dataclasses.replace(labels, report=report)


def listed_rows(
    file: DumpFile, split: str, table: LabelTable, optional: Sequence[str]
) -> Iterator[tuple[npt.NDArray[np.int64], pa.RecordBatch]]:
    """What a list says of a split, block by block: rows of the table, -1 for others, and columns.

    Raises:
        InputError: the list is damaged.
    """
    of_all = file.name.startswith(ALL_SPLITS_LIST)
    for keys_B, batch in read_listed(file, ("Subset",) if of_all else (), optional):
        if of_all:
            ours_B = pc.equal(batch.column("Subset"), split.encode())
            keys_B, batch = keys_B[np.asarray(ours_B)], batch.filter(ours_B)
        yield table.rows_of(keys_B), batch


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


def read_listed(
    file: DumpFile, columns: Sequence[str] = (), optional: Sequence[str] = ()
) -> Iterator[tuple[npt.NDArray[np.uint64], pa.RecordBatch]]:
    """Image ids and further columns of an image list, block by block; as `read_image_list`.

    Raises:
        InputError: as there, or an image id is malformed.
    """
    row = 2  # the header is row 1
    for batch in read_image_list(file, ("ImageID", *columns), optional):
        keys_B, valid_B = parse_id_column(batch.column("ImageID"))
        if not valid_B.all():
            at = int(np.argmin(valid_B))
            bad = batch.column("ImageID")[at].as_py()[:64].decode(errors="replace")
            raise InputError(
                f"image id {bad!r} is not 16 lowercase hex characters",
                file=str(file),
                row=row + at,
                fix="download the image list again",
            )
        yield keys_B, batch
        row += len(batch)


def read_image_list(
    file: DumpFile, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[pa.RecordBatch]:
    """The columns named of an image list, as binary, block by block; titles may hold anything.

    Columns that are ``optional`` hold nulls where the list has none.

    Raises:
        InputError: the list is malformed or lacks a column.
    """
    wanted = [*columns, *optional]
    try:
        with file.open() as stream:
            for batch in csv.open_csv(
                stream,
                read_options=csv.ReadOptions(block_size=16 << 20),
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=csv.ConvertOptions(
                    check_utf8=False,
                    include_columns=wanted,
                    include_missing_columns=True,
                    column_types=dict.fromkeys(wanted, pa.binary()),
                    null_values=[],
                ),
            ):
                lacking = [name for name in columns if batch.column(name).null_count]
                if lacking:
                    raise pa.ArrowInvalid(f"there is no {lacking[0]}")
                yield batch
    except pa.ArrowInvalid as error:
        raise InputError(
            f"not an image list with {', '.join(columns)} ({str(error).splitlines()[0]})",
            file=str(file),
            fix="give an image list of V4 or later for rotations",
        ) from None
