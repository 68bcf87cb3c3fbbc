"""Find images that cannot be decoded, name them, and leave them out while the epoch goes on.

Sharding accepts only what DALI decodes, so such an image went bad on disk. A DALI pipeline does not
survive it and does not say which it was; the samples that were due are therefore decoded one by
one. The bad one's index entry is then pointed at a neighbour's bytes (`dali_index.redirected`):
counts, order and reader positions stay as they are, and the loader drops the row. Another process,
and a resumed run, finds the image when it meets it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable

from pipeline.data import dali
from pipeline.data.dali import Sample
from pipeline.storage import Upload
from sharding.errors import how_to_repair

FOLDER = "unreadable"
"""Of the notes among a run's artifacts in MLflow."""
_AHEAD = 4
"""Batches decoded in advance at most, so that a failure may concern a later one."""
_log = logging.getLogger(__name__)


class LeftOut:
    """The images that the loaders of a process leave out, of any split.

    Args:
        upload: takes a note of each image (JSON) and the note's path.
    """

    def __init__(self, upload: Upload = lambda content, path: None) -> None:
        self._upload = upload
        self._members: dict[str, frozenset[str]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._members.values()))

    def members(self, tar: str) -> frozenset[str]:
        """Names of the images to leave out of a tar."""
        return self._members.get(tar, frozenset())

    def add(self, samples: Iterable[Sample]) -> None:
        """Leave these out from now on; log each and upload a note of it."""
        for sample in samples:
            _log.warning(
                "%s in %s cannot be decoded; left out. Fix: %s",
                sample.member,
                sample.tar,
                how_to_repair(sample.tar),
            )
            self._members[sample.tar] = self.members(sample.tar) | {sample.member}
            note = json.dumps(sample._asdict(), indent=1) + "\n"
            self._upload(note.encode(), f"{FOLDER}/{sample.member}.json")


def find(reading: dali.Reading, done: int, device_id: int | None) -> list[Sample]:
    """Decode the samples next in line after ``done`` batches; return those that cannot be."""
    bad = []
    for number, (samples, data) in enumerate(dali.encoded(reading)):
        if number >= done + _AHEAD:
            break
        if number >= done:
            pairs = zip(samples, data, strict=True)
            bad += [sample for sample, jpeg in pairs if not dali.decodes(jpeg, device_id)]
    return bad
