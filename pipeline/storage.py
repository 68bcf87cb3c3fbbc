"""Small files of a run, on a local disk or in a bucket, through pyarrow's filesystems."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyarrow import fs


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
    filesystem, path = _open(location)
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in found if info.type == fs.FileType.File)


def write_json(location: str, value: Any) -> None:
    """Store ``value``; a reader sees the old file or the new one, never a part."""
    write_bytes(location, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def write_bytes(location: str, content: bytes) -> None:
    """Store ``content``; a reader sees the old file or the new one, never a part."""
    filesystem, path = _open(location)
    parent, _, name = path.rpartition("/")
    filesystem.create_dir(parent, recursive=True)
    if not isinstance(filesystem, fs.LocalFileSystem):
        with filesystem.open_output_stream(path) as stream:  # a bucket's put is atomic
            stream.write(content)
        return
    temporary = f"{parent}/.{name}.tmp"
    with filesystem.open_output_stream(temporary) as stream:
        stream.write(content)
    filesystem.move(temporary, path)


def _open(location: str) -> tuple[fs.FileSystem, str]:
    if "://" in location:
        return fs.FileSystem.from_uri(location)
    return fs.LocalFileSystem(), absolute(location)
