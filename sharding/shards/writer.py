"""Write one shard: images in, tar with index and record out."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sharding.errors import InputError, how_to_repair
from sharding.image_ids import format_image_ids
from sharding.labels import POSITIVE, LabelTable
from sharding.layout import INDEX, shard_path
from sharding.log import redact
from sharding.manifest_parts import ShardRecord
from sharding.shards.task import Failure, ShardOutcome, ShardTask, picture_hash
from sharding.shards.transcode import transcode
from sharding.storage.files import replacing, write_json
from sharding.storage.locks import temporary_directory
from sharding.storage.retry import BadImage
from sharding.storage.tar_reader import read_members
from sharding.storage.tar_writer import IndexedTar


class _NothingToWrite(Exception):
    """Every image failed: an empty tar would be read as one phantom sample."""


def write_shard(task: ShardTask) -> ShardOutcome:
    """Write tar, index and record of a shard; runs on a worker, once or again after a crash.

    For a bucket they are written on this machine's disk, then uploaded, the record last.

    Raises:
        InputError: the output cannot be written; an image cannot be used and the task is strict;
            the tar is not the one that it should replace.
        ScratchFull: this machine's disk has no room for a bucket's tar.
    """
    if task.bucket is None:
        return _write_in_place(task)
    with temporary_directory("shard-") as folder:
        local = dataclasses.replace(task, output=str(folder), bucket=None)
        outcome = _write_in_place(local)
        tar = [] if outcome.shard is None else [local.tar, local.index]
        for file in (*tar, local.record):
            task.bucket.upload(shard_path(task.plan.name, file.suffix), file)
        return outcome


def _write_in_place(task: ShardTask) -> ShardOutcome:
    try:
        outcome = _write(task)
        write_json(task.record, outcome.to_json())
        return outcome
    except OSError as error:
        raise InputError(
            f"cannot be written ({error.strerror})",
            file=task.tar,
            fix="make it writable on every worker, then repeat the command: "
            "finished shards are kept",
        ) from None


def label_lines(image_ids: list[str], labels: LabelTable) -> Iterator[bytes]:
    """Format the `.json` component of each image: its id, positive and negative class indices."""
    classes, positive = labels.classes_E.tolist(), (labels.states_E == POSITIVE).tolist()
    offsets = labels.offsets_N1.tolist()
    for row, image_id in enumerate(image_ids):
        entries = range(offsets[row], offsets[row + 1])
        content = {
            "image_id": image_id,
            "negatives": [classes[e] for e in entries if not positive[e]],
            "positives": [classes[e] for e in entries if positive[e]],
        }
        yield json.dumps(content, separators=(",", ":")).encode()


def _write(task: ShardTask) -> ShardOutcome:
    failures: list[Failure] = []
    how: Counter[str] = Counter()
    pictures: list[str] = []
    shard = None
    try:
        with replacing(task.tar) as tar:
            with open(tar, "wb", buffering=0) as stream:
                archive = IndexedTar(stream.fileno())
                _add_images(task, archive, failures, how, pictures)
                if not archive.samples:
                    raise _NothingToWrite
                archive.finish()
            _refuse_other(task, archive, tar)
            with replacing(task.index) as index:
                index.write_bytes(archive.index())
        shard = _record(task, archive)
    except _NothingToWrite:
        pass
    return ShardOutcome(
        name=task.plan.name,
        shard=shard,
        fingerprint=task.fingerprint,
        failures=tuple(failures),
        how=dict(sorted(how.items())),
        repeated={key: number for key, number in sorted(Counter(pictures).items()) if number > 1},
        picture_hashes="".join(pictures),
    )


def _add_images(
    task: ShardTask,
    archive: IndexedTar,
    failures: list[Failure],
    how: Counter[str],
    pictures: list[str],
) -> None:
    split, image_ids = task.plan.split, format_image_ids(task.plan.image_ids_N)
    degrees = [0] * len(image_ids) if task.degrees_N is None else task.degrees_N.tolist()
    lines = label_lines(image_ids, task.labels)
    with task.source.reader(split, image_ids) as read:
        for image_id, line, turned in zip(image_ids, lines, degrees, strict=True):
            try:
                image = transcode(read(image_id), task.policy, turned)
            except BadImage as bad:
                failures.append(_failure(task, image_id, str(bad)))
                continue
            archive.add(image_id, (("jpg", image.data), ("json", line)))
            how[image.how] += 1
            pictures.append(picture_hash(image.data))


def _failure(task: ShardTask, image_id: str, reason: str) -> Failure:
    source = task.source.name(task.plan.split, image_id)
    if task.strict:
        raise InputError(
            f"image cannot be used: {reason}",
            file=source,
            fix="give images among which it is whole; where --strict was given, "
            "leave it out to set such images aside",
        )
    return Failure(image_id=image_id, source=redact(source), reason=redact(reason))


def _refuse_other(task: ShardTask, archive: IndexedTar, written: Path) -> None:
    """Refuse to replace a tar by one of other pictures."""
    if task.replaces in (None, archive.sha256):
        return
    new, old = _pictures(written), _pictures(task.tar)
    others = sorted(name for name in new.keys() & old.keys() if new[name] != old[name])
    problem = "made again, the tar is not the one that it was (SHA-256 differs)"
    if others:
        problem += f": {len(others)} pictures are not those in it, such as {others[0]}"
    elif task.tar.exists() and not new.keys() <= old.keys():
        problem += "; which pictures differ is not known: the old one cannot be read to its end"
    raise InputError(
        problem,
        file=task.tar,
        fix="give the images that it was made of, or accept others: "
        f"{how_to_repair(task.tar, '--images', 'FOLDER', '--accept-changed')}",
    )


def _pictures(tar: Path) -> dict[str, str]:
    """Hash every picture of a tar, by name, as far as it can be read."""
    hashes: dict[str, str] = {}
    with contextlib.suppress(OSError, tarfile.ReadError), tar.open("rb") as stream:
        for member, content in read_members(stream):
            if content is not None and member.name.endswith(".jpg"):
                hashes[member.name] = hashlib.sha256(content.read()).hexdigest()
    return hashes


def _record(task: ShardTask, archive: IndexedTar) -> ShardRecord:
    return ShardRecord(
        path=shard_path(task.plan.name),
        index=shard_path(task.plan.name, INDEX),
        split=task.plan.split,
        images=archive.samples,
        bytes=archive.size,
        sha256=archive.sha256,
        index_sha256=hashlib.sha256(archive.index()).hexdigest(),
    )
