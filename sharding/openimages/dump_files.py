"""List and open the tables of a dump: plain, compressed, or in archives, which are not unpacked.

Names say what may be a table or an archive; how it is packed is told by its content.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import filterfalse
from pathlib import Path
from typing import IO, BinaryIO

from sharding import log
from sharding.decode import SUFFIXES
from sharding.errors import InputError
from sharding.storage.compression import (
    ARCHIVES,
    DAMAGE,
    HEAD,
    UNREAD_ARCHIVES,
    decompressed,
    is_zip,
    open_member,
    unread,
)
from sharding.storage.tar_reader import MemberContent, read_members

COMPRESSED = (".gz", ".xz", ".bz2", ".zst")
"""Endings of compressed tables; of zst it is said that it is not read."""
TABLES = (".csv", ".txt")
DEPTH = 4

# Listing an archive means reading it, seconds for a gigabyte, so those that are rarely needed wait
# until they are. Names as published: annotations_machine_2017_11, images_2017_11, ...
RARELY_READ = ("machine", "images", "bbox")
_RARE_NAME = re.compile(rf"(?:^|[_-])({'|'.join(RARELY_READ)})(?:[_.-]|$)")


@dataclass(frozen=True, kw_only=True)
class DumpFile:
    """One table of a dump.

    Attributes:
        path: the file on disk.
        member: name inside the archive at ``path``, None for a file that is no archive.
        location: path of the table if everything were unpacked in place, relative to the dump's
            directory and starting with that directory's name; forward slashes.
    """

    path: Path
    member: str | None = None
    location: str

    @property
    def name(self) -> str:
        """The file name of the table itself, without compression suffix."""
        return self.location.rsplit("/", 1)[-1]

    @property
    def short_name(self) -> str:
        """Folder and file name ("train/annotations-human.csv"), the same however it is packed."""
        return "/".join(self.location.split("/")[-2:])

    @property
    def packing(self) -> int:
        """0 for plain, 1 for compressed, 2 for a member of an archive, 3 for what is not read."""
        if self.member is not None:
            return 2
        return 3 if self.path.suffix == ".zst" else int(self.path.suffix in COMPRESSED)

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    @contextlib.contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open the table as a stream of decompressed bytes.

        Raises:
            InputError: the file is missing, or the archive is cut off or damaged; also while it
                is read inside the ``with`` block.
        """
        with self.damage_as_input_error(), open(self.path, "rb") as raw:
            head = raw.peek(HEAD)
            self.refuse_unread(head)
            if self.member is None:
                yield decompressed(raw, head)
            elif is_zip(head):
                with zipfile.ZipFile(raw) as pack, open_member(pack, self.member) as content:
                    yield content
            else:
                yield _open_in_tar(decompressed(raw, head), self.member)

    def read_text(self) -> str:
        """Read the whole table as UTF-8 text, with or without a byte order mark.

        Raises:
            InputError: as `open`, or it is not UTF-8.
        """
        with self.open() as stream:
            return decode_utf8(stream.read(), str(self))

    def refuse_unread(self, head: bytes) -> None:
        """Refuse a file of these first bytes that is packed as none is read here."""
        if name := unread(head):
            fix = "unpack it beside the annotations"
            raise self.error(f"a {name} file is not read", fix=fix)

    def error(self, problem: str, *, fix: str, row: int | None = None) -> InputError:
        """Make the error of bad content in this table."""
        return InputError(problem, file=str(self), row=row, fix=fix)

    @contextlib.contextmanager
    def damage_as_input_error(self) -> Iterator[None]:
        """Turn errors of reading this file into one line that names it."""
        try:
            yield
        except (tarfile.TarError, KeyError, OSError, *DAMAGE) as error:
            if isinstance(error, OSError) and error.errno is not None:
                problem = f"cannot be read ({error.strerror})"
                raise self.error(problem, fix="check the path") from None
            reason = log.first_line(error).rstrip(":")
            problem = f"the archive is cut off or damaged ({reason})"
            fix = "download it again and compare its size and MD5 with the published ones"
            raise self.error(problem, fix=fix) from None


def decode_utf8(content: bytes, file: str | os.PathLike[str]) -> str:
    """Decode the content of a file, with or without a byte order mark.

    Raises:
        InputError: it is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 ({error.reason} at byte {error.start})"
        raise InputError(problem, file=file, fix="save it as UTF-8") from None


def list_files(root: Path, *, rarely_read: str | None = None) -> tuple[DumpFile, ...]:
    """List the tables under a dump's directory, to a depth of four, and inside its archives.

    Archives that hold a picture before any table are skipped, and hidden files; with a warning also
    zips that cannot be read and archives of kinds that are not: people keep those of masks here.

    Args:
        root: the directory, or a single archive or table.
        rarely_read: one of `RARELY_READ`, to list the archives named for it and no others; those
            are skipped without it.

    Raises:
        InputError: ``root`` does not exist, or an archive is damaged.
    """
    if not root.exists():
        raise InputError(
            "annotation directory is missing", file=root, fix="check the path of --annotations"
        )
    root = root.resolve()
    base = root if root.is_dir() else root.parent
    tables: list[DumpFile] = []
    for path in _walk(root) if root.is_dir() else [root]:
        file = DumpFile(path=path, location=f"{base.name}/{path.relative_to(base).as_posix()}")
        if path.name.endswith((*ARCHIVES, *UNREAD_ARCHIVES)):
            try:
                tables.extend(_members(file, rarely_read))
            except InputError as error:
                if path == root or not path.name.endswith((".zip", *UNREAD_ARCHIVES)):
                    raise
                log.info(f"skipped: {error}", "WARNING")
        else:
            tables.append(replace(file, location=_without_compression(file.location)))
    return tuple(sorted(tables, key=lambda file: (file.location, file.packing, str(file.path))))


def _walk(root: Path) -> Iterator[Path]:
    depth = len(root.parts)
    # Links are followed: the depth ends a cycle.
    for directory, folders, names in os.walk(root, followlinks=True):
        folder = Path(directory)
        if len(folder.parts) - depth >= DEPTH:
            folders.clear()
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for name in filterfalse(_is_hidden, names):
            is_archive = name.endswith((*ARCHIVES, *UNREAD_ARCHIVES))
            if is_archive or _is_table(_without_compression(name)):
                yield folder / name


def _members(file: DumpFile, rarely_read: str | None) -> list[DumpFile]:
    folder = file.location.rsplit("/", 1)[0]
    rare = _RARE_NAME.search(file.path.name)
    if (rare and rare[1]) != rarely_read:
        return []
    with file.damage_as_input_error(), open(file.path, "rb") as raw:
        file.refuse_unread(raw.peek(HEAD))
        return [
            DumpFile(path=file.path, member=name, location=f"{folder}/{name}")
            for name in dict.fromkeys(_tables(raw))  # one appended again is read as it is last
        ]


def _tables(raw: BinaryIO) -> list[str]:
    """List the tables of an archive; none where it is one of pictures."""
    head = raw.peek(HEAD)  # type: ignore[attr-defined]
    if is_zip(head):
        with zipfile.ZipFile(raw) as pack:
            return [name for name in pack.namelist() if _is_table(name)]
    tables = []
    for member, content in read_members(decompressed(raw, head)):
        if content is not None and _is_table(member.name):
            tables.append(member.name)
        elif not tables and member.name.lower().endswith(SUFFIXES):
            return []
    return tables


def _open_in_tar(stream: BinaryIO, name: str) -> IO[bytes]:
    """Open the last member of this name, in any of the tars joined to one."""
    places = [
        (member.offset_data, member.size)
        for member, content in read_members(stream)
        if content is not None and member.name == name
    ]
    if not places:
        raise KeyError(name)
    offset, size = places[-1]
    stream.seek(offset)
    return io.BufferedReader(MemberContent(stream, size))


def _without_compression(name: str) -> str:
    return next((name.removesuffix(s) for s in COMPRESSED if name.endswith(s)), name)


def _is_table(name: str) -> bool:
    return name.endswith(TABLES) and not any(map(_is_hidden, name.split("/")))


def _is_hidden(name: str) -> bool:
    """Tell the files that systems keep for themselves, such as ``._NAME`` of a Mac."""
    return name == "__MACOSX" or (name.startswith(".") and name != ".")
