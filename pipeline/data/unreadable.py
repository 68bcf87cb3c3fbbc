"""Images that went bad after sharding: found, named, and left out while the epoch goes on.

Sharding accepts only what DALI decodes, so this is a disk's doing. A DALI pipeline does not
survive such an image and does not say which it was; the samples that were due are therefore
decoded one by one. The bad one's index entry is then pointed at a neighbour's bytes
(`indexes.redirected`): counts, order and reader positions stay as they are, and the loader drops
the row.

Images that a run leaves out: found once, kept in its directory, known to all its loaders.

An image goes bad on one disk: it is known by its bytes, so that a mended tar, or another node's
good copy, is read again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline import storage
from pipeline.config.train import TrainConfig
from pipeline.data import dali, dali_index
from pipeline.storage import Upload
from sharding.errors import InputError
from sharding.manifest import Dataset

_AHEAD = 4
"""Batches decoded in advance at most, so that a failure may concern a later one."""


@dataclass(frozen=True, kw_only=True)
class UnreadableImage:
    """A member of a tar whose bytes cannot be decoded; ``sha256`` is these bytes'."""

    tar: Path
    member: str
    sha256: str


def find(reading: dali.Reading, done: int, device_id: int | None) -> list[UnreadableImage]:
    """The samples that cannot be decoded, of those next in line after ``done`` batches."""
    found = []
    for number, (names, data) in enumerate(dali.encoded(reading)):
        if number >= done + _AHEAD:
            break
        if number >= done:
            for name, jpeg in zip(names, data, strict=True):
                if not dali.decodes(jpeg, device_id):
                    tar, _, member = name.rsplit(":", 2)
                    sha256 = hashlib.sha256(jpeg.tobytes()).hexdigest()
                    found.append(UnreadableImage(tar=Path(tar), member=member, sha256=sha256))
    return found


def is_as_found(image: UnreadableImage) -> bool:
    """Whether this process would read the very bytes that could not be decoded."""
    index = image.tar.with_suffix(".idx")
    if not (index.is_file() and image.tar.is_file()):
        return False
    for row in dali_index.rows(index):
        if row[3] == image.member:
            with image.tar.open("rb") as tar:
                tar.seek(int(row[1]))
                return hashlib.sha256(tar.read(int(row[2]))).hexdigest() == image.sha256
    return False


FOLDER = "unreadable"

_log = logging.getLogger(__name__)


class LeftOut:
    """What the loaders of a process leave out, of any split.

    Args:
        known: found before.
        keep: told all that is known whenever something is new.
    """

    def __init__(
        self,
        known: Iterable[UnreadableImage] = (),
        keep: Callable[[list[UnreadableImage]], None] = lambda images: None,
    ) -> None:
        self._keep = keep
        self._known = list(known)
        self._members: dict[Path, frozenset[str]] = {}
        for image in self._known:
            if is_as_found(image):
                self._leave_out(image)

    def __len__(self) -> int:
        return sum(map(len, self._members.values()))

    def members(self, tar: Path) -> frozenset[str]:
        """Names of the images to leave out of a tar."""
        return self._members.get(tar, frozenset())

    def add(self, found: Iterable[UnreadableImage]) -> None:
        """Leave these out from now on, and say so."""
        for image in found:
            _log.warning(
                "%s in %s cannot be decoded; left out. Fix: jobs/verify_dataset.py --repair",
                image.member,
                image.tar,
            )
            self._leave_out(image)
            self._known.append(image)
        self._keep(self._known)

    def _leave_out(self, image: UnreadableImage) -> None:
        self._members[image.tar] = self.members(image.tar) | {image.member}


def of_run(config: TrainConfig, dataset: Dataset, process: str, upload: Upload) -> LeftOut:
    """What the processes of a run have found so far; this one's finds are kept beside theirs.

    Args:
        config: of the run.
        dataset: as this process reads it.
        process: a name that no other process of the run has meanwhile.
        upload: of what this process knows, to MLflow.
    """
    folder = storage.join(config.storage, config.run_name, FOLDER)

    def keep(images: list[UnreadableImage]) -> None:
        rows = [
            {
                "tar": image.tar.relative_to(dataset.directory).as_posix(),
                "member": image.member,
                "sha256": image.sha256,
            }
            for image in images
        ]
        content = (json.dumps(rows, indent=1) + "\n").encode()
        upload(content, f"{FOLDER}/{process}.json")
        try:
            storage.write_bytes(storage.join(folder, f"{process}.json"), content)
        except (OSError, InputError) as error:  # the epoch goes on all the same
            _log.warning("%s is searched for again after a restart (%s)", images[-1].member, error)

    return LeftOut(_read(folder, dataset), keep)


def _read(folder: str, dataset: Dataset) -> list[UnreadableImage]:
    with storage.of_the_storage():
        found = {
            UnreadableImage(
                tar=dataset.directory / row["tar"], member=row["member"], sha256=row["sha256"]
            )
            for name in storage.names_in(folder)
            if name.endswith(".json")  # not what a killed writer left
            for row in json.loads(storage.read_bytes(storage.join(folder, name)))
        }
    return sorted(found, key=lambda image: (image.tar, image.member, image.sha256))
