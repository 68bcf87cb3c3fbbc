"""Read and write small files of a run, on a local disk or in a bucket, through pyarrow.

A location is a path, or a URL such as s3://BUCKET/KEY.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import fs

from sharding.errors import InputError
from sharding.log import first_line
from sharding.storage import files

# Their keys are used as they are written, and need no directory.
_BUCKETS = ("s3", "gs")

Upload = Callable[[bytes, str], object]
"""Takes an artifact's content and path, as `pipeline.tracking.writer.RunWriter.artifact` does."""


class StorageFailed(OSError):
    """The storage of the run, and no other file, could not be read or written."""


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Mark a worker's OSErrors of the storage: others may be of any file it reads.

    Raises:
        StorageFailed: for an OSError inside.
    """
    try:
        yield
    except OSError as error:
        raise StorageFailed(str(error)) from error


def absolute(location: str) -> str:
    """Make a path absolute, because workers run in directories of their own; keep a URL."""
    return location if "://" in location else str(Path(location).expanduser().absolute())


def absolute_in(options: tuple[str, ...]) -> tuple[str, ...]:
    """Make every path in a method's options absolute: workers run in directories of their own."""
    key = "prior="
    return tuple(
        key + absolute(option.removeprefix(key)) if option.startswith(key) else option
        for option in options
    )


def join(location: str, *parts: str) -> str:
    """Append path components to a URL or a path."""
    return "/".join([location.rstrip("/"), *parts])


def exists(location: str) -> bool:
    """Check whether a file or directory is there."""
    filesystem, path = _open(location)
    return filesystem.get_file_info(path).type != fs.FileType.NotFound


def read_bytes(location: str) -> bytes:
    """Read a file.

    Raises:
        OSError: there is none, or no way to read it.
    """
    filesystem, path = _open(location)
    with filesystem.open_input_stream(path) as source:
        content: bytes = source.read()
    return content


def stream(location: str, size: int = 8 << 20) -> Iterator[bytes]:
    """Read a file in parts of ``size`` bytes; raises as `read_bytes` does."""
    filesystem, path = _open(location)
    with filesystem.open_input_stream(path) as source:
        while part := source.read(size):
            yield part


def open_file(location: str) -> BinaryIO:
    """Open a file to be read at any position; raises as `read_bytes` does."""
    filesystem, path = _open(location)
    if isinstance(filesystem, fs.LocalFileSystem) and stat.S_ISFIFO(os.stat(path).st_mode):
        raise OSError("a named pipe, which would wait for its writer")
    return filesystem.open_input_file(path)


def read_json(location: str) -> Any | None:
    """Read the value of a JSON file, or None if there is no file."""
    return json.loads(read_bytes(location)) if exists(location) else None


def names_in(location: str) -> list[str]:
    """List the names of a directory's files, sorted; none if there is no directory."""
    return sorted(info.base_name for info in _list(location) if info.is_file)


def directories_in(location: str) -> list[str]:
    """List the names of a directory's directories, sorted; none if there is no directory."""
    kind = fs.FileType.Directory
    return sorted(info.base_name for info in _list(location) if info.type == kind)


def files_below(location: str) -> list[str]:
    """List all files of a directory and its subdirectories, sorted; none if there is none.

    Links are followed; a directory of this machine is listed once, wherever links to it are.
    """
    filesystem, root = _open(location)
    root = root.rstrip("/") or root
    if isinstance(filesystem, fs.LocalFileSystem):
        paths = _files_on_disk(root)
    else:
        paths = (info.path for info in _list(location, recursive=True) if info.is_file)
    return sorted(join(absolute(location), path[len(root) + 1 :]) for path in paths)


def _files_on_disk(root: str) -> Iterator[str]:
    seen: set[str] = set()
    for folder, inner, names in os.walk(root, followlinks=True):
        inner.sort(key=lambda name: (os.path.islink(os.path.join(folder, name)), name))
        if (place := os.path.realpath(folder)) in seen:
            inner.clear()
            continue
        seen.add(place)
        yield from (path for name in names if os.path.isfile(path := os.path.join(folder, name)))


def write_json(location: str, value: Any) -> None:
    """Write a value as JSON, as `write_bytes` does."""
    write_bytes(location, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def write_bytes(location: str, content: bytes) -> None:
    """Write a file atomically: a reader sees the old one or the new one, never a part.

    Raises:
        InputError: the disk is full, or the bucket does not take it.
    """
    filesystem, path = _open(location)
    if isinstance(filesystem, fs.LocalFileSystem):
        with files.replacing(path) as temporary:
            temporary.write_bytes(content)
        return
    try:
        with filesystem.open_output_stream(path) as target:  # a bucket's put is atomic
            target.write(content)
    except OSError as error:
        raise InputError(
            f"cannot be written ({first_line(error)})",
            file=location,
            fix="check the bucket's name and your credentials, then repeat the command",
        ) from None


def check_writable(location: str) -> None:
    """Check that a directory, or the one in which it would be made, takes files; writes none.

    Raises:
        OSError: its file system is read-only, or it is not this user's. Of a bucket nothing is
            known before it is written to.
    """
    if "://" in location:
        return
    place = next(path for path in (Path(location), *Path(location).parents) if path.exists())
    if not os.access(place, os.W_OK):
        is_read_only = os.statvfs(place).f_flag & os.ST_RDONLY
        code = errno.EROFS if is_read_only else errno.EACCES
        raise OSError(code, os.strerror(code), str(place))


def remove(location: str) -> None:
    """Remove a directory and everything in it.

    Raises:
        OSError: it is not there, or the storage does not allow it.
    """
    filesystem, path = _open(location)
    filesystem.delete_dir(path)


def remove_file(location: str) -> None:
    """Remove a file; raises as `remove` does."""
    filesystem, path = _open(location)
    filesystem.delete_file(path)


def remove_temporaries(location: str) -> None:
    """Remove what killed writers left in a directory; in a bucket they leave nothing."""
    filesystem, path = _open(location)
    if isinstance(filesystem, fs.LocalFileSystem):
        files.remove_temporaries(path)


def _list(location: str, *, recursive: bool = False) -> list[fs.FileInfo]:
    filesystem, path = _open(location)
    selector = fs.FileSelector(path, allow_not_found=True, recursive=recursive)
    return list(filesystem.get_file_info(selector))


def _open(location: str) -> tuple[fs.FileSystem, str]:
    """The file system of a location, and the path in it."""
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
            f"no such place ({first_line(error)})",
            file=location,
            fix="pass a path, s3://BUCKET/KEY or gs://BUCKET/KEY, and check your credentials",
        ) from None


@functools.lru_cache(maxsize=16)
def _client(bucket: str) -> tuple[fs.FileSystem, str]:
    """One client per bucket: each would ask where the bucket is, and connect, for every file."""
    return fs.FileSystem.from_uri(bucket)
