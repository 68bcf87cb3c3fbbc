"""Work on a dataset in a bucket as if it were a directory, by way of a local workspace.

The workspace is a directory on the driver's own disk. What is small is there whole: manifest,
tables, records. Tars and indexes are placeholders: sparse files of the right size, or empty ones.
Workers write a shard on their own disks and upload tar and index, and then the record, which makes
them count. The driver writes tables in the workspace; pushing uploads what has changed, the
manifest last, and then removes from the bucket what was removed from the workspace. A bucket thus
goes through the states that a directory would: a job killed anywhere continues when its command is
repeated, since all that it had finished is in the bucket, and the workspace is laid out anew.

A bucket has no locks: other jobs on the driver's machine are kept out, those elsewhere are not.
Two jobs of the same command upload equal bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sharding.dataset import lock
from sharding.errors import InputError
from sharding.layout import (
    CLASSES_FILE,
    CONFIDENCES_FOLDER,
    DESCRIPTIONS,
    INDEX,
    LABELS_FOLDER,
    LOCK_FILE,
    MANIFEST_FILE,
    RECORD,
    STAGING_FOLDER,
    UNFINISHED_FILE,
    is_below,
    shard_path,
)
from sharding.log import redact
from sharding.manifest import DamagedManifest, Manifest
from sharding.shards.dispatch import Workers
from sharding.shards.task import ShardOutcome
from sharding.sources.base import ParallelMap
from sharding.storage.files import changed, write_json
from sharding.storage.locks import private_directory
from sharding.storage.object_store import ObjectStore
from sharding.storage.retry import RetryPolicy

Stamp = tuple[int, int]
"""Inode and modification time of a file: another stamp means another content."""

_WHOLE = re.compile(
    rf"[^/]+\.(?:json|parquet|md)|(?:{LABELS_FOLDER}|{CONFIDENCES_FOLDER})/.+"
    rf"|{shard_path('[^/]+', RECORD)}"
    rf"|{'|'.join(map(re.escape, DESCRIPTIONS))}"
)
_INDEX = re.compile(shard_path("[^/]+", INDEX))


class Workspace:
    """A dataset directory that a job reads and writes; here it is the dataset itself.

    Attributes:
        directory: of the dataset, or of the local copy of one in a bucket.
        location: how the user knows the dataset: its directory or URL.
        store: its files where they really are.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.location = str(directory)
        self.store = ObjectStore.local(directory)

    def workers(self, parallel: ParallelMap) -> Workers:
        """Say how tasks reach the workers, and where these put shards."""
        return Workers(parallel=parallel, shared=self.directory.resolve())

    def download(self, paths: Iterable[str]) -> None:
        """Replace placeholders by the files themselves; what the dataset lacks is skipped."""

    def move(self, path: str, target: str) -> None:
        """Move a file of the dataset to another path of it, at once."""
        self.store.move(path, target)

    def push(self) -> None:
        """Make what was written and removed so far count in the dataset."""


@contextlib.contextmanager
def open_workspace(
    location: str | os.PathLike[str],
    policy: RetryPolicy | None = None,
    scratch: Path | None = None,
) -> Iterator[Workspace]:
    """Open a workspace for the dataset at a directory or a URL; at the end all is pushed.

    Args:
        location: of the dataset, or of what will be one.
        policy: of retries over a network.
        scratch: parent of the local copy, which all workers reach; the system's temporary
            directory, which they do not reach, by default.

    Raises:
        InputError: the bucket refuses or does not answer, or another job works on the dataset.
            Errors raised inside name the URL of a file instead of its place in the workspace.
    """
    parts = urlsplit(os.fspath(location))
    if "://" not in os.fspath(location):
        yield Workspace(Path(location))
        return
    if parts.scheme == "file":
        yield Workspace(Path(unquote(parts.path)))
        return
    bucket = ObjectStore(url=os.fspath(location).rstrip("/"), policy=policy or RetryPolicy())
    digest = hashlib.sha256(bucket.url.encode()).hexdigest()[:16]
    if scratch is None:
        root = private_directory(digest).resolve()
    else:  # as the workers must reach it, who may be other users
        root = scratch.resolve() / f"openimages-{os.getuid()}-{digest}"
    workspace = _BucketWorkspace(root, bucket, shared=scratch is not None)
    with workspace.urls_in_errors(), lock.acquire(root):
        workspace.check_out()
        try:
            yield workspace
        except InputError:
            with contextlib.suppress(InputError):
                workspace.take_back()  # what the job took back before it gave up
            raise
        workspace.push()
        # All is in the bucket: what cannot be removed here is emptied by the next job.
        shutil.rmtree(workspace.directory, ignore_errors=True)
    with contextlib.suppress(OSError):  # another job has begun in it
        root.rmdir()  # only now: NFS keeps a file that is open, as the lock was, in its directory


class _BucketWorkspace(Workspace):
    """A local copy of a dataset in a bucket; ``shared`` if workers on other machines reach it."""

    def __init__(self, root: Path, bucket: ObjectStore, *, shared: bool) -> None:
        super().__init__(root / bucket.url.rpartition("/")[2])
        self.location, self.store = redact(bucket.url), bucket
        self._root, self._shared = root, shared
        self._pushed: dict[str, Stamp] = {}  # of the files that are equal in the bucket

    def workers(self, parallel: ParallelMap) -> Workers:
        return Workers(
            parallel=parallel,
            shared=self.directory if self._shared else None,
            bucket=self.store,
            mirror=self._mirror,
        )

    def download(self, paths: Iterable[str]) -> None:
        present = [path for path in paths if path in self._pushed]
        self._download(present)
        self._pushed.update((path, _stamp(self.directory / path)) for path in present)

    def move(self, path: str, target: str) -> None:
        super().move(path, target)
        (self.directory / path).unlink()
        del self._pushed[path]

    def push(self) -> None:
        stamps = self._stamps()
        new = [path for path, stamp in stamps.items() if self._pushed.get(path) != stamp]
        for path in sorted(new, key=lambda path: (path == MANIFEST_FILE, path)):
            self.store.upload(path, self.directory / path)
            self._pushed[path] = stamps[path]
        self._remove_from_bucket()

    def check_out(self) -> None:
        """Lay out what the bucket holds; of a place that holds no dataset, its top names only."""
        top = self.store.names()
        is_ours = not {MANIFEST_FILE, UNFINISHED_FILE, CLASSES_FILE}.isdisjoint(top)
        sizes = self.store.sizes() if is_ours else dict.fromkeys(top, 0)
        self._clear()
        whole = [path for path in sizes if is_ours and _WHOLE.fullmatch(path)]
        for path in sizes.keys() - set(whole):
            self._write_placeholder(path, sizes[path])
        self._download(whole)
        self._pushed = self._stamps()
        if self._lacks_labels():
            self.download(path for path in sizes if _INDEX.fullmatch(path))

    def take_back(self) -> None:
        """Remove after an error what was removed, unless the bucket's manifest may name it."""
        if self._stamps().get(MANIFEST_FILE) == self._pushed.get(MANIFEST_FILE):
            self._remove_from_bucket()

    @contextlib.contextmanager
    def urls_in_errors(self) -> Iterator[None]:
        """Name the URL of a file in errors about its copy in the workspace."""
        try:
            yield
        except InputError as error:
            cause = getattr(error, "cause", error)  # Ray wraps what a task raises
            file = Path(cause.file or "")
            if not file.is_relative_to(self._root):
                raise
            name = "" if file in (self._root, self.directory) else file.relative_to(self.directory)
            url = f"{self.location}/{name}".rstrip("/")
            fix = cause.fix and cause.fix.replace(str(self.directory), self.location)
            raise InputError(cause.problem, file=url, row=cause.row, fix=fix) from None

    def _remove_from_bucket(self) -> None:
        """Remove from the bucket what was removed here."""
        for path in sorted(self._pushed.keys() - self._stamps().keys()):
            self.store.remove(path)
            del self._pushed[path]

    def _mirror(self, outcome: ShardOutcome) -> None:
        """Repeat here what a worker has uploaded."""
        record = shard_path(outcome.name, RECORD)
        write_json(self.directory / record, outcome.to_json())
        paths = [record]
        if outcome.shard is not None:
            self._write_placeholder(outcome.shard.path, outcome.shard.bytes)
            self._write_placeholder(outcome.shard.index, 0)
            paths += [outcome.shard.path, outcome.shard.index]
        self._pushed.update((path, _stamp(self.directory / path)) for path in paths)

    def _download(self, paths: Iterable[str]) -> None:
        with ThreadPoolExecutor(self.store.policy.at_once) as pool:
            for _ in pool.map(lambda path: self.store.download(path, self._place(path)), paths):
                pass

    def _write_placeholder(self, path: str, size: int) -> None:
        target = self._place(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        with target.open("wb") as file:
            file.truncate(size)

    def _place(self, path: str) -> Path:
        if not is_below(path):
            raise InputError(
                "an object's name leads out of its folder",
                file=f"{self.location}/{path}",
                fix="remove it, or choose another place",
            )
        return self.directory / path

    def _lacks_labels(self) -> bool:
        """Find out whether a label table is lost, or newer than the manifest of a killed job."""
        try:
            versions = Manifest.read(self.directory).labels.values()
        except DamagedManifest:
            return False
        tables = [file for version in versions for file in version.files]
        return any(changed(self.directory / file.path, file.sha256) for file in tables)

    def _clear(self) -> None:
        """Empty the workspace, but for what a killed job had staged."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for entry in self.directory.iterdir():
            if entry.is_dir() and entry.name != STAGING_FOLDER:
                shutil.rmtree(entry)
            elif not entry.is_dir():
                entry.unlink()

    def _stamps(self) -> dict[str, Stamp]:
        stamps = {}
        for folder, _, names in os.walk(self.directory):
            for name in names:
                path = Path(folder) / name
                relative = path.relative_to(self.directory).as_posix()
                if relative != LOCK_FILE and not relative.startswith(f"{STAGING_FOLDER}/"):
                    stamps[relative] = _stamp(path)
        return stamps


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns
