"""Prepare an import: from a collection to a sharding job with ids for names, labels and plan."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from sharding import log
from sharding.classes import ClassTable
from sharding.commands.prepare import Job, plan_shards, refuse_empty
from sharding.dataset.label_versions import NewLabels
from sharding.errors import InputError
from sharding.image_ids import Ids, format_image_ids, parse_image_ids
from sharding.importers.coco import read_coco
from sharding.importers.collection import Collection, Part, Reader, doubtful
from sharding.importers.csv_table import READ_AS, read_table
from sharding.importers.cub import read_cub
from sharding.importers.nuswide import read_nuswide
from sharding.importers.options import Format, ImportOptions
from sharding.importers.splits import (
    listed_once,
    with_first_spellings,
    with_positives,
    with_single_positives,
    with_test,
    with_united_labels,
    with_validation,
)
from sharding.importers.voc import read_voc
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED, LabelTable
from sharding.layout import MANIFEST_FILE, NAMES_FILE, NAMES_HASH
from sharding.manifest import Manifest
from sharding.openimages.annotations import SplitLabels
from sharding.sources.named import NamedSource, Names, image_id_of

READERS: Mapping[Format, Reader] = {
    "voc": read_voc,
    "coco": read_coco,
    "nuswide": read_nuswide,
    "cub": read_cub,
    "csv": read_table,
}
COMPLETE, PARTIAL = "complete", "partial"
"""Names of the label version as published: every class of every image is known, or not."""


@dataclass(frozen=True, kw_only=True)
class ImportJob(Job):
    """A sharding job of images with file names instead of ids.

    Attributes:
        names: of all images.
        asked: the options of the import, as given.
        single_positive: a second label version of one positive per training image, if wanted.
        left_out: names of classes that the collection has, and that were not asked for.
        is_named: whether the label version was given a name, and so may come over a finished
            import.
    """

    names: Names
    asked: ImportOptions
    single_positive: NewLabels | None = None
    left_out: tuple[str, ...] = ()
    is_named: bool = False

    def made(self, manifest: Manifest) -> bool:
        """Tell whether an earlier run of this command wrote a manifest.

        0.2.0 did not record the columns of a table: what it made of which is told by its counts.
        """
        policy = {key: value for key, value in self.labels.policy.items() if key != READ_AS}
        older = dataclasses.replace(self, labels=dataclasses.replace(self.labels, policy=policy))
        if not super().made(manifest) and not super(ImportJob, older).made(manifest):
            return False
        reports = manifest.labels[self.labels.name].report
        return all(
            reports.get(split, {}).get(key, number) == number
            for split, part in self.labels.splits.items()
            for key, number in part.report.items()
        )

    def without(self, image_ids_M: Ids) -> Self:
        """Leave out images that were taken down, their names too."""
        single = self.single_positive and self.single_positive.without(image_ids_M)
        names = self.names.without(format_image_ids(image_ids_M))
        return dataclasses.replace(
            super().without(image_ids_M), names=names, single_positive=single
        )

    @property
    def images_fix(self) -> str:
        """Fix where no image was found."""
        return "unpack the images where the collection's own archive puts them"

    @property
    def relabel_fix(self) -> str:
        """Say, after another fix, how a mended table becomes labels of a finished dataset."""
        return ", or for mended labels over the same images repeat the command with --labels NAME"

    def write_extras(self) -> dict[str, str]:
        """Write `names.parquet`; returns the entry of ``created_by`` for it."""
        return {NAMES_HASH: self.names.write(self.output / NAMES_FILE)}


def read_collection(options: ImportOptions) -> Collection:
    """Read the collection in the format that the options name.

    Raises:
        InputError: it is not there, or is not of this format.
    """
    if not options.source.is_dir():
        is_file = options.source.is_file()
        problem = "not a folder" if is_file else "folder is missing"
        fix = "unpack it, and give the folder" if is_file else "check --source"
        raise InputError(problem, file=options.source, fix=fix)
    collection = READERS[options.format](options)
    if alike := doubtful(collection.class_names):
        problem = f"classes that look like one, or like none: {alike}"
        log.info(f"{options.source}: {problem}", "WARNING")
    return collection


def prepare_import(options: ImportOptions) -> ImportJob:
    """Read a collection and plan its shards.

    Raises:
        InputError: anything about the input that a user can mend.
    """
    read = with_positives(read_collection(options), _held_by(Path(options.output)))
    official = with_test(with_first_spellings(read), options)
    whole = with_united_labels(with_validation(official, options))
    collection = listed_once(whole, strict=options.strict)
    names = Names.of({split: part.names for split, part in collection.parts.items()})
    known = all(bool((part.labels_NK != UNOBSERVED).all()) for part in official.parts.values())
    labels = _new_labels(options.name or (COMPLETE if known else PARTIAL), collection)
    shard_options = dataclasses.replace(options.shard_options(), images=str(collection.images))
    refuse_empty(labels.splits, shard_options)
    return ImportJob(
        options=shard_options,
        classes=_classes(official, options),
        labels=labels,
        source=NamedSource.of(collection.images, names),
        plans={s: plan_shards(s, part, shard_options) for s, part in labels.splits.items()},
        names=names,
        asked=options,
        single_positive=_single_positive(official, collection, options),
        left_out=collection.left_out,
        is_named=options.name is not None,
    )


def _held_by(output: Path) -> frozenset[str]:
    """Read the ids of all images of a finished import; none where it has no such table."""
    if not (output / MANIFEST_FILE).is_file():
        return frozenset()
    with contextlib.suppress(InputError):  # repeating the first import writes a lost one again
        names = Names.read(output / NAMES_FILE).by_split.values()
        return frozenset(image_id for of_split in names for image_id in of_split)
    return frozenset()


def _single_positive(
    official: Collection, collection: Collection, options: ImportOptions
) -> NewLabels | None:
    if not options.single_positive:
        return None
    single = with_validation(with_single_positives(official, options.seed), options)
    single = listed_once(single, strict=False)
    # Validation and test keep all labels. Files read and rejected rows are recorded with the
    # version as published.
    parts = {
        split: dataclasses.replace(part, rejected_rows=())
        for split, part in {**collection.parts, "train": single.parts["train"]}.items()
    }
    return _new_labels(
        options.single_positive_name, dataclasses.replace(single, parts=parts, sources={})
    )


def _new_labels(name: str, collection: Collection) -> NewLabels:
    return NewLabels(
        name=name,
        release=collection.release,
        policy=collection.policy,
        splits={
            split: _split_labels(part, collection.sources)
            for split, part in collection.parts.items()
            if part.names or part.report
        },
    )


def _split_labels(part: Part, sources: Mapping[str, str]) -> SplitLabels:
    image_ids_N = parse_image_ids([image_id_of(name) for name in part.names])
    order_N = np.argsort(image_ids_N)
    table = LabelTable.from_dense(image_ids_N[order_N], part.labels_NK[order_N])
    positives_K, negatives_K = table.count_per_class(part.labels_NK.shape[1])
    report = {**table_counts(table, part.labels_NK.shape[1]), **part.report}
    return SplitLabels(
        table=table,
        report=report,
        unknown_mids={},
        rejected_rows=part.rejected_rows,
        sources=sources,
        human_positives_K=positives_K,
        human_negatives_K=negatives_K,
    )


def table_counts(table: LabelTable, num_classes: int) -> dict[str, int]:
    """Count a table's images and labels, as the manifest reports them."""
    positives_K, negatives_K = table.count_per_class(num_classes)
    return {
        "images": len(table),
        "images_without_labels": int(np.count_nonzero(table.counts_N == 0)),
        "positives": int(positives_K.sum()),
        "negatives": int(negatives_K.sum()),
    }


def _classes(official: Collection, options: ImportOptions) -> ClassTable:
    """Cut groups by the whole official training set, before validation is drawn from it."""
    labels_NK = official.parts["train"].labels_NK
    return ClassTable.build(
        official.keys,
        official.class_names,
        np.count_nonzero(labels_NK == POSITIVE, axis=0),
        np.count_nonzero(labels_NK == NEGATIVE, axis=0),
        group_by=options.group_by,
    )
