"""Predict many images on a cluster, part by part; each part becomes a Parquet file."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import tarfile
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
from pipeline.inference.predictor import Label, Prediction, Predictor
from pipeline.models import checkpoint, operating_points
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
SILENT = 32
"""Images in a row, after which a host is left alone until the command is repeated."""


class PartPredictor:
    """Predict parts with the model of one worker, and write each part's file.

    Args:
        config: of the whole prediction.
        checkpoint_directory: path or URL that every worker reads.
        threads: images decoded at a time.
    """

    def __init__(self, config: PredictConfig, checkpoint_directory: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.config, self.threads = config, threads
        model, meta = checkpoint.load_model(checkpoint_directory)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        points = operating_points.read(checkpoint_directory, meta.classes_sha256)
        self.predictor = Predictor(model, meta, device=device, points=points)
        self._silent = Counter[str]()  # images in a row that a host has not answered for
        self._metadata = {"classes_sha256": meta.classes_sha256, "epoch": str(meta.epoch)}
        if config.threshold is None and points is not None:
            self._metadata["thresholds"] = str(points)

    def __call__(self, row: Mapping[str, Part]) -> dict[str, int]:
        """Write the part's file; return how many images and errors it has.

        Of a file that is there, only images are predicted that could not be read.
        """
        part = row["item"]
        location = storage.join(self.config.output, part.file)
        kept = _kept_rows(location)
        rows: list[dict[str, Any]] = []
        with ThreadPoolExecutor(self.threads) as pool:
            sources = _sources(part)
            while batch := list(itertools.islice(sources, self.config.batch_size)):
                wanted = [(name, image) for name, image in batch if name not in kept]
                read = list(pool.map(self._square, (image for _, image in wanted)))
                made = iter(self._rows(part, [name for name, _ in wanted], read))
                rows += [kept[name] if name in kept else next(made) for name, _ in batch]
        table = pa.Table.from_pylist(rows, SCHEMA.with_metadata(self._metadata))
        file = io.BytesIO()
        pq.write_table(table, file)
        storage.write_bytes(location, file.getvalue())
        return {"images": len(rows), "errors": sum(row.get("error") is not None for row in rows)}

    def _square(self, source: pixels.ImageLike) -> npt.NDArray[np.uint8] | InputError:
        """Decode an image, or say what is wrong with it; a silent host is not asked again."""
        host = _host(source) if isinstance(source, str) else ""
        if self._silent[host] >= SILENT:
            return InputError(f"{pixels.UNREAD} ({host} has not answered {SILENT} times)")
        image: npt.NDArray[np.uint8] | InputError
        try:
            image = pixels.square(source, self.predictor.image_size)
        except pixels.Unanswered as error:
            self._silent[host] += 1
            return error
        except InputError as error:
            image = error
        self._silent[host] = 0
        return image

    def _rows(
        self,
        part: Part,
        names: Sequence[str],
        read: Sequence[npt.NDArray[np.uint8] | InputError],
    ) -> Iterator[dict[str, Any]]:
        """Make the row of every image, in order; draw maps if asked to."""
        good = [image for image in read if isinstance(image, np.ndarray)]
        predictions = iter(self.predictor.predict_pixels(np.stack(good)) if good else ())
        for name, image in zip(names, read, strict=True):
            if isinstance(image, InputError):
                yield {"image": name, "error": image.problem}
                continue
            labels = _chosen(next(predictions), self.config)
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
        workers, gpus, cpus = session.shares(config.workers, config.wait_for_workers)
        session.check_shared(config.output)
        counts = tasks.map_parts(
            PartPredictor,
            {"config": config, "checkpoint_directory": directory, "threads": cpus},
            missing,
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


def _chosen(prediction: Prediction, config: PredictConfig) -> list[Label]:
    return prediction.present(config.threshold, config.top_k or None)


def _sources(part: Part) -> Iterator[tuple[str, pixels.ImageLike]]:
    """Give (name, image) of a part's images; an image of a shard is named by its id."""
    if not part.tar:
        yield from ((location, part.located(location)) for location in part.locations)
        return
    # As a stream: a bucket's shard is read once, without a copy on this machine's disk.
    with storage.open_file(part.tar) as file, tarfile.open(fileobj=file, mode="r|") as tar:
        for member in tar:
            stem, _, suffix = member.name.rpartition(".")
            content = tar.extractfile(member) if suffix == "jpg" else None
            if content is not None:
                yield stem, content.read()
