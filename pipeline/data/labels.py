"""Join the labels of a split to its images, batch by batch.

A `LabelledSplit` is what training, validation, evaluation and activation maps iterate over. Labels
stay sparse on the host; `LabelledBatch.dense` makes the matrix on the device that trains, without
waiting for what that device is doing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.data.loader import Batch, Epoch, Loader
from pipeline.data.pipelines import Pipelines
from sharding.confidences import Confidences, ConfidenceTable, read_unobserved
from sharding.errors import InputError, how_to_repair
from sharding.labels import UNOBSERVED, LabelTable, Observed
from sharding.manifest import Dataset
from sharding.storage.files import changed


@dataclass(frozen=True, kw_only=True)
class LabelledBatch(Batch):
    """A `Batch` with its labels.

    Attributes:
        observed: the annotated entries, sparse, on the host; their rows count within the batch.
        num_classes: K.
        confidences: of a machine about further entries, sparse, on the host; None where the split
            was opened without.
    """

    observed: Observed
    num_classes: int
    confidences: Confidences | None = None

    def dense(self) -> torch.Tensor:
        """int8 (B, K) in {+1, 0, -1} where the images are; only observed entries cross over."""
        device = self.images_BHWC.device
        labels_BK = torch.full(
            (len(self), self.num_classes), UNOBSERVED, dtype=torch.int8, device=device
        )
        flat_E = torch.from_numpy(self.observed.rows_E * self.num_classes + self.observed.classes_E)
        states_E = torch.from_numpy(self.observed.states_E)
        labels_BK.view(-1)[to_device(flat_E, device)] = to_device(states_E, device)
        return labels_BK

    def dense_confidences(self) -> torch.Tensor | None:
        """fp32 (B, K) in [0, 1], NaN where the machine said nothing or a human did; None: none."""
        if self.confidences is None:
            return None
        device, found = self.images_BHWC.device, self.confidences
        values_BK = torch.full((len(self), self.num_classes), torch.nan, device=device)
        flat_E = torch.from_numpy(found.rows_E * self.num_classes + found.classes_E)
        values_E = torch.from_numpy(found.values_E)
        values_BK.view(-1)[to_device(flat_E, device)] = to_device(values_E, device)
        return values_BK


@dataclass(frozen=True, kw_only=True)
class LabelJoin:
    """Looks up the labels of a batch's images by their ids.

    Attributes:
        table: labels of a split in one label version.
        num_classes: K.
        confidences: with the rows of ``table``, of entries that it does not observe; or None.
    """

    table: LabelTable
    num_classes: int
    confidences: ConfidenceTable | None = None

    def __call__(self, batch: Batch) -> LabelledBatch:
        """Join the labels to a batch; an image that the table lacks has none."""
        rows_B = self.table.rows_of(batch.image_ids_B)
        return LabelledBatch(
            images_BHWC=batch.images_BHWC,
            image_ids_B=batch.image_ids_B,
            observed=self.table.observed(rows_B),
            num_classes=self.num_classes,
            confidences=None if self.confidences is None else self.confidences.entries(rows_B),
        )


@dataclass(frozen=True, kw_only=True)
class LabelledSplit:
    """One rank's images of a split, in batches with labels.

    Attributes:
        loader: reads the images.
        join: looks up their labels.
    """

    loader: Loader
    join: LabelJoin

    @classmethod
    def open(
        cls,
        dataset: Dataset,
        split: str,
        labels: str | None,
        device: torch.device,
        *,
        confidences: str | None = None,
        **options: Any,
    ) -> LabelledSplit:
        """Open a split with the labels of one version.

        Args:
            dataset: whose tars are on a local disk (`staging.open_dataset`).
            split: its name.
            labels: a label version; None is the dataset's default.
            device: a GPU decodes the images that it gets.
            confidences: a version of these; None opens none.
            options: further attributes of `Loader`.

        Raises:
            InputError: no such split, labels or confidences, some of other images or none at all,
                or a tar or index is missing or not the manifest's.
        """
        table = labels_of(dataset, split, labels)
        evidence = None
        if confidences is not None:
            evidence, _ = confidences_of(dataset, split, confidences, table)
        decoder = device.index if device.type == "cuda" else None
        return cls(
            loader=Loader.of_split(dataset, split, device_id=decoder, **options),
            join=LabelJoin(table=table, num_classes=len(dataset.classes), confidences=evidence),
        )

    def part(self, number: int, parts: int, images: int | None = None) -> LabelledSplit:
        """Cut out one of ``parts`` shares; see `Loader.part`."""
        return dataclasses.replace(self, loader=self.loader.part(number, parts, images))

    def in_batches(self, size: int) -> LabelledSplit:
        """Read the same images in batches of another size; nothing is opened or checked again."""
        loader = dataclasses.replace(self.loader, batch_size=size, pipelines=Pipelines())
        return dataclasses.replace(self, loader=loader)

    def in_order(self) -> LabelledSplit:
        """Read the same images whole and in the order of the dataset, as an evaluation does."""
        loader = dataclasses.replace(self.loader, train=False, pipelines=Pipelines())
        return dataclasses.replace(self, loader=loader)

    def build_ahead(self, number: int) -> None:
        """Build the pipeline of an epoch in another thread; see `Loader.build_ahead`."""
        self.loader.build_ahead(number)

    def epoch(self, number: int, *, done: int = 0, position: bytes | None = None) -> LabelledEpoch:
        """Iterate over an epoch; arguments as of `Loader.epoch`."""
        return LabelledEpoch(self.loader.epoch(number, done=done, position=position), self.join)


class LabelledEpoch(Iterator[LabelledBatch]):
    """The labelled batches of one epoch on one rank; see `LabelledSplit.epoch`."""

    def __init__(self, epoch: Epoch, join: LabelJoin) -> None:
        self._epoch, self._join = epoch, join

    def __next__(self) -> LabelledBatch:
        return self._join(next(self._epoch))

    def position(self) -> bytes:
        """Give what `LabelledSplit.epoch` needs to go on after the last batch taken."""
        return self._epoch.position()


class FirstBatches(Iterable[LabelledBatch]):
    """Iterates over a split from its start any number of times, but reads each batch once.

    Args:
        split: in order; what was read of it stays in memory.
    """

    def __init__(self, split: LabelledSplit) -> None:
        self._split, self._read = split, list[LabelledBatch]()
        self._epoch: LabelledEpoch | None = None

    def __iter__(self) -> Iterator[LabelledBatch]:
        if self._epoch is None:
            self._epoch = self._split.epoch(0)
        yield from self._read
        for batch in self._epoch:
            self._read.append(batch)
            yield batch


def labels_of(dataset: Dataset, split: str, labels: str | None) -> LabelTable:
    """Read the labels of a split, to train on or to be judged by.

    Raises:
        InputError: no such split or labels; labels that are not the manifest's, contradict
            themselves, are of other images than the tars hold, or of none.
    """
    table = dataset.labels(split, labels)
    name, version = dataset.label_version(labels)
    file = version.splits[split]
    path = dataset.directory / file.path
    wrong = changed(path, file.sha256) or table.fault(len(dataset.classes))
    if wrong is None and not dataset.has_rows_of(split, table):
        wrong = f"its {len(table)} rows do not follow the images of split {split!r}"
    if wrong is not None:
        raise InputError(wrong, file=path, fix=how_to_repair(path))
    if not len(table.classes_E):
        raise InputError(
            f"no image of split {split!r} has a label in labels {name!r}",
            file=path,
            fix="name other labels or another split; or shard a dump that labels these images",
        )
    return table


def confidences_of(
    dataset: Dataset, split: str, name: str, labels: LabelTable
) -> tuple[ConfidenceTable, int]:
    """Read the confidences of a split about entries that nobody has labelled.

    Args:
        dataset: whose manifest names them.
        split: of it.
        name: of the version.
        labels: of the split; what they observe they decide.

    Returns:
        The table, and how many confidences of labelled entries were ignored.

    Raises:
        InputError: no such version or split; a table that is not the manifest's, that is of other
            images, or of classes or values that there are not.
    """
    version = dataset.confidence_version(name)
    if split not in version.splits:
        raise InputError(
            f"confidences {name!r} have no split {split!r}",
            file=dataset.directory,
            fix="repeat the command that wrote them, which covers all splits that have images",
        )
    file = version.splits[split]
    path = dataset.directory / file.path
    if (wrong := changed(path, file.sha256)) is None:
        table, ignored = read_unobserved(path, labels)
        if (wrong := table.fault(len(dataset.classes))) is None:
            return table, ignored
    raise InputError(wrong, file=path, fix=how_to_repair(path))


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to a device without waiting for it; what is computed with it there comes after.

    A copy from ordinary memory would wait until a GPU has done all it was given, so the tensor is
    pinned first.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
