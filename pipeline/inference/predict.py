"""Predict many images on a cluster, part by part; each part becomes a Parquet file."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline import storage
from pipeline.cluster import session, tasks
from pipeline.config.commands import PredictConfig
from pipeline.inference import locate, pixels, predict_plan
from pipeline.inference.predict_plan import Part
from pipeline.inference.predictor import Label, Predictor
from pipeline.models import checkpoint, operating_points
from pipeline.models.checkpoint import Meta
from pipeline.models.operating_points import OperatingPoints
from sharding.errors import InputError
from sharding.log import info

SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("class_index", pa.list_(pa.int32())),
        ("mid", pa.list_(pa.string())),
        ("name", pa.list_(pa.string())),
        ("score", pa.list_(pa.float32())),
        ("probability", pa.list_(pa.float32())),
        ("error", pa.string()),
    ]
)
"""Per image: lists of its labels, best first, or why it could not be read."""
_READS_AT_ONCE = 16
_DEADLY = "it ended the process that read it"
SILENT = 32
"""Images in a row, after which a host is left alone until the command is repeated."""


class PartPredictor:
    """Predict parts with the model of one worker, and write each part's file.

    Args:
        config: of the whole prediction.
        checkpoint_directory: path or URL that every worker reads.
        threads: images decoded at a time.
        deadline: in seconds since 1970; images not read by then are left to a repeated command.
    """

    def __init__(
        self,
        config: PredictConfig,
        checkpoint_directory: str,
        threads: int,
        deadline: float = math.inf,
    ) -> None:
        torch.set_num_threads(threads)
        self.config, self.threads, self._deadline = config, threads, deadline
        model, meta = checkpoint.load_model(checkpoint_directory)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        points = operating_points.read(checkpoint_directory, meta.classes_sha256)
        self.predictor = Predictor(model, meta, device=device, points=points)
        self._silent = Counter[str]()  # images in a row that a host has not answered for
        self._metadata = _about(config, meta, points)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, int]:
        """Write the part's file; return how many images and errors it has.

        Of a file that is there, only images are predicted that could not be read. After an attempt
        that killed its worker they are taken one by one, and those that kill it again left out.
        """
        part: Part = row["item"]
        fatal = _Fatal(self.config.output, part) if row.get("attempt", 1) > 1 else None
        kept = _kept_rows(storage.join(self.config.output, part.file))
        kept |= {} if fatal is None else {name: _lost(name, _DEADLY) for name in fatal.names}
        size = self.config.batch_size if fatal is None else 1
        rows: list[dict[str, Any]] = []
        with ThreadPoolExecutor(self.threads) as pool:
            sources = predict_plan.images_of(part)
            while batch := list(itertools.islice(sources, size)):
                wanted = [(name, image) for name, image in batch if name not in kept]
                if fatal is not None and wanted:
                    fatal.begin(wanted[0][0])
                read = list(pool.map(self._square, (image for _, image in wanted)))
                made = iter(self._rows(part, [name for name, _ in wanted], read))
                rows += [kept[name] if name in kept else next(made) for name, _ in batch]
        _write(self.config, part, rows, self._metadata)
        if fatal is not None:
            fatal.end()
        return {"images": len(rows), "errors": sum(row.get("error") is not None for row in rows)}

    def _square(self, source: pixels.ImageLike) -> npt.NDArray[np.uint8] | InputError:
        """Decode an image, or say what is wrong with it; a silent host is not asked again."""
        if time.time() > self._deadline:
            return InputError(f"{pixels.UNREAD} (not reached in --max-minutes)")
        host = _host(source) if isinstance(source, str) else ""
        if self._silent[host] >= SILENT:
            return InputError(f"{pixels.UNREAD} ({host} has not answered {SILENT} times)")
        image = pixels.attempt(source, self.predictor.image_size)
        self._silent[host] = self._silent[host] + 1 if isinstance(image, pixels.Unanswered) else 0
        return image

    def _rows(
        self, part: Part, names: Sequence[str], read: Sequence[npt.NDArray[np.uint8] | InputError]
    ) -> Iterator[dict[str, Any]]:
        """Make the row of every image, in order; draw maps if asked to."""
        good = [image for image in read if isinstance(image, np.ndarray)]
        predictions = iter(self.predictor.predict_pixels(np.stack(good)) if good else ())
        for name, image in zip(names, read, strict=True):
            if isinstance(image, InputError):
                yield {"image": name, "error": image.problem}
                continue
            labels = next(predictions).present(self.config.threshold, self.config.top_k or None)
            if labels and self.config.cams:
                self._draw(part, name, image, labels[: self.config.cams])
            yield {
                "image": name,
                "class_index": [label.index for label in labels],
                "mid": [label.mid for label in labels],
                "name": [label.name for label in labels],
                "score": [label.score for label in labels],
                "probability": [label.probability for label in labels],
            }

    def _draw(
        self, part: Part, name: str, image_HWC: npt.NDArray[np.uint8], labels: Sequence[Label]
    ) -> None:
        """Draw the maps of these labels into one PNG file."""
        # Two folders may hold files of one name; the digest keeps their pictures apart.
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        picture = f"{Path(name).stem[:80]}-{digest}.png"
        location = storage.join(
            self.config.output, predict_plan.CAMS, Path(part.file).stem, picture
        )
        cams = self.predictor.cam([image_HWC], [label.index for label in labels])
        storage.write_bytes(location, cams.png(0))


def predict(config: PredictConfig, connect: Callable[[], None]) -> dict[str, int]:
    """Predict on the cluster every part that has no file yet; return the counts of all parts.

    Args:
        config: as the command says.
        connect: joins the cluster; not called where every part has its file.

    Raises:
        InputError: no model, no images, or an output directory of another prediction.
    """
    deadline = time.time() + 60 * (config.max_minutes or math.inf)
    config = dataclasses.replace(config, output=storage.absolute(config.output))
    directory = locate.checkpoint_directory(config.checkpoint)
    if config.cams:
        checkpoint.read_meta(directory).check_maps(directory)
    config, digest = _identified(config, directory)
    listed = predict_plan.parts(config)
    missing = predict_plan.unfinished(config, digest, listed)
    if missing:
        if locate.is_copy(directory):
            directory = _copied(directory, config.output)
        connect()
        workers, gpus, cpus = session.shares(config.workers, None, config.wait_for_workers)
        session.check_shared(config.output)
        arguments = {"config": config, "checkpoint_directory": directory, "threads": cpus}
        meta = checkpoint.read_meta(directory)
        about = _about(config, meta, operating_points.read(directory, meta.classes_sha256))
        counts = tasks.map_parts(
            PartPredictor,
            {**arguments, "deadline": deadline},
            missing,
            set_aside=functools.partial(_set_aside, config, about),
            workers=workers,
            num_cpus=cpus,
            num_gpus=gpus,
            label="predict",
        )
        for _ in counts:
            pass
    return finish(config, listed)


def _identified(config: PredictConfig, directory: str) -> tuple[PredictConfig, str]:
    """Resolve the threshold, and hash what makes the checkpoint's predictions what they are.

    Raises:
        InputError: the checkpoint has no `meta.json`, or damaged thresholds.
    """
    content = storage.read_bytes(storage.join(directory, "meta.json"))
    points = operating_points.read(directory, checkpoint.read_meta(directory).classes_sha256)
    if points is not None:
        content += points.to_json().encode()
    if config.threshold is None and points is None:
        config = dataclasses.replace(config, threshold=0.0)
    elif config.threshold is None:
        info(f"labels are kept by {points}; --threshold 0 keeps all")
    return config, hashlib.sha256(content).hexdigest()


def finish(config: PredictConfig, parts: Sequence[Part]) -> dict[str, int]:
    """Count images and errors in all parts' files; write the counts to `_SUCCESS`, last."""
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        counts = list(pool.map(_counts, (storage.join(config.output, p.file) for p in parts)))
    totals = {
        "images": sum(images for images, _ in counts),
        "errors": sum(errors for _, errors in counts),
        "files": len(counts),
    }
    storage.remove_temporaries(config.output)
    storage.write_json(storage.join(config.output, predict_plan.DONE), totals)
    return totals


def _counts(location: str) -> tuple[int, int]:
    """Count the (images, errors) of a finished part."""
    errors = predict_plan.read_errors(location)
    return len(errors), len(errors) - errors.count(None)


def _kept_rows(location: str) -> dict[str, dict[str, Any]]:
    """Read the rows of a part's file, where there is one, that need no second try."""
    if not storage.exists(location):
        return {}
    with storage.open_file(location) as file:
        rows = pq.read_table(file).to_pylist()
    return {row["image"]: row for row in rows if not predict_plan.unread([row["error"]])}


def _about(config: PredictConfig, meta: Meta, points: OperatingPoints | None) -> dict[str, str]:
    """Name class list, epoch and thresholds of predictions, for the metadata of their files."""
    about = {"classes_sha256": meta.classes_sha256, "epoch": str(meta.epoch)}
    is_own = config.threshold is None and points is not None
    return {**about, "thresholds": str(points)} if is_own else about


def _write(
    config: PredictConfig, part: Part, rows: Sequence[Mapping[str, Any]], about: Mapping[str, str]
) -> None:
    """Write a part's file."""
    table = pa.Table.from_pylist(list(rows), SCHEMA.with_metadata(dict(about)))
    file = io.BytesIO()
    pq.write_table(table, file)
    storage.write_bytes(storage.join(config.output, part.file), file.getvalue())


class _Fatal:
    """Notes which image a worker is at, so that the next one knows what it died of.

    Attributes:
        names: images that killed a worker.
    """

    def __init__(self, output: str, part: Part) -> None:
        self._location = storage.join(output, f"_trying-{part.number:06d}.json")
        self.names: list[str] = storage.read_json(self._location) or []

    def begin(self, name: str) -> None:
        """Note an image before anything is done with it."""
        storage.write_json(self._location, [*self.names, name])

    def end(self) -> None:
        """Remove the notes of a part that is done."""
        with contextlib.suppress(FileNotFoundError):
            storage.remove_file(self._location)


def _lost(name: str, reason: str) -> dict[str, Any]:
    """Make the row of an image that a repeated command tries again."""
    return {"image": name, "error": f"{pixels.UNREAD} ({reason})"}


def _set_aside(
    config: PredictConfig, about: Mapping[str, str], part: Part, reason: str
) -> dict[str, int]:
    """Write the file of a part whose workers die, with the reason in the place of labels."""
    info(f"{part.file}: {reason}; set aside until the command is repeated", "WARNING")
    kept = _kept_rows(storage.join(config.output, part.file))
    rows = [kept.get(name) or _lost(name, reason) for name, _ in predict_plan.images_of(part)]
    _write(config, part, rows, about)
    return {"images": len(rows), "errors": len(rows) - len(kept)}


def _copied(directory: str, output: str) -> str:
    """Copy a checkpoint that this machine alone sees into the output, where every worker reads."""
    copy = storage.join(output, predict_plan.CHECKPOINT)
    for name in ("meta.json", "model.pt", operating_points.FILE):
        if name == operating_points.FILE and not storage.exists(storage.join(directory, name)):
            continue
        content = storage.read_bytes(storage.join(directory, name))
        storage.write_bytes(storage.join(copy, name), content)
    return copy


def _host(location: str) -> str:
    """Name the host or bucket of a URL; "" for a path, and where it has none."""
    try:
        return urlsplit(location).netloc if "://" in location else ""
    except ValueError:  # an address that is none; reading it says so
        return ""
