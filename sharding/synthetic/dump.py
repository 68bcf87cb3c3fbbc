"""Make a dump: all images over a few processes, then the tables, then the stamp that says so.

An ordered `map` over worker processes that end when they should, also after a kill.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from sharding.errors import InputError
from sharding.progress import Progress
from sharding.storage.files import write_json
from sharding.synthetic.layout import IMAGES, RELEASE, TRUTH, write_classes, write_split
from sharding.synthetic.options import DumpOptions
from sharding.synthetic.photograph import Photograph, take
from sharding.synthetic.vocabulary import Vocabulary

_CHUNK = 50

_STAMP, _UNFINISHED = "dump.json", "dump.unfinished.json"


def make_dump(
    options: DumpOptions, output: Path, *, workers: int = 1, progress: bool = True
) -> bool:
    """Write the dump under ``output``; return False where the very same one is already there.

    ``dump.json`` holds the options and counts and is written last. Without it, or where it is of
    other options or of another generator, everything is made anew; files of an earlier or
    unfinished dump are removed first, files of anybody else never.

    Raises:
        InputError: ``workers`` is not positive; ``output`` holds something else or cannot be
            written; a worker was killed.
    """
    if workers < 1:
        raise InputError(f"{workers} workers", fix="pass --workers 1 or more")
    wanted = {"options": dataclasses.asdict(options), "generator": _generator()}
    if _finished(output, wanted):
        return False
    try:
        _clear(output, wanted)
        counts = _make(options, output, workers, progress)
        write_json(output / _STAMP, {**wanted, "release": RELEASE, "counts": counts})
        (output / _UNFINISHED).unlink()
    except OSError as error:
        raise InputError(
            f"cannot be written ({error.strerror})",
            file=output,
            fix="make room or choose another --output, then repeat the command",
        ) from error
    except BrokenProcessPool:
        raise InputError(
            "a worker process was killed",
            fix="repeat the command, with fewer --workers if memory is short",
        ) from None
    return True


def _make(
    options: DumpOptions, output: Path, workers: int, progress: bool
) -> dict[str, dict[str, int]]:
    vocabulary = Vocabulary.make(options.classes, options.seed)
    write_classes(output, vocabulary)
    counts = {}
    shown = Progress(sum(options.images.values()), "draw", unit="image") if progress else None
    with ordered_map(workers) as run, shown or nullcontext():
        for split, count in options.images.items():
            folder = output / IMAGES / split
            folder.mkdir(parents=True)
            photographs: list[Photograph] = []
            chunks = [range(at, min(at + _CHUNK, count)) for at in range(0, count, _CHUNK)]
            for chunk in run(partial(_take_chunk, options, split, folder), chunks):
                photographs += chunk
                if shown is not None:
                    shown.advance(len(chunk))
            photographs.sort(key=lambda photo: photo.image_id)
            counts[split] = write_split(output, split, photographs, vocabulary)
    return counts


def _take_chunk(
    options: DumpOptions, split: str, folder: Path, indices: Sequence[int]
) -> list[Photograph]:
    return [take(options, split, index, folder) for index in indices]


def _finished(output: Path, wanted: dict[str, Any]) -> bool:
    stamp = _read(output / _STAMP)
    return all(stamp.get(key) == value for key, value in wanted.items())


def _clear(output: Path, wanted: dict[str, Any]) -> None:
    """Take possession of ``output``; remove what an earlier dump of ours left there."""
    folders = [output / name for name in (RELEASE, TRUTH, IMAGES)]
    ours = "options" in _read(output / _STAMP) or "options" in _read(output / _UNFINISHED)
    if not ours and any(path.exists() for path in (*folders, output / _STAMP)):
        raise InputError(
            "holds files that are not a demo dump's", file=output, fix="choose another --output"
        )
    write_json(output / _UNFINISHED, wanted)
    (output / _STAMP).unlink(missing_ok=True)
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _generator() -> str:
    """A hash of this package: another generator draws other images from the same options."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]


@contextlib.contextmanager
def ordered_map(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield a `map` whose calls run in ``workers`` processes; with 1, in this one.

    Functions and arguments must be picklable. On an exception what has not begun is dropped.
    """
    if workers == 1:
        yield map
        return
    # Spawned, because a fork of a process with threads (torch, Ray) can hang.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start) as pool:
        try:
            yield pool.map
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start() -> None:
    cv2.setNumThreads(1)  # the processes are the parallelism
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers, and they would wait for it forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
