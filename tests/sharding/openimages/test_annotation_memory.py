"""The labels of V3's training images, 20.9 million rows, are read in less than 2 GB."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sharding.openimages import csv_reader
from sharding.openimages.annotations import read_split
from sharding.openimages.dump import Dump
from tests.support.dumpmaking import MIDS, write_classes, write_labels

NUMBER = 300_000
PER_ROW = 2e9 / 20.9e6
BLOCK = 1 << 20


@pytest.fixture
def arrow() -> Iterator[pa.MemoryPool]:
    """A pool that has counted nothing yet."""
    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(pool)
    yield pool
    pa.set_memory_pool(usual)


def test_a_row_takes_less_than_its_share(tmp_path: Path, monkeypatch, arrow) -> None:
    # What blocks take does not grow with the rows: small ones, so that it does not hide what does.
    monkeypatch.setattr(csv_reader, "BLOCK_BYTES", BLOCK)
    ids = [f"{key:016x}" for key in np.sort(np.random.default_rng(0).integers(0, 2**63, 50_000))]
    lines = [f"{ids[n // 6]},verification,{MIDS[n % 4]},{n % 2}" for n in range(NUMBER)]
    written = write_labels(tmp_path, {"train": lines, "test": lines[:1]})
    dump = Dump.open(write_classes(written))
    read_split(dump, "test", MIDS)  # what is imported on the way is no row's
    tracemalloc.start()
    labels = read_split(dump, "train", MIDS)
    _, ours = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert labels.report["rows"] == NUMBER
    assert len(labels.table) == len(ids)
    assert ours + arrow.max_memory() < PER_ROW * NUMBER
    assert arrow.max_memory() < 16 * BLOCK
