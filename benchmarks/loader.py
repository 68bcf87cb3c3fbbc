"""Our loader against a bare DALI pipeline and against what others train from: CPU time per image.

Random-resized crops of 224 px with flips (``crop``) or the paper's squash to 448 px (``squash``),
from photographs of 1024 x 768 or with a shorter side of 256. All in this process, one thread,
interleaved rounds, medians of the per-round ratios. Peers are measured where they are installed:

    pip install --target peers litdata mosaicml-streaming
    PYTHONPATH=peers python benchmarks/loader.py --count 512 --rounds 7

FFCV's own setup looks for an OpenCV and a compiler of its time. By hand, in its source directory
and with libopencv-dev and libturbojpeg0-dev: compile libffcv/libffcv.cpp into the shared library
_libffcv (opencv_core, opencv_imgproc, turbojpeg, pthread) beside the package, and install numba.
"""

from __future__ import annotations

import importlib.util
import io
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
import webdataset
from peers import PEERS, NotMeasured
from photographs import photographs
from PIL import Image
from timing import interleaved, ratio
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from pipeline.graph import Augmentation, Crop
from pipeline.loader import Loader
from pipeline.model import MEAN, STD
from sharding.ustar import IndexedTar

BATCH = 64
MEAN_CHW = torch.tensor(MEAN).view(3, 1, 1)
STD_CHW = torch.tensor(STD).view(3, 1, 1)
Task = Literal["crop", "squash"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    count: int = 512
    """Photographs."""
    repeat: int = 4
    """Times each is in the tar: at its end DALI has decoded two batches that nobody takes."""
    rounds: int = 7
    """Interleaved rounds."""
    tasks: tuple[Task, ...] = ("crop", "squash")
    """crop: 224 px random-resized; squash: 448 px."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar of JPEGs with its index."""

    tar: Path
    index: Path
    jpegs: list[bytes]

    @classmethod
    def of(cls, folder: Path, jpegs: list[bytes]) -> Shard:
        """Write it."""
        tar, index = folder / "train-000000.tar", folder / "train-000000.idx"
        with tar.open("wb") as file:
            archive = IndexedTar(file.fileno())
            for number, jpeg in enumerate(jpegs):
                archive.add(f"{number:016x}", [("jpg", jpeg), ("json", b"{}")])
            archive.finish()
        index.write_bytes(archive.index())
        return cls(tar=tar, index=index, jpegs=jpegs)


def ours(shard: Shard, task: Task, size: int, *, antialias: bool = True) -> Iterator[torch.Tensor]:
    """Batches of our loader, uint8 (B, H, W, 3)."""
    crop: Crop = "random-resized" if task == "crop" else "squash"
    loader = Loader(
        tars=[shard.tar],
        indexes=[shard.index],
        counts=[len(shard.jpegs)],
        batch_size=BATCH,
        image_size=size,
        train=True,
        augmentation=Augmentation(crop=crop, antialias=antialias),
        shuffle_buffer=256,
    )
    return (batch.images_BHWC for batch in loader.epoch(1))


def bare_dali(shard: Shard, task: Task, size: int) -> Iterator[torch.Tensor]:
    """The same pixels from a pipeline as DALI's documentation has it: no ids, no checkpoints."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    @pipeline_def(batch_size=BATCH, num_threads=1, device_id=None, seed=1)
    def graph() -> Any:
        encoded = fn.readers.webdataset(
            name="r",
            paths=[str(shard.tar)],
            index_paths=[str(shard.index)],
            ext=["jpg"],
            random_shuffle=True,
            initial_fill=256,
            pad_last_batch=True,
        )
        if task == "crop":
            images = fn.decoders.image_random_crop(encoded, random_area=[0.25, 1.0])
        else:
            images = fn.decoders.image(encoded)
        images = fn.resize(images, size=[size, size], interp_type=types.INTERP_LINEAR)
        return fn.flip(images, horizontal=fn.random.coin_flip())

    pipe = graph()
    pipe.build()
    for (outputs,) in DALIGenericIterator(pipe, ["images"], reader_name="r"):
        yield outputs["images"]


def torchvision_webdataset(
    shard: Shard, task: Task, size: int, dtype: torch.dtype
) -> Iterator[torch.Tensor]:
    """webdataset with torchvision's decoder and transforms; (B, 3, H, W)."""
    if task == "crop":
        cut: Any = v2.RandomResizedCrop(size, scale=(0.25, 1.0), antialias=True)
    else:
        cut = v2.Resize([size, size], antialias=True)
    transform = v2.Compose([cut, v2.RandomHorizontalFlip(), *normalised(dtype)])

    def decode(jpeg: bytes) -> torch.Tensor:
        raw = torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)
        return transform(decode_jpeg(raw, mode=ImageReadMode.RGB))

    images = webdataset.WebDataset(str(shard.tar), shardshuffle=False).shuffle(256)
    yield from images.to_tuple("jpg").map_tuple(decode).batched(BATCH, collation_fn=_stack)


def normalised(dtype: torch.dtype) -> list[Any]:
    """What torchvision adds for float32 output."""
    if dtype == torch.uint8:
        return []
    mean, std = ([value / 255 for value in values] for values in (MEAN, STD))
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]


def to_float(batches: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    """What our network does first, wherever it runs."""
    for images_BHWC in batches:
        yield images_BHWC.permute(0, 3, 1, 2).to(torch.float32).sub_(MEAN_CHW).div_(STD_CHW)


def main(options: Options) -> None:
    """Measure and print one table per task and image size."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ids = photographs(folder, options.count)
        full = [(folder / f"{image_id}.jpg").read_bytes() for image_id in ids]
        for label, jpegs in (("1024 x 768", full), ("shorter side 256", [*map(_shrunk, full)])):
            place = folder / label.replace(" ", "")
            place.mkdir()
            shard = Shard.of(place, jpegs * options.repeat)
            for task in options.tasks:
                _table(shard, label, task, options, place)


def _table(shard: Shard, label: str, task: Task, options: Options, place: Path) -> None:
    size = 224 if task == "crop" else 448
    variants: dict[str, Callable[[], Iterator[torch.Tensor]]] = {
        "ours, uint8": lambda: ours(shard, task, size),
        "bare DALI, uint8": lambda: bare_dali(shard, task, size),
        "webdataset + torchvision, uint8": lambda: torchvision_webdataset(
            shard, task, size, torch.uint8
        ),
        "ours, float32": lambda: to_float(ours(shard, task, size)),
        "ours without antialiasing, float32": lambda: to_float(
            ours(shard, task, size, antialias=False)
        ),
        "webdataset + torchvision, float32": lambda: torchvision_webdataset(
            shard, task, size, torch.float32
        ),
    }
    for peer, (module, make) in PEERS.items():
        if importlib.util.find_spec(module) is None:
            print(f"{peer}: {module} is not installed, left out")
            continue
        try:
            variants[peer] = make(shard.jpegs, place, task, size, BATCH)
        except NotMeasured as reason:
            print(f"{peer}: {reason}, left out")
    times = interleaved(
        {key: _drain(make, shard) for key, make in variants.items()}, options.rounds
    )
    print(f"\n### {task} to {size} px from {label}\n")
    print("| loader | CPU ms per image | ours is faster by |\n|---|---|---|")
    for key, measured in times.items():
        mine = times[f"ours, {key.rsplit(', ', 1)[1]}"]
        each = sorted(measured)[len(measured) // 2] / len(shard.jpegs)
        print(f"| {key} | {each:.2f} | {ratio(measured, mine):.2f} |")


def _drain(make: Callable[[], Iterator[torch.Tensor]], shard: Shard) -> Callable[[], None]:
    def run() -> None:
        seen = sum(len(batch) for batch in make())
        if seen < len(shard.jpegs):
            raise RuntimeError(f"{seen} of {len(shard.jpegs)} images")

    return run


def _shrunk(jpeg: bytes) -> bytes:
    image = Image.open(io.BytesIO(jpeg))
    scale = 256 / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _stack(samples: list[tuple[torch.Tensor]]) -> torch.Tensor:
    return torch.stack([image for (image,) in samples])


if __name__ == "__main__":
    main(tyro.cli(Options))
