"""Find images that cannot be decoded, name them, and leave them out while the epoch goes on.

Sharding accepts only what DALI decodes, so such an image went bad on disk. A DALI pipeline does not
survive it and does not say which it was; the samples that were due are therefore decoded one by
one. The bad one's index entry is then pointed at another image's bytes (`dali_index.redirected`),
which were decoded first: counts, order and reader positions stay as they are, and the loader drops
the row. Another process, and a resumed run, finds the image when it meets it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.data import dali, dali_index
from pipeline.data.dali import Sample
from pipeline.storage import Upload
from sharding.errors import InputError, how_to_repair

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


def to_leave_out(
    bad: Sequence[Sample], left_out: LeftOut, indexes: Mapping[str, Path], device_id: int | None
) -> list[Sample]:
    """Choose what to leave out so that ``bad`` is read no more: it, and those in its place if bad.

    Args:
        bad: samples that cannot be decoded. One that is left out already was read as the bytes of
            another image, which went bad, too.
        left_out: what is left out already, and not returned.
        indexes: DALI index by tar.
        device_id: of the decoder.

    Raises:
        InputError: no image of a tar can be decoded.
    """
    found: list[Sample] = []
    for tar in dict.fromkeys(sample.tar for sample in bad):
        known = left_out.members(tar)
        members = [each.member for each in bad if each.tar == tar and each.member not in known]
        without = known.union(members)
        for member, jpeg in dali_index.others(Path(tar), indexes[tar], without):
            if dali.decodes(np.frombuffer(jpeg, np.uint8), device_id):
                break
            members.append(member)
        else:
            raise InputError(
                "no image of this tar can be decoded", file=tar, fix=how_to_repair(tar)
            )
        found += [Sample(tar, member) for member in members]
    return found
