"""Define the options of the dataset jobs; light to import, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sharding.commands.option_checks import refuse_below_one, refuse_ignored
from sharding.errors import InputError
from sharding.storage.retry import RetryPolicy


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """Options of every job that makes a dataset; field docs are its help."""

    output: str
    """Directory of the dataset, or a URL (s3, gs); repeating the command continues an unfinished
    one."""
    scratch: Path | None = None
    """Where the driver keeps small files while the output is a URL, by default the system's
    temporary directory; one that all workers reach where archives have to be unpacked."""
    images_per_shard: int = 4096
    """Most images in a shard; --ranks may ask for more and smaller ones."""
    shorter_side: int | None = None
    """Shrink larger images to this shorter side in pixels; bytes are kept without it."""
    quality: int | None = None
    """JPEG quality of what is encoded anew: 90 when shrinking, else 95 by default."""
    trust_images: bool = False
    """Do not decode images to check them; one bad image then ends every later DALI run."""
    ranks: int = 2
    """Training workers to keep fed: a split gets at least 8 shards for each, however few images
    these hold, down to 64 on average."""
    dataset_name: str | None = None
    """Name of the dataset; the output directory's own by default."""
    group_by: Literal["annotations", "positives"] = "annotations"
    """Training count that cuts the classes into five groups."""
    strict: bool = False
    """Stop at the first bad row or image instead of setting it aside."""
    retry_failed: bool = False
    """Look again for images that were missing or bad."""
    refuse_cross_split_duplicates: bool = False
    """Stop where an image of one split has the bytes of one of another; else they are counted."""
    allow_empty: tuple[Literal["train", "validation", "test"], ...] = ()
    """Splits that may end without any label or image; others are then an error."""
    workers: int | None = None
    """Shards written at once; all CPUs of the cluster by default."""

    def __post_init__(self) -> None:
        for name in ("images_per_shard", "ranks", "workers"):
            refuse_below_one(name, getattr(self, name))


_OF_DUMPS = ("images", "release", "conflict", "machine", "allow_empty")
_IGNORED_WITH = {
    "annotations": ("draw", "splits", "confidences_name"),
    "known": (*_OF_DUMPS, "strict", "confidences_name"),
    "single_positive": (*_OF_DUMPS, "strict", "confidences_name"),
    "hierarchy": (*_OF_DUMPS, "strict", "confidences_name", "draw"),
    "confidences": (*_OF_DUMPS, "draw", "splits", "name", "make_default", "rewrite", "base"),
}
"""Options of re-sharding that mean nothing, by what the labels are made of."""


@dataclass(frozen=True, kw_only=True)
class ShardOptions(DatasetOptions):
    """Options of `jobs/shard_openimages.py`; field docs are its help."""

    annotations: Path
    """Folder of an annotation dump (V3 to V7), plain, .gz or .tar.gz."""
    images: str
    """Folder of <id>.jpg, or of such folders (train, train_0); tar or zip archives (folder,
    file, glob); a URL of either (s3, gs, http); "originals" for the URLs of the dump's image
    lists, or such a list."""
    shard_bytes: int | None = None
    """Bytes of a full shard, by the mean of a sample of each split; takes the place of
    --images-per-shard."""
    rotations: Path | None = None
    """Image list of V4 or later, or a folder of such: its Rotation column turns images upright."""
    max_pixels: int = 80_000_000
    """Images of more pixels are set aside before they are decoded."""
    seed: int = 0
    """Placement seed: the shard of an image is a function of its id and this."""
    release: Literal["v3", "v4", "v5", "v6", "v7"] | None = None
    """Release of the dump; recognised from its files by default."""
    name: Annotated[str | None, tyro.conf.arg(name="labels")] = None
    """Name of the label version; the folder of the dump by default ("2017_11")."""
    conflict: Literal["unobserved", "positive", "negative", "verification"] = "unobserved"
    """What a class becomes where humans disagree about an image."""
    machine: float | None = None
    """Count machine labels of at least this confidence as positives where no human looked; by
    default none."""
    confidences: Path | None = None
    """Machine labels (CSV, Parquet, or what predict wrote) to keep beside the labels, as evidence
    for methods and the audit."""
    confidences_name: str | None = None
    """Name of the version of confidences; that of the table's file or folder by default."""
    retry_failed: bool = False
    """Look again for images that were missing or bad; --images may name another place."""
    fetch: RetryPolicy = field(default_factory=RetryPolicy)
    """How to fetch images over a network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("shard_bytes", "max_pixels"):
            refuse_below_one(name, getattr(self, name))
        if not 0 <= self.seed < 1 << 63:
            raise InputError(f"--seed is {self.seed}", fix="give a number from 0 to 2^63 - 1")
        if self.confidences is None:
            refuse_ignored(self, ("confidences_name",), "without --confidences")

    @property
    def encode_quality(self) -> int:
        """The JPEG quality in force."""
        if self.quality is not None:
            return self.quality
        return 95 if self.shorter_side is None else 90


@dataclass(frozen=True, kw_only=True)
class ReshardOptions:
    """Options of `jobs/reshard_openimages.py`; field docs are its help."""

    dataset: str
    """Directory of a finished dataset, or its URL (s3, gs)."""
    scratch: Path | None = None
    """Where the driver keeps small files while the dataset is at a URL, by default the system's
    temporary directory."""
    annotations: Path | None = None
    """Folder of an annotation dump (V3 to V7) or of one of our own exports."""
    known: float | None = None
    """Instead of a dump: keep this share, such as 0.1, of the known labels of --base, drawn at
    random."""
    single_positive: bool = False
    """Instead of a dump: keep one positive per image of --base, drawn at random, and no
    negative."""
    hierarchy: Path | None = None
    """Instead of a dump: add to --base what this hierarchy (JSON of Open Images) implies, a
    positive's ancestors and a negative's descendants, where there is no label."""
    confidences: Path | None = None
    """Instead of a dump: add these machine labels (CSV, Parquet, or what predict wrote) as
    evidence; labels stay as they are."""
    confidences_name: str | None = None
    """Name of the version of confidences; that of the table's file or folder by default."""
    draw: int = 0
    """Number of the random draw of --known or --single-positive."""
    splits: tuple[Literal["train", "validation", "test"], ...] = ("train",)
    """Splits whose labels --known, --single-positive or --hierarchy derive; others keep theirs."""
    images: str | None = None
    """Where to look for labelled images that have no pixels yet; they get shards of their own."""
    fetch: RetryPolicy = field(default_factory=RetryPolicy)
    """How to fetch images over a network."""
    rewrite: bool = False
    """Write tars that carry the new labels beside the same JPEG bytes; the old ones are removed."""
    make_default: bool = False
    """Train on these labels where no others are named."""
    base: str | None = None
    """Labels that an export is laid over or others are derived from; the dataset's default ones if
    not given."""
    release: Literal["v3", "v4", "v5", "v6", "v7", "export"] | None = None
    """Release of the dump; recognised from its files by default."""
    name: Annotated[str | None, tyro.conf.arg(name="labels")] = None
    """Name of the label version; the folder of the dump by default ("2018_04")."""
    conflict: Literal["unobserved", "positive", "negative", "verification"] = "unobserved"
    """What a class becomes where humans disagree about an image."""
    machine: float | None = None
    """Count machine labels of at least this confidence as positives where no human looked; by
    default none."""
    strict: bool = False
    """Stop at the first bad annotation row or image instead of setting it aside."""
    allow_empty: tuple[Literal["train", "validation", "test"], ...] = ()
    """Splits of a dump that may hold no label; others are then an error."""
    workers: int | None = None
    """Shards written at once; all CPUs of the cluster by default."""

    def __post_init__(self) -> None:
        refuse_below_one("workers", self.workers)
        rules = (self.known, self.single_positive or None, self.hierarchy)
        given = (self.annotations, *rules, self.confidences)
        if sum(source is not None for source in given) != 1:
            raise InputError(
                "what should the labels be made of?",
                fix="pass one of --annotations, --known, --single-positive, --hierarchy and "
                "--confidences",
            )
        if self.known is not None and not 0 < self.known <= 1:
            raise InputError(f"--known is {self.known:g}", fix="give a share, such as 0.1 for 10 %")
        if not 0 <= self.draw < 1 << 63:
            raise InputError(f"--draw is {self.draw}", fix="give a number from 0 to 2^63 - 1")
        for source, ignored in _IGNORED_WITH.items():
            if getattr(self, source):
                refuse_ignored(self, ignored, f"with --{source.replace('_', '-')}")


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """Options of `jobs/verify_dataset.py`; field docs are its help."""

    dataset: str
    """Directory of a finished dataset, or its URL (s3, gs)."""
    scratch: Path | None = None
    """Where the driver keeps small files while the dataset is at a URL, by default the system's
    temporary directory."""
    quick: bool = False
    """Compare the tars' sizes instead of their hashes."""
    repair: bool = False
    """Mend what is broken: indexes, label tables, derived files, and tars if --images is given."""
    images: str | None = None
    """Where the images are, for tars that have to be written again."""
    accept_changed: bool = False
    """Write tars again although their pictures have changed since."""
    fetch: RetryPolicy = field(default_factory=RetryPolicy)
    """How to fetch images over a network."""
    workers: int | None = None
    """Shards checked at once; all CPUs of the cluster by default."""

    def __post_init__(self) -> None:
        refuse_below_one("workers", self.workers)
        if not self.repair:
            refuse_ignored(self, ("images", "accept_changed"), "without --repair")


@dataclass(frozen=True, kw_only=True)
class RemoveOptions:
    """Options of `jobs/remove_images.py`; field docs are its help."""

    dataset: str
    """Directory of a finished dataset, or its URL (s3, gs)."""
    scratch: Path | None = None
    """Where the driver keeps small files while the dataset is at a URL, by default the system's
    temporary directory."""
    ids: tuple[str, ...] = ()
    """Ids of images to take down; of an imported collection the file names, too."""
    file: Path | None = None
    """Text file with one such id in a line."""
    allow_unknown: bool = False
    """Accept ids that the dataset does not have, and keep them out of what is added later."""
    fetch: RetryPolicy = field(default_factory=RetryPolicy)
    """How to reach a bucket."""
    workers: int | None = None
    """Shards written at once; all CPUs of the cluster by default."""

    def __post_init__(self) -> None:
        refuse_below_one("workers", self.workers)
        if not self.ids and self.file is None:
            raise InputError("no image is named", fix="pass --ids ID or --file LIST")


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """Options of `jobs/view_dataset.py`; field docs are its help."""

    dataset: str
    """Directory of a finished dataset, or its URL (s3, gs)."""
    scratch: Path | None = None
    """Where small files are kept while the dataset is at a URL, by default the system's temporary
    directory."""
    output: Path = Path("view.html")
    """HTML file to write; it needs no other file and no network."""
    shard: str | None = None
    """Only images of this shard, such as train-000003."""
    split: Literal["train", "validation", "test"] | None = None
    """Only images of this split."""
    class_name: Annotated[str | None, tyro.conf.arg(name="class")] = None
    """Only images whose label of this class, a name or a MID, is in the state asked for."""
    state: Literal["positive", "negative", "unobserved"] = "positive"
    """State of the class."""
    reason: str | None = None
    """Show what was set aside for a reason with these words instead; "" for all of it."""
    name: Annotated[str | None, tyro.conf.arg(name="labels")] = None
    """Label version to show; the dataset's default one if not given."""
    limit: int = 1000
    """Most images on the page, which stays below 15 MB."""
    fetch: RetryPolicy = field(default_factory=RetryPolicy)
    """How to reach a bucket."""

    def __post_init__(self) -> None:
        refuse_below_one("limit", self.limit)
        if self.reason is not None:
            refuse_ignored(self, ("shard", "class_name", "state", "name"), "with --reason")
        elif self.class_name is None:
            refuse_ignored(self, ("state",), "without --class")
