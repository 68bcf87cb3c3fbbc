"""Build the DALI graphs: one that reads batches on CPU or GPU, and two that look for damage.

The package's only importer of DALI, and lazily, so that configurations need neither it nor torch.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.config.sections import HARDWARE_SHARE, WHOLE_IMAGE, Augmentation
from sharding import jpeg
from sharding.log import first_line

READER = "shards"
_HARDWARE_SIDE = 1024
"""Pixels a side that a hardware decoder allocates in advance: Open Images' copies have no more."""


def version_on(device: str) -> str:
    """Name DALI's version and the kind of device it decodes on.

    A position within an epoch is of one such pipeline: another one has other operators.
    """
    from nvidia import dali

    return f"DALI {dali.__version__} on {device}"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Choose the samples that a reader reads, and their order.

    Attributes:
        tars, indexes: paths, in reading order.
        rank, world_size: the reader reads the rank's contiguous share.
        batch_size: samples per batch.
        shuffle_buffer: samples drawn from at random; 0 keeps the order.
        seed: of the draws here and in the augmentation.
    """

    tars: Sequence[str]
    indexes: Sequence[str]
    rank: int
    world_size: int
    batch_size: int
    shuffle_buffer: int
    seed: int


class Sample(NamedTuple):
    """Where a sample is from: the path of its tar, and the member's name in it."""

    tar: str
    member: str


def batches(
    reading: Reading,
    size: int,
    augmentation: Augmentation = WHOLE_IMAGE,
    *,
    device_id: int | None,
    threads: int,
    hardware_share: float = HARDWARE_SHARE,
    position: bytes | None = None,
    decodes: bool = False,
) -> Any:
    """Iterate over ``images`` uint8 (B, H, W, 3) and ``source`` (`samples_of` parses it).

    Args:
        reading: which samples.
        size: both output sides, in pixels.
        augmentation: by default none.
        device_id: CUDA device that decodes, or None for the CPU.
        threads: decoding threads.
        hardware_share: of the images that a GPU's JPEG decoder takes, where it has one.
        position: DALI's checkpoint of an iterator with the same arguments, to go on from.
        decodes: whether the first batch is decoded before this returns.

    Returns:
        A `DALIGenericIterator`; its ``checkpoints()[0]`` is the position after the last batch.
    """
    from nvidia.dali import pipeline_def

    @pipeline_def(
        batch_size=reading.batch_size,
        num_threads=threads,
        device_id=device_id,
        seed=reading.seed,
        prefetch_queue_depth=2,
        enable_conditionals=augmentation.rand_augment > 0,
        enable_checkpointing=True,
        checkpoint=position,
    )
    def graph() -> tuple[Any, Any]:
        encoded, source = _read(reading)
        encoded = _parsed(encoded)
        if device_id is None:
            images = _on_host(encoded, size, augmentation, threads)
        else:
            images = _on_gpu(encoded, size, augmentation, hardware_share)
        return _augment(images, size, augmentation), source

    return _iterator(graph(), ["images", "source"], decodes=decodes)


def on_device(device_id: int | None) -> contextlib.AbstractContextManager[Any]:
    """Make a CUDA device this thread's within a block, as another thread's is the first one."""
    import torch

    return contextlib.nullcontext() if device_id is None else torch.cuda.device(device_id)


def encoded(reading: Reading) -> Iterator[tuple[list[Sample], list[npt.NDArray[np.uint8]]]]:
    """Read the same samples in the same order without decoding: (samples, JPEG bytes) a batch."""
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=reading.batch_size, num_threads=1, device_id=None, seed=reading.seed)
    def graph() -> tuple[Any, Any, Any]:
        data, source = _read(reading)
        return fn.pad(data, fill_value=0), data.shape(), source

    for (outputs,) in _iterator(graph(), ["data", "size", "source"]):
        rows = zip(outputs["data"].numpy(), outputs["size"].numpy(), strict=True)
        yield samples_of(outputs["source"].numpy()), [row[: int(n[0])] for row, n in rows]


def decodes(data: npt.NDArray[np.uint8], device_id: int | None) -> bool:
    """Return whether the decoder of `batches` decodes these JPEG bytes.

    Raises:
        MachineError: it decodes no other image either, for want of memory as a rule.
    """
    if (failure := _failure(data, device_id)) is None:
        return True
    try:
        blank = np.frombuffer(jpeg.blank_like(data.tobytes()), np.uint8)
        other = _failure(blank, device_id)
    except MemoryError as error:
        other = error
    if other is not None:
        raise jpeg.no_memory(
            f"no image at all can be decoded, for want of memory as a rule ({_reason(other)})"
        ) from failure
    return _failure(data, device_id) is None  # memory may have been short the first time


def _reason(error: Exception) -> str:
    """Shorten an error of DALI, which names operator and line of source before what it met."""
    met = str(error).partition("encountered:")[2].strip()
    return first_line(RuntimeError(met) if met else error)


def _failure(data: npt.NDArray[np.uint8], device_id: int | None) -> Exception | None:
    """Decode JPEG bytes in a pipeline of their own; return the error, None where they are whole."""
    from nvidia.dali import fn, pipeline_def, types

    decoder = {"device": "cpu"} if device_id is None else _mixed(HARDWARE_SHARE)

    @pipeline_def(batch_size=1, num_threads=1, device_id=device_id, prefetch_queue_depth=1)
    def graph() -> Any:
        source = fn.external_source(source=lambda: [data], batch=True)
        return fn.decoders.image(source, output_type=types.RGB, **decoder)

    pipe = graph()
    try:
        pipe.build()
        pipe.run()
    except (RuntimeError, MemoryError) as error:
        return error
    return None


def samples_of(source_BL: npt.NDArray[np.uint8]) -> list[Sample]:
    """Parse DALI's source of each sample: "path.tar:offset:0123456789abcdef.jpg", zero-padded."""
    names = (bytes(row).rstrip(b"\0").decode() for row in source_BL)
    return [Sample(tar, member) for tar, _, member in (name.rsplit(":", 2) for name in names)]


def _on_host(encoded: Any, size: int, augmentation: Augmentation, threads: int) -> Any:
    """Decode JPEGs on the CPU and resize them to squares."""
    from nvidia.dali import fn, types

    from pipeline.data.resize import Squash

    if augmentation.crop == "random-resized":
        area = [augmentation.smallest, 1.0]
        images = fn.decoders.image_random_crop(encoded, output_type=types.RGB, random_area=area)
    else:
        images = fn.decoders.image(encoded, output_type=types.RGB)
    squash = Squash(size, threads)
    return fn.python_function(images, function=squash, batch_processing=True, output_layouts="HWC")


def _on_gpu(encoded: Any, size: int, augmentation: Augmentation, hardware_share: float) -> Any:
    """Decode JPEGs on a GPU and resize them to squares.

    It decodes whole images: before nvJPEG 13.2 it cannot interpolate the colours of a part, and
    reading the bits, most of the work, takes all of them anyway.
    """
    from nvidia.dali import fn, types

    images = fn.decoders.image(encoded, output_type=types.RGB, **_mixed(hardware_share))
    linear = {"interp_type": types.INTERP_LINEAR, "antialias": True}
    if augmentation.crop == "random-resized":
        area = [augmentation.smallest, 1.0]
        return fn.random_resized_crop(images, size=[size, size], random_area=area, **linear)
    return fn.resize(images, size=[size, size], **linear)


def _mixed(hardware_share: float) -> dict[str, Any]:
    """Give the arguments of a decoder on a GPU."""
    return {
        "device": "mixed",
        # As on the host; else photographs are 0.6 of 255 grey levels away, 2.5 at hard edges.
        "jpeg_fancy_upsampling": True,
        "hw_decoder_load": hardware_share,
        "preallocate_width_hint": _HARDWARE_SIDE,
        "preallocate_height_hint": _HARDWARE_SIDE,
    }


def _read(reading: Reading) -> tuple[Any, Any]:
    from nvidia.dali import fn

    data = fn.readers.webdataset(
        name=READER,
        paths=list(reading.tars),
        index_paths=list(reading.indexes),
        ext=["jpg"],
        missing_component_behavior="error",
        shard_id=reading.rank,
        num_shards=reading.world_size,
        pad_last_batch=True,
        random_shuffle=reading.shuffle_buffer > 0,
        initial_fill=max(1, reading.shuffle_buffer),
        seed=reading.seed,
    )
    return data, fn.pad(fn.get_property(data, key="source_info"), fill_value=0)


def _parsed(encoded: Any) -> Any:
    """Have DALI parse the JPEG headers first, so that a damaged one is an error and no crash.

    The decoder (DALI 2.4) divides a batch among threads and throws without waiting for them: a
    damaged header there is a segmentation fault as often as not.
    """
    from nvidia.dali import fn

    shape = fn.peek_image_shape(encoded)
    return fn.reinterpret(
        encoded, rel_shape=shape[:1] * 0.0 + 1.0
    )  # 1.0, but computed from the header


def _augment(images: Any, size: int, augmentation: Augmentation) -> Any:
    from nvidia.dali import fn

    if augmentation.flip:
        images = fn.flip(images, horizontal=fn.random.coin_flip(probability=0.5))
    if augmentation.rand_augment:
        from nvidia.dali.auto_aug.rand_augment import rand_augment

        # DALI warns of deprecated names that it uses itself, whatever the filters say.
        with warnings.catch_warnings(record=True):
            images = rand_augment(
                images, n=2, m=augmentation.rand_augment, shape=[size, size], fill_value=128
            )
    if augmentation.cutout:
        side = int(augmentation.cutout * size)
        corner = fn.random.uniform(range=[-side / 2, size - side / 2], shape=2)
        images = fn.erase(
            images, anchor=corner, shape=[side, side], axis_names="HW", fill_value=128
        )
    return images


def _iterator(pipe: Any, names: list[str], *, decodes: bool = False) -> Any:
    from nvidia.dali.plugin.base_iterator import LastBatchPolicy
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    pipe.build()
    return DALIGenericIterator(
        pipe,
        names,
        reader_name=READER,
        # With padded reads PARTIAL cuts exactly the padding: no sample twice, none missing.
        last_batch_policy=LastBatchPolicy.PARTIAL,
        auto_reset=False,
        prepare_first_batch=decodes,  # decoding it may fail, as of any other
    )
