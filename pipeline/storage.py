"""Small files of a run, on a local disk or in a bucket, through pyarrow's filesystems."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import fs

from sharding.errors import InputError
from sharding.storage import files

# Keys are taken as they are written, and need no directory.
_BUCKETS = ("s3", "gs")

Upload = Callable[[bytes, str], object]
"""Takes an artifact's content and path, as `pipeline.tracking.writer.RunWriter.artifact` does."""


def absolute(location: str) -> str:
    """A URL as it is, a path made absolute: workers run in directories of their own."""
    return location if "://" in location else str(Path(location).expanduser().absolute())


def join(location: str, *parts: str) -> str:
    """Append path components to a URL or a path."""
    return "/".join([location.rstrip("/"), *parts])


def exists(location: str) -> bool:
    """Whether a file or directory is there."""
    filesystem, path = _open(location)
    return filesystem.get_file_info(path).type != fs.FileType.NotFound


def read_bytes(location: str) -> bytes:
    """What is stored at ``location``.

    Raises:
        OSError: there is nothing, or no way to read it.
    """
    filesystem, path = _open(location)
    with filesystem.open_input_stream(path) as stream:
        return stream.read()


def stream(location: str, size: int = 8 << 20) -> Iterator[bytes]:
    """What is stored at ``location``, in parts of ``size`` bytes."""
    filesystem, path = _open(location)
    with filesystem.open_input_stream(path) as source:
        while part := source.read(size):
            yield part


def read_json(location: str) -> Any | None:
    """The value stored at ``location``, or None where there is nothing."""
    return json.loads(read_bytes(location)) if exists(location) else None


def names_in(location: str) -> list[str]:
    """Names of the files in a directory, sorted; none where there is no directory."""
    return _names(location, fs.FileType.File)


def directories_in(location: str) -> list[str]:
    """Names of the directories in a directory, sorted; none where there is no directory."""
    return _names(location, fs.FileType.Directory)


def files_below(location: str) -> list[str]:
    """All files in a directory and its subdirectories, sorted; none where there is no directory."""
    filesystem, path = _open(location)
    selector = fs.FileSelector(path, allow_not_found=True, recursive=True)
    found = [i.path for i in filesystem.get_file_info(selector) if i.type == fs.FileType.File]
    names = (file[len(path.rstrip("/")) + 1 :] for file in found)
    return sorted(join(absolute(location), name) for name in names)


def opened(location: str) -> BinaryIO:
    """The file at ``location``, to be read at any position; close it.

    Raises:
        OSError: there is nothing, or no way to read it.
    """
    filesystem, path = _open(location)
    return filesystem.open_input_file(path)


def write_json(location: str, value: Any) -> None:
    """Store ``value``; a reader sees the old file or the new one, never a part."""
    write_bytes(location, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def write_bytes(location: str, content: bytes) -> None:
    """Store ``content``; a reader sees the old file or the new one, never a part.

    Raises:
        InputError: the disk is full, or the bucket does not take it.
    """
    filesystem, path = _open(location)
    if isinstance(filesystem, fs.LocalFileSystem):
        with files.replacing(path) as temporary:
            temporary.write_bytes(content)
        return
    try:
        with filesystem.open_output_stream(path) as stream:  # a bucket's put is atomic
            stream.write(content)
    except OSError as error:
        raise InputError(
            f"cannot be written ({str(error).splitlines()[0][:200]})",
            file=location,
            fix="check the bucket's name and your credentials, then repeat the command",
        ) from None


def remove(location: str) -> None:
    """Remove a directory and all that is in it.

    Raises:
        OSError: it is not there, or the storage does not let go of it.
    """
    filesystem, path = _open(location)
    filesystem.delete_dir(path)


def sweep(location: str) -> None:
    """Remove what killed writers left in a directory; a bucket never shows it."""
    filesystem, path = _open(location)
    if isinstance(filesystem, fs.LocalFileSystem):
        files.remove_temporaries(path)


def _names(location: str, kind: fs.FileType) -> list[str]:
    filesystem, path = _open(location)
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in found if info.type == kind)


def _open(location: str) -> tuple[fs.FileSystem, str]:
    scheme, separator, rest = location.partition("://")
    if not separator:
        return fs.LocalFileSystem(), absolute(location)
    try:
        if scheme not in _BUCKETS or "?" in rest:
            return fs.FileSystem.from_uri(location)
        bucket, _, key = rest.partition("/")
        filesystem, name = _client(f"{scheme}://{bucket}")
        return filesystem, f"{name}/{key}".rstrip("/")
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            f"no such place ({str(error).splitlines()[0][:200]})",
            file=location,
            fix="pass a path, s3://BUCKET/KEY or gs://BUCKET/KEY, and check your credentials",
        ) from None


@functools.lru_cache(maxsize=16)
def _client(bucket: str) -> tuple[fs.FileSystem, str]:
    """One client per bucket: each would ask where the bucket is, and connect, for every file."""
    return fs.FileSystem.from_uri(bucket)


class StorageFailed(OSError):
    """The storage of the run, and no other file, could not be read or written."""


@contextlib.contextmanager
def of_the_storage() -> Iterator[None]:
    """Tell a worker's errors of the storage from those of its other files.

    Raises:
        StorageFailed: for an OSError inside.
    """
    try:
        yield
    except OSError as error:
        raise StorageFailed(str(error)) from error
