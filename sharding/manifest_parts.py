"""Describe the parts of a manifest: image tars, versions of labels and of confidences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharding.layout import SPLITS, are_shard_paths, confidences_path, is_version_name
from sharding.storage.records import build_record


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """Describe one committed image tar; paths are relative to the dataset.

    Attributes:
        path: of the tar.
        index: path of its DALI index.
        split: of all its images.
        images: number of samples in the tar.
        bytes: size of the tar.
        sha256, index_sha256: hashes of the two files.
    """

    path: str
    index: str
    split: str
    images: int
    bytes: int
    sha256: str
    index_sha256: str

    def __post_init__(self) -> None:
        if not are_shard_paths(self.split, self.path, self.index):
            raise ValueError(f"{self.path!r}, {self.index!r}: no shard of split {self.split!r}")

    @property
    def number(self) -> int:
        """Number of the shard within its split."""
        return int(self.name.rpartition("-")[2])

    @property
    def name(self) -> str:
        """Name of the shard, as `ShardPlan.name`."""
        return Path(self.path).stem


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """Describe one label table: the labels of one split in one annotation dump.

    Attributes:
        path: of the table, relative to the dataset.
        images: number of its rows.
        positives, negatives: number of its labels.
        sha256: of the file.
        without_pixels: table of the images that the dump labels and no tar holds; None where
            there are none.
    """

    path: str
    images: int
    positives: int
    negatives: int
    sha256: str
    without_pixels: LabelFile | None = None

    @property
    def images_without_pixels(self) -> int:
        """Count the images that the dump labels and no tar holds."""
        return 0 if self.without_pixels is None else self.without_pixels.images

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> LabelFile:
        """Build from the manifest's JSON."""
        without_pixels = raw.get("without_pixels")
        table = None if without_pixels is None else build_record(cls, without_pixels)
        return build_record(cls, {**raw, "without_pixels": table})


@dataclass(frozen=True, kw_only=True)
class LabelVersion:
    """Describe the labels of one annotation dump.

    Attributes:
        release: "v3" ... "v7", "export" for our own corrections and reviewed candidates,
            "derived" from another version, or the name of an imported collection.
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
        """List every table, those of images without pixels included."""
        tables = list(self.splits.values())
        return tables + [table.without_pixels for table in tables if table.without_pixels]

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> LabelVersion:
        """Build from the manifest's JSON."""
        splits = {split: LabelFile.from_json(table) for split, table in raw["splits"].items()}
        return build_record(cls, {**raw, "splits": splits})


@dataclass(frozen=True, kw_only=True)
class ConfidenceFile:
    """Describe the confidences of one split.

    Attributes:
        path: of the table, relative to the dataset.
        images: number of its rows, which are those of the split's label tables.
        entries: number of its confidences.
        sha256: of the file.
    """

    path: str
    images: int
    entries: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ConfidenceVersion:
    """Describe the confidences of one machine.

    Attributes:
        sources: sha256 of what was read, by name.
        report: counts of rows kept and dropped, by reason.
        splits: table by split.
    """

    sources: Mapping[str, str]
    report: Mapping[str, Any]
    splits: Mapping[str, ConfidenceFile]

    @classmethod
    def from_json(cls, name: str, raw: Mapping[str, Any]) -> ConfidenceVersion:
        """Build from the manifest's JSON.

        Raises:
            ValueError: a path is none of a table of this version.
        """
        splits = {
            split: build_record(ConfidenceFile, file) for split, file in raw["splits"].items()
        }
        for split, file in splits.items():
            is_named = is_version_name(name) and split in SPLITS
            if not is_named or file.path != confidences_path(name, split):
                raise ValueError(f"{file.path!r}: no table of confidences {name!r} of {split!r}")
        return build_record(cls, {**raw, "splits": splits})
