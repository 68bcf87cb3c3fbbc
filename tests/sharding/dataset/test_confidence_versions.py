"""79 million confidences stream: memory follows the images and the block, not the rows."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sharding.confidences import ConfidenceTable
from sharding.dataset import confidence_versions
from sharding.dataset.confidence_tables import ConfidenceReader
from sharding.dataset.confidence_versions import ConfidenceWriter
from sharding.dataset.members import Members
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.manifest_parts import ShardRecord
from sharding.openimages import csv_reader
from sharding.storage.files import transaction
from tests.support.dumpmaking import MIDS

IDS = np.random.default_rng(0).integers(0, 2**63, 2000).astype(np.uint64)
BLOCK = 1 << 16


def members() -> list[Members]:
    names = ("images/train-000000.tar", "images/train-000001.tar", "images/test-000000.tar")
    parts = zip(names, np.split(IDS, [900, 1800]), strict=True)
    return [Members(shard=_shard(name, len(ids_N)), image_ids_N=ids_N) for name, ids_N in parts]


def _shard(path: str, images: int) -> ShardRecord:
    index = path.replace(".tar", ".idx")
    split = path.split("/")[1].split("-")[0]
    hashes = {"sha256": "", "index_sha256": ""}
    return ShardRecord(path=path, index=index, split=split, images=images, bytes=0, **hashes)


def write(directory: Path, table: Path) -> int:
    """Write a version; return the most memory that it took, Arrow's not counted."""
    reader = ConfidenceReader(table, MIDS)
    tracemalloc.start()
    with transaction(), ConfidenceWriter(directory, members()) as writer:
        for block in reader.blocks():
            writer.add(block.image_ids_E, block.classes_E, block.values_E)
        writer.finish("machine")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def table_of(path: Path, repeats: int) -> Path:
    ids = format_image_ids(np.sort(IDS))
    lines = [
        f"{name},machine,{MIDS[k % 4]},{(k % 97) / 97:.2f}\n"
        for name in ids
        for k in range(repeats)
    ]
    path.write_text("ImageID,Source,LabelName,Confidence\n" + "".join(lines))
    return path


def test_memory_does_not_grow_with_the_rows(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(csv_reader, "BLOCK_BYTES", BLOCK)
    monkeypatch.setattr(confidence_versions, "_ROWS", 50)
    write(tmp_path / "first", table_of(tmp_path / "few.csv", 4))  # what is imported is no row's
    few = write(tmp_path / "few", tmp_path / "few.csv")
    before = pa.total_allocated_bytes()
    many = write(tmp_path / "many", table_of(tmp_path / "many.csv", 24))
    assert many < 1.5 * few
    assert pa.total_allocated_bytes() - before < 4 * BLOCK
    table = ConfidenceTable.read(tmp_path / "many/confidences/machine/train.parquet")
    assert len(table) == 1800
    assert table.image_ids_N.tolist() == IDS[:1800].tolist()
    assert table.fault(len(MIDS)) is None
    # Of the 6 of each class the largest counts.
    largest = [max(k % 97 for k in range(24) if k % 4 == c) / 97 for c in range(4)]
    np.testing.assert_allclose(table.values_E.reshape(-1, 4), [largest] * 1800, atol=0.006)


def test_a_table_with_a_fault_is_told() -> None:
    def fault(classes: list[int], values: list[float]) -> str | None:
        table = ConfidenceTable(
            image_ids_N=np.arange(3, dtype=np.uint64),
            offsets_N1=np.array([0, 2, 2, 4]),
            classes_E=np.array(classes, np.uint16),
            values_E=np.array(values, np.float32),
        )
        return table.fault(4)

    assert fault([0, 3, 1, 2], [0, 1, 0.5, 0.5]) is None
    assert (
        fault([0, 3, 3, 3], [0.5] * 4)
        == "image 0000000000000002 has a class twice, or not in order"
    )
    assert (
        fault([3, 1, 2, 3], [0.5] * 4)
        == "image 0000000000000000 has a class twice, or not in order"
    )
    assert fault([0, 4, 1, 2], [0.5] * 4) == "class 4 of 4"
    for wrong in (1.5, -0.1, float("nan")):
        assert fault([0, 3, 1, 2], [0.5, wrong, 0.5, 0.5]) == "a confidence is not from 0 to 1"


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    writer = ConfidenceWriter(tmp_path, members())
    (tmp_path / "staging").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="cannot be written"):
        writer.add(IDS[:1], np.array([0]), np.array([0.5], np.float32))
