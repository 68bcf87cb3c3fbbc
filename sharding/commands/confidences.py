"""Add a version of confidences to a dataset: a release's machine labels, or one's own model's.

Nothing else of the dataset changes: confidences are evidence that a training may use, not labels.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sharding import log
from sharding.commands.options import ReshardOptions, ShardOptions
from sharding.commands.workspace import Workspace
from sharding.confidences import read_unobserved
from sharding.dataset import lock
from sharding.dataset.confidence_tables import ConfidenceReader
from sharding.dataset.confidence_versions import ConfidenceWriter
from sharding.dataset.members import Members, members_in
from sharding.dataset.publish import remove_outdated, write_manifest
from sharding.errors import InputError, command
from sharding.layout import MANIFEST_FILE, NAMES_HASH, VERSION_NAMES, is_version_name
from sharding.log import count
from sharding.manifest import Dataset
from sharding.manifest_parts import ConfidenceVersion
from sharding.progress import say
from sharding.sources.named import image_id_of
from sharding.storage.files import remove_temporaries, transaction

OTHER_IMAGES, DUPLICATES, OBSERVED = "image_of_no_split", "duplicates", "observed"
_IN_WORDS = {
    OTHER_IMAGES: "of images that no tar holds",
    "unknown_mid": "of classes outside the list",
    DUPLICATES: "said before (the largest counts)",
    OBSERVED: "of entries that the default labels know (ignored)",
    "human_label": "labels of humans (left out: reshard --annotations takes them)",
    "unreadable_image": "images that predict could not read",
    "bad_confidence": "without a number from 0 to 1",
    "bad_mid": "without a MID",
    "bad_id": "without an image id",
    "bad_columns": "of other columns",
}
"""Counts of a version's report, as the summary says them."""


@dataclass(frozen=True, kw_only=True)
class ConfidencesAdded:
    """Describe a version of confidences that was written.

    Attributes:
        location: directory or URL of the dataset.
        name, version: what was written.
        observed: entries that the default labels know, and that trainings on these ignore.
        seconds: it took.
    """

    location: str
    name: str
    version: ConfidenceVersion
    observed: int
    seconds: float

    def __str__(self) -> str:
        first = f"confidences {self.name} of {self.location} are written, in {self.seconds:.1f} s."
        rows = [
            (split, f"{file.entries:,} confidences of {count(file.images, 'image')}")
            for split, file in self.version.splits.items()
        ]
        report = {**self.version.report, OBSERVED: self.observed}
        rows += [
            ("of these", f"{report[key]:,} {words}")
            for key, words in _IN_WORDS.items()
            if report.get(key)
        ]
        train = command("train", "--dataset", self.location, "--method", "vlpl", "--confidences")
        rows.append(("next", f"{train} {self.name}"))
        return "\n".join([first, *(f"  {name:<12} {text}" for name, text in rows)])


def reshard_confidences(
    options: ReshardOptions, workspace: Workspace | None = None
) -> ConfidencesAdded:
    """Write a version of confidences over the tars of a finished dataset.

    Args:
        options: with a table of confidences; the dataset is the workspace's, if there is one.
        workspace: of the dataset, if it is in a bucket.

    Raises:
        InputError: the table cannot be read, holds no confidence of an image of the dataset, or
            is another one than the version of this name was made of.
    """
    workspace = workspace or Workspace(Path(options.dataset))
    directory = workspace.directory
    Dataset.open(directory)  # before a mistyped one would be made
    with lock.acquire(directory):
        dataset = Dataset.open(directory)
        remove_temporaries(directory)
        remove_outdated(directory, dataset.manifest)
        return add_confidences(dataset, options, workspace.location)


def add_confidences(
    dataset: Dataset, options: ReshardOptions | ShardOptions, location: str
) -> ConfidencesAdded:
    """Write the version that the options name; the job holds the dataset's lock.

    Raises:
        InputError: as `reshard_confidences`.
    """
    started = time.monotonic()
    assert options.confidences is not None
    name = options.confidences_name or _name_of(options.confidences)
    if not is_version_name(name):
        fix = f"give --confidences-name {VERSION_NAMES}"
        raise InputError(f"{name!r} cannot name a version", fix=fix)
    imported = NAMES_HASH in dataset.manifest.created_by
    reader = ConfidenceReader(
        options.confidences,
        dataset.classes.mids,
        id_of=image_id_of if imported else None,
        strict=options.strict,
    )
    members = members_in(dataset)
    with transaction():
        version = _write(dataset, name, reader, members, options.confidences)
        old = (dataset.manifest.confidences or {}).get(name)
        if old is not None and old.sources != version.sources:
            raise InputError(
                f"confidences {name!r} are there already, of another table",
                file=dataset.directory / MANIFEST_FILE,
                fix="give the new ones a name of their own with --confidences-name",
            )
        versions = {**(dataset.manifest.confidences or {}), name: version}
        manifest = dataclasses.replace(dataset.manifest, confidences=versions)
        write_manifest(dataset.directory, manifest, dataset.classes)
    return ConfidencesAdded(
        location=location,
        name=name,
        version=version,
        observed=_count_observed(dataset, version),
        seconds=time.monotonic() - started,
    )


def _name_of(table: Path) -> str:
    """Name a version after its table: the file without its endings, or the folder."""
    return table.resolve().name.partition(".")[0]


def _count_observed(dataset: Dataset, version: ConfidenceVersion) -> int:
    """Count the confidences of entries that the default labels know."""
    _, labels = dataset.label_version()
    return sum(
        read_unobserved(dataset.directory / file.path, dataset.labels(split))[1]
        for split, file in version.splits.items()
        if split in labels.splits
    )


def _write(
    dataset: Dataset,
    name: str,
    reader: ConfidenceReader,
    members: Sequence[Members],
    table: Path,
) -> ConfidenceVersion:
    say(f"reading the confidences of {table}")
    others = 0
    with ConfidenceWriter(dataset.directory, members) as writer:
        for block in reader.blocks():
            others += writer.add(block.image_ids_E, block.classes_E, block.values_E)
        files, repeated = writer.finish(name)
    counts = {**reader.rows.counts, OTHER_IMAGES: others, DUPLICATES: repeated}
    report = {key: number for key, number in sorted(counts.items()) if number}
    if reader.rows.first_bad is not None:
        log.info(f"set aside, the first of such rows: {reader.rows.first_bad}", "WARNING")
    if not any(file.entries for file in files.values()):
        found = ", ".join(
            f"{n:,} {_IN_WORDS[key]}" for key, n in report.items() if key in _IN_WORDS
        )
        raise InputError(
            f"no confidence of an image of the dataset ({found or 'no rows'})",
            file=table,
            fix="give machine labels of these images and classes, keyed by id and MID",
        )
    return ConfidenceVersion(sources=reader.sources, report=report, splits=files)
