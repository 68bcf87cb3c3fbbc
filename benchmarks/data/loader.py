"""Measure our loader against a bare DALI pipeline and other loaders: CPU time per image.

Random-resized crops of 224 px with flips (``crop``, of areas as torchvision draws them) or the
paper's squash to 448 px (``squash``), from photographs of 1024 x 768 or with a shorter side of 256
(`--sides 512` for another), antialiased by all. Each loader runs as it is used, with two workers:
threads of DALI's, ours and FFCV's, processes of torch's DataLoader, whose batches come through
shared memory (`--workers 0`: all in this process, one thread). Interleaved rounds, medians of the
per-round ratios. Peers are measured where they are installed:

    pip install --target peers litdata mosaicml-streaming
    PYTHONPATH=peers python -m benchmarks.data.loader

FFCV's setup looks for an old OpenCV and compiler. By hand, in its source directory and with
libopencv-dev and libturbojpeg0-dev: compile libffcv/libffcv.cpp into the shared library _libffcv
(opencv_core, opencv_imgproc, turbojpeg, pthread) beside the package, and install numba.
"""

from __future__ import annotations

import importlib.util
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # for all loaders, as our workers have it

import torch
import tyro
import webdataset
from PIL import Image

from benchmarks.common.photographs import photographs
from benchmarks.common.timing import interleaved, ratio
from benchmarks.data.peers import (
    PEERS,
    SMALLEST,
    NotMeasured,
    PeerTask,
    Task,
    torchvision_decoder,
)
from pipeline.config.sections import Augmentation, Crop
from pipeline.data.loader import Loader
from pipeline.models.cam_net import MEAN, STD, normalised
from sharding.storage.tar_writer import IndexedTar

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    count: int = 256
    """Photographs."""
    tars: int = 16
    """Tars, of all photographs each. Few make DALI look slow: at an epoch's end it has decoded two
    batches in vain."""
    workers: int = 2
    """Threads or processes of each loader; 0: all in this process, one thread."""
    rounds: int = 3
    """Interleaved rounds."""
    tasks: tuple[Task, ...] = ("crop", "squash")
    """crop: 224 px random-resized; squash: 448 px."""
    sides: tuple[int, ...] = (768, 256)
    """Shorter sides of the photographs; 768: as they are, 1024 x 768."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Tars with their indexes, and the task for the JPEGs in them."""

    tars: list[Path]
    jpegs: list[bytes]
    task: Task
    workers: int

    @classmethod
    def of(cls, folder: Path, jpegs: list[bytes], task: Task, options: Options) -> Work:
        """Write the tars with their indexes."""
        tars = [folder / f"train-{number:06}.tar" for number in range(options.tars)]
        for tar in tars:
            with tar.open("wb") as file:
                archive = IndexedTar(file.fileno())
                for number, jpeg in enumerate(jpegs):
                    archive.add(f"{number:016x}", [("jpg", jpeg), ("json", b"{}")])
                archive.finish()
            tar.with_suffix(".idx").write_bytes(archive.index())
        return cls(tars=tars, jpegs=jpegs * options.tars, task=task, workers=options.workers)

    @property
    def indexes(self) -> list[Path]:
        """List the tars' DALI indexes."""
        return [tar.with_suffix(".idx") for tar in self.tars]

    @property
    def size(self) -> int:
        """Pixels of both sides of an output image."""
        return 224 if self.task == "crop" else 448


def our_loader(
    work: Work,
    *,
    batch_size: int = BATCH,
    device_id: int | None = None,
) -> Loader:
    """Make our loader of the tars, decoding on the CPU unless there is a device."""
    crop: Crop = "random-resized" if work.task == "crop" else "squash"
    return Loader(
        tars=work.tars,
        indexes=work.indexes,
        counts=[len(work.jpegs) // len(work.tars)] * len(work.tars),
        batch_size=batch_size,
        image_size=work.size,
        threads=work.workers or 1,
        train=True,
        augmentation=Augmentation(crop=crop, smallest=SMALLEST),
        shuffle_buffer=256,
        device_id=device_id,
    )


def ours(work: Work) -> Iterator[torch.Tensor]:
    """Load batches with our loader, uint8 (B, H, W, 3)."""
    return (batch.images_BHWC for batch in our_loader(work).epoch(1))


def bare_dali(work: Work) -> Iterator[torch.Tensor]:
    """Load with a pipeline as in DALI's documentation: no ids, no checkpoints."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    @pipeline_def(batch_size=BATCH, num_threads=work.workers or 1, device_id=None, seed=1)
    def graph() -> Any:
        encoded = fn.readers.webdataset(
            name="r",
            paths=[str(tar) for tar in work.tars],
            index_paths=[str(index) for index in work.indexes],
            ext=["jpg"],
            random_shuffle=True,
            initial_fill=256,
            pad_last_batch=True,
        )
        if work.task == "crop":
            images = fn.decoders.image_random_crop(encoded, random_area=[SMALLEST, 1.0])
        else:
            images = fn.decoders.image(encoded)
        images = fn.resize(images, size=[work.size, work.size], interp_type=types.INTERP_LINEAR)
        return fn.flip(images, horizontal=fn.random.coin_flip())

    pipe = graph()
    pipe.build()
    for (outputs,) in DALIGenericIterator(pipe, ["images"], reader_name="r"):
        yield outputs["images"]


def torchvision_webdataset(work: Work, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Load with webdataset and torchvision's decoder and transforms, (B, 3, H, W)."""
    decode = torchvision_decoder(work.task, work.size, dtype)
    names = [str(tar) for tar in work.tars]
    images = webdataset.WebDataset(names, shardshuffle=len(names)).shuffle(256)
    batches = images.to_tuple("jpg").map_tuple(decode).batched(BATCH, collation_fn=_stack)
    yield from webdataset.WebLoader(batches, batch_size=None, num_workers=work.workers)


def to_float(batches: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Normalise as our network does first, on any device."""
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    return (normalised(images_BHWC, mean, std) for images_BHWC in batches)


def main(options: Options) -> None:
    """Measure and print one table per task and image size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ids = photographs(folder, options.count)
        full = [(folder / f"{image_id}.jpg").read_bytes() for image_id in ids]
        for side in options.sides:
            subfolder = folder / str(side)
            subfolder.mkdir()
            jpegs = full if side == 768 else [_shrunk(jpeg, side) for jpeg in full]
            label = "1024 x 768" if side == 768 else f"shorter side {side}"
            for task in options.tasks:
                _table(Work.of(subfolder, jpegs, task, options), label, options.rounds)


def _table(work: Work, label: str, rounds: int) -> None:
    variants: dict[str, Callable[[], Iterator[torch.Tensor]]] = {
        "ours, uint8": lambda: ours(work),
        "bare DALI, uint8": lambda: bare_dali(work),
        "webdataset + torchvision, uint8": lambda: torchvision_webdataset(work, torch.uint8),
        "ours, float32": lambda: to_float(ours(work)),
        "webdataset + torchvision, float32": lambda: torchvision_webdataset(work, torch.float32),
    }
    for peer, (module, make) in PEERS.items():
        if importlib.util.find_spec(module) is None:
            print(f"{peer}: {module} is not installed, skipped")
            continue
        try:
            task = PeerTask(task=work.task, size=work.size, batch=BATCH, workers=work.workers)
            variants[peer] = make(work.jpegs, work.tars[0].parent, task)
        except NotMeasured as reason:
            print(f"{peer}: {reason}, skipped")
    times = interleaved({key: _drain(make, work) for key, make in variants.items()}, rounds)
    print(f"\n### {work.task} to {work.size} px from {label}\n")
    print("| loader | CPU ms per image | ours is faster by |\n|---|---|---|")
    for key, measured in times.items():
        ours_ms = times[f"ours, {key.rsplit(', ', 1)[1]}"]
        each = sorted(measured)[len(measured) // 2] / len(work.jpegs)
        print(f"| {key} | {each:.2f} | {ratio(measured, ours_ms):.2f} |")


def _drain(make: Callable[[], Iterator[torch.Tensor]], work: Work) -> Callable[[], None]:
    def run() -> None:
        torch.set_num_threads(1)  # FFCV's loader sets as many as it has workers
        images = sum(len(batch) for batch in make())
        if images < len(work.jpegs):
            raise RuntimeError(f"{images} of {len(work.jpegs)} images")

    return run


def _shrunk(jpeg: bytes, side: int) -> bytes:
    image = Image.open(io.BytesIO(jpeg))
    scale = side / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _stack(samples: list[tuple[torch.Tensor]]) -> torch.Tensor:
    return torch.stack([image for (image,) in samples])


if __name__ == "__main__":
    main(tyro.cli(Options))
