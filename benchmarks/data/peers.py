"""Loaders of other projects, fed the same JPEGs, for `benchmarks/data/loader.py`.

LitData and Streaming decode with torchvision; all in random order.
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

SMALLEST = 0.08
"""Share of an image that a random-resized crop has at least: torchvision's default."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is asked of every peer."""

    task: Literal["crop", "squash"]
    size: int
    batch: int
    workers: int


Make = Callable[[list[bytes], Path, Order], Callable[[], Iterator[torch.Tensor]]]


class NotMeasured(Exception):
    """A peer that cannot do a task."""


def litdata(jpegs: list[bytes], place: Path, order: Order) -> Callable[[], Iterator[torch.Tensor]]:
    """LitData: optimised chunks, StreamingDataset, PyTorch's DataLoader."""
    from litdata import StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    folder, decode = place / "litdata", _decoder(order)
    if not folder.exists():
        folder.mkdir()
        writer = BinaryWriter(str(folder), chunk_bytes=64 << 20)
        for number, jpeg in enumerate(jpegs):
            writer.add_item(number, {"jpg": jpeg})
        writer.done()
        writer.merge()
    return lambda: _batches(StreamingDataset(str(folder), shuffle=True), decode, order)


def streaming(
    jpegs: list[bytes], place: Path, order: Order
) -> Callable[[], Iterator[torch.Tensor]]:
    """MosaicML Streaming: MDS shards, StreamingDataset, PyTorch's DataLoader."""
    from streaming import MDSWriter, StreamingDataset

    folder, decode = place / "streaming", _decoder(order)
    if not folder.exists():
        with MDSWriter(out=str(folder), columns={"jpg": "bytes"}) as writer:
            for jpeg in jpegs:
                writer.write({"jpg": jpeg})
    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=order.batch)
    return lambda: _batches(dataset, decode, order)


def ffcv(jpegs: list[bytes], place: Path, order: Order) -> Callable[[], Iterator[torch.Tensor]]:
    """FFCV: one beton file of JPEGs, its own decoder, crop and normalisation."""
    return _ffcv(jpegs, place, order, normalised=True)


def ffcv_uint8(
    jpegs: list[bytes], place: Path, order: Order
) -> Callable[[], Iterator[torch.Tensor]]:
    """FFCV without its normalisation."""
    return _ffcv(jpegs, place, order, normalised=False)


def _ffcv(
    jpegs: list[bytes], place: Path, order: Order, *, normalised: bool
) -> Callable[[], Iterator[torch.Tensor]]:
    import numpy as np
    from ffcv.fields import BytesField, RGBImageField
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage
    from ffcv.writer import DatasetWriter

    if order.task != "crop":
        raise NotMeasured("has no plain resize")
    path = place / "ffcv.beton"
    if not path.exists():
        fields = {"image": RGBImageField(write_mode="jpg"), "id": BytesField()}
        DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(_Decoded(jpegs))
    pipeline: list[Any] = [
        RandomResizedCropRGBImageDecoder((order.size, order.size), (SMALLEST, 1.0), (3 / 4, 4 / 3)),
        RandomHorizontalFlip(),
    ]
    if normalised:
        pipeline.append(NormalizeImage(np.array(MEAN), np.array(STD), np.float32))
    loader = Loader(
        str(path),
        batch_size=order.batch,
        num_workers=order.workers or 1,
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


def _decoder(order: Order) -> Callable[[dict[str, bytes]], torch.Tensor]:
    if order.task == "crop":
        cut: Any = v2.RandomResizedCrop(order.size, scale=(SMALLEST, 1.0), antialias=True)
    else:
        cut = v2.Resize([order.size, order.size], antialias=True)
    mean, std = ([value / 255 for value in values] for values in (MEAN, STD))
    steps = [cut, v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)]
    transform = v2.Compose([*steps, v2.Normalize(mean, std)])

    def decode(sample: dict[str, bytes]) -> torch.Tensor:
        raw = torch.frombuffer(bytearray(sample["jpg"]), dtype=torch.uint8)
        return transform(decode_jpeg(raw, mode=ImageReadMode.RGB))

    return decode


def _batches(
    dataset: Any, decode: Callable[[dict[str, bytes]], torch.Tensor], order: Order
) -> Iterator[torch.Tensor]:
    def collate(samples: list[dict[str, bytes]]) -> torch.Tensor:
        return torch.stack([decode(sample) for sample in samples])

    yield from torch.utils.data.DataLoader(
        dataset, batch_size=order.batch, num_workers=order.workers, collate_fn=collate
    )


class _Decoded:
    """What FFCV's writer reads: pixels and a number."""

    def __init__(self, jpegs: list[bytes]) -> None:
        self._jpegs = jpegs

    def __len__(self) -> int:
        return len(self._jpegs)

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        import numpy as np

        raw = torch.frombuffer(bytearray(self._jpegs[number]), dtype=torch.uint8)
        pixels = decode_jpeg(raw, mode=ImageReadMode.RGB).permute(1, 2, 0).contiguous()
        return pixels.numpy(), np.array([number], np.uint8)
