"""Describe a dataset in Croissant 1.1 (`croissant.json`), the metadata that dataset searches read.

Source: the Croissant format 1.1 and its responsible-AI vocabulary 1.0, of MLCommons. What only the
publisher knows (url, creator, datePublished) is left to be added; it stays when a job writes the
file again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sharding.dataset.card import OPEN_IMAGES_TERMS, TERMS, imported_from, pixels_of
from sharding.layout import (
    ATTRIBUTION_FILE,
    ATTRIBUTION_HASH,
    CLASSES_FILE,
    CLASSES_HASH,
    CROISSANT_FILE,
    SPLITS,
)
from sharding.manifest import Manifest
from sharding.manifest_parts import LabelFile
from sharding.storage.files import write_json

COMPARED = ("distribution", "recordSet")
"""Keys that must follow from the manifest; others may be edited."""

_PARQUET, _TAR, _JPEG = "application/x-parquet", "application/x-tar", "image/jpeg"
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_SPLIT_URLS = dict(
    zip(SPLITS, ("cr:TrainingSplit", "cr:ValidationSplit", "cr:TestSplit"), strict=True)
)
_LICENCES = [
    f"https://creativecommons.org/licenses/by/{version}/"
    for version in ("4.0", "2.0")  # of the annotations; of the images, as they are listed
]
_STATES = (
    "A class of an image is positive (+1, a human saw it), negative (0, a human looked and it is "
    "absent) or unobserved (-1, nobody looked). Tables list positives and negatives by the index "
    "of the class; a class in neither list is unobserved, and must not be read as absent."
)
_POSITIVES = "Classes that a human saw in the image."
_NEGATIVES = "Classes that a human looked for in the image and that are absent from it."


def write_croissant(directory: Path, manifest: Manifest) -> None:
    """Write `croissant.json` atomically; keys of an earlier one that are not ours stay."""
    path = directory / CROISSANT_FILE
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        earlier = None
    write_json(path, {**(earlier if isinstance(earlier, dict) else {}), **croissant(manifest)})


def croissant(manifest: Manifest) -> dict[str, Any]:
    """Compose the JSON-LD; paths are relative to the file."""
    imported = imported_from(manifest)
    images = sum(shard.images for shard in manifest.shards)
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": [
            "http://mlcommons.org/croissant/1.1",
            "http://mlcommons.org/croissant/RAI/1.0",
        ],
        "name": manifest.name,
        "description": f"{images:,} images with partial labels of {manifest.num_classes:,} "
        f"classes. {_STATES} {TERMS[imported] if imported else OPEN_IMAGES_TERMS}",
        "license": TERMS[imported] if imported else _LICENCES,
        "version": f"{len(manifest.labels)}.{len(manifest.removed or ())}.0",
        "distribution": [*_tables(manifest), *_tars(manifest)],
        "recordSet": [*_shared_records(manifest), *_records(manifest)],
        **_responsible_ai(manifest),
    }


def _responsible_ai(manifest: Manifest) -> dict[str, Any]:
    file_of = manifest.labels[manifest.default_labels].splits.values()
    images = sum(file.images for file in file_of)
    labels = sum(file.positives + file.negatives for file in file_of)
    machine = {
        f"{name}: machine labels of confidence {version.policy['machine']} count as positives"
        for name, version in manifest.labels.items()
        if version.policy.get("machine") is not None
    }
    removed = len(manifest.removed or ())
    return {
        "rai:dataAnnotationProtocol": _STATES,
        "rai:annotationsPerItem": f"{labels / max(images, 1):.1f} on average "
        f"(labels {manifest.default_labels})",
        "rai:dataCollectionMissingData": "Most classes of an image are unobserved. Labels of "
        "another annotation dump are another label version over the same images.",
        "rai:dataPreprocessingProtocol": pixels_of(manifest),
        "rai:dataLimitations": "A score is defined on annotated entries only: average precision "
        "of a class leaves unobserved images out.",
        "rai:dataBiases": "Which entries were annotated was no random draw; classes with few "
        "annotations are scored on few images, so group 1 of 5 is the least certain.",
        "rai:dataUseCases": "Training and evaluation of multi-label classifiers on partial labels.",
        "rai:personalSensitiveInformation": "Photographs may show people; attribution names "
        f"authors. {removed:,} images were taken down, whose ids dataset.json keeps.",
        "rai:dataReleaseMaintenancePlan": "New annotations are new label versions; older ones "
        "stay. Images are removed on request, from every tar and table.",
        **({"rai:machineAnnotationTools": sorted(machine)} if machine else {}),
    }


def _tables(manifest: Manifest) -> Iterator[dict[str, Any]]:
    side_files = {CLASSES_FILE: CLASSES_HASH, ATTRIBUTION_FILE: ATTRIBUTION_HASH}
    hashes = {name: manifest.created_by.get(key) for name, key in side_files.items()}
    hashes |= {file.path: file.sha256 for _, _, file in _label_files(manifest)}
    for path, digest in hashes.items():
        if digest is not None:
            yield _file(path, _PARQUET, digest)


def _tars(manifest: Manifest) -> Iterator[dict[str, Any]]:
    for shard in manifest.shards:
        yield {**_file(shard.path, _TAR, shard.sha256), "contentSize": f"{shard.bytes} B"}
    for split in _splits(manifest):
        tars = [{"@id": shard.path} for shard in manifest.shards if shard.split == split]
        yield {
            "@type": "cr:FileSet",
            "@id": f"jpegs-{split}",
            "containedIn": tars,
            "encodingFormat": _JPEG,
            "includes": "*.jpg",
        }


def _file(path: str, kind: str, digest: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path,
        "contentUrl": path,
        "encodingFormat": kind,
        "sha256": digest,
    }


def _shared_records(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Describe the splits and, where its hash is known, the class list."""
    yield {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [_field("splits/name", "sc:Text"), _field("splits/url", "sc:URL")],
        "data": [{"splits/name": s, "splits/url": _SPLIT_URLS[s]} for s in _splits(manifest)],
    }
    if CLASSES_HASH in manifest.created_by:
        types = {"index": "sc:Integer", "mid": "sc:Text", "name": "sc:Text", "group": "sc:Integer"}
        fields = [
            _column("classes", CLASSES_FILE, name, data_type) for name, data_type in types.items()
        ]
        yield {
            "@type": "cr:RecordSet",
            "@id": "classes",
            "description": "Classes by index; group 1 to 5 from fewest to most annotations.",
            "key": {"@id": "classes/index"},
            "field": fields,
        }


def _records(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Describe the rows of every label table, and the images of every split."""
    for version, split, file in _label_files(manifest):
        record = f"labels/{version}/{split}"
        # No `references` to the classes: mlcroissant 1.1 would join a list with an integer.
        lists = {"dataType": "sc:Integer", "isArray": True, "arrayShape": "-1"}
        yield {
            "@type": "cr:RecordSet",
            "@id": record,
            "description": _STATES,
            "key": {"@id": f"{record}/image_id"},
            "field": [
                _column(record, file.path, "image_id", "sc:Text"),
                {**_column(record, file.path, "positives", "", _POSITIVES), **lists},
                {**_column(record, file.path, "negatives", "", _NEGATIVES), **lists},
                _column(record, file.path, "shard", "sc:Text", "Tar that holds the image."),
            ],
        }
    for split in _splits(manifest):
        record, files = f"images/{split}", {"fileSet": {"@id": f"jpegs-{split}"}}
        name = {"extract": {"fileProperty": "filename"}, "transform": {"regex": "([^./]+)[.]jpg$"}}
        yield {
            "@type": "cr:RecordSet",
            "@id": record,
            "key": {"@id": f"{record}/image_id"},
            "field": [
                {**_field(f"{record}/image_id", "sc:Text"), "source": {**files, **name}},
                {
                    **_field(f"{record}/image", "sc:ImageObject"),
                    "source": {**files, "extract": {"fileProperty": "content"}},
                },
            ],
        }


def _label_files(manifest: Manifest) -> Iterator[tuple[str, str, LabelFile]]:
    for name, version in sorted(manifest.labels.items()):
        for split in SPLITS:
            if split in version.splits:
                yield name, split, version.splits[split]


def _splits(manifest: Manifest) -> list[str]:
    present = {shard.split for shard in manifest.shards}
    return [split for split in SPLITS if split in present]


def _field(name: str, data_type: str) -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": name, "dataType": data_type}


def _column(
    record: str, path: str, column: str, data_type: str, description: str = ""
) -> dict[str, Any]:
    return {
        **_field(f"{record}/{column}", data_type),
        **({"description": description} if description else {}),
        "source": {"fileObject": {"@id": path}, "extract": {"column": column}},
    }
