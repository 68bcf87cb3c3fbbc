"""Read images from archives, as the CVDF mirror publishes them: `train_0.tar.gz` and the like.

The shard of an image is a hash of its id, while an archive holds ids that begin alike: every shard
needs images from every archive. A plain tar on a disk is listed by its headers (one seek per
member) and then read at random. Any other one (`.tar.gz`, `.tar.xz`, `.tar.bz2`, `.zip`, by its
content whatever its name; or remote) is read from front to end: one task per archive streams it
once and *spools* the images that the job wants, as they are, into one file below `staging/` of the
dataset, with a list of their positions. The shard tasks read from there at random; when the job has
succeeded, the spools are removed. It needs disk for the wanted images once more, never for a whole
unpacked archive. Memory is a megabyte, 250 bytes per image, and the names of links. A spool counts
once its list is written, so that a killed job streams only unfinished archives again.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import hashlib
import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from sharding.errors import InputError
from sharding.image_ids import Ids, parse_image_file
from sharding.layout import STAGING_FOLDER
from sharding.sources.archive_listing import Listing, Members, Place
from sharding.sources.base import ParallelMap, Source
from sharding.sources.directory import image_folders
from sharding.sources.packed import PackedImages
from sharding.storage.compression import (
    ARCHIVES,
    DAMAGE,
    HEAD,
    UNREAD_ARCHIVES,
    decompressed,
    is_plain,
    is_zip,
    open_member,
    unread,
)
from sharding.storage.files import replacing
from sharding.storage.object_store import ObjectStore
from sharding.storage.retry import BadImage, RetryPolicy
from sharding.storage.tar_reader import MemberContent, read_members

_CHUNK = 1 << 18


def names_archives(images: str) -> bool:
    """Find out whether ``--images`` means archives: one, a glob, or a directory of nothing else.

    A file of another name is judged by its content.
    """
    if images.partition("?")[0].endswith((*ARCHIVES, *UNREAD_ARCHIVES)):
        return True
    if "://" in images:
        return False
    return bool(_in_directory(images)) if os.path.isdir(images) else _is_archive(images)


def _is_archive(path: str) -> bool:
    try:
        with open(path, "rb") as stream:
            return not is_plain(stream.read(HEAD)) or tarfile.is_tarfile(path)
    except OSError:
        return os.path.isfile(path)  # staging it names what is wrong


def _in_directory(directory: str) -> list[str]:
    """List the archives of a directory that holds no image itself.

    Zips count only where there is no folder of images either: they come with tables and masks, too.
    Those that are not read count, to be named, where there is nothing else.
    """
    names = sorted(os.listdir(directory))
    if any(map(parse_image_file, names)):
        return []
    shown = [name for name in names if not name.startswith(".")]
    archives = [name for name in shown if name.endswith(ARCHIVES)]
    archives = archives or [name for name in shown if name.endswith(UNREAD_ARCHIVES)]
    doubtful = (".zip", *UNREAD_ARCHIVES)
    if any(name.endswith(doubtful) for name in archives) and image_folders(Path(directory)):
        archives = [name for name in archives if not name.endswith(doubtful)]
    return [os.path.join(directory, name) for name in archives]


def _on_disk(path: str) -> list[str]:
    """List the archive at a path, or those that a glob finds.

    What exists is meant as it is written: browsers name a second download "train (1).tar" or
    "train [1].tar", and the latter is a glob of another file, too.
    """
    if os.path.exists(path):
        return [path]
    folder, pattern = os.path.split(path)
    if os.path.isdir(folder):
        folder = glob.escape(folder)
    return sorted(glob.glob(os.path.join(folder, pattern)))


def _refuse_folders_beside(archives: list[str], directory: str) -> None:
    folders = image_folders(Path(directory))
    if archives and folders:
        raise InputError(
            f"holds folders of images ({next(iter(folders))}) and archives "
            f"({os.path.basename(archives[0])}): one kind is read",
            file=directory,
            fix="unpack each archive into a folder there, then move it elsewhere",
        )


@dataclass(frozen=True, kw_only=True)
class ArchiveSource(Source):
    """Archives, in the order in which they count where two hold the same image."""

    archives: tuple[str, ...]
    policy: RetryPolicy

    @classmethod
    def open(cls, images: str, policy: RetryPolicy) -> ArchiveSource:
        """Find the archives.

        Raises:
            InputError: there are none, or folders of images among them.
        """
        if "://" in images:
            archives = _list_archives(images, policy)
        elif os.path.isdir(images):
            archives = _in_directory(os.path.abspath(images))
            _refuse_folders_beside(archives, images)
        else:
            archives = _on_disk(os.path.abspath(images))
        if not archives:
            raise InputError("no archive is there", file=images, fix="check --images")
        return cls(archives=tuple(archives), policy=policy)

    @property
    def at_random(self) -> bool:
        """Whether all archives are plain files."""
        return all(in_place(archive) for archive in self.archives)

    @contextlib.contextmanager
    def staged(
        self, image_ids_N: Ids, shared: Path | None, parallel: ParallelMap
    ) -> Iterator[Source]:
        """List plain archives, spool the others below ``shared``."""
        if shared is None and (packed := [a for a in self.archives if not in_place(a)]):
            raise InputError(
                "this archive is unpacked before the shards are written, "
                "and there is no directory of the output where every worker finds it",
                file=packed[0],
                fix="give --scratch a directory that all workers reach, or name plain tars",
            )
        folder = "" if shared is None else str(shared / STAGING_FOLDER)
        wanted_N = np.unique(image_ids_N)
        tasks = [
            StagingTask(archive=archive, folder=folder, wanted_N=wanted_N, policy=self.policy)
            for archive in self.archives
        ]
        by_archive = {images.names[0]: images for images in parallel(stage, tasks)}
        yield PackedImages.first_of([by_archive[archive] for archive in self.archives])

    def name(self, split: str, image_id: str) -> str:
        """The first archive and the member it would be: none of them holds it."""
        return f"{self.archives[0]}:{image_id}.jpg"


@dataclass(frozen=True, kw_only=True)
class StagingTask:
    """One archive to be made readable at random, as far as images ``wanted_N`` go (ascending)."""

    archive: str
    folder: str
    wanted_N: Ids
    policy: RetryPolicy


def stage(task: StagingTask) -> PackedImages:
    """List an archive or spool it; runs on a worker.

    Raises:
        InputError: it is missing, cut off or damaged, or there is no room.
    """
    with _damage_as_input_error(task.archive):
        if in_place(task.archive):
            listing = Listing(wanted_N=task.wanted_N, keep=lambda m, _: (m.offset_data, m.size))
            return _list(task, listing, task.archive)
        spool = Path(task.folder) / f"{_identity(task)}.spool"
        if not spool.with_suffix(".npz").is_file():
            _spool(task, spool)
        return PackedImages.load(spool, task.archive)


def in_place(archive: str) -> bool:
    """Find out whether the archive itself can be read at random: a plain tar on a disk."""
    if "://" in archive:
        return False
    try:
        with open(archive, "rb") as stream:
            return is_plain(stream.read(HEAD))
    except OSError:
        return archive.endswith(".tar")  # staging it names what is wrong


def _open(task: StagingTask) -> tuple[BinaryIO, int]:
    """Open an archive as it is; return its bytes and their number."""
    if "://" in task.archive:
        return ObjectStore(url=task.archive, policy=task.policy).open()
    return open(task.archive, "rb"), os.path.getsize(task.archive)


def _list(task: StagingTask, listing: Listing, file: str) -> PackedImages:
    """List the images of an archive, whose bytes are in ``file``."""
    with _read(task) as members:
        listing.add(members)
    with contextlib.ExitStack() as stack:
        listing.follow(lambda: stack.enter_context(_read(task)))
    rows = [(key, *place) for key, place in listing.places.items()]
    return PackedImages.of(file, task.archive, rows, listing.unusable)


@contextlib.contextmanager
def _read(task: StagingTask) -> Iterator[Members]:
    """Open the archive and decompress it, by its first bytes."""
    stream, _ = _open(task)
    with stream:
        head = cast(io.BufferedReader, stream).peek(HEAD)
        if name := unread(head):
            fix = "unpack it, and give the folder or a tar"
            raise InputError(f"a {name} archive is not read", file=task.archive, fix=fix)
        yield _zip_members(stream) if is_zip(head) else read_members(decompressed(stream, head))


def _zip_members(stream: BinaryIO) -> Members:
    """Yield the files of a zip as members of a tar."""
    with zipfile.ZipFile(stream) as archive:
        for entry in archive.infolist():
            name = entry.filename.replace("\\", "/")  # as some programs of Windows write it
            member = tarfile.TarInfo(name)
            member.size = entry.file_size
            if parse_image_file(name) and not entry.is_dir():
                with open_member(archive, entry.filename) as content:
                    yield member, cast(MemberContent, content)


def _spool(task: StagingTask, spool: Path) -> None:
    """Copy the wanted images one after the other into one file, and write their positions."""
    with replacing(spool) as temporary, open(temporary, "wb") as out:

        def keep(member: tarfile.TarInfo, content: MemberContent) -> Place:
            offset = out.tell()
            shutil.copyfileobj(content, out, _CHUNK)
            return offset, out.tell() - offset

        packed = _list(task, Listing(wanted_N=task.wanted_N, keep=keep), str(spool))
    packed.save(spool)


def _identity(task: StagingTask) -> str:
    """Hash what a spool follows from: the archive and the images wanted."""
    stream, length = _open(task)
    stream.close()
    changed = 0 if "://" in task.archive else os.stat(task.archive).st_mtime_ns
    digest = hashlib.sha256(f"2 {task.archive} {length} {changed} ".encode())
    digest.update(task.wanted_N.tobytes())
    return digest.hexdigest()[:16]


def _list_archives(images: str, policy: RetryPolicy) -> list[str]:
    """List archives at a URL; a ``*`` in the last part is looked up, which needs a bucket."""
    if "*" not in images:
        return [images]
    folder, _, pattern = images.rpartition("/")
    names = ObjectStore(url=folder, policy=policy).names()
    return [f"{folder}/{name}" for name in fnmatch.filter(names, pattern)]


@contextlib.contextmanager
def _damage_as_input_error(archive: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.ReadError, OSError, *DAMAGE) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(
                f"the archive cannot be spooled ({error.strerror})",
                file=archive,
                fix="make it readable on every worker, and free space in the output directory",
            ) from None
        raise InputError(
            f"the archive is damaged ({error})",
            file=archive,
            fix="download it again and compare its size and MD5 with the published ones",
        ) from None
    except BadImage as bad:
        raise InputError(
            f"the archive cannot be read ({bad})",
            file=archive,
            fix="check the URL, or download the archive and give its path",
        ) from None
