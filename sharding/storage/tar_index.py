"""Read a DALI index, or make the one of a tar: where each component of each sample is."""

from __future__ import annotations

import tarfile
from pathlib import Path

from sharding.errors import InputError, how_to_repair
from sharding.storage.tar_reader import read_members


def index_of_tar(path: Path) -> bytes:
    """Make the DALI index of a tar from its headers.

    Raises:
        InputError: the tar is cut off or damaged.
    """
    samples: dict[str, list[str]] = {}
    try:
        with open(path, "rb") as stream:
            for member, content in read_members(stream):
                if content is None:
                    raise tarfile.ReadError(f"{member.name!a} is a link")
                key, _, extension = member.name.partition(".")
                field = f"{extension} {member.offset_data} {member.size} {member.name}"
                samples.setdefault(key, []).append(field)
    except tarfile.ReadError as error:
        raise InputError(
            f"not a whole tar ({error})",
            file=path,
            fix="check without --quick, and repair with --images",
        ) from None
    lines = [" ".join(fields) for fields in samples.values()]
    return "\n".join([f"v1.2 {len(lines)}", *lines, ""]).encode()


def read_index(path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Read a DALI index into (offset, size) in bytes by key, in file order, then by extension.

    Raises:
        InputError: the file is missing or is no DALI index of version 1.2.
    """
    try:
        first, *lines = path.read_text(encoding="ascii").splitlines()
        version, count = first.split()
        entries: dict[str, dict[str, tuple[int, int]]] = {}
        for line in lines:
            fields = line.split()
            key = fields[3].partition(".")[0]
            entries[key] = {
                fields[at]: (int(fields[at + 1]), int(fields[at + 2]))
                for at in range(0, len(fields), 4)
            }
        if version != "v1.2" or int(count) != len(entries):
            raise ValueError(f"{version}, {count} samples declared, {len(entries)} listed")
    except FileNotFoundError:
        raise InputError("the index is missing", file=path, fix=how_to_repair(path)) from None
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise InputError(
            f"not a DALI index ({error})", file=path, fix=how_to_repair(path)
        ) from None
    return entries
