"""Exported candidates show a machine's confidence, and can be ranked by disagreement with it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.audit import run
from pipeline.audit.candidates import Candidates
from pipeline.audit.inputs import Readers
from pipeline.audit.label_tools import fiftyone
from pipeline.config.commands import AuditConfig
from sharding.classes import ClassTable
from sharding.commands.confidences import reshard_confidences
from sharding.commands.options import ReshardOptions
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.labels import UNOBSERVED
from sharding.layout import CLASSES_FILE
from sharding.manifest import Dataset, Manifest
from tests.support.machine import write_csv

PROBABILITIES = (0.9, 0.8, 0.7, 0.6)
CONFIDENCES = (0.9, 0.0, 0.2, None)


@pytest.fixture
def exported(squares: Path, tmp_path: Path) -> Any:
    """Export four candidates, of three of which a machine has said something; returns their CSV."""
    dataset = shutil.copytree(squares, tmp_path / "dataset")
    opened = Dataset.open(dataset)
    labels = opened.labels("train")
    unobserved = np.argwhere(labels.dense(np.arange(4), 8) == UNOBSERVED)
    rows, classes = unobserved[np.unique(unobserved[:, 0], return_index=True)[1]].T
    probabilities_N = np.array(PROBABILITIES, np.float32)
    found = Candidates(
        epoch=1,
        method="an",
        labels="first",
        images_seen=96,
        unobserved=480,
        modified=0,
        image_ids_N=labels.image_ids_N[rows],
        classes_N=classes.astype(np.uint16),
        losses_N=-np.log1p(-probabilities_N),
        probabilities_N=probabilities_N,
        decisions_N=np.array(["kept"] * 4),
    )
    folder = tmp_path / "runs/first/candidates"
    folder.mkdir(parents=True)
    (folder / "epoch-001.parquet").write_bytes(found.to_parquet(opened.classes))
    trained = {"dataset": str(dataset), "cache": None, "cache_gb": None}
    (folder.parent / "config.json").write_text(json.dumps(trained))
    ids = format_image_ids(found.image_ids_N)
    said = zip(ids, classes.tolist(), CONFIDENCES, strict=True)
    table = [(name, opened.classes.mids[k], c) for name, k, c in said if c is not None]
    machine = write_csv(tmp_path / "machine.csv", table)
    reshard_confidences(ReshardOptions(dataset=str(dataset), confidences=machine))

    def export(**more: Any) -> list[int]:
        """The candidates exported, by their place in the order of losses."""
        output = tmp_path / "export"
        config = AuditConfig(run=str(folder.parent), output=output, sheet=False, **more)
        none: Any = None
        run.run(config, Readers(images=none, credits=none, truth=none))
        lines = (output / "train.csv").read_text().splitlines()[1:]
        return [ids.index(line.split(",")[0]) for line in lines]

    return export


def test_largest_disagreement_comes_first_and_silence_counts_as_none(exported: Any) -> None:
    assert exported() == [0, 1, 2, 3]
    assert exported(confidences="machine") == [0, 1, 2, 3]
    assert exported(confidences="machine", rank="disagreement") == [1, 3, 2, 0]
    assert exported(confidences="machine", rank="disagreement", top=2) == [1, 3]
    with pytest.raises(InputError, match="pass --confidences VERSION"):
        exported(rank="disagreement")
    with pytest.raises(InputError, match="no confidences 'clip'"):
        exported(confidences="clip")


def test_sheet_and_tools_show_what_the_machine_said(
    squares: Path, tmp_path: Path, exported: Any
) -> None:
    classes = Dataset.open(squares).classes
    content = (tmp_path / "runs/first/candidates/epoch-001.parquet").read_bytes()
    found = Candidates.from_parquet(content, "x", classes)
    assert found.confidences_N is None
    assert [name for name, _ in run.questions(found).facts_N[0]] == ["training"]
    table = np.array([np.nan if c is None else c for c in CONFIDENCES], np.float32)
    with_machine = Candidates(**{**vars(found), "confidences_N": table})
    again = Candidates.from_parquet(with_machine.to_parquet(classes), "x", classes)
    np.testing.assert_array_equal(again.confidences_N, table)
    facts_N = run.questions(again).facts_N
    assert facts_N[0][1:] == [("machine", "confidence 0.90")]
    assert facts_N[3][1:] == [("machine", "silent")]
    shown = [label for labels in fiftyone(again, classes)["labels"].values() for label in labels]
    said = [label["attributes"].get("machine_confidence") for label in shown]
    assert sorted(value for value in said if value is not None) == pytest.approx([0.0, 0.2, 0.9])


def test_candidates_of_another_class_list_are_refused_before_anything_is_written(
    tmp_path: Path, exported: Any
) -> None:
    """A class more came into the list; by their indices, rows would name the class before."""
    dataset = tmp_path / "dataset"
    own = Dataset.open(dataset).classes
    for place in (0, 7, 8):
        mids, names = list(own.mids), list(own.names)
        mids.insert(place, "/m/new")
        names.insert(place, "new")
        none_K = np.zeros(9, np.int64)
        longer = ClassTable.build(mids, names, none_K, none_K)
        other = shutil.copytree(dataset, tmp_path / f"dataset-{place}")
        longer.write(other / CLASSES_FILE)
        manifest = Manifest.read(other)
        dataclasses.replace(manifest, classes_sha256=longer.sha256, num_classes=9).write(other)
        if place == 0:
            lists = rf"class \d is /m/\S+ in .*, /m/\S+ in .*{longer.sha256[:12]} \(9 classes"
            for more in ({}, {"top": 1}, {"tools": ("fiftyone",)}):
                with pytest.raises(InputError, match=lists):
                    exported(dataset=str(other), **more)
            assert not (tmp_path / "export").exists()
    assert exported(dataset=str(other)) == [0, 1, 2, 3], "a class behind moves no index"
