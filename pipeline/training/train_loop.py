"""Distributed training on Ray Train, as every worker sees it, and the validation beside it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline import storage
from pipeline.cluster import preemption
from pipeline.cluster.checkpoints import SCORE, UNSCORED
from pipeline.config.train import TrainConfig
from pipeline.data.staging import Cache, open_dataset
from pipeline.data.unreadable import LeftOut
from pipeline.models import checkpoint
from pipeline.tracking import system_metrics
from pipeline.tracking.run_log import TrainingLog
from pipeline.training.failures import Left
from pipeline.training.loop import LeftEarly, NonFiniteLoss
from pipeline.training.validation import Validator
from pipeline.training.worker import Worker
from sharding.storage import locks


def train_loop(settings: dict[str, Any]) -> Left:
    """What every worker runs; ``settings`` as made by `train`."""
    import ray.train
    import ray.train.torch

    config = TrainConfig.from_dict(settings["config"])
    torch.set_num_threads(settings["threads"])
    context = ray.train.get_context()
    worker = Worker(
        config=config,
        dataset=open_dataset(config.dataset, cache_of(config)),
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
    with (
        storage.storage_errors(),
        latest.as_directory() if latest else contextlib.nullcontext() as directory,
    ):
        if directory and not storage.exists(storage.join(directory, "meta.json")):
            raise FileNotFoundError(directory)  # it was there when the driver looked
        worker.begin(model, directory)
    noticed = preemption.Notice(
        rank=worker.rank,
        device=worker.device,
        stopping=preemption.Question(worker.tracker.leaving),
        drained=lambda: ray.train.get_preemption_info() is not None,
    )
    watched = system_metrics.watched(
        worker.tracker.system_metrics, context.get_node_rank(), context.get_local_rank()
    )
    with watched:
        try:
            if worker.unscored and not config.async_validation:
                _validate(worker, noticed)
            for epoch in range(worker.epoch + 1, config.epochs + 1):
                worker.train(
                    epoch, on_pause=lambda: _report(worker, {SCORE: UNSCORED}), leaving=noticed
                )
                if config.async_validation:
                    _report(worker, _unscored(worker), validate=True)
                else:
                    _validate(worker, noticed)
        except LeftEarly:
            return Left(notice=noticed.reason)
        except NonFiniteLoss as error:
            return Left(not_finite=f"epoch {worker.epoch + 1}: {error}")
    return Left()


def validate_checkpoint(
    saved: Any, *, config: TrainConfig, tracker: TrainingLog, threads: int, use_gpu: bool
) -> dict[str, float]:
    """Metrics of a checkpoint, computed by one task while training goes on."""
    torch.set_num_threads(threads)
    device = torch.device("cuda", 0) if use_gpu else torch.device("cpu")
    with saved.as_directory() as directory:
        model, meta = checkpoint.load_model(directory)
    dataset = open_dataset(config.dataset, cache_of(config))
    validator = Validator(
        config=config,
        dataset=dataset,
        device=device,
        threads=threads,
        tracker=tracker,
        left_out=LeftOut(tracker.artifact),
        shown=False,
    )
    return validator(model.to(device), epoch=meta.epoch, images_seen=meta.images_seen)


def _validate(worker: Worker, leaving: Callable[[], bool]) -> None:
    """Save the epoch with its score; without, where all leave: who resumes begins with scoring it.

    Raises:
        LeftEarly: because of ``leaving``.
    """
    try:
        metrics = worker.validate(leaving)
    except LeftEarly:
        _report(worker, _unscored(worker))
        raise
    _report(worker, metrics)


def _unscored(worker: Worker) -> dict[str, float]:
    return {"epoch": float(worker.epoch), SCORE: UNSCORED}


def _report(worker: Worker, metrics: dict[str, float], *, validate: bool = False) -> None:
    """Hand a checkpoint to Ray, which uploads (and validates) it while training goes on."""
    import ray.train

    directory = None
    if worker.has_part_of_checkpoint:  # Ray removes the directory after the upload
        directory = tempfile.mkdtemp(prefix="checkpoint-", dir=locks.scratch_directory())
    worker.save(directory, metrics)
    saved = ray.train.Checkpoint.from_directory(directory) if directory else None
    ray.train.report(
        metrics,
        checkpoint=saved,
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
        checkpoint_upload_fn=_upload,
        validation=validate and saved is not None,
    )


def _upload(saved: Any, name: str) -> Any:
    """As Ray does by itself, but with errors that `pipeline.training.failures` knows."""
    import ray.train

    place = ray.train.get_context().get_storage()
    with storage.storage_errors():
        try:
            return place.persist_current_checkpoint(saved, name)
        except RuntimeError as error:  # a file that Ray left there to know it by is gone
            raise OSError(f"{place.experiment_fs_path} is not where the run began") from error


def cache_of(config: TrainConfig) -> Cache:
    """Where a dataset from a bucket is copied to on this node."""
    return Cache(directory=Path(config.cache), most_bytes=int(config.cache_gb * 1e9))
