"""Distributed training on Ray Train, as the driver sees it.

The driver validates everything it can before a worker starts, because a worker's exception is a
failure that Ray retries.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pipeline import methods, storage
from pipeline.cluster import checkpoints, preemption, tasks
from pipeline.cluster.checkpoints import SCORE
from pipeline.config.train import TrainConfig
from pipeline.data.staging import open_dataset
from pipeline.inference import mlflow_model
from pipeline.tracking import client, runs, writer
from pipeline.tracking.run_log import TrainingLog
from pipeline.training import failures, prepare
from pipeline.training.failures import TrainingInterrupted, TrainingStopped
from pipeline.training.progress import shown
from pipeline.training.train_loop import cache_of, train_loop, validate_checkpoint
from sharding.errors import InputError
from sharding.log import info

# Of one call: a storage that only ever takes small files would be tried for ever.
_MOST_OUTAGES = 3


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Where a finished run is.

    Attributes:
        directory: the run's directory (path or URL).
        best: path of the best checkpoint by validation mAP.
        metrics: validation metrics of the last epoch.
        mlflow_run_id: its MLflow run.
    """

    directory: str
    best: str
    metrics: dict[str, float]
    mlflow_run_id: str


def train(config: TrainConfig) -> TrainResult:
    """Train, or continue the run of the same name; call it on a connected driver.

    Raises:
        InputError: the dataset, the configuration or the cluster cannot carry the run.
        TrainingStopped: the loss became NaN or infinite; the last checkpoint is kept.
        TrainingBroken: the training code raises an exception again and again.
        TrainingFailed: too many workers or hosts died; the same call goes on from there.
        TrainingInterrupted: the process got SIGTERM; likewise.
    """
    from ray.train import TrainingFailedError

    if not config.dataset:
        raise InputError("no dataset", fix="pass --dataset DIR (made by jobs/shard_openimages.py)")
    config = dataclasses.replace(
        config,
        dataset=storage.absolute(config.dataset),
        storage=storage.absolute(config.storage),
        method_options=methods.with_absolute_paths(config.method_options),
    )
    dataset = open_dataset(config.dataset, cache_of(config), tars=False)
    directory = storage.join(config.storage, config.run_name)
    config = prepare.with_labels(config, dataset, directory)
    prepare.check(config, dataset)
    use_gpu, cpus = prepare.resources(config)
    resumed = prepare.claim(directory, config)
    run_id = prepare.open_run(config, dataset, directory, resumed)
    spool = str(Path(tempfile.gettempdir()) / f"mlflow-spool-{run_id}.jsonl")
    tracker = cast(
        TrainingLog, tasks.start_actor(writer.RunWriter, client.tracking_uri(), run_id, spool)
    )
    trainer = _trainer(config, run_id=run_id, tracker=tracker, use_gpu=use_gpu, cpus=cpus)
    status = "FAILED"
    try:
        with shown(tracker), preemption.heeding_sigterm(tracker.leave):
            result = _fit(trainer, directory, lambda: prepare.write_again(directory, config))
        left = result.return_value
        if left.not_finite:
            good = checkpoints.last_good(result, directory)
            raise TrainingStopped(f"{left.not_finite}; {good}")
        if left.notice == preemption.STOPPED:
            status = "KILLED"
            raise TrainingInterrupted(f"SIGTERM; repeat the command to go on from {directory}")
        status = "FINISHED"
        with contextlib.suppress(OSError, InputError):  # it does no harm, and the run is done
            checkpoints.mend(directory)
    except (TrainingFailedError, OSError) as error:
        raise failures.of_failure(error, directory) from error
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        if unsent := tasks.answer(tracker.flush(), otherwise="the last"):
            info(
                f"MLflow has not taken {unsent} items; its points are sent when the command is "
                "repeated, its tables, images and files are not",
                "WARNING",
            )
        runs.close_run(run_id, status)
    best = checkpoints.best_of_result(result, directory)
    mlflow_model.log_best(run_id, best, config.log_model)
    return TrainResult(
        directory=directory,
        best=best,
        metrics=dict(result.metrics or {}),
        mlflow_run_id=run_id,
    )


def _fit(trainer: Any, directory: str, write: Callable[[], object]) -> Any:
    """Ray's result, whatever machines are taken away and however often the storage is gone.

    Args:
        trainer: Ray's.
        directory: the run's.
        write: writes a small file to the storage.

    Raises:
        TrainingFailedError, OSError: Ray's, the storage's, where there is no going on.
    """
    from ray.train import TrainingFailedError

    outages = 0
    while True:
        try:
            checkpoints.mend(directory)
            result = trainer.fit()
        except (TrainingFailedError, OSError) as error:
            outages += 1
            if outages > _MOST_OUTAGES or not failures.waited_out(error, write):
                raise
            continue
        if result.return_value.notice != preemption.PREEMPTED:
            return result
        info("a node is to be taken away: saved, going on without it", "WARNING")


def _trainer(
    config: TrainConfig, *, run_id: str, tracker: TrainingLog, use_gpu: bool, cpus: int
) -> Any:
    """Ray's trainer, which finds by itself whether its run is there to go on with."""
    from ray.train import (
        CheckpointConfig,
        FailureConfig,
        LoggingConfig,
        RunConfig,
        ScalingConfig,
        ValidationConfig,
    )
    from ray.train.torch import TorchTrainer

    low, high = config.worker_range
    return TorchTrainer(
        train_loop,
        train_loop_config={
            "config": config.to_dict(),
            "run_id": run_id,
            "tracker": tracker,
            "threads": cpus,
        },
        scaling_config=ScalingConfig(
            num_workers=high if low == high else (low, high),
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cpus, **({"GPU": 1} if use_gpu else {})},
        ),
        validation_config=ValidationConfig(
            functools.partial(
                validate_checkpoint, config=config, tracker=tracker, threads=cpus, use_gpu=use_gpu
            ),
            ray_remote_kwargs={"num_cpus": cpus, "num_gpus": int(use_gpu)},
        ),
        run_config=RunConfig(
            name=config.run_name,
            storage_path=config.storage,
            logging_config=LoggingConfig(log_level="WARNING"),
            # Each minute without a lost host's replacement is a failure of the controller.
            failure_config=FailureConfig(max_failures=3, controller_failure_limit=30),
            checkpoint_config=CheckpointConfig(
                num_to_keep=config.keep_checkpoints,
                checkpoint_score_attribute=SCORE,
                checkpoint_score_order="max",
            ),
        ),
    )
