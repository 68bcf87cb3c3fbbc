"""`dataset.json`: what a dataset holds. A thing exists when the manifest says so.

The manifest is written last and atomically; readers never look at files it does not name.
Paths inside it are relative to the dataset directory, so a dataset can be moved or copied whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharding.classes import ClassTable
from sharding.errors import REPEAT_COMMAND, InputError
from sharding.labels import LabelTable
from sharding.layout import MANIFEST_FILE
from sharding.storage.files import write_json

FORMAT = 1


class DamagedManifest(InputError):
    """The manifest is missing, cut off or changed by hand."""

    def __init__(self, problem: str, path: Path) -> None:
        fix = (
            "restore the file from a copy; where nothing was added to the dataset since, "
            "repeating the command that made it writes the file again"
        )
        super().__init__(problem, file=path, fix=fix)


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """One committed image tar; paths relative to the dataset, sizes in bytes."""

    path: str
    index: str
    split: str
    images: int
    bytes: int
    sha256: str
    index_sha256: str


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """One label table: the labels of one split in one annotation dump.

    ``without_pixels`` is the table of the images that the dump labels and no tar holds; None
    where there are none.
    """

    path: str
    images: int
    positives: int
    negatives: int
    sha256: str
    without_pixels: LabelFile | None = None

    @property
    def images_without_pixels(self) -> int:
        """Number of images that the dump labels and no tar holds."""
        return 0 if self.without_pixels is None else self.without_pixels.images

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> LabelFile:
        """As the manifest has it."""
        apart = record.get("without_pixels")
        return cls(**{**record, "without_pixels": None if apart is None else cls(**apart)})


@dataclass(frozen=True, kw_only=True)
class LabelVersion:
    """The labels of one annotation dump.

    Attributes:
        release: "v3" ... "v7", or "export" for our own corrections and reviewed candidates.
        sources: sha256 of every annotation file read, by file name.
        policy: how conflicts and machine labels were treated, as recorded by the reader.
        report: counts of rows kept and dropped, by reason.
        splits: label table by split.
    """

    release: str
    sources: Mapping[str, str]
    policy: Mapping[str, Any]
    report: Mapping[str, Any]
    splits: Mapping[str, LabelFile]

    @property
    def files(self) -> list[LabelFile]:
        """Every table, those of images without pixels too."""
        over_shards = list(self.splits.values())
        return over_shards + [file.without_pixels for file in over_shards if file.without_pixels]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything `dataset.json` says.

    Attributes:
        name: dataset name, the directory's own unless chosen.
        classes_sha256: hash of the ordered class list (`ClassTable.sha256`).
        num_classes: K.
        seed: placement seed (shard of an image = f(id, seed)).
        images_per_shard: the bound the plan was made with.
        treatment: what was done to the pixels ({"mode": "keep"} or shorter side and quality).
        default_labels: the label version a reader takes when none is named.
        labels: label versions by dump name.
        shards: every image tar, sorted by path.
        quarantined: number of rows in `quarantine.parquet`.
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
    created_by: Mapping[str, str] = field(default_factory=dict)

    def saying(self, **created_by: str) -> Manifest:
        """The same with further keys in ``created_by``."""
        return dataclasses.replace(self, created_by={**self.created_by, **created_by})

    def write(self, directory: str | os.PathLike[str]) -> None:
        """Write `dataset.json` atomically; call it after everything it names is on disk."""
        write_json(Path(directory) / MANIFEST_FILE, {"format": FORMAT, **self.record()})

    def record(self) -> dict[str, Any]:
        """As JSON has it; what is None is left out, so that a new field changes no old digest."""
        return dataclasses.asdict(
            self, dict_factory=lambda pairs: {key: v for key, v in pairs if v is not None}
        )

    @classmethod
    def read(cls, directory: str | os.PathLike[str]) -> Manifest:
        """Read `dataset.json`.

        Raises:
            DamagedManifest: it is missing or cannot be understood.
            InputError: it is of another format.
        """
        path = Path(directory) / MANIFEST_FILE
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DamagedManifest("not a dataset: the manifest is missing", path) from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DamagedManifest(f"the manifest is not JSON ({error})", path) from None
        if not isinstance(raw, dict) or raw.pop("format", None) != FORMAT:
            raise InputError(
                f"the manifest is not of format {FORMAT}",
                file=path,
                fix="restore it from a copy, or shard the dump into another directory",
            )
        try:
            return cls._from_json(raw)
        except (KeyError, TypeError, AttributeError) as error:
            problem = f"the manifest lacks or misnames a field ({error})"
            raise DamagedManifest(problem, path) from None

    @classmethod
    def _from_json(cls, raw: dict[str, Any]) -> Manifest:
        labels = {
            name: LabelVersion(
                **{
                    **version,
                    "splits": {s: LabelFile.of_record(f) for s, f in version["splits"].items()},
                }
            )
            for name, version in raw["labels"].items()
        }
        shards = tuple(ShardRecord(**shard) for shard in raw["shards"])
        return cls(**{**raw, "labels": labels, "shards": shards})


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset directory, opened: manifest and classes read, nothing else touched."""

    directory: Path
    manifest: Manifest
    classes: ClassTable

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> Dataset:
        """Open a dataset.

        Raises:
            InputError: no manifest, or a class table that is not the one the manifest names.
        """
        path = Path(directory)
        manifest = Manifest.read(path)
        classes = ClassTable.read(path / "classes.parquet")
        if classes.sha256 != manifest.classes_sha256:
            raise InputError(
                f"class list {classes.sha256[:12]} is not the manifest's "
                f"{manifest.classes_sha256[:12]}",
                file=path / "classes.parquet",
                fix=REPEAT_COMMAND,
            )
        return cls(directory=path, manifest=manifest, classes=classes)

    @property
    def digest(self) -> str:
        """Hash of the manifest: names this exact dataset in MLflow and in checkpoints."""
        content = json.dumps(self.manifest.record(), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def shards(self, split: str) -> list[ShardRecord]:
        """The image tars of a split, in manifest order.

        Raises:
            InputError: the dataset has no such split.
        """
        found = [shard for shard in self.manifest.shards if shard.split == split]
        if not found:
            present = sorted({shard.split for shard in self.manifest.shards})
            raise InputError(
                f"split {split!r} has no images; present: {', '.join(present) or 'none'}",
                file=self.directory / MANIFEST_FILE,
                fix="name a split that is present",
            )
        return found

    def shards_digest(self, split: str) -> str:
        """Hash of a split's image tars in their order: a reader's position in them rests on it."""
        content = json.dumps([[s.path, s.sha256, s.images] for s in self.shards(split)])
        return hashlib.sha256(content.encode()).hexdigest()

    def label_version(self, name: str | None = None) -> tuple[str, LabelVersion]:
        """(name, version) of the labels named, or of the default ones.

        Raises:
            InputError: the dataset has no such label version.
        """
        chosen = name or self.manifest.default_labels
        if chosen not in self.manifest.labels:
            raise InputError(
                f"no labels {chosen!r}; present: {', '.join(sorted(self.manifest.labels))}",
                file=self.directory / MANIFEST_FILE,
                fix="name one that is present, or run jobs/reshard_openimages.py with that dump",
            )
        return chosen, self.manifest.labels[chosen]

    def labels(self, split: str, name: str | None = None) -> LabelTable:
        """The label table of a split in the label version named, or the default one."""
        chosen, version = self.label_version(name)
        if split not in version.splits:
            raise InputError(
                f"labels {chosen!r} have no split {split!r}; "
                f"present: {', '.join(sorted(version.splits))}",
                file=self.directory / MANIFEST_FILE,
                fix="name a split that is present",
            )
        return LabelTable.read(self.directory / version.splits[split].path)
