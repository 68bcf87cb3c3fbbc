"""Distributed training on Ray Train: the driver's side and every worker's.

This is the package's only importer of `ray.train`. The driver validates everything it can before
a worker starts, because a worker's exception is a failure that Ray retries.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline import cluster, methods, storage, tracking
from pipeline import model as models
from pipeline.config import TrainConfig, differences, parse_options
from pipeline.loader import Loader
from pipeline.loop import NonFiniteLoss
from pipeline.validation import SCORE, VALIDATION
from pipeline.watch import shown
from pipeline.worker import WITHIN_EPOCH, Worker
from sharding.errors import InputError
from sharding.manifest import Dataset


class TrainingStopped(RuntimeError):
    """Training ended early by its own decision (a loss that is not finite)."""


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
    """
    from ray.train import (
        CheckpointConfig,
        FailureConfig,
        LoggingConfig,
        RunConfig,
        ScalingConfig,
    )
    from ray.train.torch import TorchTrainer

    if not config.dataset:
        raise InputError("no dataset", fix="pass --dataset DIR (made by jobs/shard_openimages.py)")
    config = dataclasses.replace(
        config,
        dataset=storage.absolute(config.dataset),
        storage=storage.absolute(config.storage),
    )
    dataset = Dataset.open(config.dataset)
    _check(config, dataset)
    use_gpu, cpus = _resources(config)
    directory = storage.join(config.storage, config.run_name)
    resumed = _claim(directory, config)
    run_id = _open_run(config, dataset, directory, resumed)
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
        run_config=RunConfig(
            name=config.run_name,
            storage_path=config.storage,
            logging_config=LoggingConfig(log_level="WARNING"),
            failure_config=FailureConfig(max_failures=3, controller_failure_limit=3),
            checkpoint_config=CheckpointConfig(
                num_to_keep=config.keep_checkpoints,
                checkpoint_score_attribute=SCORE,
                checkpoint_score_order="max",
            ),
        ),
    )
    status = "FAILED"
    try:
        with shown(tracker):
            result = trainer.fit()
        reason = cluster.wait_for(tracker.state())[1]
        if reason:
            raise TrainingStopped(f"{reason}; the last good checkpoint is in {directory}")
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        unsent = cluster.wait_for(tracker.flush())
        if unsent:
            print(f"MLflow has not taken {unsent} items; repeat the command to replay them")
        tracking.close_run(run_id, status)
    return TrainResult(
        directory=directory,
        best=_best(result),
        metrics=dict(result.metrics or {}),
        mlflow_run_id=run_id,
    )


def best_checkpoint(location: str) -> str:
    """The checkpoint a user means: a checkpoint directory itself, or a run's best one.

    Raises:
        InputError: neither.
    """
    from ray.train import Result

    path = storage.absolute(location)
    if storage.exists(storage.join(path, "meta.json")):
        return path
    if not storage.exists(storage.join(path, "checkpoint_manager_snapshot.json")):
        raise InputError(
            "neither a checkpoint nor a run that has one",
            file=location,
            fix="pass runs/<name>, or one of the checkpoint_* directories in it",
        )
    return _best(Result.from_path(path))


def train_loop(settings: dict[str, Any]) -> None:
    """What every worker runs; ``settings`` as made by `train`."""
    import ray.train
    import ray.train.torch

    config = TrainConfig.from_dict(settings["config"])
    torch.set_num_threads(settings["threads"])
    context = ray.train.get_context()
    worker = Worker(
        config=config,
        dataset=Dataset.open(config.dataset),
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=ray.train.torch.get_device(),
        threads=settings["threads"],
        tracker=settings["tracker"],
        run_id=settings["run_id"],
    )
    if config.model.sync_batchnorm and worker.device.type == "cuda":
        worker.model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(worker.model)
    model = ray.train.torch.prepare_model(worker.model)
    latest = ray.train.get_checkpoint()
    with latest.as_directory() if latest else contextlib.nullcontext() as directory:
        worker.begin(model, directory)
    with contextlib.suppress(NonFiniteLoss):
        for epoch in range(worker.epoch + 1, config.epochs + 1):
            worker.train(epoch, on_pause=lambda: _report(worker, {SCORE: WITHIN_EPOCH}))
            _report(worker, worker.validate())


def _report(worker: Worker, metrics: dict[str, float]) -> None:
    """Hand a checkpoint to Ray, which uploads it while training goes on."""
    import ray.train

    saved = None
    if worker.has_part_of_checkpoint:
        directory = tempfile.mkdtemp(prefix="checkpoint-")  # Ray removes it after the upload
        worker.save(directory, metrics)
        saved = ray.train.Checkpoint.from_directory(directory)
    mode = ray.train.CheckpointUploadMode.ASYNC
    ray.train.report(metrics, checkpoint=saved, checkpoint_upload_mode=mode)


def _check(config: TrainConfig, dataset: Dataset) -> None:
    """Fail here, on the driver, for whatever would fail on every worker."""
    dataset.labels("train", config.labels)
    Loader.of_split(dataset, "train", batch_size=1, image_size=1)
    methods.create(config.method, len(dataset.classes), **parse_options(config.method_options))
    models.build(config.model, 1)


def _resources(config: TrainConfig) -> tuple[bool, int]:
    """(use GPUs, CPUs per worker); Ray would wait for ever for what is not there."""
    fewest, most = config.worker_range
    total_cpus, total_gpus = cluster.resources()
    cpus = config.cpus_per_worker or max(1, total_cpus // most)
    needs = [("CPU", fewest * cpus, total_cpus)]
    if total_gpus:
        needs.append(("GPU", fewest, total_gpus))
    for kind, need, present in needs:
        if present < need:
            raise InputError(
                f"{fewest} workers need {need} {kind}s, the cluster has {present}",
                fix="lower --workers or --cpus-per-worker, or add machines",
            )
    return total_gpus > 0, cpus


def _claim(directory: str, config: TrainConfig) -> bool:
    """Write the run's configuration, or check that it is the one already there.

    Returns:
        Whether the run existed.

    Raises:
        InputError: a run of this name with another configuration.
    """
    location = storage.join(directory, "config.json")
    stored = storage.read_json(location)
    if stored is not None:
        changed = differences(TrainConfig.from_dict(stored), config)
        if changed:
            told = ", ".join(f"{key} was {old}, is {new}" for key, (old, new) in changed.items())
            raise InputError(
                f"run {config.run_name!r} exists with another configuration ({told})",
                file=location,
                fix="repeat the first command to resume, or choose another --name",
            )
    storage.write_json(location, config.to_dict())
    return stored is not None


def _open_run(config: TrainConfig, dataset: Dataset, directory: str, resumed: bool) -> str:
    labels, version = dataset.label_version(config.labels)
    return tracking.open_run(
        experiment=config.experiment,
        name=config.run_name,
        key=directory,
        resume=resumed,
        params={**config.flat(), "labels": labels, "num_classes": len(dataset.classes)},
        tags={
            "code_hash": cluster.code_hash(),
            "dataset_digest": dataset.digest,
            "classes_sha256": dataset.classes.sha256,
            "mlflow.source.name": "jobs/train_openimages.py",
            "mlflow.source.type": "JOB",
        },
        config=config.to_dict(),
        inputs=[
            (split, str(dataset.directory / file.path), file.sha256)
            for split, file in version.splits.items()
            if split in ("train", VALIDATION)
        ],
    )


def _best(result: Any) -> str:
    best = result.get_best_checkpoint(SCORE, "max") or result.checkpoint
    if best is None:
        raise InputError("the run has no checkpoint yet", file=str(result.path), fix="train first")
    return str(best.path)
