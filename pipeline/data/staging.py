"""Copy a dataset in a bucket to a node's own disk before its workers read it.

DALI reads local files. The first worker of a node copies the labels and the images of the splits
that its job reads, and checks every hash; the others wait for it. Re-sharded labels cost only their
own bytes. The cache is bounded; making room in it is left to its owner, who knows what is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import storage
from sharding.errors import InputError, command
from sharding.layout import CLASSES_FILE, CLASSES_HASH, IMAGES_FOLDER, MANIFEST_FILE
from sharding.manifest import Dataset, Manifest, ShardRecord
from sharding.storage import locks
from sharding.storage.files import changed, refuse_changed, remove_temporaries, replacing

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

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Cache:
        """Make the cache that a run's options ``cache`` and ``cache_gb`` describe."""
        directory, gigabytes = options.get("cache"), options.get("cache_gb")
        return cls(
            directory=cls.directory if directory is None else Path(directory),
            most_bytes=cls.most_bytes if gigabytes is None else int(gigabytes * 1e9),
        )


def cache_options(own: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    """Choose the options of a cache: a job's own, else those of the training that it is about."""
    names = ("cache", "cache_gb")
    return {name: trained.get(name) if own[name] is None else own[name] for name in names}


def open_dataset(
    location: str | Path,
    cache: Cache | None = None,
    *,
    tars: bool | Collection[str] = True,
    confidences: str | None = None,
) -> Dataset:
    """Open a dataset directory, or a dataset URL by way of the cache.

    Args:
        location: directory, or any URL that pyarrow has a file system for (s3, gs, file, ...).
        cache: for URLs.
        tars: whether the images are needed too, or those of which splits; the driver needs labels
            and classes only.
        confidences: the version that is needed too.

    Raises:
        InputError: no dataset or no such confidences there, classes or a copy that are not what
            the manifest says, or a dataset that the cache has no room for.
        ScratchFull: the disk of the cache is full.
    """
    location = str(location)
    if "://" not in location:
        dataset = _with_its_classes(Dataset.open(location))
        if confidences is not None:
            dataset.confidence_version(confidences)
        return dataset
    name = hashlib.sha256(location.rstrip("/").encode()).hexdigest()[:16]
    cache = cache or Cache()
    folder = cache.directory.expanduser() / name
    with (
        locks.scratch_space(folder.parent, "name a larger place with --cache"),
        locks.exclusive(folder.with_name(f"{name}.lock")),
    ):
        folder.mkdir(exist_ok=True)
        _fetch_metadata(location, folder)
        dataset = _with_its_classes(Dataset.open(folder))
        _drop_removed(dataset)
        if confidences is not None:
            for table in dataset.confidence_version(confidences).splits.values():
                _fetch_table(location, folder, table.path, table.sha256)
        shards = dataset.manifest.shards
        if not isinstance(tars, bool):
            shards = tuple(shard for shard in shards if shard.split in tars)
        if tars:
            _fetch_tars(location, folder, shards, cache)
    return dataset


def _with_its_classes(dataset: Dataset) -> Dataset:
    """Check the whole class table, its names and groups too; `Dataset.open` compares MIDs."""
    digest = dataset.manifest.created_by.get(CLASSES_HASH)
    if digest is not None:
        refuse_changed(dataset.directory / CLASSES_FILE, digest)
    return dataset


def _fetch_metadata(location: str, folder: Path) -> None:
    """Copy labels and classes first, then the manifest that names them.

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
        _fetch_table(location, folder, table.path, table.sha256)
    classes = storage.read_bytes(storage.join(location, CLASSES_FILE))  # checked by Dataset.open
    for name, part in ((CLASSES_FILE, classes), (MANIFEST_FILE, content)):
        with replacing(folder / name) as temporary:
            temporary.write_bytes(part)
    shutil.rmtree(fresh)


def _drop_removed(dataset: Dataset) -> None:
    """Delete copies of tars that were replaced, where images were taken down: they hold these."""
    if dataset.manifest.removed:
        shards = dataset.manifest.shards
        named = {Path(path).name for shard in shards for path in (shard.path, shard.index)}
        for path in (dataset.directory / IMAGES_FOLDER).glob("*"):
            if path.name not in named:
                path.unlink()


def _fetch_tars(location: str, folder: Path, shards: Sequence[ShardRecord], cache: Cache) -> None:
    """Copy each of these tars and indexes that is not there, whole."""
    missing = [shard for shard in shards if not _is_copied(folder, shard)]
    files = [(shard.path, shard.sha256) for shard in missing]
    indexes = [(shard.index, shard.index_sha256) for shard in shards]
    files += [(path, sha256) for path, sha256 in indexes if changed(folder / path, sha256)]
    if not files:
        return
    # One dataset at a time is copied, since the bound counts what is there.
    with locks.exclusive(folder.with_name(".lock")):
        remove_temporaries(folder)
        _check_room(sum(shard.bytes for shard in missing), cache, location)
        with ThreadPoolExecutor(_COPIES_AT_ONCE) as pool:
            for _ in pool.map(lambda file: _fetch(location, folder, *file), files):
                pass


def _is_copied(folder: Path, shard: ShardRecord) -> bool:
    """Whether a tar was copied, and is as long as then; hashing all of them takes minutes."""
    tar = folder / shard.path
    was_copied = (folder / _SEEN / shard.sha256).exists()
    return was_copied and tar.is_file() and tar.stat().st_size == shard.bytes


def _fetch_table(location: str, folder: Path, path: str, sha256: str) -> None:
    """Copy a small file, unless it is there."""
    if changed(folder / path, sha256):
        _fetch(location, folder, path, sha256)


def _fetch(location: str, folder: Path, path: str, sha256: str) -> None:
    """Copy one file, and note that its hash was compared."""
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
                fix=f"run {command('verify', '--dataset', location, '--repair')}",
            )
    seen.parent.mkdir(exist_ok=True)
    seen.touch()


def _check_room(needed: int, cache: Cache, location: str) -> None:
    """Refuse to copy so many bytes beyond the bound of the cache."""
    directory = cache.directory.expanduser()
    present = _bytes_in(directory)
    if present + needed > cache.most_bytes:
        raise InputError(
            f"{needed / 1e9:.1f} GB of images to copy to {directory}, which holds "
            f"{present / 1e9:.1f} GB of {cache.most_bytes / 1e9:.1f}",
            file=location,
            fix="remove what no job needs from that directory, raise --cache-gb, shard with a "
            "smaller --shorter-side, or mount the dataset",
        )


def _bytes_in(folder: Path) -> int:
    """Sum up the files in a folder, in which others may be copying labels."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total
