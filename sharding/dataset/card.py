"""Write the dataset card, `README.md`, as people and the Hugging Face hub read it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sharding.classes import NUM_GROUPS, ClassTable
from sharding.layout import (
    ATTRIBUTION_FILE,
    ATTRIBUTION_HASH,
    CARD_FILE,
    CLASSES_FILE,
    GROUPS_OF,
    LABELS_CARD_FILE,
    LABELS_FOLDER,
    SPLITS,
)
from sharding.log import count
from sharding.manifest import Manifest
from sharding.manifest_parts import LabelVersion
from sharding.openimages.image_lists import LICENSE
from sharding.storage.files import replacing

OPEN_IMAGES_TERMS = """\
Annotations of Open Images are licensed by Google LLC under CC BY 4.0. The images are listed there
as CC BY 2.0; Google makes no warranty of that, so verify the licence of an image before you use
it."""

_LISTED = """\
Licence, author and landing page of each image stand in the image list of its dump (`License`,
`Author`, `OriginalLandingURL`), joined by `ImageID`, which is the name of the image here:
attribution is owed to those authors."""

_ATTRIBUTED = f"""\
Licence, author, title and landing page of each image that the annotations named when this dataset
was made stand in `{ATTRIBUTION_FILE}`; those of images that came later in the image list of their
dump. Attribution is owed to those authors."""

_READING = """\
## Reading

A shard is a plain tar of `<id>.jpg` and `<id>.json`; the `.json` names the positive and the
verified negative classes by their index in `classes.parquet`, as they were when the shard was
written. The label tables under `labels/` are the truth; classes in neither list are unobserved.

```python
import webdataset
samples = webdataset.WebDataset("images/train-000000.tar").decode("pil")
```

```python
import datasets
images = datasets.load_dataset(DIRECTORY)
labels = datasets.load_dataset(f"{DIRECTORY}/labels", "<version>")
labels = datasets.load_dataset("user/name", data_dir="labels/<version>")  # of the hub
```

`datasets` reads all configurations of a card by the reader of the first, so that label tables have
a card in their folder; rows without a shard are of images that no tar holds.
`croissant.json` describes tars and tables for `mlcroissant`.
"""

_FEATURES = """\
dataset_info:
- config_name: default
  features:
  - name: jpg
    dtype: image
  - name: json
    struct:
    - name: image_id
      dtype: string
    - name: negatives
      sequence: int64
    - name: positives
      sequence: int64
  - name: __key__
    dtype: string
  - name: __url__
    dtype: string
"""

_NO_MARKUP = str.maketrans({"|": "/", "`": "'", "<": "&lt;"})

_VERIFY = "Verify the licence of an image before you use it."

TERMS = {
    "voc": "PASCAL VOC: the images were taken from flickr and fall under its terms of "
    "use; the annotations are of the University of Oxford and others. Cite Everingham et al.",
    "coco": "MS COCO: the annotations are licensed by the COCO Consortium under CC BY 4.0. "
    f"The images were taken from Flickr, under the licence that each was published with. {_VERIFY}",
    "nuswide": "NUS-WIDE: the annotations are of the National University of Singapore, for "
    f"research. The images were taken from Flickr, under its terms of use. {_VERIFY}",
    "cub": "CUB-200-2011: of Caltech, for non-commercial research and education. Caltech does "
    f"not own the copyright of the images. {_VERIFY}",
    "csv": "This collection was imported from a folder and a CSV, which say nothing about their "
    f"licence. {_VERIFY}",
}
"""Terms of imported collections, by the release of their label version without its year."""


def write_card(directory: Path, manifest: Manifest, classes: ClassTable) -> None:
    """Write `README.md`, and that of the label tables; equal datasets get equal cards."""
    for name, text in (
        (CARD_FILE, card(manifest, classes)),
        (LABELS_CARD_FILE, labels_card(manifest)),
    ):
        with replacing(directory / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def card(manifest: Manifest, classes: ClassTable) -> str:
    """Compose the card's text."""
    images = sum(shard.images for shard in manifest.shards)
    size = sum(shard.bytes for shard in manifest.shards) / 1e9
    parts = [
        _header(manifest),
        f"# {_plain(manifest.name)}",
        f"{count(images, 'image')} with partial labels of {count(len(classes), 'class')} in "
        f"{count(len(manifest.shards), 'shard')} ({size:,.2f} GB). {pixels_of(manifest)}",
        "## Labels",
        *(_labels(name, version, manifest) for name, version in sorted(manifest.labels.items())),
        *_confidences(manifest),
        "## Class groups",
        _groups(classes, manifest.created_by.get(GROUPS_OF, "training")),
        _READING.rstrip(),
        "## Terms",
        *_terms(manifest),
        *_removed(manifest),
    ]
    return "\n\n".join(parts) + "\n"


def labels_card(manifest: Manifest) -> str:
    """Compose the card of the label tables: for `datasets` a configuration of each version."""
    lines = ["configs:"]
    for name, version in sorted(manifest.labels.items()):
        lines.append(f'- config_name: "{name}"')  # 2017_11 is a number of YAML
        lines += ["  default: true"] * (name == manifest.default_labels)
        lines.append("  data_files:")
        for split, table in ((s, version.splits[s]) for s in SPLITS if s in version.splits):
            lines += [f"  - split: {split}", "    path:"]
            for file in filter(None, (table, table.without_pixels)):
                lines.append(f'    - "{file.path.removeprefix(f"{LABELS_FOLDER}/")}"')
    header = "\n".join(["---", *lines, "---"])
    title = f"# Labels of {_plain(manifest.name)}"
    what = "Positive and verified negative classes of each image, by their index in "
    return f"{header}\n\n{title}\n\n{what}`../{CLASSES_FILE}`; others are unobserved.\n"


def _header(manifest: Manifest) -> str:
    """Write the front matter that the Hugging Face hub and its `datasets` read.

    `datasets` would infer the types of a shard from its first five samples, and fail later where
    the lists of those are empty; so the types are given.
    """
    files = "\n".join(
        f"  - split: {split}\n    path: images/{split}-*.tar"
        for split in SPLITS
        if any(shard.split == split for shard in manifest.shards)
    )
    licence = "cc-by-4.0" if imported_from(manifest) is None else "other"
    return (
        f"---\nlicense: {licence}\ntask_categories:\n- image-classification\ntags:\n"
        "- multi-label\n- partial-labels\n- webdataset\nconfigs:\n- config_name: default\n"
        f"  data_files:\n{files}\n{_FEATURES}---"
    )


def pixels_of(manifest: Manifest) -> str:
    """Say what was done to the pixels."""
    side, quality = (manifest.treatment.get(key) for key in ("shorter_side", "quality"))
    if side is None:
        return f"JPEG bytes are the source's; what needed conversion was encoded at {quality}."
    return f"Larger images were shrunk to a shorter side of {side} px, JPEG quality {quality}."


def _labels(name: str, version: LabelVersion, manifest: Manifest) -> str:
    default = " (default)" if name == manifest.default_labels else ""
    columns = ("split", "images", "positive", "negative", "labelled images without pixels")
    rows = [
        (split, file.images, file.positives, file.negatives, file.images_without_pixels)
        for split, file in ((s, version.splits[s]) for s in SPLITS if s in version.splits)
    ]
    parts = [f"### {name}{default}, release {_plain(version.release)}", _table(columns, rows)]
    if version.sources:
        sources = sorted(version.sources.items())
        hashes = "\n".join(f"- `{_plain(file)}` `{_plain(digest)}`" for file, digest in sources)
        parts += ["Read from files of these SHA-256:", hashes]
    return "\n\n".join(parts)


def _confidences(manifest: Manifest) -> Iterator[str]:
    """List the versions of confidences, where there are any."""
    versions = sorted((manifest.confidences or {}).items())
    if versions:
        yield "## Machine confidences"
        yield "Evidence in `confidences/<version>`, beside the labels: nobody verified it."
        yield _table(
            ("version", *(f"{split} confidences" for split in SPLITS)),
            [
                (name, *(v.splits[s].entries if s in v.splits else 0 for s in SPLITS))
                for name, v in versions
            ],
        )


def _groups(classes: ClassTable, splits: str) -> str:
    counts_K = classes.grouped_counts_K
    counted = "human-verified annotations" if classes.group_by == "annotations" else "positives"
    columns = ("group", "classes", f"{classes.group_by} per class", "positive", "negative")
    rows = []
    for group in range(1, NUM_GROUPS + 1):
        is_in_K = classes.groups_K == group
        if is_in_K.any():
            span = f"{int(counts_K[is_in_K].min()):,} to {int(counts_K[is_in_K].max()):,}"
            labels = (int(n_K[is_in_K].sum()) for n_K in (classes.positives_K, classes.negatives_K))
            rows.append((group, int(is_in_K.sum()), span, *labels))
    text = f"Classes in ascending order of {counted} in the {splits} dump, cut in five:"
    return f"{text}\n\n{_table(columns, rows)}"


def _terms(manifest: Manifest) -> list[str]:
    imported = imported_from(manifest)
    if imported is not None:
        return [TERMS[imported]]
    attribution = _ATTRIBUTED if ATTRIBUTION_HASH in manifest.created_by else _LISTED
    return [OPEN_IMAGES_TERMS, *_licences(manifest), attribution]


def _removed(manifest: Manifest) -> list[str]:
    removed = count(len(manifest.removed or ()), "image")
    kept_out = f"{removed} taken down; `removed` in `dataset.json` keeps the ids out."
    return ["## Taken down", kept_out] if manifest.removed else []


def imported_from(manifest: Manifest) -> str | None:
    """Name the imported collection; None for a dataset made of Open Images."""
    releases = (version.release.rstrip("0123456789") for version in manifest.labels.values())
    return next((release for release in releases if release in TERMS), None)


def _licences(manifest: Manifest) -> Iterator[str]:
    """Count labelled images by licence and split, for the label versions that know."""
    for name, version in sorted(manifest.labels.items()):
        splits = [split for split in SPLITS if split in version.splits]
        counts: dict[str, dict[str, int]] = {}
        for split in splits:
            for key, number in version.report.get(split, {}).items():
                if key.startswith(LICENSE):
                    counts.setdefault(key.removeprefix(LICENSE), {})[split] = number
        if counts:
            rows = [
                (_plain(licence), *(n.get(s, 0) for s in splits))
                for licence, n in sorted(counts.items())
            ]
            yield f"Licences of the images that `{name}` labels, as its image lists say:"
            yield _table(("licence", *splits), rows)


def _plain(text: str) -> str:
    """Take the Markdown and the markup out of a text that may be from anybody."""
    return " ".join(text.split()).translate(_NO_MARKUP)


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a Markdown table."""
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        cells = (f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
