"""The log of reading a collection."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sharding.importers.read_log import ReadLog


def test_the_matrix_is_copied_only_without_its_bad_rows(tmp_path: Path) -> None:
    labels_NK = np.arange(6, dtype=np.int8).reshape(3, 2)
    log = ReadLog(tmp_path, strict=False)
    assert log.part("test", ["a.jpg", "b.jpg", "c.jpg"], labels_NK).labels_NK is labels_NK
    part = log.part("train", ["a.jpg", "../b.jpg", "c.jpg"], labels_NK)
    assert part.names == ("a.jpg", "c.jpg")
    assert part.labels_NK.tolist() == [[0, 1], [4, 5]]
    assert [bad.row for bad in part.rejected_rows] == [2]
