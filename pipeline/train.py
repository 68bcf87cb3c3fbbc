"""Distributed training on Ray Train: the driver's side and every worker's.

This is the package's only importer of `ray.train`. The driver validates everything it can before
a worker starts, because a worker's exception is a failure that Ray retries.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline import (
    bestcheckpoint,
    checkpoint,
    cluster,
    launch,
    loggedmodel,
    machine,
    methods,
    notice,
    storage,
    tracking,
)
from pipeline.config import TrainConfig
from pipeline.loop import LeftEarly, NonFiniteLoss
from pipeline.staging import Cache, open_dataset
from pipeline.validation import SCORE, Validator
from pipeline.watch import shown
from pipeline.worker import UNSCORED, Worker
from sharding.errors import InputError


class TrainingStopped(RuntimeError):
    """Training ended early by its own decision (a loss that is not finite)."""

    exit_code = 3


class TrainingFailed(RuntimeError):
    """Workers or hosts died more often than Ray was told to start them again."""

    exit_code = os.EX_TEMPFAIL


class TrainingInterrupted(RuntimeError):
    """SIGTERM ended training after a checkpoint of its last step."""

    exit_code = os.EX_TEMPFAIL


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
        TrainingFailed: too many workers or hosts died; the same call goes on from there.
        TrainingInterrupted: the process got SIGTERM; likewise.
    """
    from ray.train import (
        CheckpointConfig,
        FailureConfig,
        LoggingConfig,
        RunConfig,
        ScalingConfig,
        TrainingFailedError,
        ValidationConfig,
    )
    from ray.train.torch import TorchTrainer

    if not config.dataset:
        raise InputError("no dataset", fix="pass --dataset DIR (made by jobs/shard_openimages.py)")
    config = dataclasses.replace(
        config,
        dataset=storage.absolute(config.dataset),
        storage=storage.absolute(config.storage),
        method_options=methods.with_absolute_paths(config.method_options),
    )
    dataset = open_dataset(config.dataset, _cache(config), tars=False)
    launch.check(config, dataset)
    use_gpu, cpus = launch.resources(config)
    directory = storage.join(config.storage, config.run_name)
    resumed = launch.claim(directory, config)
    run_id = launch.open_run(config, dataset, directory, resumed)
    tracker = cluster.start_actor(
        tracking.Tracker,
        tracking.tracking_uri(),
        run_id,
        str(Path(tempfile.gettempdir()) / f"mlflow-spool-{run_id}.jsonl"),
    )
    low, high = config.worker_range
    trainer = TorchTrainer(
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
    status = "FAILED"
    try:
        with shown(tracker), notice.heeding_sigterm(tracker.leave):
            result = trainer.fit()
            while result.return_value == notice.PREEMPTED:
                print("a node is to be taken away: saved, going on without it", flush=True)
                result = trainer.fit()
        reason = cluster.wait_for(tracker.state())[1]
        if reason:
            raise TrainingStopped(f"{reason}; the last good checkpoint is in {directory}")
        if result.return_value == notice.STOPPED:
            status = "KILLED"
            raise TrainingInterrupted(f"SIGTERM; repeat the command to go on from {directory}")
        status = "FINISHED"
    except TrainingFailedError as error:
        raise _failure(error, directory) from error
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        unsent = cluster.wait_for(tracker.flush())
        if unsent:
            print(f"MLflow has not taken {unsent} items; repeat the command to replay them")
        tracking.close_run(run_id, status)
    best = bestcheckpoint.of_result(result, directory)
    loggedmodel.log_best(run_id, best, config.log_model)
    return TrainResult(
        directory=directory,
        best=best,
        metrics=dict(result.metrics or {}),
        mlflow_run_id=run_id,
    )


def train_loop(settings: dict[str, Any]) -> str | None:
    """What every worker runs; ``settings`` as made by `train`.

    Returns:
        Why it left early (`pipeline.notice`), if it did.
    """
    import ray.train
    import ray.train.torch

    config = TrainConfig.from_dict(settings["config"])
    torch.set_num_threads(settings["threads"])
    context = ray.train.get_context()
    worker = Worker(
        config=config,
        dataset=open_dataset(config.dataset, _cache(config)),
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=ray.train.torch.get_device(),
        threads=settings["threads"],
        tracker=settings["tracker"],
        run_id=settings["run_id"],
    )
    model: torch.nn.Module = worker.model
    if config.parallel == "ddp":  # Ray leaves fully_shard to us
        model = ray.train.torch.prepare_model(model)
    latest = ray.train.get_checkpoint()
    with latest.as_directory() if latest else contextlib.nullcontext() as directory:
        worker.begin(model, directory)
    noticed = notice.Notice(
        rank=worker.rank,
        device=worker.device,
        stopping=notice.Question(worker.tracker.leaving),
        drained=lambda: ray.train.get_preemption_info() is not None,
    )
    watched = machine.watched(
        worker.tracker.machine, context.get_node_rank(), context.get_local_rank()
    )
    with watched, contextlib.suppress(NonFiniteLoss, LeftEarly):
        for epoch in range(worker.epoch + 1, config.epochs + 1):
            worker.train(
                epoch, on_pause=lambda: _report(worker, {SCORE: UNSCORED}), leaving=noticed
            )
            if config.async_validation:
                _report(worker, {"epoch": float(epoch), SCORE: UNSCORED}, validate=True)
            else:
                _report(worker, worker.validate())
    return noticed.reason


def validate_checkpoint(
    saved: Any, *, config: TrainConfig, tracker: Any, threads: int, use_gpu: bool
) -> dict[str, float]:
    """Metrics of a checkpoint, computed by one task while training goes on."""
    torch.set_num_threads(threads)
    device = torch.device("cuda", 0) if use_gpu else torch.device("cpu")
    with saved.as_directory() as directory:
        model, meta = checkpoint.load_model(directory)
    validator = Validator(
        config=config,
        dataset=open_dataset(config.dataset, _cache(config)),
        device=device,
        threads=threads,
        tracker=tracker,
        shown=False,
    )
    return validator(model.to(device), epoch=meta.epoch, images_seen=meta.images_seen)


def _report(worker: Worker, metrics: dict[str, float], *, validate: bool = False) -> None:
    """Hand a checkpoint to Ray, which uploads (and validates) it while training goes on."""
    import ray.train

    # Ray removes the directory after the upload.
    directory = tempfile.mkdtemp(prefix="checkpoint-") if worker.has_part_of_checkpoint else None
    worker.save(directory, metrics)
    saved = ray.train.Checkpoint.from_directory(directory) if directory else None
    ray.train.report(
        metrics,
        checkpoint=saved,
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
        validation=validate and saved is not None,
    )


def _cache(config: TrainConfig) -> Cache:
    return Cache(directory=Path(config.cache), most_bytes=int(config.cache_gb * 1e9))


def _failure(error: Exception, directory: str) -> Exception:
    """What to tell of a failure that Ray gave up on: bad input, if that is what it was."""
    causes = list(getattr(error, "worker_failures", {}).values())
    for cause in causes:
        while cause is not None:
            if isinstance(cause, InputError):
                return cause
            cause = getattr(cause, "cause", None) or cause.__cause__
    reason = str(causes[0] if causes else error).strip().splitlines()[-1]
    return TrainingFailed(f"{reason}; repeat the command to go on from {directory}")
