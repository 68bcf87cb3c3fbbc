"""A table of labels or confidences takes no more memory to open than it has bytes, and a block."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.data.labels import confidences_of, labels_of
from sharding import confidences
from sharding.confidences import Confidences, write_part
from sharding.dataset.label_versions import write_labels
from sharding.labels import LabelTable
from sharding.layout import confidences_path
from sharding.manifest import Dataset
from sharding.manifest_parts import ConfidenceFile, ConfidenceVersion
from sharding.storage.files import sha256_of

N, K = 200_000, 5_000
LABELS, SAID = 6 * N, 9 * N
IMAGE, LABEL, CONFIDENCE = 8 + 8 + 8 + 16, 2 + 1, 2 + 4
"""Bytes: of an image its id, offset, tar and two columns of the index; of an entry its columns."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, squares: Path) -> Dataset:
    """A manifest of N images whose tars nothing reads, their labels and confidences."""
    directory, rng = tmp_path_factory.mktemp("large"), np.random.default_rng(0)
    old = Dataset.open(squares)
    ids_N = np.arange(N, dtype=np.uint64)[::-1].copy()
    mine, said = _entries(LABELS, rng), _entries(SAID, rng)
    (shard, *_) = old.shards("train")
    table = LabelTable.from_entries(
        ids_N, *mine, rng.integers(0, 2, len(mine[0])), [shard.path] * N
    )
    path = confidences_path("machine", "train")
    (directory / path).parent.mkdir(parents=True)
    with pq.ParquetWriter(directory / path, confidences.SCHEMA) as writer:
        for first in range(0, N, 1 << 13):
            inside = (said[0] >= first) & (said[0] < first + (1 << 13))
            rows_E, classes_E = said[0][inside] - first, said[1][inside]
            values_E = np.full(len(rows_E), 0.5, np.float32)
            entries = Confidences(rows_E=rows_E, classes_E=classes_E, values_E=values_E)
            write_part(writer, ids_N[first : first + (1 << 13)], entries)
    file = ConfidenceFile(
        path=path, images=N, entries=len(said[0]), sha256=sha256_of(directory / path)
    )
    _, version = old.label_version()
    splits = {"train": write_labels(directory, "first", "train", table)}
    manifest = dataclasses.replace(
        old.manifest,
        shards=(dataclasses.replace(shard, images=N),),
        labels={"first": dataclasses.replace(version, splits=splits)},
        confidences={"machine": ConfidenceVersion(sources={}, report={}, splits={"train": file})},
    )
    classes = dataclasses.replace(old.classes, **_columns())
    return dataclasses.replace(old, directory=directory, manifest=manifest, classes=classes)


def _columns() -> dict[str, object]:
    zeros_K = np.zeros(K, np.int64)
    mids = [f"/m/0{k:04d}" for k in range(K)]
    groups_K = np.ones(K, np.uint8)
    return {
        "mids": mids,
        "names": mids,
        "positives_K": zeros_K,
        "negatives_K": zeros_K,
        "groups_K": groups_K,
    }


def _entries(number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    keys = np.unique(rng.integers(0, N, number) << 16 | rng.integers(0, K, number))
    return keys >> 16, keys & 0xFFFF


def peak_of(call: Callable[[], object]) -> tuple[int, object]:
    tracemalloc.start()
    made = call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak, made


def test_labels_are_opened_in_their_own_bytes_and_a_block(
    large: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharding.labels._ROWS_AT_ONCE", 1 << 12)
    peak, table = peak_of(lambda: labels_of(large, "train", None))
    assert len(table) == N  # type: ignore[arg-type]
    own = N * IMAGE + LABELS * LABEL
    # While one row group is decoded: here that is the whole file.
    decoding = N * (16 + 8 + 2 * 4 + 2) + LABELS * 5
    assert peak < own + decoding
    assert 20 * peak < N * K


def test_confidences_are_opened_in_their_own_bytes_and_a_block(
    large: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharding.confidences._ROWS_AT_ONCE", 1 << 12)
    labels = labels_of(large, "train", None)
    peak, found = peak_of(lambda: confidences_of(large, "train", "machine", labels))
    table, _ = found  # type: ignore[misc]
    # Ids (of which the labels' then take the place), counts, offsets; an eighth while they grow.
    own = (8 + 4 + 8) * N + CONFIDENCE * len(table.classes_E)
    block = (1 << 13) * 9 * 96
    assert peak < own * 9 / 8 + block
    assert 20 * peak < N * K
