"""Datasets in a bucket, copied to a node's own disk before its workers read them.

DALI reads local files. The first worker of a node copies what the manifest names, checks every
hash, and writes the manifest last; the others wait for it. Re-sharded labels cost only their own
bytes. The cache is bounded: datasets that were not used for longest make room, but none that a
process still reads.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from pipeline import storage
from sharding.errors import InputError
from sharding.layout import MANIFEST_FILE
from sharding.manifest import Dataset, Manifest
from sharding.storage import locks
from sharding.storage.files import remove_temporaries, replacing

_CLASSES = "classes.parquet"
_SEEN = ".copied"
_COPIES_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Where datasets from a bucket are kept on a node.

    Attributes:
        directory: on the node's own disk.
        most_bytes: bound of everything in it.
    """

    directory: Path = Path("~/.cache/openimages-boostlu")
    most_bytes: int = 500_000_000_000


def open_dataset(location: str, cache: Cache | None = None, *, tars: bool = True) -> Dataset:
    """Open a dataset directory, or a dataset URL by way of the cache.

    The images stay in the cache as long as the result is referred to.

    Args:
        location: directory, or any URL that pyarrow has a file system for (s3, gs, file, ...).
        cache: for URLs.
        tars: whether the images are needed too; the driver needs labels and classes only.

    Raises:
        InputError: no dataset there, a copy that is not what the manifest says, or a dataset that
            is larger than the cache, or than what others leave of it.
    """
    if "://" not in location:
        return Dataset.open(location)
    name = hashlib.sha256(location.rstrip("/").encode()).hexdigest()[:16]
    cache = cache or Cache()
    folder = cache.directory.expanduser() / name
    with locks.exclusive(folder.with_name(f"{name}.lock")), contextlib.ExitStack() as held:
        in_use = held.enter_context(locks.shared(_mark_of(folder)))
        folder.mkdir(exist_ok=True)
        _fetch_metadata(location, folder)
        dataset = Dataset.open(folder)
        if tars:
            os.utime(folder)
            _fetch_tars(location, dataset, cache, in_use)
            weakref.finalize(dataset, held.pop_all().close)
    return dataset


def _fetch_metadata(location: str, folder: Path) -> None:
    """Labels and classes first, then the manifest that names them.

    Labels of images without pixels are for later sharding: nothing on a node reads them.
    """
    try:
        content = storage.read_bytes(storage.join(location, MANIFEST_FILE))
    except OSError as error:
        raise InputError(
            f"not a dataset: the manifest cannot be read ({error})",
            file=location,
            fix="pass the URL of the directory that holds dataset.json",
        ) from None
    fresh = folder / "fresh"
    fresh.mkdir(exist_ok=True)
    (fresh / MANIFEST_FILE).write_bytes(content)
    manifest = Manifest.read(fresh)
    tables = [file for version in manifest.labels.values() for file in version.splits.values()]
    for table in tables:
        _fetch(location, folder, table.path, table.sha256)
    classes = storage.read_bytes(storage.join(location, _CLASSES))  # checked by Dataset.open
    for name, part in ((_CLASSES, classes), (MANIFEST_FILE, content)):
        with replacing(folder / name) as temporary:
            temporary.write_bytes(part)
    shutil.rmtree(fresh)


def _fetch_tars(location: str, dataset: Dataset, cache: Cache, in_use: TextIO) -> None:
    files = [
        file
        for shard in dataset.manifest.shards
        for file in ((shard.path, shard.sha256), (shard.index, shard.index_sha256))
    ]
    if all(_is_copied(dataset.directory, *file) for file in files):
        return
    # One dataset at a time is copied, since the bound counts what is there.
    with locks.exclusive(dataset.directory.with_name(".lock")):
        _sweep(dataset, in_use)
        _make_room(dataset, cache, location)
        with ThreadPoolExecutor(_COPIES_AT_ONCE) as pool:
            for _ in pool.map(lambda file: _fetch(location, dataset.directory, *file), files):
                pass


def _is_copied(folder: Path, path: str, sha256: str) -> bool:
    return (folder / path).exists() and (folder / _SEEN / sha256).exists()


def _fetch(location: str, folder: Path, path: str, sha256: str) -> None:
    """Copy one file, unless what the hash names was copied before."""
    if _is_copied(folder, path, sha256):
        return
    target, seen = folder / path, folder / _SEEN / sha256
    digest = hashlib.sha256()
    with replacing(target) as temporary, temporary.open("wb") as file:
        for part in storage.stream(storage.join(location, path)):
            digest.update(part)
            file.write(part)
        if digest.hexdigest() != sha256:
            raise InputError(
                "the copy's hash is not the manifest's",
                file=storage.join(location, path),
                fix="run jobs/verify_dataset.py on the original and upload it again",
            )
    seen.parent.mkdir(exist_ok=True)
    seen.touch()


def _sweep(dataset: Dataset, in_use: TextIO) -> None:
    """Remove half copies, and what no manifest names any more unless somebody still reads it."""
    remove_temporaries(dataset.directory)
    folder, manifest = dataset.directory, dataset.manifest
    named = {path for shard in manifest.shards for path in (shard.path, shard.index)}
    for version in manifest.labels.values():
        named |= {table.path for table in version.splits.values()}
    # Only who holds the cache's lock takes these locks: between its two kinds nobody else does.
    if locks.try_lock(in_use):
        for path in (*_sizes(folder / "images"), *_sizes(folder / "labels")):
            if path.relative_to(folder).as_posix() not in named:
                path.unlink()
    locks.share(in_use)


def _make_room(dataset: Dataset, cache: Cache, location: str) -> None:
    """Remove the datasets that were not used for longest until this one fits."""
    needed = sum(shard.bytes for shard in dataset.manifest.shards)
    if needed > cache.most_bytes:
        raise InputError(
            f"{needed / 1e9:.1f} GB of images, the cache may hold {cache.most_bytes / 1e9:.1f}",
            file=location,
            fix="raise --cache-gb, shard with a smaller --shorter-side, or mount the dataset",
        )
    tars = {dataset.directory / shard.path for shard in dataset.manifest.shards}
    beside = {path: size for path, size in _sizes(dataset.directory).items() if path not in tars}
    others = [path for path in dataset.directory.parent.iterdir() if path.is_dir()]
    others = sorted((path for path in others if path != dataset.directory), key=_used)
    held = {path: sum(_sizes(path).values()) for path in others}
    room = cache.most_bytes - needed - sum(beside.values()) - sum(held.values())
    for path in others:
        if room < 0 and _evicted(path):
            room += held[path]
    if room < 0:
        raise InputError(
            f"{needed / 1e9:.1f} GB of images, {-room / 1e9:.1f} GB more than the datasets that "
            f"others read leave of the cache's {cache.most_bytes / 1e9:.1f}",
            file=location,
            fix="raise --cache-gb, or wait until the other jobs on the node have ended",
        )


def _evicted(folder: Path) -> bool:
    """Whether a dataset could be removed, for nobody reads it."""
    with _mark_of(folder).open("a") as in_use:
        if not locks.try_lock(in_use):
            return False
        shutil.rmtree(folder)
        return True


def _mark_of(folder: Path) -> Path:
    """Whose lock everybody shares who reads a dataset."""
    return folder.with_name(f"{folder.name}.used")


def _used(path: Path) -> float:
    return path.stat().st_mtime


def _sizes(folder: Path) -> dict[Path, int]:
    """Bytes of every file in a folder, in which others may be copying labels."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found[Path(root, name)] = Path(root, name).stat().st_size
    return found
