"""What a bulk prediction is: its options, its parts, and whether a directory holds this one.

Free of torch, so that the job shows its help at once.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline import storage
from pipeline.config.commands import PredictConfig
from pipeline.data import staging
from sharding.errors import InputError

# Readers of a directory of Parquet files pass over names that begin so.
PLAN, DONE, CAMS, CHECKPOINT = "_plan.json", "_SUCCESS", "_cams", "_checkpoint"

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}

# Options that change how, but not what, is predicted: a repeated command may change them.
_FREE = {"batch_size", "workers", "output", "checkpoint"}


@dataclass(frozen=True, kw_only=True)
class Part:
    """The images of one Parquet file.

    Attributes:
        number: of the file.
        tar: whose members are predicted, or "".
        locations: paths and URLs that are predicted where there is no tar.
    """

    number: int
    tar: str = ""
    locations: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """Name of its Parquet file."""
        return f"part-{self.number:06d}.parquet"


def parts(config: PredictConfig) -> list[Part]:
    """All parts, the same for the same input.

    Raises:
        InputError: there is nothing to predict, or the split is absent.
    """
    if config.dataset is not None:
        location = storage.absolute(config.dataset)
        shards = staging.open_dataset(location, tars=False).shards(config.split)
        tars = [storage.join(location, shard.path) for shard in shards]
        return [Part(number=number, tar=tar) for number, tar in enumerate(tars)]
    locations = _files(config.images) if config.images else _lines(config.urls)
    if not locations:
        raise InputError("no images", file=config.images or config.urls, fix="pass another source")
    chunks = _batched(locations, config.images_per_part)
    return [Part(number=number, locations=chunk) for number, chunk in enumerate(chunks)]


def unfinished(config: PredictConfig, checkpoint_sha256: str, parts: Sequence[Part]) -> list[Part]:
    """Claim the output directory; return the parts whose files are not there yet.

    Raises:
        InputError: the directory holds predictions of another model, input or option.
    """
    told = _identity(config, checkpoint_sha256, parts)
    path = storage.join(config.output, PLAN)
    before = storage.read_json(path)
    if before is not None:
        changed = [key for key in told if before.get(key) != told[key]]
        if changed:
            raise InputError(
                f"holds predictions with another {' and '.join(changed)}",
                file=config.output,
                fix="choose another --output, or remove that directory",
            )
    storage.write_json(path, told)
    there = set(storage.names_in(config.output))
    return [part for part in parts if part.file not in there]


def _identity(
    config: PredictConfig, checkpoint_sha256: str, parts: Sequence[Part]
) -> dict[str, Any]:
    options = {key: value for key, value in asdict(config).items() if key not in _FREE}
    listed = hashlib.sha256(json.dumps([asdict(part) for part in parts]).encode()).hexdigest()
    return {
        **{key: str(value) if isinstance(value, Path) else value for key, value in options.items()},
        "checkpoint_sha256": checkpoint_sha256,
        "images_sha256": listed,
    }


def _files(folder: str) -> list[str]:
    found = storage.files_below(folder)
    if not found and not storage.exists(folder):
        raise InputError("no such folder", file=folder, fix="pass a folder of images")
    return [path for path in found if PurePosixPath(path).suffix.lower() in _SUFFIXES]


def _lines(file: Path | None) -> list[str]:
    try:
        lines = (file or Path()).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"no list of URLs ({error})", file=file, fix="pass a text file") from None
    return [line.strip() for line in lines if line.strip()]


def _batched(items: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    waiting = iter(items)
    while batch := tuple(itertools.islice(waiting, size)):
        yield batch
