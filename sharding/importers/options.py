"""Define the options of the import job; light to import, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sharding.commands.option_checks import refuse_ignored, refuse_version_name
from sharding.commands.options import DatasetOptions, ShardOptions
from sharding.errors import InputError

Format = Literal["voc", "coco", "nuswide", "cub", "csv"]

COLUMNS = ("image_column", "labels_column", "negatives_column", "split_column")
_OF_CSV = (*COLUMNS, "table", "separator", "classes", "unlisted")
_WITH_YEARS = ("voc", "coco")


@dataclass(frozen=True, kw_only=True)
class ImportOptions(DatasetOptions):
    """Options of `jobs/import_dataset.py`; field docs are its help."""

    format: Format
    """Layout of the source."""
    source: Path
    """Folder of the unpacked collection."""
    year: int | None = None
    """Year of VOC (2012, 2007) or COCO (2014, 2017); by default the first that is there."""
    name: Annotated[str | None, tyro.conf.arg(name="labels")] = None
    """Name of the label version, "complete" or "partial" by default; with one that a finished
    import lacks, mended labels come over its images."""
    single_positive: bool = False
    """Also make labels of one positive per training image, and train on them by default."""
    seed: int = 1200
    """Draw of the single positives; 1200 gives the labels of the published tables."""
    split_seed: int = 1200
    """Draw of the validation images; 1200 gives those of the published tables."""
    validation_share: float = 0.2
    """Share of the official training set that becomes validation where there is none."""
    test_share: float = 0.2
    """Share that becomes test where a CSV has no split column."""
    table: Path | None = None
    """The CSV; by default labels.csv in the source, which image paths are relative to."""
    image_column: str = "image"
    """CSV column of image paths."""
    labels_column: str = "labels"
    """CSV column of the classes present."""
    negatives_column: str = "negatives"
    """CSV column of the classes verified absent, if there is one."""
    split_column: str = "split"
    """CSV column of train, validation or test, if there is one."""
    separator: str = "|"
    """Between classes in a CSV cell; or one of: pipe, semicolon, comma, space, tab."""
    classes: Path | None = None
    """Class list of a CSV, one name a line; all names that occur, sorted, by default."""
    unlisted: Literal["negative", "unobserved"] | None = None
    """What a class that a CSV row does not name is; negative, unless there are negatives."""
    group_by: Literal["annotations", "positives"] = "positives"
    """Training count that cuts the classes into five groups."""
    placement_seed: int = 0
    """The shard of an image is a function of its id and this."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, below, fix in (
            ("validation_share", 1, "give a share from 0 up to but not 1"),
            ("test_share", 1, "give a share from 0 up to but not 1"),
            ("seed", 1 << 32, "give a number from 0 to 2^32 - 1"),
            ("split_seed", 1 << 32, "give a number from 0 to 2^32 - 1"),
        ):
            value = getattr(self, name)
            if not 0 <= value < below:
                raise InputError(f"--{name.replace('_', '-')} is {value}", fix=fix)
        if self.name is not None:
            refuse_version_name(self.name)
        if self.single_positive and self.name == self.single_positive_name:
            raise InputError(
                f"--labels {self.name} is the name of the single positives",
                fix="give the labels as published another name",
            )
        if not self.separator:
            raise InputError("--separator is empty", fix="leave it out for |")
        if self.format != "csv":
            refuse_ignored(self, _OF_CSV, f"with --format {self.format}")
        if self.format not in _WITH_YEARS:
            refuse_ignored(self, ("year",), f"with --format {self.format}")
        if not self.single_positive:
            refuse_ignored(self, ("seed",), "without --single-positive")

    @property
    def single_positive_name(self) -> str:
        """Name of the label version of one positive per training image."""
        return f"single-positive-{self.seed}"

    def shard_options(self) -> ShardOptions:
        """Convert to the options of the shard job."""
        shared = {field.name: getattr(self, field.name) for field in fields(DatasetOptions)}
        source = str(self.source)
        return ShardOptions(
            annotations=self.source, images=source, seed=self.placement_seed, **shared
        )
