"""Shards to batches: one DALI graph for CPU and GPU, and the labels joined by image id.

An epoch is a pure function of (seed, epoch, rank, world size): the order of the tars, the
shuffle buffer's draws and the flips all derive from it, so a resumed run sees what the
uninterrupted one would have seen. Images leave DALI as uint8 and are normalised on the training
device: a quarter of the bytes to move.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sharding.errors import InputError
from sharding.labels import UNOBSERVED, LabelTable, Observed, parse_image_ids
from sharding.manifest import Dataset

_READER = "shards"


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """Who reads how much in one epoch: every sample once over all ranks, equal step counts.

    Attributes:
        samples: of the whole split.
        world_size: number of ranks.
        batch_size: images per rank and step.
    """

    samples: int
    world_size: int
    batch_size: int

    def __post_init__(self) -> None:
        if self.samples < self.world_size:
            raise InputError(
                f"{self.samples} images cannot be split over {self.world_size} workers",
                fix="use fewer workers",
            )

    def samples_of(self, rank: int) -> int:
        """Images that ``rank`` reads: contiguous ranges whose sizes differ by at most one."""
        begin = self.samples * rank // self.world_size
        return self.samples * (rank + 1) // self.world_size - begin

    @property
    def steps(self) -> int:
        """Steps of every rank; a rank's last batch may be smaller than the others', or empty."""
        largest = max(self.samples_of(rank) for rank in range(self.world_size))
        return -(-largest // self.batch_size)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """``images_BHWC`` uint8 RGB on the training device; ``image_ids_B`` uint64 on the host."""

    images_BHWC: torch.Tensor
    image_ids_B: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.image_ids_B)


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Reads one split on one rank.

    Attributes:
        tars, indexes: image tars and their DALI indexes, in the same order.
        counts: images per tar.
        batch_size: images per step on this rank.
        image_size: output side in pixels (squashed, bilinear with antialiasing as in torchvision).
        train: shuffle and flip; otherwise manifest order, no augmentation.
        flip: mirror at random when training.
        device_id: CUDA device of this rank, or None to decode on the CPU.
        threads: decoding threads.
    """

    tars: Sequence[Path]
    indexes: Sequence[Path]
    counts: Sequence[int]
    batch_size: int
    image_size: int
    train: bool = False
    flip: bool = True
    shuffle_buffer: int = 1024
    rank: int = 0
    world_size: int = 1
    seed: int = 0
    device_id: int | None = None
    threads: int = 1

    @classmethod
    def of_split(cls, dataset: Dataset, split: str, **options: Any) -> Loader:
        """A loader over every tar of a split; ``options`` are the remaining attributes.

        Raises:
            InputError: the split is absent, or a tar or index that the manifest names is.
        """
        shards = dataset.shards(split)
        tars = [dataset.directory / shard.path for shard in shards]
        indexes = [dataset.directory / shard.index for shard in shards]
        for path in (*tars, *indexes):
            if not path.is_file():
                raise InputError(
                    "the manifest names this file, but it is missing",
                    file=path,
                    fix="run jobs/verify_dataset.py --repair",
                )
        return cls(tars=tars, indexes=indexes, counts=[s.images for s in shards], **options)

    @property
    def plan(self) -> EpochPlan:
        """Samples and steps of an epoch."""
        return EpochPlan(
            samples=sum(self.counts), world_size=self.world_size, batch_size=self.batch_size
        )

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of epoch ``number``: `EpochPlan.steps` of them, each sample exactly once.

        The pipeline is built anew: with indexes at hand this takes milliseconds per thousand
        samples, and it leaves no state behind that a resumed run would have to restore.
        """
        from nvidia.dali.plugin.base_iterator import LastBatchPolicy
        from nvidia.dali.plugin.pytorch import DALIGenericIterator

        iterator = DALIGenericIterator(
            self._pipeline(number),
            ["images", "source"],
            reader_name=_READER,
            # With padded reads PARTIAL cuts exactly the padding: no sample twice, none missing.
            last_batch_policy=LastBatchPolicy.PARTIAL,
            auto_reset=False,
        )
        for _ in range(self.plan.steps):
            (outputs,) = next(iterator)
            image_ids_B = _image_ids(outputs["source"].cpu().numpy())
            yield Batch(images_BHWC=outputs["images"], image_ids_B=image_ids_B)

    def _pipeline(self, epoch: int) -> Any:
        from nvidia.dali import fn, pipeline_def, types

        order = np.arange(len(self.tars))
        draws = np.random.SeedSequence([self.seed, epoch])
        if self.train:
            # The same permutation on every rank: the ranks cut one common list into ranges.
            order = np.random.default_rng(draws).permutation(order)
        tars, indexes = ([str(paths[int(i)]) for i in order] for paths in (self.tars, self.indexes))
        rank_seed = int(np.random.SeedSequence([self.seed, epoch, self.rank]).generate_state(1)[0])
        gpu = self.device_id is not None

        @pipeline_def(
            batch_size=self.batch_size,
            num_threads=self.threads,
            device_id=self.device_id,
            seed=rank_seed & 0x7FFFFFFF,  # equal seeds would give every rank the same flips
            prefetch_queue_depth=2,
        )
        def graph() -> tuple[Any, Any]:
            encoded = fn.readers.webdataset(
                name=_READER,
                paths=tars,
                index_paths=indexes,
                ext=["jpg"],
                missing_component_behavior="error",
                shard_id=self.rank,
                num_shards=self.world_size,
                pad_last_batch=True,
                random_shuffle=self.train,
                initial_fill=self.shuffle_buffer,
            )
            source = fn.get_property(encoded, key="source_info")
            images = fn.decoders.image(
                encoded, device="mixed" if gpu else "cpu", output_type=types.RGB
            )
            images = fn.resize(
                images,
                size=[self.image_size, self.image_size],
                interp_type=types.INTERP_LINEAR,
                antialias=True,  # as torchvision and PIL do, so that serving sees equal pixels
            )
            if self.train and self.flip:
                images = fn.flip(images, horizontal=fn.random.coin_flip(probability=0.5))
            return images, fn.pad(source, fill_value=0)

        pipe = graph()
        pipe.build()
        return pipe


@dataclass(frozen=True, kw_only=True)
class LabelJoin:
    """Labels of a batch, looked up by image id and densified on the training device.

    Attributes:
        table: the label version trained or evaluated on.
        num_classes: K.
        device: where `dense` puts its result.
    """

    table: LabelTable
    num_classes: int
    device: torch.device

    def observed(self, image_ids_B: npt.NDArray[np.uint64]) -> Observed:
        """Observed entries of the batch, sparse, on the host."""
        return self.table.observed(self.table.rows_of(image_ids_B))

    def dense(self, image_ids_B: npt.NDArray[np.uint64]) -> torch.Tensor:
        """int8 (B, K) in {+1, 0, -1}; only the observed entries cross to the device."""
        entries = self.observed(image_ids_B)
        shape = (len(image_ids_B), self.num_classes)
        labels_BK = torch.full(shape, UNOBSERVED, dtype=torch.int8, device=self.device)
        flat_E = torch.from_numpy(entries.rows_E * self.num_classes + entries.classes_E)
        states_E = torch.from_numpy(entries.states_E)
        labels_BK.view(-1)[flat_E.to(self.device)] = states_E.to(self.device)
        return labels_BK


def _image_ids(source_BL: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    # source_info reads "path.tar:offset:0123456789abcdef.jpg", zero-padded to a common length.
    names = (bytes(row).rstrip(b"\0").rsplit(b":", 1)[-1].decode() for row in source_BL)
    return parse_image_ids([name.partition(".")[0] for name in names])
