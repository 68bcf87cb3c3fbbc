"""Load the same JPEGs with other projects' loaders, for `benchmarks.data.loader`.

LitData and Streaming decode with torchvision; all load in random order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from pipeline.models.cam_net import MEAN, STD

Task = Literal["crop", "squash"]
"""Random-resized crop, or resize that ignores the aspect ratio."""
SMALLEST = 0.08
"""Share of an image that a random-resized crop has at least: torchvision's default."""


@dataclass(frozen=True, kw_only=True)
class PeerTask:
    """The task, output size, batch size and workers of every peer."""

    task: Task
    size: int
    batch: int
    workers: int


Make = Callable[[list[bytes], Path, PeerTask], Callable[[], Iterator[torch.Tensor]]]


class NotMeasured(Exception):
    """A peer that cannot do a task."""


def litdata(
    jpegs: list[bytes], folder: Path, task: PeerTask
) -> Callable[[], Iterator[torch.Tensor]]:
    """Load with LitData: optimised chunks, StreamingDataset, PyTorch's DataLoader."""
    from litdata import StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    folder = folder / "litdata"
    if not folder.exists():
        folder.mkdir()
        writer = BinaryWriter(str(folder), chunk_bytes=64 << 20)
        for number, jpeg in enumerate(jpegs):
            writer.add_item(number, {"jpg": jpeg})
        writer.done()
        writer.merge()
    return lambda: _batches(StreamingDataset(str(folder), shuffle=True), task)


def streaming(
    jpegs: list[bytes], folder: Path, task: PeerTask
) -> Callable[[], Iterator[torch.Tensor]]:
    """Load with MosaicML Streaming: MDS shards, StreamingDataset, PyTorch's DataLoader."""
    from streaming import MDSWriter, StreamingDataset

    folder = folder / "streaming"
    if not folder.exists():
        with MDSWriter(out=str(folder), columns={"jpg": "bytes"}) as writer:
            for jpeg in jpegs:
                writer.write({"jpg": jpeg})
    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=task.batch)
    return lambda: _batches(dataset, task)


def ffcv(jpegs: list[bytes], folder: Path, task: PeerTask) -> Callable[[], Iterator[torch.Tensor]]:
    """Load with FFCV: one beton file of JPEGs, its decoder, crop and normalisation."""
    return _ffcv(jpegs, folder, task, normalised=True)


def ffcv_uint8(
    jpegs: list[bytes], folder: Path, task: PeerTask
) -> Callable[[], Iterator[torch.Tensor]]:
    """Load with FFCV without its normalisation."""
    return _ffcv(jpegs, folder, task, normalised=False)


def _ffcv(
    jpegs: list[bytes], folder: Path, task: PeerTask, *, normalised: bool
) -> Callable[[], Iterator[torch.Tensor]]:
    import numpy as np
    from ffcv.fields import BytesField, RGBImageField
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage
    from ffcv.writer import DatasetWriter

    if task.task != "crop":
        raise NotMeasured("has no plain resize")
    path = folder / "ffcv.beton"
    if not path.exists():
        fields = {"image": RGBImageField(write_mode="jpg"), "id": BytesField()}
        DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(_Decoded(jpegs))
    pipeline: list[Any] = [
        RandomResizedCropRGBImageDecoder((task.size, task.size), (SMALLEST, 1.0), (3 / 4, 4 / 3)),
        RandomHorizontalFlip(),
    ]
    if normalised:
        pipeline.append(NormalizeImage(np.array(MEAN), np.array(STD), np.float32))
    loader = Loader(
        str(path),
        batch_size=task.batch,
        num_workers=task.workers or 1,
        order=OrderOption.RANDOM,
        pipelines={"image": [*pipeline, ToTensor(), ToTorchImage()], "id": None},
    )
    return lambda: (batch[0] for batch in loader)


PEERS: Mapping[str, tuple[str, Make]] = {
    "LitData + torchvision, float32": ("litdata", litdata),
    "Streaming + torchvision, float32": ("streaming", streaming),
    "FFCV, uint8": ("ffcv", ffcv_uint8),
    "FFCV, float32": ("ffcv", ffcv),
}


def torchvision_decoder(
    task: Task, size: int, dtype: torch.dtype
) -> Callable[[bytes], torch.Tensor]:
    """Make a function that decodes and transforms a JPEG with torchvision, (3, size, size)."""
    if task == "crop":
        resize: Any = v2.RandomResizedCrop(size, scale=(SMALLEST, 1.0), antialias=True)
    else:
        resize = v2.Resize([size, size], antialias=True)
    mean, std = ([value / 255 for value in values] for values in (MEAN, STD))
    normalise = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    steps = [] if dtype == torch.uint8 else normalise
    transform = v2.Compose([resize, v2.RandomHorizontalFlip(), *steps])
    return lambda jpeg: transform(_pixels(jpeg))


def _pixels(jpeg: bytes) -> torch.Tensor:
    """Decode a JPEG, uint8 (3, H, W)."""
    raw = torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)
    return decode_jpeg(raw, mode=ImageReadMode.RGB)


def _batches(dataset: Any, task: PeerTask) -> Iterator[torch.Tensor]:
    decode = torchvision_decoder(task.task, task.size, torch.float32)

    def collate(samples: list[dict[str, bytes]]) -> torch.Tensor:
        return torch.stack([decode(sample["jpg"]) for sample in samples])

    yield from torch.utils.data.DataLoader(
        dataset, batch_size=task.batch, num_workers=task.workers, collate_fn=collate
    )


class _Decoded:
    """The dataset that FFCV's writer reads: pixels and a number."""

    def __init__(self, jpegs: list[bytes]) -> None:
        self._jpegs = jpegs

    def __len__(self) -> int:
        return len(self._jpegs)

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        import numpy as np

        pixels = _pixels(self._jpegs[number]).permute(1, 2, 0).contiguous()
        return pixels.numpy(), np.array([number], np.uint8)
