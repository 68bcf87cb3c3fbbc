"""A score file holds all that is needed to recompute an evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.evaluation.metrics import average_precision
from pipeline.evaluation.scores import ScoreFile
from sharding.errors import InputError


def scores(size: int = 500) -> ScoreFile:
    rng = np.random.default_rng(0)
    pairs = rng.choice(100 * 9, size, replace=False)
    return ScoreFile(
        # Ids with leading zeros, all digits and the top bit set must survive as text.
        image_ids_E=(pairs // 9).astype(np.uint64) * np.uint64(2**57 + 3),
        classes_E=pairs % 9,
        labels_E=rng.integers(0, 2, size).astype(np.int8),
        raw_E=rng.normal(size=size).astype(np.float32),
        boosted_E=rng.normal(size=size).astype(np.float32),
    )


def test_average_precision_survives_the_round_trip_to_the_last_bit(tmp_path: Path) -> None:
    before = scores()
    before.write(tmp_path / "scores.parquet")
    after = ScoreFile.read(tmp_path / "scores.parquet")
    for boosted in (False, True):
        found = [
            average_precision(j.scores_E, j.labels_E, j.class_ids_E, 9).tobytes()
            for j in (before.judged(boosted=boosted), after.judged(boosted=boosted))
        ]
        assert found[0] == found[1]
    assert set(after.image_ids_E) == set(before.image_ids_E)


def test_bytes_do_not_depend_on_the_order_of_entries(tmp_path: Path) -> None:
    first = scores()
    order = np.random.default_rng(1).permutation(len(first.labels_E))
    second = ScoreFile(**{name: values[order] for name, values in vars(first).items()})
    first.write(tmp_path / "a.parquet")
    second.write(tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="score file is missing"):
        ScoreFile.read(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no parquet")
    pq.write_table(pa.table({"image_id": ["0"]}), tmp_path / "other.parquet")
    for name in ("text", "other"):
        with pytest.raises(InputError, match="not a score file"):
            ScoreFile.read(tmp_path / f"{name}.parquet")
