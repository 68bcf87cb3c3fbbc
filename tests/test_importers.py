"""Foreign collections: their labels as the papers' preprocessing has them, in our own layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharding.ids import parse_image_ids
from sharding.importers.names import FILE as NAMES_FILE
from sharding.importers.names import Names
from sharding.importers.options import ImportOptions
from sharding.importers.prepare import prepare_import
from sharding.importers.run import import_collection
from sharding.manifest import Dataset
from sharding.verify import verify
from tests import foreign

WRITERS = {
    "voc": foreign.write_voc,
    "coco": foreign.write_coco,
    "nuswide": foreign.write_nuswide,
    "cub": foreign.write_cub,
}
# Classes present by image, as the published preprocessing scripts leave them.
EXPECTED: Mapping[str, Mapping[str, Mapping[str, list[str]]]] = {
    "voc": {
        "train": {"2008_000001.jpg": ["dog", "person"], "2008_000003.jpg": ["aeroplane"]},
        "test": {"2009_000001.jpg": ["sofa"], "2009_000002.jpg": ["sheep"]},
    },
    "coco": {
        "train": {
            "train2014/COCO_train2014_000000000100.jpg": ["person", "toothbrush"],
            "train2014/COCO_train2014_000000000009.jpg": ["person"],
            "train2014/COCO_train2014_000000000099.jpg": ["car"],
        },
        "test": {"val2014/COCO_val2014_000000000042.jpg": ["toothbrush"]},
    },
    "nuswide": {
        "train": {"actor/0001_21.jpg": ["sky"], "zoo/0002_3.jpg": ["animal", "sky"]},
        "test": {"actor/0003_5.jpg": ["animal"]},
    },
    "cub": {
        "train": {
            "001.Albatross/A_1.jpg": ["has_bill_shape::curved"],
            "002.Crow/C_1.jpg": ["has_bill_shape::curved", "has_wing_color::blue"],
            "002.Crow/C_2.jpg": [],
        },
        "test": {"001.Albatross/A_2.jpg": ["has_wing_color::blue"]},
    },
}


def bring_in(options: ImportOptions) -> Dataset:
    import_collection(prepare_import(options), map)
    dataset = Dataset.open(options.output)
    assert verify(dataset, map) == []
    return dataset


def options(name: str, root: Path, **more: Any) -> ImportOptions:
    source = WRITERS[name](root / "source")
    return ImportOptions(format=name, source=source, output=root / "dataset", **more)


def present(dataset: Dataset, split: str, version: str | None = None) -> dict[str, list[str]]:
    """Names of the positive classes by image name."""
    table = dataset.labels(split, version)
    names = Names.read(dataset.directory / NAMES_FILE).by_split[split]
    rows = table.rows_of(parse_image_ids(list(names)))
    labels_NK = table.dense(rows, len(dataset.classes))
    return {
        name: [dataset.classes.names[k] for k in np.flatnonzero(labels_K == 1)]
        for name, labels_K in zip(names.values(), labels_NK, strict=True)
    }


@pytest.mark.parametrize("name", WRITERS)
def test_the_labels_are_those_of_the_published_preprocessing(name: str, tmp_path: Path) -> None:
    dataset = bring_in(options(name, tmp_path, validation_share=0.0))
    assert set(dataset.manifest.labels) == {"complete"}
    for split, expected in EXPECTED[name].items():
        assert present(dataset, split) == expected
        table = dataset.labels(split)
        assert len(table.states_E) == len(expected) * len(dataset.classes)
