"""Images that a run leaves out: found once, kept in its directory, known to all its loaders.

An image goes bad on one disk: it is known by its bytes, so that a mended tar, or another node's
good copy, is read again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline import outage, storage, unreadable
from pipeline.candidates import Upload
from pipeline.config import TrainConfig
from pipeline.unreadable import BadImage
from sharding.errors import InputError
from sharding.manifest import Dataset

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
        known: Iterable[BadImage] = (),
        keep: Callable[[list[BadImage]], None] = lambda images: None,
    ) -> None:
        self._keep = keep
        self._known = list(known)
        self._members: dict[Path, frozenset[str]] = {}
        for image in self._known:
            if unreadable.is_as_found(image):
                self._leave_out(image)

    def __len__(self) -> int:
        return sum(map(len, self._members.values()))

    def members(self, tar: Path) -> frozenset[str]:
        """Names of the images to leave out of a tar."""
        return self._members.get(tar, frozenset())

    def add(self, found: Iterable[BadImage]) -> None:
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

    def _leave_out(self, image: BadImage) -> None:
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

    def keep(images: list[BadImage]) -> None:
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


def _read(folder: str, dataset: Dataset) -> list[BadImage]:
    with outage.of_the_storage():
        found = {
            BadImage(tar=dataset.directory / row["tar"], member=row["member"], sha256=row["sha256"])
            for name in storage.names_in(folder)
            if name.endswith(".json")  # not what a killed writer left
            for row in json.loads(storage.read_bytes(storage.join(folder, name)))
        }
    return sorted(found, key=lambda image: (image.tar, image.member, image.sha256))
