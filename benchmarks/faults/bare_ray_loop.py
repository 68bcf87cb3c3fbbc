"""Train next to nothing with Ray Train, for comparison with what our training does besides.

Two workers, DDP over one small layer, a checkpoint reported asynchronously after every step, and
the same settings for failures as our training. It reads no images. `benchmarks.faults.kills` and
`benchmarks.common.startup` run this file by its path, in a directory of their own.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

FIRST_STEP = "the first step is done"


def loop(settings: dict[str, Any]) -> None:
    """Step and report, from the last checkpoint on."""
    import ray.train
    import ray.train.torch

    model = ray.train.torch.prepare_model(torch.nn.Linear(8, 8))
    done, latest = 0, ray.train.get_checkpoint()
    if latest:
        done = json.loads((Path(latest.path) / "meta.json").read_text())["step"]
    for step in range(done + 1, settings["steps"] + 1):
        time.sleep(settings["seconds"])
        model(torch.zeros(1, 8)).sum().backward()
        if step == 1:
            print(FIRST_STEP, flush=True)
        saved = None
        if ray.train.get_context().get_world_rank() == 0:
            directory = tempfile.mkdtemp(prefix="checkpoint-")
            Path(directory, "meta.json").write_text(json.dumps({"epoch": 0, "step": step}))
            saved = ray.train.Checkpoint.from_directory(directory)
        ray.train.report(
            {}, checkpoint=saved, checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC
        )


def main(storage: str, name: str, steps: str, seconds: str) -> None:
    """Run the loop in a local Ray; the command line gives these arguments."""
    from pipeline.cluster import session

    session.connect("local")
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    TorchTrainer(
        loop,
        train_loop_config={"steps": int(steps), "seconds": float(seconds)},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(
            name=name,
            storage_path=os.path.abspath(storage),
            logging_config=LoggingConfig(log_level="WARNING"),
            failure_config=FailureConfig(max_failures=3, controller_failure_limit=30),
        ),
    ).fit()


if __name__ == "__main__":
    main(*sys.argv[1:])
