"""Mutate tar archives and read them, with Python's `tarfile` as judge.

    python -m benchmarks.faults.archives --count 10000 --seed 0

Each mutated archive must give the content that the judge sees, or one error; never a hang, and
never a picture under another id or lost in silence. Counts are printed; the exit code is 1 where
an archive was read wrongly.
"""

from __future__ import annotations

import contextlib
import io
import random
import signal
import sys
import tarfile
from collections import Counter
from collections.abc import Callable

import numpy as np
import tyro

from benchmarks.common.mutations import Mutations, print_counts
from sharding.sources.archive_listing import Listing
from sharding.storage.tar_reader import read_members

BLOCK = 512
_IMAGES = 6
_SECONDS = 10
_ODD_TYPES = (
    b"D",
    b"M",
    b"V",
    b"N",
    b"3",
    b"4",
    b"6",
    b"7",
    b"S",
    b"5",
    b"x",
    b"g",
    b"L",
    b"K",
    b"1",
)
_NO_FILES = _ODD_TYPES[:7]


def archive(rng: random.Random) -> bytes:
    """Make an archive of images, links and odd members, sometimes several joined."""
    parts = []
    for _ in range(rng.choice((1, 1, 2))):
        out = io.BytesIO()
        form = rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
        everywhere = {"comment": "all of them"} if rng.random() < 0.3 else None
        with tarfile.open(fileobj=out, mode="w", format=form, pax_headers=everywhere) as tar:
            for _ in range(rng.randrange(3, 9)):
                _add(tar, rng, long=form != tarfile.USTAR_FORMAT)
        parts.append(out.getvalue())
    return b"".join(parts)


def _add(tar: tarfile.TarFile, rng: random.Random, *, long: bool) -> None:
    folder = rng.choice(("", "train/", "./", "long/" * 30 if long else "deep/er/"))
    info = tarfile.TarInfo(f"{folder}{rng.randrange(_IMAGES):016x}.jpg")
    kind = rng.random()
    if kind < 0.15:
        info.type = tarfile.LNKTYPE
        names = [member.name for member in tar.getmembers()]
        info.linkname = rng.choice(names or ["nothing"])
    elif kind < 0.3:
        info.type = tarfile.SYMTYPE
        target = f"{rng.randrange(_IMAGES):016x}.jpg"
        info.linkname = rng.choice((target, f"../{target}", "/else/" * (30 if long else 5)))
    elif kind < 0.4:
        info.type = rng.choice(_ODD_TYPES[:4])
        info.size = rng.choice((0, 100, 600))
    else:
        info.size = rng.choice((0, 1, 300, 512, 1500))
    if long and rng.random() < 0.2:
        info.pax_headers = {"note": "n" * rng.randrange(300)}
    has_data = info.isreg() or info.type in _ODD_TYPES[:4]
    tar.addfile(info, io.BytesIO(rng.randbytes(info.size)) if has_data else None)


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Damage an archive in one or two ways; headers get their checksum mended, as a rule."""
    for _ in range(rng.choice((1, 1, 2))):
        content = rng.choice((_change_header, _change_header, _change_header, _move))(content, rng)
    return content


def _change_header(content: bytes, rng: random.Random) -> bytes:
    headers = [
        at
        for at in range(0, len(content) - BLOCK + 1, BLOCK)
        if content[at + 257 : at + 262] == b"ustar"
    ]
    if not headers:
        return content
    at = rng.choice(headers)
    block = bytearray(content[at : at + BLOCK])
    chance = rng.random()
    if chance < 0.3:
        block[156:157] = rng.choice(_ODD_TYPES)
    elif chance < 0.6:
        sizes = (b"%011o\0" % rng.randrange(3000), b"\xff" * 12, b"\x80" + bytes(10) + b"\x07")
        block[124:136] = rng.choice((*sizes, b"-0000000010\0", b"77777777777\0", bytes(12)))
    else:
        for _ in range(rng.randrange(1, 6)):
            block[rng.randrange(BLOCK)] = rng.randrange(256)
    if rng.random() < 0.8:
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    elif rng.random() < 0.5:  # within the records behind it
        return _flip(content, at + BLOCK, rng)
    return content[:at] + bytes(block) + content[at + BLOCK :]


def _flip(content: bytes, at: int, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randrange(1, 4)):
        place = min(at + rng.randrange(60), len(content) - 1)
        changed[place] = rng.choice((*b"0123456789 =\n\0", rng.randrange(256)))
    return bytes(changed)


def _move(content: bytes, rng: random.Random) -> bytes:
    """Cut off, drop, double, swap or empty blocks."""
    blocks = [content[at : at + BLOCK] for at in range(0, len(content), BLOCK)]
    i, j = sorted(rng.randrange(len(blocks)) for _ in range(2))
    how = rng.randrange(6)
    if how == 0:
        return content[: rng.randrange(len(content) + 1)]
    if how == 1:
        del blocks[i]
    elif how == 2:
        blocks.insert(i, blocks[j])
    elif how == 3:
        blocks[i], blocks[j] = blocks[j], blocks[i]
    elif how == 4:
        blocks[i] = bytes(BLOCK)
    else:
        blocks[i:i] = blocks[j : j + 3]
    return b"".join(blocks)


def read(content: bytes) -> dict[int, bytes | str]:
    """Read the content of each image, or the reason why it cannot be read."""

    def members():  # type: ignore[no-untyped-def]
        return read_members(io.BytesIO(content))

    listing = Listing(
        wanted_N=np.arange(_IMAGES, dtype=np.uint64), keep=lambda m, _: (m.offset_data, m.size)
    )
    listing.add(members())
    listing.follow(members)
    found = {key: content[at : at + size] for key, (at, size) in listing.places.items()}
    return {**found, **listing.unusable}


def judge(content: bytes) -> dict[int, bytes]:
    """Read the images as `tarfile` does, over the end marks of joined archives."""
    while True:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            members = tar.getmembers()
            members[:] = [m for m in members if m.type not in _NO_FILES]
            end = tar.offset
            if any(content[end:]) and not any(content[end : end + BLOCK]):
                begin = end
                while not any(content[begin : begin + BLOCK]):
                    begin += BLOCK
                content = content[:end] + content[begin:]
                continue
            found: dict[int, bytes] = {}
            for member in members:
                stem, _, suffix = member.name.rpartition("/")[2].partition(".")
                if suffix != "jpg" or stem not in {f"{key:016x}" for key in range(_IMAGES)}:
                    continue
                key = int(stem, 16)
                if member.isdir():
                    continue
                found.pop(key, None)
                with contextlib.suppress(KeyError, RecursionError):
                    # Unpacking, tarfile leaves a file where a folder of its name comes later; a
                    # link to it finds the folder here, which has no content to compare.
                    if (stream := tar.extractfile(member)) is not None:
                        found[key] = stream.read()
            return found


def _bounded(function: Callable[[bytes], dict], content: bytes) -> dict | str:
    """Call with a limit of time: the result, the name of what it raised, or "hangs"."""

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS if function is read else 1)
    try:
        return function(content)
    except TimeoutError:
        return "hangs"
    except Exception as error:
        return type(error).__name__
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def compare(content: bytes) -> str:
    """Read an archive and say how it went; what begins with "WRONG" must not be."""
    ours = _bounded(read, content)
    if isinstance(ours, str):
        return "one error" if ours == "ReadError" else f"WRONG: {ours}"
    theirs = _bounded(judge, content)
    if isinstance(theirs, str):
        return f"read, the judge: {theirs}"
    for key, expected in theirs.items():
        if key not in ours:
            return "WRONG: lost in silence"
        if isinstance(ours[key], bytes) and ours[key] != expected:
            return "WRONG: other content"
    return (
        "equal, some with a reason" if any(isinstance(v, str) for v in ours.values()) else "equal"
    )


def run(count: int, seed: int) -> Counter[str]:
    """Read ``count`` mutated archives; counts by how it went."""
    counts: Counter[str] = Counter()
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        outcome = compare(mutate(archive(rng), rng))
        if outcome.startswith("WRONG"):
            print(f"archive {number} of seed {seed}: {outcome}", file=sys.stderr)
        counts[outcome] += 1
    return counts


if __name__ == "__main__":
    raise SystemExit(print_counts(run, tyro.cli(Mutations)))
