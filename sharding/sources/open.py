"""Find out which kind of source ``--images`` names, and open it."""

from __future__ import annotations

from sharding.errors import InputError
from sharding.openimages.dump import Dump
from sharding.openimages.dump_files import COMPRESSED
from sharding.progress import say
from sharding.sources.archives import ArchiveSource, names_archives
from sharding.sources.base import Source
from sharding.sources.directory import DirectorySource
from sharding.sources.originals import OriginalsSource
from sharding.sources.remote import RemoteSource
from sharding.storage.retry import RetryPolicy

ORIGINALS = "originals"
"""Instead of a place: the URLs in the dump's own image lists."""


def open_source(images: str, policy: RetryPolicy | None = None, dump: Dump | None = None) -> Source:
    """Open the source that ``--images`` names: a directory, archives, a URL, or a list of URLs.

    Args:
        images: what ``--images`` says.
        policy: of retries over a network.
        dump: whose image lists `ORIGINALS` means.

    Raises:
        InputError: it is missing, or nothing in it can be an image.
    """
    policy = policy or RetryPolicy()
    say(f"listing the images of {images}")
    if images == ORIGINALS:
        if dump is None:
            raise InputError(
                "there is no dump here whose image lists name the originals",
                fix="give --images the image list itself (images.csv)",
            )
        return OriginalsSource.of_dump(dump, policy)
    if images.endswith((".csv", *(f".csv{suffix}" for suffix in COMPRESSED))):
        return OriginalsSource.of_list(images, policy)
    if names_archives(images):
        return ArchiveSource.open(images, policy)
    if "://" in images:
        return RemoteSource.open(images, policy)
    return DirectorySource.open(images)
