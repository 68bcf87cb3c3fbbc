"""Which kind of source ``--images`` names."""

from __future__ import annotations

from sharding.directory import DirectorySource
from sharding.errors import InputError
from sharding.fetching import Fetching
from sharding.releases import Dump
from sharding.sources import Source

ORIGINALS = "originals"
"""Instead of a place: the URLs in the dump's own image lists."""


def open_source(images: str, fetching: Fetching | None = None, dump: Dump | None = None) -> Source:
    """The source that ``--images`` names: a directory, archives, a URL, or a list of URLs.

    Args:
        images: as the user named it.
        fetching: how patiently, over a network.
        dump: whose image lists `ORIGINALS` means.

    Raises:
        InputError: it is missing, or nothing in it can be an image.
    """
    # Imported as needed: a directory wants neither an HTTP client nor a cloud's.
    fetching = fetching or Fetching()
    if images == ORIGINALS or images.endswith((".csv", ".csv.gz")):
        from sharding.originals import OriginalsSource

        if images != ORIGINALS:
            return OriginalsSource.of_list(images, fetching)
        if dump is None:
            raise InputError(
                "there is no dump here whose image lists name the originals",
                fix="give --images the image list itself (images.csv)",
            )
        return OriginalsSource.of_dump(dump, fetching)
    from sharding.archives import ArchiveSource, names_archives

    if names_archives(images):
        return ArchiveSource.open(images, fetching)
    if "://" in images:
        from sharding.remote import RemoteSource

        return RemoteSource.open(images, fetching)
    return DirectorySource.open(images)
