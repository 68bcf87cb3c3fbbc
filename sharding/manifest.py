"""Read and write `dataset.json`, the manifest that says what a dataset holds.

The manifest is written last and atomically, and readers look at no file that it does not name.
Paths in it are relative to the dataset directory, so that a dataset can be moved or copied whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import chain, repeat
from operator import eq
from pathlib import Path
from typing import Any

from sharding.classes import ClassTable
from sharding.errors import REPEAT_COMMAND, InputError, command, unknown
from sharding.image_ids import Ids, parse_image_ids
from sharding.labels import LabelTable
from sharding.layout import CLASSES_FILE, MANIFEST_FILE, NEXT_NUMBER, SPLITS, are_label_paths
from sharding.log import count
from sharding.manifest_parts import ConfidenceVersion, LabelVersion, ShardRecord
from sharding.storage.files import write_json
from sharding.storage.records import build_record, record_digest

FORMAT = 1
_HASH = "sha256"
"""Key of the hash of everything else in the manifest (`Dataset.digest`)."""


class DamagedManifest(InputError):
    """Report a manifest that is missing, cut off or changed by hand."""

    def __init__(self, problem: str, path: Path) -> None:
        fix = "restore the file from a copy, or make the dataset again in another directory"
        if not path.parent.is_dir():
            problem, path, fix = "no such directory", path.parent, "check the path"
        elif _is_dump(path.parent):
            problem, path = "an annotation dump, not a dataset yet", path.parent
            images = path / "images"
            places = (path, "--images", images if images.is_dir() else "JPEGS")
            fix = f"run {command('shard', '--annotations', *places, '--output', 'DATASET')} first"
        elif not path.exists() and any(path.parent.glob("*.csv")):
            problem, path = "a folder with a CSV, not a dataset yet", path.parent
            source = ("--format", "csv", "--source", path)
            fix = f"run {command('import', *source, '--output', 'DATASET')} first"
        super().__init__(problem, file=path, fix=fix)


def _is_dump(directory: Path) -> bool:
    """Whether a directory, or one of its folders that are called by a date, has a class list."""
    folders = [directory, *(path for path in directory.glob("20*") if path.is_dir())]
    return any(any(folder.glob("*class-descriptions*")) for folder in folders)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Hold everything that `dataset.json` says.

    Attributes:
        name: dataset name, the directory's own unless chosen.
        classes_sha256: hash of the ordered class list (`ClassTable.sha256`).
        num_classes: K.
        seed: placement seed (shard of an image = f(id, seed)).
        images_per_shard: the bound that the plan was made with.
        treatment: what was done to the pixels, as `ImagePolicy.record` has it.
        default_labels: the label version a reader takes when none is named.
        labels: label versions by dump name.
        shards: every image tar, sorted by path.
        quarantined: number of rows in `quarantine.parquet`.
        removed: ids taken down by `remove`, ascending: no tar or table has them, and no later job
            brings them back; None where there are none.
        confidences: of machines, by version; None where there are none.
        created_by: provenance: hashes and choices by the keys of `sharding.layout`.
    """

    name: str
    classes_sha256: str
    num_classes: int
    seed: int
    images_per_shard: int
    treatment: Mapping[str, Any]
    default_labels: str
    labels: Mapping[str, LabelVersion]
    shards: tuple[ShardRecord, ...]
    quarantined: int = 0
    removed: tuple[str, ...] | None = None
    confidences: Mapping[str, ConfidenceVersion] | None = None
    created_by: Mapping[str, str] = field(default_factory=dict)

    def next_number(self, split: str) -> int:
        """Number of the next shard of a split: one above the highest that it has or had."""
        least = int(self.created_by.get(f"{NEXT_NUMBER}/{split}", 0))
        return max([least, *(s.number + 1 for s in self.shards if s.split == split)])

    @property
    def removed_ids(self) -> Ids:
        """Parse the ids that were taken down."""
        return parse_image_ids(list(self.removed or ()))

    def with_provenance(self, **created_by: str) -> Manifest:
        """Copy with further keys in ``created_by``."""
        return dataclasses.replace(self, created_by={**self.created_by, **created_by})

    def write(self, directory: str | os.PathLike[str]) -> None:
        """Write `dataset.json` atomically; call it after everything it names is on disk."""
        content = {"format": FORMAT, _HASH: record_digest(self.record()), **self.record()}
        write_json(Path(directory) / MANIFEST_FILE, content)

    def record(self) -> dict[str, Any]:
        """Convert to plain values; None is left out, so that a new field changes no old digest."""
        return dataclasses.asdict(
            self, dict_factory=lambda pairs: {key: v for key, v in pairs if v is not None}
        )

    @classmethod
    def read(cls, directory: str | os.PathLike[str]) -> Manifest:
        """Read `dataset.json`.

        Raises:
            DamagedManifest: it is missing, cannot be understood or has another hash than it says.
            InputError: it is of another format.
        """
        path = Path(directory) / MANIFEST_FILE
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise DamagedManifest("not a dataset: the manifest is missing", path) from None
        except (OSError, ValueError) as error:
            problem = f"the manifest is not JSON, or cannot be read ({error})"
            raise DamagedManifest(problem, path) from None
        if not isinstance(raw, dict) or raw.pop("format", None) != FORMAT:
            fix = "restore it from a copy, or shard the dump into another directory"
            raise InputError(f"the manifest is not of format {FORMAT}", file=path, fix=fix)
        if raw.pop(_HASH, None) not in (None, record_digest(raw)):  # 0.1.0 wrote none
            raise DamagedManifest("the manifest was changed after it was written", path)
        try:
            return cls._from_json(raw)
        except (KeyError, TypeError, AttributeError, ValueError, InputError) as error:
            problem = f"the manifest lacks or misnames a field ({error})"
            raise DamagedManifest(problem, path) from None

    @classmethod
    def _from_json(cls, raw: dict[str, Any]) -> Manifest:
        labels = {name: LabelVersion.from_json(v) for name, v in raw["labels"].items()}
        for name, version in labels.items():
            for split, file in version.splits.items():
                paths = [table.path for table in (file, file.without_pixels) if table]
                if not are_label_paths(name, split, paths):
                    raise ValueError(f"{paths} are no tables of labels {name!r} of {split!r}")
        shards = tuple(build_record(ShardRecord, shard) for shard in raw["shards"])
        parts: dict[str, Any] = {"labels": labels, "shards": shards}
        if "removed" in raw:
            parts["removed"] = tuple(raw["removed"])
        if "confidences" in raw:
            of = raw["confidences"].items()
            parts["confidences"] = {name: ConfidenceVersion.from_json(name, v) for name, v in of}
        manifest = build_record(cls, {**raw, **parts})
        _ = manifest.removed_ids, [manifest.next_number(split) for split in SPLITS]
        return manifest


@dataclass(frozen=True, kw_only=True, repr=False)
class Dataset:
    """Give access to a dataset directory: manifest and classes are read, tables on demand."""

    directory: Path
    manifest: Manifest
    classes: ClassTable

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> Dataset:
        """Read the manifest and the class table.

        Raises:
            InputError: there is no manifest, or the class table is not the one that it names.
        """
        path = Path(directory)
        manifest = Manifest.read(path)
        classes = ClassTable.read(path / CLASSES_FILE)
        if classes.sha256 != manifest.classes_sha256:
            raise InputError(
                f"class list {classes.sha256[:12]} is not the manifest's "
                f"{manifest.classes_sha256[:12]}",
                file=path / CLASSES_FILE,
                fix=REPEAT_COMMAND,
            )
        return cls(directory=path, manifest=manifest, classes=classes)

    def __repr__(self) -> str:
        images: dict[str, int] = {}
        for shard in self.manifest.shards:
            images[shard.split] = images.get(shard.split, 0) + shard.images
        splits = ", ".join(f"{split} {count:,}" for split, count in images.items())
        labels = ", ".join(self.manifest.labels)
        return f"Dataset({count(len(self.classes), 'class')}; images: {splits}; labels: {labels})"

    @property
    def digest(self) -> str:
        """Hash the manifest: the identity of this exact dataset in MLflow and in checkpoints."""
        return record_digest(self.manifest.record())

    def shards(self, split: str) -> list[ShardRecord]:
        """List the image tars of a split, in manifest order.

        Raises:
            InputError: the dataset has no such split.
        """
        records = [shard for shard in self.manifest.shards if shard.split == split]
        if not records:
            present = {shard.split for shard in self.manifest.shards}
            raise self._no_split(f"split {split!r} has no images", present)
        return records

    def has_rows_of(self, split: str, table: LabelTable) -> bool:
        """Whether a table has a row for every image of a split's tars, in their order.

        Raises:
            InputError: the dataset has no such split.
        """
        shards = self.shards(split)
        paths = chain.from_iterable(repeat(shard.path, shard.images) for shard in shards)
        images = sum(shard.images for shard in shards)
        return len(table) == images and all(map(eq, table.shards, paths))

    def shards_digest(self, split: str) -> str:
        """Hash a split's image tars in their order, on which a reader's position depends."""
        content = json.dumps([[s.path, s.sha256, s.images] for s in self.shards(split)])
        return hashlib.sha256(content.encode()).hexdigest()

    def label_version(self, name: str | None = None) -> tuple[str, LabelVersion]:
        """Find the label version named, or the default one; returns (name, version).

        Raises:
            InputError: the dataset has no such label version.
        """
        chosen = name or self.manifest.default_labels
        if chosen not in self.manifest.labels:
            there = f"the dataset has {', '.join(sorted(self.manifest.labels))}"
            reshard = command("reshard", "--dataset", self.directory, "--annotations", "DUMP")
            listed, file = f"{there}; {reshard} adds a dump's", self.directory / MANIFEST_FILE
            raise unknown("labels", chosen, self.manifest.labels, listed=listed, file=file)
        return chosen, self.manifest.labels[chosen]

    def confidence_version(self, name: str) -> ConfidenceVersion:
        """Find the version of confidences named.

        Raises:
            InputError: the dataset has no such version.
        """
        versions = self.manifest.confidences or {}
        if name not in versions:
            there = f"the dataset has {', '.join(sorted(versions)) or 'none'}"
            reshard = command("reshard", "--dataset", self.directory, "--confidences", "TABLE")
            listed, file = f"{there}; {reshard} adds some", self.directory / MANIFEST_FILE
            raise unknown("confidences", name, versions, listed=listed, file=file)
        return versions[name]

    def is_complete(self, name: str | None = None) -> bool:
        """Whether a label version knows every label of the training images."""
        train = self.label_version(name)[1].splits.get("train")
        known = train and train.positives + train.negatives
        return train is not None and known == train.images * len(self.classes)

    def labels(self, split: str, name: str | None = None) -> LabelTable:
        """Read the label table of a split in the label version named, or in the default one.

        Raises:
            InputError: there is no such version or split, or the table is missing or damaged.
        """
        chosen, version = self.label_version(name)
        if split not in version.splits:
            raise self._no_split(f"labels {chosen!r} have no split {split!r}", version.splits)
        return LabelTable.read(self.directory / version.splits[split].path)

    def _no_split(self, problem: str, present: Collection[str]) -> InputError:
        return InputError(
            f"{problem}; present: {', '.join(sorted(present)) or 'none'}",
            file=self.directory / MANIFEST_FILE,
            fix="name a split that is present",
        )
