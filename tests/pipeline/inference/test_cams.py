"""Maps of a split are of the same classes of the same images, whatever the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pipeline.data.labels import FirstBatches, LabelledSplit
from pipeline.inference.cams import Explained, explain
from pipeline.models.checkpoint import load_model
from sharding.image_ids import format_image_ids
from sharding.labels import POSITIVE
from sharding.manifest import Dataset
from tests.support.models import SIZE, write_checkpoint


def explained(dataset: Dataset, checkpoint: Path) -> list[Explained]:
    model, _ = load_model(str(checkpoint))
    cpu = torch.device("cpu")
    split = LabelledSplit.open(dataset, "test", None, cpu, image_size=SIZE, threads=1, batch_size=4)
    return list(explain(model, FirstBatches(split), dataset.classes, images=3))


def test_every_model_explains_the_rarest_classes_of_the_same_images(
    squares: Path, tmp_path: Path
) -> None:
    dataset = Dataset.open(squares)
    first, second = (
        explained(dataset, write_checkpoint(tmp_path / str(seed), squares, seed=seed))
        for seed in (0, 1)
    )
    assert [(each.image_id, each.cams.names) for each in first] == [
        (each.image_id, each.cams.names) for each in second
    ]
    assert not np.array_equal(first[0].cams.raw_NPHW, second[0].cams.raw_NPHW)

    table, classes = dataset.labels("test"), dataset.classes
    labels_NK = table.dense(table.rows_of(table.image_ids_N), len(classes))
    labels = dict(zip(format_image_ids(table.image_ids_N), labels_NK == POSITIVE, strict=True))
    assert len(first) == 3
    for each in first:
        (present,) = np.nonzero(labels[each.image_id])
        rarest = sorted(present, key=lambda k: classes.positives_K[k])[:2]
        assert list(each.cams.mids) == [classes.mids[k] for k in rarest]
