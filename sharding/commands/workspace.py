"""A dataset in a bucket, worked on at a desk: every job runs as if the dataset were a directory.

The desk is a directory on the driver's own disk. What is small lies there whole: manifest, tables,
records. Tars and indexes are *hollow*: sparse files of the right size, or empty ones. Workers write
a shard on their own disks and put tar and index into the bucket, and then the record, which makes
them count. The driver writes tables on the desk; pushing puts what has changed, the manifest last,
and removes what was removed after that. A bucket thus goes through the states that a directory
would: a job killed anywhere continues when its command is repeated, since all that it had finished
is in the bucket, and nothing of the desk is needed again.

A bucket has no locks: the desk is held against other jobs on the driver's machine only. Two jobs
of the same command put equal bytes.

The worker's side of a dataset in a bucket: a shard is written here, then put there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sharding import layout
from sharding.dataset import lock
from sharding.errors import InputError
from sharding.layout import CLASSES_FILE, IMAGES_FOLDER, MANIFEST_FILE
from sharding.manifest import DamagedManifest, Manifest
from sharding.shards.task import ShardOutcome, ShardTask
from sharding.sources.archives import StagingTask, in_place
from sharding.sources.base import Source
from sharding.sources.shard import ShardSource
from sharding.storage import locks
from sharding.storage.files import changed, write_json
from sharding.storage.object_store import Bucket, Files, LocalFiles
from sharding.storage.retry import RetryPolicy

AnyMap = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]

_WHOLE = re.compile(r"[^/]+\.(?:json|parquet|md)|labels/.+|images/[^/]+\.json")

_INDEX = re.compile(r"images/[^/]+\.idx")


class Workspace:
    """A dataset directory that needs no desk: what is written there is where it belongs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files: Files = LocalFiles(directory=directory)

    def through(self, parallel: AnyMap) -> AnyMap:
        """The map by which tasks reach the workers."""
        return parallel

    def named(self, text: str) -> str:
        """A text about the directory, as one about the place that it stands for."""
        return text

    def fill(self, paths: Iterable[str]) -> None:
        """Make hollow files whole."""

    def push(self) -> None:
        """Make what was written and removed so far count in the place that it stands for."""


@contextlib.contextmanager
def open_workspace(
    location: str | os.PathLike[str],
    fetching: RetryPolicy | None = None,
    scratch: Path | None = None,
    *,
    indexes: bool = False,
) -> Iterator[Workspace]:
    """A desk for the dataset at ``location``, a directory or a URL; at the end all is pushed.

    Args:
        location: of the dataset, or of what will be one.
        fetching: how patiently.
        scratch: where the desk goes; the system's temporary directory by default.
        indexes: whether the tars' indexes are needed whole.

    Raises:
        InputError: the place refuses or does not answer, or another job holds the desk. Errors
            raised inside name the URL instead of the desk.
    """
    parts = urlsplit(os.fspath(location))
    if not parts.scheme or "://" not in os.fspath(location):
        yield Workspace(Path(location))
        return
    if parts.scheme == "file":
        yield Workspace(Path(unquote(parts.path)))
        return
    bucket = Bucket(url=os.fspath(location).rstrip("/"), fetching=fetching or RetryPolicy())
    mark = hashlib.sha256(bucket.url.encode()).hexdigest()[:16]
    root = Path(scratch or tempfile.gettempdir()) / f"openimages-{os.getuid()}-{mark}"
    name = bucket.url.rpartition("/")[2]
    desk = _BucketWorkspace(root / name, bucket, shared=scratch is not None, indexes=indexes)
    with desk.naming(), lock.acquire(root):
        desk.check_out()
        try:
            yield desk
        except InputError:
            with contextlib.suppress(InputError):
                desk.take_back()  # what the job took back before it gave up
            raise
        desk.push()
        shutil.rmtree(root)


class _BucketWorkspace(Workspace):
    """A desk proper; ``shared`` says whether workers on other machines reach it."""

    def __init__(self, directory: Path, bucket: Bucket, *, shared: bool, indexes: bool) -> None:
        super().__init__(directory)
        self.files: Bucket = bucket
        self._shared, self._indexes = shared, indexes
        self._known: dict[str, tuple[int, int]] = {}

    def named(self, text: str) -> str:
        for place in (self.directory.resolve(), self.directory, self.directory.parent):
            text = text.replace(str(place), self.files.url)
        return text

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Errors raised inside name the URL."""
        try:
            yield
        except InputError as error:
            cause = getattr(error, "cause", error)  # Ray wraps what a task raises
            raise InputError(
                self.named(cause.problem),
                file=None if cause.file is None else self.named(os.fspath(cause.file)),
                row=cause.row,
                fix=None if cause.fix is None else self.named(cause.fix),
            ) from None

    def check_out(self) -> None:
        """Lay out what the bucket holds; of a place that holds no dataset, its top names only."""
        top = self.files.names()
        ours = not {MANIFEST_FILE, layout.UNFINISHED_FILE, CLASSES_FILE}.isdisjoint(top)
        sizes = self.files.sizes() if ours else dict.fromkeys(top, 0)
        self._clear()
        whole = [path for path in sizes if ours and _WHOLE.fullmatch(path)]
        for path in sizes.keys() - set(whole):
            self._hollow(path, sizes[path])
        self._fetch(whole)
        if self._indexes or self._torn():
            self.fill(path for path in sizes if _INDEX.fullmatch(path))
        self._known = self._stamps()

    def fill(self, paths: Iterable[str]) -> None:
        paths = list(paths)
        self._fetch(paths)
        now = self._stamps()
        self._known.update((path, now[path]) for path in paths)

    def push(self) -> None:
        """Put what has changed, the manifest last; remove what was removed after that."""
        now = self._stamps()
        changed = [path for path, stamp in now.items() if self._known.get(path) != stamp]
        for path in sorted(changed, key=lambda path: (path == MANIFEST_FILE, path)):
            self.files.put(path, self.directory / path)
            self._known[path] = now[path]
        self.withdraw()

    def take_back(self) -> None:
        """Withdraw after an error, unless the bucket's manifest may name what is gone."""
        if self._stamps().get(MANIFEST_FILE) == self._known.get(MANIFEST_FILE):
            self.withdraw()

    def withdraw(self) -> None:
        """Remove from the bucket what was removed from the desk."""
        for path in sorted(self._known.keys() - self._stamps().keys()):
            self.files.remove(path)
            del self._known[path]

    def through(self, parallel: AnyMap) -> AnyMap:
        """Shards are written on the workers' own disks and put into the bucket from there."""

        def mapped(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
            if not items or not isinstance(items[0], ShardTask):
                self._refuse_private_spools(items)
                yield from parallel(function, items)
                return
            self.push()  # a record in the bucket must find there what it is a record of
            for outcome in parallel(partial(write_and_upload, function, self.files), items):
                self._note(outcome)
                yield outcome

        return mapped

    def _refuse_private_spools(self, items: Sequence[Any]) -> None:
        """Workers that unpack an archive leave the images at the desk, for all workers."""
        for item in items:
            if isinstance(item, StagingTask) and not self._shared and not in_place(item.archive):
                raise InputError(
                    "this archive is unpacked before the shards are written, "
                    "and there is no directory of the output where every worker finds it",
                    file=item.archive,
                    fix="give --scratch a directory that all workers reach, or name plain tars",
                )

    def _note(self, outcome: ShardOutcome) -> None:
        """A worker has put a shard into the bucket: the same on the desk."""
        record = f"{IMAGES_FOLDER}/{outcome.name}.json"
        write_json(self.directory / record, outcome.to_json())
        paths = [record]
        if outcome.shard is not None:
            self._hollow(outcome.shard.path, outcome.shard.bytes)
            self._hollow(outcome.shard.index, 0)
            if self._indexes:
                self._fetch([outcome.shard.index])
            paths += [outcome.shard.path, outcome.shard.index]
        self._known.update((path, self._stamp(self.directory / path)) for path in paths)

    def _fetch(self, paths: Sequence[str]) -> None:
        with ThreadPoolExecutor(self.files.fetching.at_once) as pool:
            for _ in pool.map(lambda path: self.files.fetch(path, self._place(path)), paths):
                pass

    def _hollow(self, path: str, size: int) -> None:
        target = self._place(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        with target.open("wb") as file:
            file.truncate(size)

    def _place(self, path: str) -> Path:
        if ".." in path.split("/"):
            raise InputError(
                "an object's name leads out of its folder",
                file=f"{self.files.url}/{path}",
                fix="remove it, or choose another place",
            )
        return self.directory / path

    def _torn(self) -> bool:
        """Whether a label table is lost, or a job was killed before it put the manifest of it."""
        try:
            versions = Manifest.read(self.directory).labels.values()
        except DamagedManifest:
            return False
        tables = [file for version in versions for file in version.files]
        return any(changed(self.directory / file.path, file.sha256) for file in tables)

    def _clear(self) -> None:
        """Empty the desk, but for what a killed job had made ready."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for entry in self.directory.iterdir():
            if entry.is_dir() and entry.name != layout.STAGING_FOLDER:
                shutil.rmtree(entry)
            elif not entry.is_dir():
                entry.unlink()

    def _stamps(self) -> dict[str, tuple[int, int]]:
        """A mark for every file; another mark means another content."""
        found = {}
        for folder, _, names in os.walk(self.directory):
            for name in names:
                path = Path(folder) / name
                relative = path.relative_to(self.directory).as_posix()
                if not relative.startswith(f"{layout.STAGING_FOLDER}/"):
                    found[relative] = self._stamp(path)
        return found

    @staticmethod
    def _stamp(path: Path) -> tuple[int, int]:
        status = path.stat()
        return status.st_ino, status.st_mtime_ns


def write_and_upload(
    write: Callable[[ShardTask], ShardOutcome], bucket: Bucket, task: ShardTask
) -> ShardOutcome:
    """Write a shard on this machine's disk, then put it, the record last.

    Raises:
        InputError: as ``write`` does, or the bucket refuses or does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="shard-", dir=locks.scratch_directory()) as folder:
        source = _download_source(task.source, bucket, Path(folder))
        here = dataclasses.replace(task, output=folder, source=source)
        outcome = write(here)
        files = [here.record] if outcome.shard is None else [here.tar, here.index, here.record]
        for file in files:
            bucket.put(f"{IMAGES_FOLDER}/{file.name}", file)
        return outcome


def _download_source(source: Source, bucket: Bucket, folder: Path) -> Source:
    """A tar of the dataset itself is brought to this machine before it is read."""
    if not isinstance(source, ShardSource):
        return source
    tar = folder / "from" / Path(source.tar).name
    for file in (tar, tar.with_suffix(".idx")):
        bucket.fetch(f"{IMAGES_FOLDER}/{file.name}", file)
    return ShardSource(tar=str(tar))
