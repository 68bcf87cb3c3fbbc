"""Every training that a page names runs, if a small one: two epochs of two steps."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from pipeline.cli.model_jobs import _OLD_NAMES, TRAIN_OPTIONS
from pipeline.cli.options import expand
from pipeline.cluster.checkpoints import SCORE
from pipeline.config import precision, presets
from pipeline.training.epoch import run_epoch
from tests.support.models import BACKBONE
from tests.support.training import begun, worker_of
from tests.test_documented_commands import COMMANDS

TRAININGS = sorted(
    {
        command[found.end() :]
        for _, command in COMMANDS
        if (found := re.search(r"(train_openimages\.py|openimages-boostlu train) (-- )?", command))
        # full wants complete labels, and what takes confidences is in test_self_training.py.
        and not re.search("--print-config|--method full|--confidences", command)
    }
)


@pytest.mark.parametrize("options", TRAININGS)
def test_it_trains(options: str, squares: Path, tmp_path: Path) -> None:
    given = options.replace("runs/prior/CHECKPOINT", str(tmp_path / "prior"))
    if "CHECKPOINT" in options:
        train(
            "--preset coco --method p-asl --method-options mode=ignore", squares, tmp_path / "prior"
        )
    train(given, squares, tmp_path / "checkpoint")


def train(options: str, dataset: Path, checkpoint: Path) -> None:
    given = expand(shlex.split(options), TRAIN_OPTIONS, _OLD_NAMES)
    config = precision.settled(presets.parse(given, "").config, None)
    small = dataclasses.replace(
        config,
        dataset=str(dataset),
        labels=None,
        workers="1",
        max_steps=2,
        candidates_per_epoch=0,
        model=dataclasses.replace(config.model, backbone=BACKBONE, weights=None),
        data=dataclasses.replace(config.data, image_size=32, batch_size=16),
    )
    worker = begun(worker_of(small))
    for epoch in (1, 2):
        run_epoch(worker, epoch)
    checkpoint.mkdir()
    worker.save(str(checkpoint), {SCORE: 0.0})
