"""The sharding commands as tests run them: in this process, and what damages a dataset."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sharding.commands.options import ReshardOptions, ShardOptions, VerifyOptions
from sharding.commands.prepare import prepare
from sharding.commands.reshard import reshard
from sharding.commands.shard import shard_dump
from sharding.commands.summary import Resharded
from sharding.commands.verify import VerifyReport, verify

Inputs = tuple[Path, Path]
"""(dump, images), as `write_photo_dump` makes them."""


def backwards(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """A parallel map of one process; results may come in any order."""
    return map(function, reversed(items))


def shard_options(inputs: Inputs, output: Path, **more: Any) -> ShardOptions:
    settings = {"images": str(inputs[1]), "images_per_shard": 10, "dataset_name": "tiny", **more}
    return ShardOptions(annotations=inputs[0], output=str(output), **settings)


def shard(inputs: Inputs, output: Path, **more: Any) -> str:
    return str(shard_dump(prepare(shard_options(inputs, output, **more)), backwards))


def relabel(dataset: Path, annotations: Path, **more: Any) -> Resharded:
    options = ReshardOptions(dataset=str(dataset), annotations=annotations, **more)
    return reshard(options, backwards)


def check(dataset: Path, **more: Any) -> VerifyReport:
    return verify(VerifyOptions(dataset=str(dataset), **more), backwards)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lose(dataset: Path, *names: str) -> None:
    """Remove files or folders of a dataset."""
    for name in names:
        path = dataset / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
