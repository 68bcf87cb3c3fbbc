"""Describe one shard to write, and what became of it.

The record (`images/<split>-<number>.json`) is written after tar and index, so that a tar without
record is unfinished work. It carries a fingerprint of everything the tar follows from; the same
fingerprint means that nothing has to be done again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from sharding.image_ids import format_image_ids
from sharding.labels import LabelTable
from sharding.layout import INDEX, RECORD, shard_path
from sharding.manifest_parts import ShardRecord
from sharding.openimages.rotations import Rotations
from sharding.shards.plan import ShardPlan
from sharding.shards.transcode import ImagePolicy
from sharding.sources.base import Source
from sharding.storage.object_store import ObjectStore
from sharding.storage.records import build_record, record_digest
from sharding.storage.retry import Buffer

FORMAT = 1
_HASH = "sha256"
"""Key of the hash of everything else in a record."""
PICTURE_DIGITS = 32
"""Hexadecimal digits of an image's hash."""
_OLDER_HASHES = "pictures"
"""Key of a record of 0.2.0: SHA-256 of each image, which cost a fifth of copying it."""
PLACEHOLDER = 5
"""Images with the same bytes, from which on it is said: fewer are published twice by people."""


def picture_hash(data: Buffer) -> str:
    """Hash all bytes of an image as stored; of XXH3's 128 bits, which no two share by chance.

    It costs a fifteenth of SHA-256, which copying bytes into a tar would feel. Two images made to
    collide would be counted as one; nothing is deleted on its account.
    """
    return xxhash.xxh3_128_hexdigest(data)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An image that is not in its shard: where it was looked for, and why it could not be used."""

    image_id: str
    source: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """Everything a worker needs to write one shard.

    Attributes:
        plan: name and images of the shard.
        labels: label table of exactly these images, in this order.
        source: where the images come from.
        policy: what is done to the pixels.
        output: directory of the dataset; every worker reaches it where there is no ``bucket``.
        degrees_N: int16 counter-clockwise turns from the dump, negative where unknown; or None.
        strict: the first image that cannot be used is an error.
        replaces: SHA-256 of the tar that is written again; another content is an error.
        bucket: where the dataset is, if not in ``output``: the worker uploads the shard to it.
    """

    plan: ShardPlan
    labels: LabelTable
    source: Source
    policy: ImagePolicy
    output: str
    degrees_N: npt.NDArray[np.int16] | None = None
    strict: bool = False
    replaces: str | None = None
    bucket: ObjectStore | None = None

    @classmethod
    def of(
        cls,
        plan: ShardPlan,
        labels: LabelTable,
        source: Source,
        policy: ImagePolicy,
        output: Path,
        *,
        rotations: Rotations | None = None,
        strict: bool = False,
    ) -> ShardTask:
        """Make the task of a planned shard: its rows of the split's labels, its known turns.

        Args:
            plan: name and images of the shard.
            labels: label table of the whole split, in any order.
            source: where the images come from.
            policy: what is done to the pixels.
            output: directory of the dataset, made absolute.
            rotations: turns known from the dump, of any images.
            strict: the first image that cannot be used is an error.
        """
        return cls(
            plan=plan,
            labels=labels.select(plan.image_ids_N),
            source=source,
            policy=policy,
            output=str(output.resolve()),
            degrees_N=None if rotations is None else rotations.of(plan.image_ids_N),
            strict=strict,
        )

    @property
    def fingerprint(self) -> str:
        """Hash all that decides the bytes of the tar, but for the images themselves."""
        digest = hashlib.sha256(f"{FORMAT} {self.plan.name} {self.policy.record()}".encode())
        for array in (
            self.plan.image_ids_N,
            self.labels.offsets_N1,
            self.labels.classes_E,
            self.labels.states_E,
            np.zeros(0, np.int16) if self.degrees_N is None else self.degrees_N,
        ):
            digest.update(np.ascontiguousarray(array).tobytes())
            digest.update(b"|")
        return digest.hexdigest()

    @property
    def tar(self) -> Path:
        """Path of the tar."""
        return Path(self.output) / shard_path(self.plan.name)

    @property
    def index(self) -> Path:
        """Path of its DALI index."""
        return self.tar.with_suffix(INDEX)

    @property
    def record(self) -> Path:
        """Path of the outcome, which is written last."""
        return self.tar.with_suffix(RECORD)


@dataclass(frozen=True, kw_only=True)
class ShardOutcome:
    """What became of a shard.

    Attributes:
        name: of the shard ("train-000123").
        shard: the committed tar; None where no image of the plan could be used.
        fingerprint: of the task.
        failures: images that are not in the tar, by id.
        how: number of images by what was done to them ("kept", "shrunk", "from PNG", ...).
        repeated: number of images by hash, of those that are in the shard more than once.
        picture_hashes: `picture_hash` of all images in tar order (`PICTURE_DIGITS` of each). Empty
            in records of 0.1.0 and 0.2.0.
    """

    name: str
    shard: ShardRecord | None
    fingerprint: str
    failures: tuple[Failure, ...] = ()
    how: Mapping[str, int] = field(default_factory=dict)
    repeated: Mapping[str, int] = field(default_factory=dict)
    picture_hashes: str = ""

    @property
    def split(self) -> str:
        """Split of the shard."""
        return self.name.rpartition("-")[0]

    def to_json(self) -> dict[str, Any]:
        """Convert to plain values with their hash, for the record."""
        values = dataclasses.asdict(self)
        return {**values, _HASH: record_digest(values)}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> ShardOutcome:
        """Read what `to_json` made; raises ValueError, TypeError or KeyError for anything else."""
        values = {key: value for key, value in raw.items() if key != _HASH}
        if raw.get(_HASH) not in (None, record_digest(values)):  # 0.1.0 wrote none
            raise ValueError("changed after it was written")
        values.pop(_OLDER_HASHES, None)
        shard = None if raw["shard"] is None else build_record(ShardRecord, raw["shard"])
        failures = tuple(build_record(Failure, failure) for failure in raw["failures"])
        return build_record(cls, {**values, "shard": shard, "failures": failures})

    def is_of(self, task: ShardTask) -> bool:
        """Tell whether it accounts for every image of a task, in the files of that task."""
        plan, shard = task.plan, self.shard
        files = (shard_path(plan.name), shard_path(plan.name, INDEX), plan.split)
        lost = {failure.image_id for failure in self.failures}
        return (
            (self.fingerprint, self.name) == (task.fingerprint, plan.name)
            and (shard is None or (shard.path, shard.index, shard.split) == files)
            and len(plan) == len(self.failures) + (0 if shard is None else shard.images)
            and len(lost & set(format_image_ids(plan.image_ids_N))) == len(self.failures)
        )


def _recorded(task: ShardTask) -> ShardOutcome | None:
    """Read the record of an earlier run of this very task; None where there is none."""
    try:
        outcome = ShardOutcome.from_json(json.loads(task.record.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or a damaged one
        return None
    return outcome if outcome.is_of(task) else None


def holds_other(task: ShardTask) -> bool:
    """Tell whether a tar that may be another task's has the name of this one's."""
    return task.tar.is_file() and _recorded(task) is None


def finished(task: ShardTask) -> ShardOutcome | None:
    """Read the outcome of an earlier run of this very task, None where there is none.

    Cheap: tar and index must be there in the recorded size; `verify` compares hashes.
    """
    outcome = _recorded(task)
    if outcome is None:
        return None
    if outcome.shard is None:
        return outcome
    is_whole = task.tar.is_file() and task.tar.stat().st_size == outcome.shard.bytes
    return outcome if is_whole and task.index.is_file() else None


def describe_repeated(outcomes: Sequence[ShardOutcome]) -> str:
    """Say which pictures stand under many ids, as a site's placeholder does; "" if none does.

    They are counted by shard: a picture that a shard holds once is not counted in that shard.
    """
    images: Counter[str] = Counter()
    for outcome in outcomes:
        images.update(outcome.repeated)
    many = {picture: number for picture, number in images.items() if number >= PLACEHOLDER}
    splits = {outcome.split for outcome in outcomes if not many.keys().isdisjoint(outcome.repeated)}
    if not many:
        return ""
    what = "the same picture" if len(many) == 1 else f"only {len(many)} pictures"
    return f"{sum(many.values()):,} images are {what}, in {', '.join(sorted(splits))}"


def count_how(outcomes: Iterable[ShardOutcome]) -> Mapping[str, int]:
    """Count images by what was done to them, over all shards."""
    total: Counter[str] = Counter()
    for outcome in outcomes:
        total.update(outcome.how)
    return dict(sorted(total.items()))
