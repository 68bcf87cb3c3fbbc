"""Datasets in a bucket, copied to a node's own disk before its workers read them.

DALI reads local files. The first worker of a node copies what the manifest names, checks every
hash, and writes the manifest last; the others wait for it. Re-sharded labels cost only their own
bytes. The cache is bounded: datasets that were not used for longest make room.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline import storage
from sharding.atomic import replacing
from sharding.errors import InputError
from sharding.manifest import FILE, Dataset, Manifest

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

    Args:
        location: directory, or any URL that pyarrow has a file system for (s3, gs, file, ...).
        cache: for URLs.
        tars: whether the images are needed too; the driver needs labels and classes only.

    Raises:
        InputError: no dataset there, a copy that is not what the manifest says, or a dataset that
            is larger than the cache.
    """
    if "://" not in location:
        return Dataset.open(location)
    name = hashlib.sha256(location.rstrip("/").encode()).hexdigest()[:16]
    cache = cache or Cache()
    folder = cache.directory.expanduser() / name
    with _locked(folder.with_name(f"{name}.lock")):
        folder.mkdir(exist_ok=True)
        _fetch_metadata(location, folder)
        dataset = Dataset.open(folder)
        if tars:
            _make_room(dataset, cache, location)
            _fetch_tars(location, dataset)
    return dataset


def _fetch_metadata(location: str, folder: Path) -> None:
    """Labels and classes first, then the manifest that names them.

    Labels of images without pixels are for later sharding: nothing on a node reads them.
    """
    try:
        content = storage.read_bytes(storage.join(location, FILE))
    except OSError as error:
        raise InputError(
            f"not a dataset: the manifest cannot be read ({error})",
            file=location,
            fix="pass the URL of the directory that holds dataset.json",
        ) from None
    fresh = folder / "fresh"
    fresh.mkdir(exist_ok=True)
    (fresh / FILE).write_bytes(content)
    manifest = Manifest.read(fresh)
    tables = [file for version in manifest.labels.values() for file in version.splits.values()]
    for table in tables:
        _fetch(location, folder, table.path, table.sha256)
    classes = storage.read_bytes(storage.join(location, _CLASSES))  # checked by Dataset.open
    for name, part in ((_CLASSES, classes), (FILE, content)):
        with replacing(folder / name) as temporary:
            temporary.write_bytes(part)
    shutil.rmtree(fresh)


def _fetch_tars(location: str, dataset: Dataset) -> None:
    files = [
        file
        for shard in dataset.manifest.shards
        for file in ((shard.path, shard.sha256), (shard.index, shard.index_sha256))
    ]
    with ThreadPoolExecutor(_COPIES_AT_ONCE) as pool:
        for _ in pool.map(lambda file: _fetch(location, dataset.directory, *file), files):
            pass


def _fetch(location: str, folder: Path, path: str, sha256: str) -> None:
    """Copy one file, unless what the hash names was copied before."""
    target, seen = folder / path, folder / _SEEN / sha256
    if target.exists() and seen.exists():
        return
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


def _make_room(dataset: Dataset, cache: Cache, location: str) -> None:
    """Remove the datasets that were not used for longest until this one fits."""
    needed = sum(shard.bytes for shard in dataset.manifest.shards)
    if needed > cache.most_bytes:
        raise InputError(
            f"{needed / 1e9:.1f} GB of images, the cache may hold {cache.most_bytes / 1e9:.1f}",
            file=location,
            fix="raise --cache-gb, shard with a smaller --shorter-side, or mount the dataset",
        )
    os.utime(dataset.directory)
    others = [path for path in dataset.directory.parent.iterdir() if path.is_dir()]
    others = sorted((path for path in others if path != dataset.directory), key=_used)
    held = {path: sum(_sizes(path)) for path in others}
    while others and needed + sum(held[path] for path in others) > cache.most_bytes:
        shutil.rmtree(others.pop(0))


def _used(path: Path) -> float:
    return path.stat().st_mtime


def _sizes(folder: Path) -> Iterable[int]:
    return (path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process of the node at a time; the system lets go if that process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
