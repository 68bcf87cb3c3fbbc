"""What the import job can be told; light to import, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sharding.commands.options import ShardOptions
from sharding.errors import InputError

Format = Literal["voc", "coco", "nuswide", "cub", "csv"]


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Options of `jobs/import_dataset.py`; field docs are its help."""

    format: Format
    """Layout of the source."""
    source: Path
    """Folder of the unpacked collection."""
    output: str
    """Directory of the dataset, or a URL (s3, gs); repeating the command continues an unfinished
    one."""
    scratch: Path | None = None
    """Where the driver keeps small files while the output is a URL, by default the system's
    temporary directory."""
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
    images_per_shard: int = 4096
    """Most images in a shard."""
    shorter_side: int | None = None
    """Shrink larger images to this shorter side in pixels; bytes are kept without it."""
    quality: int | None = None
    """JPEG quality of what is encoded anew: 90 when shrinking, else 95 by default."""
    trust_images: bool = False
    """Do not decode images to check them; one bad image then ends every later DALI run."""
    placement_seed: int = 0
    """The shard of an image is a function of its id and this."""
    ranks: int = 2
    """Training workers to keep fed: splits get 8 shards for each, if they have the images."""
    dataset_name: str | None = None
    """Name of the dataset; the output directory's own by default."""
    strict: bool = False
    """Stop at the first bad row or image instead of setting it aside."""
    retry_failed: bool = False
    """Look again for images that were missing or bad."""
    workers: int | None = None
    """Shards written at once; all CPUs of the cluster by default."""

    def __post_init__(self) -> None:
        for name in ("validation_share", "test_share"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}",
                    fix="give a share from 0 up to but not 1",
                )
        for name in ("seed", "split_seed"):
            if not 0 <= getattr(self, name) < 1 << 32:
                raise InputError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}",
                    fix="give a number from 0 to 2^32 - 1",
                )
        if not self.separator:
            raise InputError("--separator is empty", fix="leave it out for |")

    def shard_options(self) -> ShardOptions:
        """The same, as the shard job takes it."""
        return ShardOptions(
            annotations=self.source,
            images=str(self.source),
            output=self.output,
            images_per_shard=self.images_per_shard,
            shorter_side=self.shorter_side,
            quality=self.quality,
            trust_images=self.trust_images,
            seed=self.placement_seed,
            ranks=self.ranks,
            dataset_name=self.dataset_name,
            group_by=self.group_by,
            strict=self.strict,
            retry_failed=self.retry_failed,
            workers=self.workers,
        )
