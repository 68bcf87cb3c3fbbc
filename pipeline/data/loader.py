"""Read the shards of a split as batches of images on one rank.

An epoch is a pure function of (seed, epoch, rank, world size): the order of the tars, the
shuffle buffer's draws and the augmentation all derive from it, so a resumed run sees what the
uninterrupted one would have seen. Within an epoch DALI's own checkpoints hold a reader's position.
Images leave DALI as uint8 and are normalised on the training device: a quarter of the bytes to
move.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.config import sections
from pipeline.config.sections import HARDWARE_SHARE
from pipeline.data import dali, dali_index, unreadable
from pipeline.data.pipelines import Graph, Pipelines
from pipeline.data.unreadable import LeftOut
from sharding.errors import InputError, how_to_repair
from sharding.image_ids import parse_image_ids
from sharding.manifest import Dataset
from sharding.storage.files import changed


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """Divide a split among ranks: every sample once in an epoch, the same number of steps.

    Attributes:
        samples: of the whole split; with none there is no step.
        world_size: number of ranks.
        batch_size: images per rank and step.

    Raises:
        InputError: there are fewer samples than ranks.
    """

    samples: int
    world_size: int
    batch_size: int

    def __post_init__(self) -> None:
        if 0 < self.samples < self.world_size:
            raise InputError(
                f"{self.samples} images cannot be split over {self.world_size} workers",
                fix="use fewer workers",
            )

    def samples_of(self, rank: int) -> int:
        """Count the images of ``rank``: contiguous ranges whose sizes differ by at most one."""
        begin = self.samples * rank // self.world_size
        return self.samples * (rank + 1) // self.world_size - begin

    @property
    def steps(self) -> int:
        """Number of steps of every rank; the last batch of a rank may be smaller, or empty."""
        largest = max(self.samples_of(rank) for rank in range(self.world_size))
        return -(-largest // self.batch_size)


def whole_batches(samples: int, batch_size: int, part: int, parts: int) -> range:
    """Cut a split into ``parts`` contiguous shares between its batches; return share ``part``.

    The batches are the same for any number of parts: only the last of the split is smaller. Shares
    differ by at most one batch; one may be empty.
    """
    batches = -(-samples // batch_size)
    edges = (batches * number // parts * batch_size for number in (part, part + 1))
    return range(*(min(samples, edge) for edge in edges))


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images with their ids.

    Attributes:
        images_BHWC: uint8 RGB on the device that decoded them.
        image_ids_B: uint64 on the host.
    """

    images_BHWC: torch.Tensor
    image_ids_B: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.image_ids_B)

    @property
    def sample_ids(self) -> torch.Tensor:
        """int64 (B,) on the host: the image ids' bits, in a type that torch can index with."""
        return torch.from_numpy(self.image_ids_B.view(np.int64))


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Read the images of a split on one rank.

    Attributes:
        tars, indexes: image tars and their DALI indexes, in the same order.
        counts: images per tar that are read.
        batch_size: images per step on this rank.
        image_size: output side in pixels (squashed, bilinear with antialiasing as in torchvision).
        train: shuffle and augment; otherwise manifest order and whole images.
        augmentation: of training images.
        shuffle_buffer: encoded images drawn from at random.
        rank, world_size: this rank reads a contiguous share of every epoch.
        begins: per tar, the first image that is read; empty where all tars are read whole.
        first: position in the split of the first image that is read.
        seed: of order and augmentation.
        device_id: CUDA device of this rank, or None to decode on the CPU.
        threads: decoding threads.
        hardware_share: of the images that a GPU's JPEG decoder takes, where it has one.
        left_out: images that cannot be decoded; those found to be so are added.
        pipelines: one is held from an epoch to the next.
    """

    tars: Sequence[Path]
    indexes: Sequence[Path]
    counts: Sequence[int]
    batch_size: int
    image_size: int
    train: bool = False
    augmentation: sections.Augmentation = field(default_factory=sections.Augmentation)
    shuffle_buffer: int = 1024
    rank: int = 0
    world_size: int = 1
    begins: Sequence[int] = ()
    first: int = 0
    seed: int = 0
    device_id: int | None = None
    threads: int = 1
    hardware_share: float = HARDWARE_SHARE
    left_out: LeftOut = field(default_factory=LeftOut)
    pipelines: Pipelines = field(default_factory=Pipelines, repr=False, compare=False)

    @classmethod
    def of_split(cls, dataset: Dataset, split: str, **options: Any) -> Loader:
        """Make a loader of every tar of a split; ``options`` are the remaining attributes.

        Raises:
            InputError: the split is absent; a tar or index that the manifest names is, or is not
                that one. Of a tar only size and last image are looked at: `verify` hashes it.
        """
        shards = dataset.shards(split)
        tars = [dataset.directory / shard.path for shard in shards]
        indexes = [dataset.directory / shard.index for shard in shards]
        for shard, tar, index in zip(shards, tars, indexes, strict=True):
            if (wrong := changed(index, shard.index_sha256)) is not None:
                raise InputError(wrong, file=index, fix=how_to_repair(index))
            dali_index.refuse_other_tar(tar, index, shard.bytes)
        return cls(tars=tars, indexes=indexes, counts=[s.images for s in shards], **options)

    def part(self, number: int, parts: int, images: int | None = None) -> Loader:
        """Make a loader of one of ``parts`` shares of the split, or of its first ``images``.

        It reads in order, without augmentation. Shares are cut between batches (`whole_batches`):
        a network's rounding depends on what is in a batch, so a score's last bits would otherwise
        depend on the number of parts.
        """
        samples = sum(self.counts) if images is None else min(sum(self.counts), images)
        share = whole_batches(samples, self.batch_size, number, parts)
        edges = np.concatenate([[0], np.cumsum(self.counts)]).tolist()
        rows = [range(max(share.start, a), min(share.stop, b)) for a, b in pairwise(edges)]
        kept = [tar for tar, of_tar in enumerate(rows) if of_tar]
        return dataclasses.replace(
            self,
            train=False,
            tars=[self.tars[tar] for tar in kept],
            indexes=[self.indexes[tar] for tar in kept],
            counts=[len(rows[tar]) for tar in kept],
            begins=[rows[tar].start - edges[tar] for tar in kept],
            first=share.start,
            pipelines=Pipelines(),
        )

    @property
    def plan(self) -> EpochPlan:
        """Division of an epoch among the ranks."""
        return EpochPlan(
            samples=sum(self.counts), world_size=self.world_size, batch_size=self.batch_size
        )

    def epoch(self, number: int, *, done: int = 0, position: bytes | None = None) -> Epoch:
        """Iterate over epoch ``number``: `EpochPlan.steps` batches, each sample exactly once.

        A pipeline takes milliseconds per thousand samples to build, on a GPU two seconds more:
        see `build_ahead`. What it reads is the same whether it was held or is built now, so that a
        run resumed between epochs needs no state of the one before.

        Args:
            number: counted from 1.
            done: batches already taken of an interrupted epoch.
            position: `Epoch.position` after them.
        """
        return Epoch(self, number, done, position)

    def build_ahead(self, number: int) -> None:
        """Build the pipeline of an epoch in another thread, for `epoch` to take over."""
        if self.plan.steps:
            self.pipelines.build_ahead(self.graph(number))

    def graph(self, epoch: int) -> Graph:
        """Describe the pipeline that reads this rank's samples of an epoch."""
        return Graph(
            reading=self.reading(epoch),
            size=self.image_size,
            augmentation=self.augmentation if self.train else sections.WHOLE_IMAGE,
            device_id=self.device_id,
            threads=self.threads,
            hardware_share=self.hardware_share,
        )

    def reading(self, epoch: int) -> dali.Reading:
        """Choose this rank's samples of an epoch, and their order."""
        order = np.arange(len(self.tars))
        if self.train:
            # The same permutation on every rank: the ranks cut one common list into ranges.
            draws = np.random.SeedSequence([self.seed, epoch])
            order = np.random.default_rng(draws).permutation(order)
        # Equal seeds would give every rank the same flips.
        draws = np.random.SeedSequence([self.seed, epoch, self.rank])
        return dali.Reading(
            tars=[str(self.tars[int(i)]) for i in order],
            indexes=[str(self._index(int(i))) for i in order],
            rank=self.rank,
            world_size=self.world_size,
            batch_size=self.batch_size,
            shuffle_buffer=self.shuffle_buffer if self.train else 0,
            seed=int(draws.generate_state(1)[0]) & 0x7FFFFFFF,
        )

    def _index(self, number: int) -> Path:
        """Give the DALI index of a tar, without unreadable images and images not in the share."""
        bad = self.left_out.members(str(self.tars[number]))
        index = self.indexes[number]
        if bad:
            index = dali_index.redirected(index, bad)
        if self.begins:
            index = dali_index.cut(index, self.begins[number], self.counts[number])
        return index


class Epoch(Iterator[Batch]):
    """Iterate over the batches of one epoch on one rank; see `Loader.epoch`."""

    def __init__(self, loader: Loader, number: int, done: int, position: bytes | None) -> None:
        self.loader, self._number, self._done, self._position = loader, number, done, position
        self._iterator: Any = None
        if loader.plan.steps:
            self._open()

    def __next__(self) -> Batch:
        if self._done >= self.loader.plan.steps:
            self._end()
            raise StopIteration
        try:
            (outputs,) = next(self._iterator)
        except RuntimeError as error:
            self._leave_out_unreadable(error)
            return next(self)
        self._position = self._iterator.checkpoints()[0]
        self._done += 1
        samples = dali.samples_of(outputs["source"].cpu().numpy())
        return self._batch(outputs["images"], samples)

    def position(self) -> bytes:
        """Give what `Loader.epoch` needs to go on after the last batch taken (hundreds of bytes).

        Raises:
            ValueError: no batch was taken yet.
        """
        if self._position is None:
            raise ValueError("no batch was taken yet")
        return self._position

    def _open(self) -> None:
        self._graph = self.loader.graph(self._number)
        self._iterator = self.loader.pipelines.open(self._graph, self._position)

    def _end(self) -> None:
        """Leave a pipeline to the next pass in the same order.

        That of one among several ranks would go on to the share of another.
        """
        pipeline, self._iterator = self._iterator, None
        if pipeline is not None and not self.loader.train and self.loader.world_size == 1:
            self.loader.pipelines.keep(self._graph, pipeline)

    def _batch(self, images_BHWC: torch.Tensor, samples: list[dali.Sample]) -> Batch:
        if bad := self.loader.left_out:
            kept = [i for i, (tar, member) in enumerate(samples) if member not in bad.members(tar)]
            images_BHWC, samples = images_BHWC[kept], [samples[i] for i in kept]
        image_ids_B = parse_image_ids([sample.member.partition(".")[0] for sample in samples])
        return Batch(images_BHWC=images_BHWC, image_ids_B=image_ids_B)

    def _leave_out_unreadable(self, error: RuntimeError) -> None:
        """Find the images that made a batch fail and reopen the pipeline without them."""
        loader = self.loader
        indexes = dict(zip(map(str, loader.tars), loader.indexes, strict=True))
        for tar, index in indexes.items():
            dali_index.refuse_other_tar(Path(tar), index)
        bad = unreadable.find(self._graph.reading, self._done, loader.device_id)
        bad = unreadable.to_leave_out(bad, loader.left_out, indexes, loader.device_id)
        if not bad:  # the pipeline would fail again
            raise error
        loader.left_out.add(bad)
        self._open()
