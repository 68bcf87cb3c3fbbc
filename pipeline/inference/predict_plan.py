"""Plan a bulk prediction: cut its input into parts, and claim the output directory.

Free of torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline import storage
from pipeline.config.commands import PredictConfig
from pipeline.data import staging
from sharding.errors import InputError

PLAN, DONE, CAMS, CHECKPOINT = "_plan.json", "_SUCCESS", "_cams", "_checkpoint"
"""Names in the output; readers of a directory of Parquet files skip those that begin with _."""
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}

_FREE = {"batch_size", "workers", "output", "checkpoint"}
"""Options that change how, but not what, is predicted: a repeated command may change them."""


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
    """List all parts, the same for the same input.

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
    size = config.images_per_part
    chunks = [locations[first : first + size] for first in range(0, len(locations), size)]
    return [Part(number=number, locations=tuple(chunk)) for number, chunk in enumerate(chunks)]


def unfinished(config: PredictConfig, checkpoint_sha256: str, parts: Sequence[Part]) -> list[Part]:
    """Claim the output directory; return the parts whose files are not there yet.

    Raises:
        InputError: the directory holds predictions of another model, input or option.
    """
    plan = _identity(config, checkpoint_sha256, parts)
    path = storage.join(config.output, PLAN)
    before = storage.read_json(path)
    if before is not None:
        changed = [key for key in plan if before.get(key) != plan[key]]
        if changed:
            raise InputError(
                f"holds predictions with another {' and '.join(changed)}",
                file=config.output,
                fix="choose another --output, or remove that directory",
            )
    storage.write_json(path, plan)
    written = set(storage.names_in(config.output))
    return [part for part in parts if part.file not in written]


def _identity(
    config: PredictConfig, checkpoint_sha256: str, parts: Sequence[Part]
) -> dict[str, Any]:
    """Describe in JSON values what is predicted, and with which model and options."""
    options = {key: value for key, value in asdict(config).items() if key not in _FREE}
    listed = hashlib.sha256(json.dumps([asdict(part) for part in parts]).encode()).hexdigest()
    return {
        **{key: str(value) if isinstance(value, Path) else value for key, value in options.items()},
        "checkpoint_sha256": checkpoint_sha256,
        "images_sha256": listed,
    }


def _files(folder: str) -> list[str]:
    files = storage.files_below(folder)
    if not files and not storage.exists(folder):
        raise InputError("no such folder", file=folder, fix="pass a folder of images")
    return [path for path in files if PurePosixPath(path).suffix.lower() in _SUFFIXES]


def _lines(file: Path | None) -> list[str]:
    try:
        lines = (file or Path()).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"no list of URLs ({error})", file=file, fix="pass a text file") from None
    return [line.strip() for line in lines if line.strip()]
