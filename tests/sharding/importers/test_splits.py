"""Generated single-positive labels and splits equal the reference's, entry by entry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sharding.image_ids import parse_image_ids
from sharding.importers.options import ImportOptions
from sharding.importers.prepare import prepare_import
from sharding.importers.splits import observe, split
from sharding.sources.named import image_id_of
from tests.support.foreign import write_images, write_text


@pytest.mark.shared
@pytest.mark.parametrize(("positives", "negatives"), [(1, 0), (1, 1), (2, 3), (-1, 0)])
def test_labels_equal_the_reference(shared: Path, positives: int, negatives: int) -> None:
    d = np.load(shared / "golden" / "spml_label_gen.npz")
    theirs_NK = d[f"obs_pos{positives}_neg{negatives}"]  # 0 unobserved, -1 negative
    expected_NK = np.select([theirs_NK == 1, theirs_NK == -1], [1, 0], -1)
    np.testing.assert_array_equal(observe(d["full_labels"], positives, negatives), expected_NK)


@pytest.mark.shared
def test_split_equals_the_reference(shared: Path) -> None:
    d = np.load(shared / "golden" / "spml_label_gen.npz")
    train, validation = split(60)
    np.testing.assert_array_equal(train, d["train_idx"])
    np.testing.assert_array_equal(validation, d["val_idx"])
    # The reference subsamples then; at its default share of 1 that keeps everything.
    np.testing.assert_array_equal(train, d["train_idx_after_ss"])
    np.testing.assert_array_equal(validation, d["val_idx_after_ss"])


def test_one_positive_is_kept_and_nothing_invented() -> None:
    complete_NK = np.random.RandomState(0).randint(0, 2, (50, 6)).astype(np.int8)
    observed_NK = observe(complete_NK, 1)
    np.testing.assert_array_equal((observed_NK == 1).sum(1), complete_NK.max(1))
    assert (complete_NK[observed_NK == 1] == 1).all()
    assert not (observed_NK == 0).any()


@pytest.mark.shared
def test_an_import_ends_in_the_references_labels(shared: Path, tmp_path: Path) -> None:
    d = np.load(shared / "golden" / "spml_label_gen.npz")
    labels_NK = d["full_labels"] == 1
    names = [f"{row:02d}.jpg" for row in range(len(labels_NK))]
    concepts = [f"concept{k:02d}" for k in range(labels_NK.shape[1])]
    write_text(tmp_path / "ConceptsList/Concepts81.txt", concepts)
    write_images(tmp_path / "Flickr", names)
    for part in ("train", "val"):
        np.save(tmp_path / f"formatted_{part}_labels.npy", labels_NK)
        renamed = names if part == "train" else [f"test/{name}" for name in names]
        np.save(tmp_path / f"formatted_{part}_images.npy", np.array(renamed))
    job = prepare_import(
        ImportOptions(
            format="nuswide", source=tmp_path, output=tmp_path / "dataset", single_positive=True
        )
    )
    assert job.single_positive is not None
    for split_name, rows, expected_NK in (
        ("train", d["train_idx"], d["obs_pos1_neg0"]),
        ("validation", d["val_idx"], np.where(labels_NK, 1, -1)),
    ):
        table = job.single_positive.splits[split_name].table
        assert len(table) == len(rows)
        ids = parse_image_ids([image_id_of(names[row]) for row in rows])
        found_NK = table.dense(table.rows_of(ids), labels_NK.shape[1])
        theirs_NK = expected_NK[rows]  # 0 unobserved, -1 negative
        np.testing.assert_array_equal(
            found_NK, np.select([theirs_NK == 1, theirs_NK == -1], [1, 0], -1)
        )
