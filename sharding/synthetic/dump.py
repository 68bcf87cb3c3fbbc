"""Make a demo dump: all images over a few processes, then the tables, last the stamp file."""

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
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from sharding.errors import InputError
from sharding.progress import Progress
from sharding.storage.files import write_json
from sharding.synthetic.layout import GROUND_TRUTH, IMAGES, RELEASE, write_classes, write_split
from sharding.synthetic.options import DumpOptions
from sharding.synthetic.photograph import Photograph, take_photograph
from sharding.synthetic.vocabulary import Vocabulary

_CHUNK = 50
_STAMP, _UNFINISHED = "dump.json", "dump.unfinished.json"


def make_dump(
    options: DumpOptions, output: Path, *, workers: int = 1, progress: bool = True
) -> bool:
    """Write the dump into ``output``; return False where the same one is already there.

    ``dump.json`` holds the options and counts and is written last. Without it, or where its
    options or generator differ, everything is drawn again; files of an earlier or unfinished dump
    are removed first, other files never.

    Raises:
        InputError: ``workers`` is not positive; ``output`` holds something else or cannot be
            written; a worker was killed.
    """
    if workers < 1:
        raise InputError(f"{workers} workers", fix="pass --workers 1 or more")
    stamp = {"options": dataclasses.asdict(options), "generator": _generator()}
    if stamp.items() <= _read(output / _STAMP).items():
        return False
    try:
        _clear(output, stamp)
        counts = _make(options, output, workers, progress)
        write_json(output / _STAMP, {**stamp, "release": RELEASE, "counts": counts})
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
    """Draw all images and write the tables; return counts by split."""
    vocabulary = Vocabulary.make(options.classes, options.seed)
    write_classes(output, vocabulary)
    counts = {}
    bar = Progress(sum(options.images.values()), "draw", unit="image") if progress else None
    with _ordered_map(workers) as run, bar or contextlib.nullcontext():
        for split, count in options.images.items():
            folder = output / IMAGES / split
            folder.mkdir(parents=True)
            photographs: list[Photograph] = []
            chunks = [range(at, min(at + _CHUNK, count)) for at in range(0, count, _CHUNK)]
            for chunk in run(partial(_take_chunk, options, split, folder), chunks):
                photographs += chunk
                if bar is not None:
                    bar.advance(len(chunk))
            photographs.sort(key=lambda photo: photo.image_id)
            counts[split] = write_split(output, split, photographs, vocabulary)
    return counts


def _take_chunk(
    options: DumpOptions, split: str, folder: Path, indices: Sequence[int]
) -> list[Photograph]:
    return [take_photograph(options, split, index, folder) for index in indices]


def _clear(output: Path, stamp: dict[str, Any]) -> None:
    """Remove the files of an earlier demo dump, and mark the folder as one in the making.

    Raises:
        InputError: it holds files of the same names that are of no demo dump.
    """
    folders = [output / name for name in (RELEASE, GROUND_TRUTH, IMAGES)]
    is_ours = any("options" in _read(output / name) for name in (_STAMP, _UNFINISHED))
    if not is_ours and any(path.exists() for path in (*folders, output / _STAMP)):
        raise InputError(
            "holds files that are not a demo dump's", file=output, fix="choose another --output"
        )
    write_json(output / _UNFINISHED, stamp)
    (output / _STAMP).unlink(missing_ok=True)
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)


def _read(path: Path) -> dict[str, Any]:
    """Read a stamp file; empty where it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _generator() -> str:
    """Hash this package: another generator draws other images from the same options."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]


@contextlib.contextmanager
def _ordered_map(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield a `map` whose calls run in ``workers`` processes; with 1, in this one.

    Functions and arguments must be picklable. On an exception, calls that have not begun are
    dropped.
    """
    if workers == 1:
        yield map
        return
    # Spawned, because a fork of a process with threads (torch, Ray) can hang.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start_worker) as pool:
        try:
            yield pool.map
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker() -> None:
    cv2.setNumThreads(1)  # the processes are the parallelism
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent ends: a killed parent cannot, and workers wait forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
