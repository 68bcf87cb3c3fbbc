"""Read confidences as machines and people write them: a stream of blocks, each row accounted for.

These are the releases' machine labels (CSV, packed or not), Parquet files with the columns of such
a CSV, and the Parquet files that `predict` writes, a row for an image with lists of its classes.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sharding.errors import InputError, refuse_unfinished_predictions
from sharding.image_ids import Ids, parse_id_column, parse_image_file
from sharding.openimages.confidence_rows import HUMAN_SOURCES, Block, RowCounter, each
from sharding.openimages.csv_reader import HEADER, LabelCsv
from sharding.openimages.dump_files import DumpFile, list_files
from sharding.openimages.row_status import parse_confidence
from sharding.storage.files import sha256_of
from sharding.storage.parquet import as_input_error

UNREADABLE = "unreadable_image"
_FLAT = {"image_id": "ImageID", "mid": "LabelName", "confidence": "Confidence"}
"""Columns of a Parquet file of rows, and the names that the releases' CSVs have for them."""
_LISTS = ("image", "mid", "probability")
_ROWS_AT_ONCE, _LISTS_AT_ONCE = 1 << 18, 1 << 11
_FIX = (
    f"give a CSV {','.join(HEADER)}, a Parquet file of {', '.join(_FLAT)}, or a directory that "
    "predict wrote"
)


Rows = tuple[
    Ids, npt.NDArray[np.bool_], pa.DictionaryArray, npt.NDArray[np.float64], npt.NDArray[np.int64]
]
"""Ids, which of them are valid, MIDs, confidences, and the row of the file that each stands in."""


class ConfidenceReader:
    """Reads all tables below a path, once.

    Args:
        path: of a table, of an archive or of a folder of such.
        mids: of the classes, in their order.
        id_of: makes an id of an image's name that holds none; None where names are none.
        strict: whether the first malformed row is an error.

    Attributes:
        rows: counts what became of them.
        sources: sha256 by file name, once `blocks` is exhausted.

    Raises:
        InputError: nothing there is a table of confidences, or `predict` has not finished it.
    """

    def __init__(
        self,
        path: Path,
        mids: Sequence[str],
        *,
        id_of: Callable[[str], str] | None = None,
        strict: bool = False,
    ) -> None:
        self.rows = RowCounter(mids, strict=strict)
        self.sources: dict[str, str] = {}
        self._id_of = id_of
        self._parquet = _parquet_files(path)
        self._csv = [] if self._parquet else _csv_files(path)
        self._path = path

    def blocks(self) -> Iterator[Block]:
        """Yield the confidences in file order.

        Raises:
            InputError: a file is damaged or has other columns; a bad row, if strict.
        """
        for file in self._csv:
            yield from self._read_csv(file)
        digest = hashlib.sha256()
        for path in self._parquet:
            yield from self._read_parquet(path)
            digest.update(sha256_of(path).encode())
        if len(self._parquet) == 1:
            self.sources[self._parquet[0].name] = sha256_of(self._parquet[0])
        elif self._parquet:
            name = f"{self._path.resolve().name}/*.parquet"
            self.sources[name] = digest.hexdigest()

    def _read_csv(self, file: DumpFile) -> Iterator[Block]:
        name = str(file)
        with file.open() as stream:
            lines = LabelCsv(stream, name)
            for batch in lines.batches():
                ids_N, mids_N, words_N, sources_N = (
                    batch.column(column)
                    for column in ("ImageID", "LabelName", "Confidence", "Source")
                )
                values_N = each(words_N, parse_confidence, np.float64)
                human_N = each(
                    sources_N, lambda word: word.decode(errors="replace") in HUMAN_SOURCES, np.bool_
                )
                image_ids_N, is_id_N = parse_id_column(ids_N)
                blank_N = ~is_id_N & (pc.binary_length(ids_N).to_numpy() == 0)
                blank_N &= each(mids_N, lambda word: not word, np.bool_)
                yield self.rows.keep(
                    image_ids_N,
                    is_id_N,
                    mids_N,
                    values_N,
                    words_N=words_N,
                    human_N=human_N,
                    blank_N=blank_N,
                    place=partial(_line, lines, name),
                )
            if lines.num_malformed:
                line, text = lines.take_malformed()[0]
                self.rows.reject_lines(lines.num_malformed, text, name, line)
        self.sources[file.short_name] = lines.sha256

    def _read_parquet(self, path: Path) -> Iterator[Block]:
        first = 0
        for batch, is_list in _batches(path):
            with _as_input_error(path):
                rows = self._of_lists(batch) if is_list else _of_rows(batch)
            ids_N, is_id_N, mids_N, values_N, images_N = rows
            place = partial(_row, str(path), first, images_N)
            yield self.rows.keep(ids_N, is_id_N, mids_N, values_N, place=place)
            first += len(batch)

    def _of_lists(self, batch: pa.RecordBatch) -> Rows:
        """Flatten `predict`'s lists; an image that it could not read has none."""
        images_N, mids_N, values_N = batch.columns
        self.rows.counts[UNREADABLE] += mids_N.null_count
        counts_N = pc.list_value_length(mids_N).fill_null(0).to_numpy()
        if (counts_N != pc.list_value_length(values_N).fill_null(0).to_numpy()).any():
            raise ValueError("an image has more labels than probabilities, or fewer")
        names = [self._id(name) for name in images_N.to_pylist()]
        ids_N, is_id_N = parse_id_column(pa.array(names, pa.binary()))
        images_E = np.repeat(np.arange(len(batch)), counts_N)
        mids_E = _binary(mids_N.flatten()).dictionary_encode()
        return ids_N[images_E], is_id_N[images_E], mids_E, _numbers(values_N.flatten()), images_E

    def _id(self, image: str | None) -> bytes:
        """Make the id of an image that `predict` read from a tar, a file or a URL."""
        named = parse_image_file(image or "")
        if named is not None:
            return named[0].encode()
        if self._id_of is not None and image and not _is_id(image):
            return self._id_of(image).encode()
        return (image or "").encode()


def _batches(path: Path) -> Iterator[tuple[pa.RecordBatch, bool]]:
    """Read a Parquet file in parts; tell whether they are `predict`'s lists."""
    with _as_input_error(path), pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if set(_LISTS) <= set(names):
            for batch in file.iter_batches(_LISTS_AT_ONCE, columns=_LISTS):
                yield batch.select(_LISTS), True
            return
        wanted = [next((n for n in pair if n in names), "") for pair in _FLAT.items()]
        if "" in wanted:
            raise ValueError(f"its columns are {', '.join(names)}")
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=wanted):
            yield batch.select(wanted), False


def _of_rows(batch: pa.RecordBatch) -> Rows:
    ids_N, mids_N, numbers_N = batch.columns
    mids = _binary(mids_N).dictionary_encode()
    return *parse_id_column(_binary(ids_N)), mids, _numbers(numbers_N), np.arange(len(batch))


def _line(lines: LabelCsv, file: str, n: int) -> tuple[str, int]:
    return file, int(lines.lines_of(np.array([n]))[0])


def _row(file: str, first: int, images_N: npt.NDArray[np.int64], n: int) -> tuple[str, int]:
    return file, first + int(images_N[n]) + 1


def _as_input_error(path: Path) -> contextlib.AbstractContextManager[None]:
    return as_input_error(path, kind="table of confidences", fix=_FIX)


def _numbers(column: pa.Array) -> npt.NDArray[np.float64]:
    return pc.cast(column, pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)


def _binary(column: pa.Array) -> pa.Array:
    return pc.cast(column, pa.binary()).fill_null(b"")


def _is_id(image: str) -> bool:
    return parse_image_file(f"{image}.jpg") is not None


def _parquet_files(path: Path) -> list[Path]:
    """List the Parquet files of a folder, or the one named; hidden ones are bookkeeping.

    Raises:
        InputError: `predict` has not written all of them yet.
    """
    if path.is_dir():
        refuse_unfinished_predictions(path, [p.name for p in path.iterdir()])
        return sorted(p for p in path.glob("*.parquet") if p.name[0] not in "._")
    return [path] if path.suffix == ".parquet" else []


def _csv_files(path: Path) -> list[DumpFile]:
    """List the machine labels of a dump, a folder or an archive, or the table named.

    Raises:
        InputError: there are none.
    """
    if not path.exists():
        raise InputError("no such table of confidences", file=path, fix=_FIX)
    files = dict.fromkeys((*list_files(path, rarely_read="machine"), *list_files(path)))
    tables = [file for file in files if file.name.endswith(".csv")]
    if len(tables) != 1:
        tables = [file for file in tables if "machine" in file.name]
    if not tables:
        raise InputError("there are no machine labels", file=path, fix=_FIX)
    return _unpacked_once(tables)


def _unpacked_once(tables: Sequence[DumpFile]) -> list[DumpFile]:
    """Leave out copies of a table: of those with one name the least packed is read."""
    best: dict[str, DumpFile] = {}
    for file in sorted(tables, key=lambda file: file.packing):
        best.setdefault(file.short_name, file)
    return [best[name] for name in sorted(best)]
