"""Read the text files of a collection, logging the hash of each file and every malformed row."""

from __future__ import annotations

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sharding.errors import InputError
from sharding.importers.collection import Part, is_text, unpack_first
from sharding.layout import is_below
from sharding.openimages.dump_files import DumpFile, decode_utf8
from sharding.openimages.row_status import MOST_LISTED, RejectedRow
from sharding.storage.compression import HEAD, decompressed, is_zip, unread

_LONGEST_NAME = 1024
_TAR_MAGIC = slice(257, 262)


class ReadLog:
    """Hashes, counts and rejected rows of one collection while it is read.

    Args:
        root: folder that file names in the log are relative to.
        strict: the first malformed row is an error instead of an entry.

    Attributes:
        sources: sha256 of every file read, by name.
    """

    def __init__(self, root: Path, *, strict: bool) -> None:
        self._root, self._strict = root, strict
        self._rejected: defaultdict[str, list[RejectedRow]] = defaultdict(list)
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.sources: dict[str, str] = {}

    def read(self, path: Path) -> bytes:
        """Read a file and log its hash.

        Raises:
            InputError: it is missing or cannot be read.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(
                f"cannot be read ({error.strerror})",
                file=path,
                fix=unpack_first(path, "give the folder of the unpacked collection as --source"),
            ) from None
        self.sources[self._name_of(path)] = hashlib.sha256(content).hexdigest()
        return content

    def text(self, path: Path) -> str:
        """Read a UTF-8 file, which may be compressed.

        Raises:
            InputError: it is missing, cannot be read, or is not UTF-8.
        """
        content = self.read(path)
        file = DumpFile(path=path, location=path.name)
        with file.damage_as_input_error(), io.BytesIO(content) as stream:
            unpacked = decompressed(stream, content[:HEAD]).read()
        if (name := _archive(unpacked)) is not None:
            raise file.error(f"{name} is not read", fix="unpack it, or save it as text in UTF-8")
        return decode_utf8(unpacked, path)

    def lines(self, path: Path) -> list[str]:
        """Read the lines of a UTF-8 file, without white space at their ends."""
        return [line.strip() for line in self.text(path).splitlines()]

    def rows(self, path: Path) -> Iterator[tuple[int, list[str]]]:
        """Read a table of cells between white space: (1-based line, cells) of lines with any."""
        for number, line in enumerate(self.lines(path), start=1):
            if line:
                yield number, line.split()

    def count(self, split: str, what: str, number: int = 1) -> None:
        """Add to a count of a split's report."""
        self._counts[split][what] += number

    def reject(
        self, split: str, path: Path, row: int, reason: str, *, fix: str, image: str = ""
    ) -> None:
        """Log a malformed row.

        Raises:
            InputError: the reading is strict.
        """
        if self._strict:
            raise InputError(reason, file=path, row=row, fix=fix)
        self.count(split, "bad_rows")
        if len(self._rejected[split]) < MOST_LISTED:
            name, image_id = self._name_of(path), image[:_LONGEST_NAME]
            self._rejected[split].append(
                RejectedRow(file=name, row=row, image_id=image_id, reason=reason, fix=fix)
            )

    @property
    def splits(self) -> frozenset[str]:
        """Splits of which anything was counted or rejected."""
        return frozenset(self._counts)

    def part(self, split: str, names: Sequence[str], labels_NK: npt.NDArray[np.int8]) -> Part:
        """Build a part with the counts and rejected rows of its split.

        Names that lead out of the folder of images are rejected here, for every format.
        """
        bad = [row for row, name in enumerate(names) if not (is_text(name) and is_below(name))]
        for row in bad:
            reason = f"not a path below the source: {names[row]!a:.80}"
            images, fix = Path(f"{split} images"), "name a file in the folder of images"
            image = names[row].encode("ascii", "backslashreplace").decode()
            self.reject(split, images, row + 1, reason, fix=fix, image=image)
        if bad:  # else the matrix, which may be large, is not copied
            kept = sorted(set(range(len(names))) - set(bad))
            names, labels_NK = [names[row] for row in kept], labels_NK[kept]
        return Part(
            names=tuple(names),
            labels_NK=labels_NK,
            report={"bad_rows": 0, **dict(sorted(self._counts[split].items()))},
            rejected_rows=tuple(self._rejected[split]),
        )

    def _name_of(self, path: Path) -> str:
        inside = path.is_relative_to(self._root)
        return path.relative_to(self._root).as_posix() if inside else path.name


def _archive(content: bytes) -> str | None:
    """Name what holds files instead of text, or is compressed in a way that is not read."""
    if is_zip(content):
        return "a zip, as a spreadsheet is one,"
    name = "tar" if content[_TAR_MAGIC] == b"ustar" else unread(content)
    return None if name is None else f"a {name} file"
