"""Plan a bulk prediction: cut its input into parts, and claim the output directory."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import io
import itertools
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config.commands import PredictConfig
from pipeline.data import staging
from pipeline.inference.pixels import UNREAD, ImageLike
from sharding import log
from sharding.decode import SUFFIXES
from sharding.errors import REPEAT_COMMAND, InputError, command
from sharding.layout import PREDICTIONS_DONE, PREDICTIONS_PLAN
from sharding.log import first_line
from sharding.storage.tar_reader import read_members

PLAN, DONE, CAMS, CHECKPOINT = PREDICTIONS_PLAN, PREDICTIONS_DONE, "_cams", "_checkpoint"
"""Names in the output; readers of a directory of Parquet files skip those that begin with _."""
_HIDDEN = re.compile(r"/(?:\.|__MACOSX/)")
"""What is no image of a folder: a Mac writes ._NAME beside each file, or both in an archive."""
_QUOTED = re.compile(r"""^(["'])(.+)\1$""")  # as Windows and shells write paths with spaces
_READS_AT_ONCE, _BUFFER = 16, 4 << 20
_FOLDER = "folder"
"""Key of the plan: where the first relative path of a list was found."""
_FREE = {"batch_size", "workers", "wait_for_workers", "max_minutes", "output", "checkpoint"}
"""Options that change how, but not what, is predicted: a repeated command may change them."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The images of one Parquet file.

    Attributes:
        number: of the file.
        tar: whose members are predicted, or "".
        dataset, images: that the tar is of, and has.
        locations: paths and URLs that are predicted where there is no tar.
        folders: where a relative path is looked for.
    """

    number: int
    tar: str = ""
    dataset: str = ""
    images: int = 0
    locations: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    def located(self, location: str) -> str:
        """Make a relative path absolute, because workers run in directories of their own."""
        if "://" in location:
            return location
        places = [os.path.join(folder, location) for folder in self.folders] or [location]
        with contextlib.suppress(ValueError):  # of a name with a NUL
            return next(filter(os.path.exists, places), places[0])
        return location

    @property
    def found_in(self) -> str:
        """The folder in which the first relative path is that is there; "" if none is."""
        paths = [path for path in self.locations if "://" not in path and not os.path.isabs(path)]
        with contextlib.suppress(ValueError):  # of a name with a NUL
            for path, folder in itertools.product(paths, self.folders):
                if os.path.exists(os.path.join(folder, path)):
                    return folder
        return ""

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
        return [
            Part(
                number=number,
                tar=storage.join(location, shard.path),
                dataset=location,
                images=shard.images,
            )
            for number, shard in enumerate(shards)
        ]
    locations = _files(config.images, config.output) if config.images else _lines(config.urls)
    if not locations:
        raise InputError("no images", file=config.images or config.urls, fix="pass another source")
    size = config.images_per_part
    chunks = [locations[first : first + size] for first in range(0, len(locations), size)]
    folders = () if config.urls is None else (os.getcwd(), str(config.urls.absolute().parent))
    return [
        Part(number=number, locations=tuple(chunk), folders=folders)
        for number, chunk in enumerate(chunks)
    ]


def images_of(part: Part) -> Iterator[tuple[str, ImageLike]]:
    """Give (name, image) of a part's images; an image of a shard is named by its id.

    Raises:
        InputError: the tar is damaged, or has not the images that the manifest says.
    """
    if not part.tar:
        yield from ((location, part.located(location)) for location in part.locations)
        return
    found = 0
    try:
        # As a stream: a bucket's shard is read once, without a copy on this machine's disk.
        with io.BufferedReader(cast(Any, storage.open_file(part.tar)), _BUFFER) as file:
            for member, content in read_members(file):
                stem, _, suffix = member.name.rpartition(".")
                if suffix == "jpg" and content is not None:
                    found += 1
                    yield stem, content.read()
    except (FileNotFoundError, tarfile.ReadError) as error:
        problem = f"damaged or missing ({first_line(error)})"
        raise InputError(problem, file=part.tar, fix=_repair(part)) from None
    except OSError as error:
        problem = f"cannot be read ({first_line(error)})"
        raise InputError(problem, file=part.tar, fix=REPEAT_COMMAND) from None
    if found != part.images:
        raise InputError(f"{found} images, of {part.images}", file=part.tar, fix=_repair(part))


def _repair(part: Part) -> str:
    repair = command("verify", "--dataset", part.dataset, "--repair", "--images", "FOLDER")
    return f"run {repair}"


def unfinished(config: PredictConfig, checkpoint_sha256: str, parts: Sequence[Part]) -> list[Part]:
    """Claim the output directory; return the parts to predict, or whose rows to try again.

    These have no file yet, or one with images whose bytes could not be had.

    Raises:
        InputError: the directory holds predictions of another model, input or option.
    """
    plan = _identity(config, checkpoint_sha256, parts)
    path = storage.join(config.output, PLAN)
    before = storage.read_json(path)
    if before is not None:
        changed = [key for key in plan if key != _FOLDER and before.get(key) != plan[key]]
        # Unknown where no listed file was there, and of 0.2.0.
        folder = before.get(_FOLDER, "")
        if folder and plan[_FOLDER] and folder not in {each for p in parts for each in p.folders}:
            changed.append(_FOLDER)
        plan[_FOLDER] = folder or plan[_FOLDER]
        if changed:
            raise InputError(
                f"holds predictions with another {' and '.join(map(_in_words, changed))}",
                file=config.output,
                fix="choose another --output, or remove that directory",
            )
    storage.write_json(path, plan)
    written = set(storage.names_in(config.output))
    done = [part for part in parts if part.file in written]
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        errors = pool.map(read_errors, (storage.join(config.output, part.file) for part in done))
        whole = {part.number for part, found in zip(done, errors, strict=True) if not unread(found)}
    if len(whole) == len(parts):
        log.info(f"{config.output} is already finished; nothing was done")
    return [part for part in parts if part.number not in whole]


def read_errors(location: str) -> list[str | None]:
    """Read the column ``error`` of a part's file."""
    with storage.open_file(location) as file:
        errors: list[str | None] = pq.read_table(file, columns=["error"])["error"].to_pylist()
    return errors


def unread(errors: Sequence[str | None]) -> bool:
    """Whether one of the rows' images could not be had; those that are damaged stay so."""
    return any(error is not None and error.startswith(UNREAD) for error in errors)


def _identity(
    config: PredictConfig, checkpoint_sha256: str, parts: Sequence[Part]
) -> dict[str, Any]:
    """Describe in JSON values what is predicted, and with which model and options."""
    options = {key: value for key, value in asdict(config).items() if key not in _FREE}
    images = [{"number": p.number, "tar": p.tar, "locations": p.locations} for p in parts]
    listed = hashlib.sha256(json.dumps(images).encode()).hexdigest()
    places = [place for part in parts if (place := part.found_in)]
    return {
        **{key: str(value) if isinstance(value, Path) else value for key, value in options.items()},
        "checkpoint_sha256": checkpoint_sha256,
        "images_sha256": listed,
        _FOLDER: next(iter(places), ""),
    }


def _in_words(key: str) -> str:
    """Name an entry of the identity as the user does."""
    words = {
        "checkpoint_sha256": "model",
        "images_sha256": "list of images",
        _FOLDER: "folder of the listed paths",
    }
    return words.get(key, f"--{key.replace('_', '-')}")


def _files(folder: str, output: str) -> list[str]:
    """List the images of a folder, but for what predictions wrote below it: maps are pictures."""
    files = storage.files_below(folder)
    if not files and not storage.exists(folder):
        raise InputError("no such folder", file=folder, fix="pass a folder of images")
    if not files and Path(folder).is_file():
        raise InputError("a file, not a folder", file=folder, fix="list files in one for --urls")
    begin = len(storage.absolute(folder).rstrip("/"))
    outputs = {path.removesuffix(PLAN) for path in files if path.endswith(f"/{PLAN}")}
    outputs.add(storage.join(storage.absolute(output), ""))
    places = "|".join(re.escape(place) for place in sorted(outputs))
    written = re.compile(f"(?:{places})(?:(?:{CAMS}|{CHECKPOINT})/|(?:{PLAN}|{DONE})$)")
    shown = [p for p in files if not (_HIDDEN.search(p, begin) or written.match(p))]
    endings = [PurePosixPath(path).suffix.lower() for path in shown]
    if others := Counter(ending for ending in endings if ending not in SUFFIXES):
        counts = ", ".join(f"{number} {ending or 'without'}" for ending, number in others.items())
        log.info(f"note: files left out, which are no images by their ending: {counts[:200]}")
    return [path for path, ending in zip(shown, endings, strict=True) if ending in SUFFIXES]


def _lines(file: Path | None) -> list[str]:
    try:
        content = (file or Path()).read_bytes()
        # Notepad and PowerShell write a byte order mark, which is no part of the first line.
        is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        lines = content.decode("utf-16" if is_utf16 else "utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"no list of URLs ({error})", file=file, fix="pass a text file") from None
    return [_QUOTED.sub(r"\2", line.strip()) for line in lines if line.strip()]
