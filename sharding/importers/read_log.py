"""Reading text files with an account: a hash per file, and every row that labels nothing."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

from sharding.errors import InputError
from sharding.openimages.dump_files import decode_utf8
from sharding.openimages.row_status import MOST_LISTED, RejectedRow


class ReadLog:
    """Hashes, counts and bad rows of one collection while it is read.

    Args:
        root: folder that file names are told relative to.
        strict: the first bad row is an error instead of an entry.
    """

    def __init__(self, root: Path, *, strict: bool) -> None:
        self._root, self._strict = root, strict
        self._rejected_rows: dict[str, list[RejectedRow]] = {}
        self._counts: dict[str, Counter[str]] = {}
        self.sources: dict[str, str] = {}

    def read(self, path: Path) -> bytes:
        """The content of a file, its hash noted.

        Raises:
            InputError: it is missing or cannot be read.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(
                f"cannot be read ({error.strerror})",
                file=path,
                fix="give the folder of the unpacked collection as --source",
            ) from None
        self.sources[self.name_of(path)] = hashlib.sha256(content).hexdigest()
        return content

    def text(self, path: Path) -> str:
        """The content of a UTF-8 file.

        Raises:
            InputError: it is missing, cannot be read, or is not UTF-8.
        """
        return decode_utf8(self.read(path), path)

    def lines(self, path: Path) -> list[str]:
        """The lines of a UTF-8 file, whatever its line ends."""
        return self.text(path).splitlines()

    def count(self, split: str, what: str, number: int = 1) -> None:
        """Add to a count of the report."""
        self._counts.setdefault(split, Counter())[what] += number

    def bad(
        self, split: str, path: Path, row: int, reason: str, *, fix: str, image: str = ""
    ) -> None:
        """Set a row aside.

        Raises:
            InputError: the reading is strict.
        """
        if self._strict:
            raise InputError(reason, file=path, row=row, fix=fix)
        self.count(split, "bad_rows")
        listed = self._rejected_rows.setdefault(split, [])
        if len(listed) < MOST_LISTED:
            name = self.name_of(path)
            listed.append(
                RejectedRow(file=name, row=row, image_id=image[:64], reason=reason, fix=fix)
            )

    def report(self, split: str) -> dict[str, int]:
        """The counts of a split."""
        return {"bad_rows": 0, **dict(sorted(self._counts.get(split, Counter()).items()))}

    def rejected_rows(self, split: str) -> tuple[RejectedRow, ...]:
        """The rows set aside in a split, the first `MOST_LISTED`."""
        return tuple(self._rejected_rows.get(split, ()))

    def name_of(self, path: Path) -> str:
        """How a file is told: relative to the root where it lies below it."""
        return (
            path.relative_to(self._root).as_posix()
            if path.is_relative_to(self._root)
            else path.name
        )
