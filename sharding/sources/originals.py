"""Fetch originals by the URLs of the dump's image lists, and check their size and MD5.

Thousands of the originals on Flickr have been removed or changed since: a placeholder picture or a
new version decodes well, and only the MD5 tells.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from sharding.errors import InputError
from sharding.image_ids import IdIndex, Ids, parse_image_ids
from sharding.openimages.dump import Dump
from sharding.openimages.dump_files import DumpFile
from sharding.openimages.image_lists import read_listed
from sharding.sources.base import ParallelMap, ReadImage, Source
from sharding.sources.remote import fetch_ahead
from sharding.storage.object_store import ObjectStore
from sharding.storage.retry import MISSING, BadImage, Buffer, RetryPolicy

_SCHEMA = pa.schema([(name, pa.binary()) for name in ("url", "size", "md5")])
COLUMNS = ("OriginalURL", "OriginalSize", "OriginalMD5")


@dataclass(frozen=True, kw_only=True)
class OriginalsSource(Source):
    """Image lists with URLs, which are read when they are staged.

    ``probe`` is the image of `asking_for`.
    """

    files: tuple[DumpFile, ...]
    policy: RetryPolicy
    probe: tuple[str, ...] = ()

    @classmethod
    def of_list(cls, path: str, policy: RetryPolicy) -> OriginalsSource:
        """Name a list in a file.

        Raises:
            InputError: there is no such file.
        """
        if not Path(path).is_file():
            raise InputError("image list is missing", file=path, fix="check the path of --images")
        location = Path(path).name.removesuffix(".gz")
        return cls(files=(DumpFile(path=Path(path), location=location),), policy=policy)

    @classmethod
    def of_dump(cls, dump: Dump, policy: RetryPolicy) -> OriginalsSource:
        """Name the lists of a dump.

        Raises:
            InputError: it has none for any of its splits.
        """
        files = [file for split in dump.splits if (file := dump.images_file(split)) is not None]
        if not files:
            raise InputError(
                "the dump has no image list with URLs",
                file=dump.root,
                fix="put images.csv (or images_2017_11.tar.gz) beside the annotations",
            )
        return cls(files=tuple(dict.fromkeys(files)), policy=policy)

    def asking_for(self, split: str, image_id: str) -> OriginalsSource:
        """Name the image to ask for where all others are refused."""
        return dataclasses.replace(self, probe=(image_id,))

    @contextlib.contextmanager
    def staged(
        self, image_ids_N: Ids, shared: Path | None, parallel: ParallelMap
    ) -> Iterator[Source]:
        """Read the lists, as far as the images go: they name two and a half times as many."""
        wanted_N = np.union1d(image_ids_N, parse_image_ids(self.probe))
        ids, parts = [np.empty(0, np.uint64)], [_SCHEMA.empty_table()]
        for file in self.files:
            for keys_B, batch in read_listed(file, COLUMNS):
                chosen_B = np.isin(keys_B, wanted_N)
                ids.append(keys_B[chosen_B])
                kept = pa.Table.from_batches([batch]).select(list(COLUMNS))
                parts.append(kept.filter(pa.array(chosen_B)).rename_columns(_SCHEMA.names))
        listed_N, first = np.unique(np.concatenate(ids), return_index=True)
        table = pa.concat_tables(parts).take(pa.array(first)).combine_chunks()
        yield Originals(image_ids_N=listed_N, listed=table, policy=self.policy, probe=self.probe)

    def name(self, split: str, image_id: str) -> str:
        """The first list."""
        return f"{self.files[0]}: {image_id}"


@dataclass(frozen=True, kw_only=True)
class Originals(Source):
    """URL, size and MD5 of each image.

    Attributes:
        image_ids_N: uint64, ascending.
        listed: table of N rows with the columns url, size and md5 (base64) as binary, in this
            order; empty where the list says nothing.
        policy: of retries.
        probe: the image of `OriginalsSource.asking_for`.
    """

    image_ids_N: Ids
    listed: pa.Table
    policy: RetryPolicy
    probe: tuple[str, ...] = ()

    def only(self, image_ids: Sequence[str]) -> Originals:
        """Narrow the lists to a few images."""
        chosen_N = np.isin(self.image_ids_N, parse_image_ids([*image_ids, *self.probe]))
        return dataclasses.replace(
            self,
            image_ids_N=self.image_ids_N[chosen_N],
            listed=self.listed.filter(pa.array(chosen_N)).combine_chunks(),
        )

    def reader(self, split: str, image_ids: Sequence[str]) -> AbstractContextManager[ReadImage]:
        """Start to fetch the images."""
        probe = functools.partial(self._fetch, *self.probe) if self.probe else None
        return fetch_ahead(image_ids, self._fetch, self.policy, "the original URLs", probe)

    def name(self, split: str, image_id: str) -> str:
        """The URL."""
        row = self._row(image_id)
        return f"{image_id}: not in the image list" if row is None else row[0] or image_id

    def _row(self, image_id: str) -> tuple[str, str, str] | None:
        (key,) = parse_image_ids([image_id])
        row = self._index.row_of(key)
        if row < 0:
            return None
        url, size, md5 = (self.listed.column(n)[row].as_py().decode() for n in _SCHEMA.names)
        return url, size, md5

    @functools.cached_property
    def _index(self) -> IdIndex:
        return IdIndex(self.image_ids_N)

    def _fetch(self, image_id: str) -> Buffer:
        row = self._row(image_id)
        if row is None or not row[0]:
            raise BadImage(f"{MISSING}: the image list has no URL")
        url, size, md5 = row
        if not url.lower().startswith(("http://", "https://")):
            raise BadImage("its URL is not http or https")
        data = ObjectStore(url=url, policy=self.policy).read()
        check_original(data, size, md5)
        return data


def check_original(data: Buffer, size: str, md5: str) -> None:
    """Compare with `OriginalSize` (bytes) and `OriginalMD5` (base64), where they are given.

    Raises:
        BadImage: it is something else.
    """
    if size and size != str(len(data)):
        raise BadImage(f"not the original: {len(data):,} bytes instead of {size}")
    if md5 and md5 != base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode():
        raise BadImage("not the original: its MD5 is not OriginalMD5")
