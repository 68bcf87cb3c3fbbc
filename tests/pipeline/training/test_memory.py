"""A worker does not grow from epoch to epoch."""

from __future__ import annotations

import gc
from pathlib import Path

from pipeline.data.labels import LabelledSplit
from pipeline.evaluation.scores import score
from pipeline.training.epoch import run_epoch
from tests.support.memory import memory_of
from tests.support.training import CPU, begun, worker_for

EPOCHS = 20


class Forgetful:
    """A `TrainingLog` that keeps nothing, which would grow."""

    def __getattr__(self, name: str):
        return lambda *arguments: None


def test_twenty_epochs_take_no_more_memory_than_two(squares: Path, tmp_path: Path) -> None:
    worker = begun(
        worker_for(
            squares,
            "ll-r",
            optimizer={"epochs": EPOCHS},
            candidates_per_epoch=100,
            storage=str(tmp_path),
        )
    )
    worker.run_log = worker.logger._run_log = Forgetful()
    options = {"image_size": 32, "batch_size": 32}
    validation = LabelledSplit.open(worker.dataset, "validation", None, CPU, **options)
    after = []
    for epoch in range(1, EPOCHS + 1):
        run_epoch(worker, epoch)
        score(worker.state.model, validation)
        gc.collect()
        after.append(memory_of("VmRSS"))
    assert worker.epoch == EPOCHS
    assert after[-1] <= 1.02 * after[1], [round(size / 1e6) for size in after]
