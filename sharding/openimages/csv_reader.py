"""Read one CSV of image labels as a stream of column batches: a strict header, tolerant rows.

The four columns are read by name, as the dumps and as pandas, R or a spreadsheet write them: in any
order, beside a column without a name (an index), between commas, semicolons or tabs. Everything is
read as bytes: ids and MIDs are never guessed to be numbers. A quote is an ordinary byte, because
Open Images never quotes these columns and a stray one must not swallow the lines up to the next;
where the header is quoted, quotes mean nothing. No valid row holds a byte outside ASCII; such bytes
become `?`, which no valid row holds either, because pyarrow cannot report a malformed line that is
not UTF-8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as csv

from sharding.errors import InputError

HEADER = ("ImageID", "Source", "LabelName", "Confidence")
BLOCK_BYTES = 16 << 20

_LONGEST_HEADER = 1 << 16
_FIRST_LINE = 2  # of the rows: the header is line 1
_ASCII = bytes(byte if byte < 128 else ord("?") for byte in range(256))
_DICTIONARY = pa.dictionary(pa.int32(), pa.binary())
_TYPES = {"ImageID": pa.binary(), **dict.fromkeys(HEADER[1:], _DICTIONARY)}


_FIX = (
    "give a file of image labels (not boxes, not a list of images); save a table with these "
    "columns alone, between commas, without an index"
)


class LabelCsv:
    """One annotation CSV, read once from a binary stream.

    Args:
        stream: of the decompressed file.
        name: of the file in errors.
    """

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream = _HashedStream(stream)
        self._name = name
        self._rows_before = 0
        self._malformed: list[int] = []
        self._malformed_texts: list[tuple[int, str]] = []

    @property
    def sha256(self) -> str:
        """Hash of the bytes read: of the whole file once `batches` is exhausted."""
        return self._stream.digest.hexdigest()

    @property
    def num_malformed(self) -> int:
        """Lines of other than four columns, met so far."""
        return len(self._malformed)

    def take_malformed(self) -> list[tuple[int, str]]:
        """Return (line, text) of each line of other than four columns since the last call."""
        taken, self._malformed_texts = self._malformed_texts, []
        return taken

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows of four columns in file order, the last three dictionary-encoded.

        An empty line comes as a row of four empty values.

        Raises:
            InputError: the header has not the names of `HEADER`, or a line is longer than a block.
        """
        delimiter, names = self._read_header()
        try:
            for batch in self._open(delimiter, names):
                yield batch
                self._rows_before += len(batch)
        except pa.ArrowInvalid as error:
            if "Empty CSV file" in str(error):
                return  # a header without rows is a dump without labels
            raise InputError(
                f"not a CSV ({str(error).splitlines()[0]})",
                file=self._name,
                fix="download the file again",
            ) from None

    def lines_of(self, indices_M: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Find the lines in the file (the header is line 1) of rows of the current batch."""
        rows_M = self._rows_before + indices_M
        malformed = np.array(self._malformed, np.int64)
        rows_ahead = malformed - _FIRST_LINE - np.arange(len(malformed))
        return rows_M + _FIRST_LINE + np.searchsorted(rows_ahead, rows_M, side="right")

    def _open(self, delimiter: str, names: list[str]) -> csv.CSVStreamingReader:
        return csv.open_csv(
            self._stream,
            read_options=csv.ReadOptions(
                use_threads=False,  # line numbers are known to one thread only
                column_names=names,
                block_size=BLOCK_BYTES,
            ),
            parse_options=csv.ParseOptions(
                delimiter=delimiter,
                quote_char=False,
                ignore_empty_lines=False,  # they count as lines
                invalid_row_handler=self._note_malformed,
            ),
            convert_options=csv.ConvertOptions(
                check_utf8=False,
                include_columns=list(HEADER),
                column_types=_TYPES,
                null_values=[],
            ),
        )

    def _read_header(self) -> tuple[str, list[str]]:
        """Find the delimiter and the names of the columns; those without one are numbered."""
        line = self._stream.first_line().removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
        for delimiter in ",;\t":
            cells = line.decode(errors="replace").split(delimiter)
            if all(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells):
                self._stream.unquote()
                cells = [cell[1:-1] for cell in cells]
            if sorted(filter(None, cells)) == sorted(HEADER):
                return delimiter, [cell or f"column {at}" for at, cell in enumerate(cells)]
        problem = f"the header is {line[:80].decode(errors='replace')!r}, not {','.join(HEADER)!r}"
        raise InputError(problem, file=self._name, row=1, fix=_FIX)

    def _note_malformed(self, row: csv.InvalidRow) -> str:
        self._malformed.append(row.number + 1)
        self._malformed_texts.append((row.number + 1, row.text[:64]))
        return "skip"


class _HashedStream:
    """A stream of ASCII for pyarrow that hashes the bytes read and returns the first line apart.

    Lines may end with a carriage return alone, if the first does.
    """

    closed = False

    def __init__(self, stream: IO[bytes]) -> None:
        self.digest = hashlib.sha256()
        self._stream = stream
        self._pending = b""
        self._dropped = b""

    def first_line(self) -> bytes:
        head = self._stream.read(_LONGEST_HEADER)
        self.digest.update(head)
        line, newline, self._pending = head.partition(b"\n" if b"\n" in head else b"\r")
        return line + newline

    def unquote(self) -> None:
        """Drop quotes from now on."""
        self._dropped = b'"'

    def read(self, size: int = -1) -> bytes:
        while True:
            if self._pending:
                chunk, self._pending = self._pending, b""
            else:
                chunk = self._stream.read(size)
                self.digest.update(chunk)
            if not chunk or (chunk.isascii() and not self._dropped):
                return chunk
            if translated := chunk.translate(_ASCII, self._dropped):  # empty would mean the end
                return translated

    def close(self) -> None:
        self.closed = True
