"""A disk that fills up at any file: one clear error, and the dataset as it was."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from sharding.commands.options import ReshardOptions
from sharding.commands.reshard import reshard
from sharding.errors import InputError
from sharding.labels import LabelTable
from sharding.manifest import Dataset
from sharding.storage.files import write_json
from tests.support import commands
from tests.support.photos import image_ids, tree

shard = partial(commands.shard, images_per_shard=20, ranks=1)


@contextmanager
def full_after(files: int) -> Iterator[list[int]]:
    """The disk is full at the file of this number; yields a list that then holds it."""
    hit: list[int] = []
    original = os.fsync
    left = files

    def fsync(descriptor: int) -> None:
        nonlocal left
        if os.path.isfile(f"/proc/self/fd/{descriptor}"):
            if left == 0:
                hit.append(files)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left -= 1
        original(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield hit


def test_a_new_dataset_is_finished_by_repeating(inputs, tmp_path) -> None:
    shard(inputs, tmp_path / "undisturbed")
    hits, files = 0, 0
    while True:
        output = tmp_path / f"full-{files}"
        with full_after(files) as hit:
            error = error_of(lambda output=output: shard(inputs, output))
        if error is None:
            break
        assert hit
        assert FULL.fullmatch(error)
        hits += 1
        assert not (output / "dataset.json").exists()
        assert not list(output.rglob("*.tmp.*"))
        shard(inputs, output)
        assert tree(output) == tree(tmp_path / "undisturbed")
        files += 3
    assert hits > 2


def test_a_finished_dataset_stays_as_it_was(inputs, tmp_path) -> None:
    images = shutil.copytree(inputs[1], tmp_path / "images")
    late = images / "train" / f"{image_ids(images, 'train')[0]}.jpg"
    late.rename(tmp_path / "late.jpg")
    shard((inputs[0], images), tmp_path / "before")
    (tmp_path / "late.jpg").rename(late)
    named = set(tree(tmp_path / "before"))
    hits, files = 0, 0
    while True:
        output = shutil.copytree(tmp_path / "before", tmp_path / f"full-{files}")
        with full_after(files):
            options = ReshardOptions(
                dataset=output, annotations=inputs[0], images=str(images), name="second"
            )
            error = error_of(lambda options=options: reshard(options, map))
        if error is None:
            break
        assert FULL.fullmatch(error)
        hits += 1
        now = tree(output)
        if "labels/second/train.parquet" not in now:  # else only the report is missing
            assert {k: v for k, v in now.items() if k in named} == tree(tmp_path / "before")
        reshard(options, map)
        assert len(Dataset.open(output).labels("train")) == 24
        files += 4
    assert hits > 2


def error_of(job: Callable[[], object]) -> str | None:
    """The error that a job ends with, None where it succeeds."""
    try:
        job()
    except InputError as error:
        return str(error)
    return None


FULL = re.compile(r"[^\n]*cannot be written \(No space left on device\)[^\n]*free some space[^\n]*")


@pytest.mark.parametrize("write", ["json", "table"])
def test_a_real_limit_is_one_line_too(tmp_path: Path, write: str) -> None:
    target = tmp_path / "labels/x/train.parquet"
    ids = [f"{number * 7919:016x}" for number in range(3000)]
    table = LabelTable.from_lists(ids, [[1]] * 3000, [[]] * 3000)
    job = {
        "json": lambda: write_json(target, ids),
        "table": lambda: table.write(target),
    }[write]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        error = error_of(job) or ""
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert re.search(r"train\.parquet: cannot be written .*free some space", error)
    assert list(target.parent.iterdir()) == []
