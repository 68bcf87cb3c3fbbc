"""Find files and images whose names are written in another way: case, Unicode form, slashes.

Windows and macOS do not tell such names apart, and change them when files are copied.
"""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath


def normal(written: str) -> str:
    """Write a path as importers do: with forward slashes, and none that means nothing."""
    name = written.strip().replace("\\", "/")
    return PurePosixPath(name).as_posix() if name else ""


def look(name: str) -> str:
    """Fold what Windows and macOS do not tell apart in a name: case and Unicode form.

    A letter stays one: "ß" is not "ss".
    """
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", "".join(map(_fold, unicodedata.normalize("NFC", name))))


def _fold(letter: str) -> str:
    folds = (letter.casefold(), letter.lower())
    return next((fold for fold in folds if len(fold) == 1), letter)


class Listed:
    """Names in folders, each listed once, to be found however they are written."""

    def __init__(self) -> None:
        self._by_look: dict[str, dict[str, list[str]]] = {}

    def alike(self, directory: str, name: str) -> str | None:
        """Find the one path that differs in case and Unicode form alone; None if it is not one."""
        place = directory
        for part in name.split("/"):
            if place not in self._by_look:
                self._by_look[place] = _by_look(place)
            same = self._by_look[place].get(look(part), [])
            if len(same) != 1 and part not in same:
                return None
            place = os.path.join(place, part if part in same else same[0])
        return place


class Spellings:
    """Tell which names in a collection's tables are of one file.

    Args:
        directory: that the names are relative to.
    """

    def __init__(self, directory: Path) -> None:
        self._directory, self._listed = str(directory), Listed()
        self._first: dict[str, str] = {}
        self._others: dict[str, dict[str, str]] = {}

    def first(self, name: str) -> str:
        """Return the first name asked for that is of the same file; this one where none is.

        The disk is asked only where names differ in case and Unicode form alone: on Linux they may
        be two files. It is the first in the tables, not the one on the disk, so that ids of images
        follow from the tables.
        """
        first = self._first.setdefault(look(name), name)
        if first == name:
            return name
        others = self._others.setdefault(first, {})
        if name not in others:
            file = self._file(name)
            known = (first, *others.values())
            others[name] = next((n for n in known if file and self._file(n) == file), name)
        return others[name]

    def _file(self, name: str) -> str | None:
        return self._listed.alike(self._directory, name)


class NameIndex:
    """Find the images of a collection by names that people write.

    Args:
        names: of the images, as the collection has them.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._by_file: defaultdict[str, list[str]] = defaultdict(list)
        for name in sorted(self._names):
            self._by_file[_parts(name)[-1]].append(name)

    def named(self, written: str) -> list[str]:
        """List the names that are meant: the one written, else all that are `alike`."""
        exact = [each for each in (written, normal(written)) if each in self._names]
        return exact[:1] or self.alike(written)

    def alike(self, written: str) -> list[str]:
        """List the names that differ from it in case, Unicode form and slashes alone."""
        return [n for n in self._same_file(written) if _parts(n) == _parts(normal(written))]

    def ending_alike(self, written: str) -> list[str]:
        """List the names that it ends with, or that end with it: they may be of other images."""
        parts = _parts(normal(written))
        return [n for n in self._same_file(written) if _end_alike(parts, _parts(n))]

    def _same_file(self, written: str) -> Sequence[str]:
        return self._by_file.get(_parts(normal(written))[-1], ())


def _parts(name: str) -> list[str]:
    return look(name).strip("/").split("/")


def _end_alike(first: list[str], second: list[str]) -> bool:
    shared = min(len(first), len(second))
    return first[-shared:] == second[-shared:]


def _by_look(folder: str) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            names.setdefault(look(name), []).append(name)
    return names
