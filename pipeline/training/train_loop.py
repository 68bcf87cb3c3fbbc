"""Train on Ray Train as every worker sees it, and validate as a separate task."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

from pipeline import ranks, storage
from pipeline.cluster.checkpoints import SCORE, UNSCORED
from pipeline.cluster.preemption import Poll, StopReason, StopVote
from pipeline.config.train import TrainConfig
from pipeline.data.unreadable import LeftOut
from pipeline.models import checkpoint
from pipeline.tracking import system_metrics
from pipeline.tracking.run_log import TrainingLog
from pipeline.training.epoch import enter, run_epoch
from pipeline.training.failures import PASSING, LoopEnd
from pipeline.training.loop import NonFiniteLoss, StopRequested
from pipeline.training.prepare import VALIDATION, open_cached
from pipeline.training.state import Rank
from pipeline.training.timing import headspace
from pipeline.training.validation import Validator
from pipeline.training.worker import Worker
from sharding.storage import locks

# Between attempts of a validation task, which Ray would repeat at once.
_PAUSE_SECONDS = 20.0


def train_loop(settings: dict[str, Any]) -> LoopEnd:
    """Train all epochs on one rank; ``settings`` as made by `pipeline.training.train`."""
    import ray.train

    from pipeline.cluster import elastic

    context = ray.train.get_context()
    worker = _begin(settings)
    vote = StopVote(
        rank=worker.rank.number,
        device=worker.rank.device,
        stop_requested=Poll(worker.run_log.stop_requested),
        node_drained=lambda: ray.train.get_preemption_info() is not None,
    )
    more_workers_fit = functools.partial(elastic.more_workers_fit, worker.config.worker_range[1])
    send = worker.run_log.system_metrics
    with system_metrics.watched(send, context.get_node_rank(), context.get_local_rank()):
        try:
            return LoopEnd(reason=_run(worker, vote, more_workers_fit))
        except StopRequested:
            return LoopEnd(reason=vote.reason)
        except NonFiniteLoss as error:
            return LoopEnd(not_finite=f"epoch {worker.epoch + 1}: {error}")
        finally:
            worker.validator.finish()


def _begin(settings: dict[str, Any]) -> Worker:
    """Assemble this rank, from the run's latest checkpoint if it has one."""
    import ray.train
    import ray.train.collective
    import ray.train.torch

    config = TrainConfig.from_dict(settings["config"])
    with storage.storage_errors():
        settings["lease"].check()
    torch.set_num_threads(settings["threads"])
    context = ray.train.get_context()
    ranks.expect(context.get_world_size())
    dataset = open_cached(config)
    if "://" in config.dataset:
        # Other nodes may copy it for hours yet, and torch's collectives end after half an hour.
        ray.train.collective.barrier()
    worker = Worker(
        config=config,
        dataset=dataset,
        rank=Rank(
            number=context.get_world_rank(),
            world_size=context.get_world_size(),
            device=ray.train.torch.get_device(),
            threads=settings["threads"],
        ),
        run_log=settings["run_log"],
        run_id=settings["run_id"],
        fence=settings["lease"].check,
    )
    model: torch.nn.Module = worker.state.model
    if config.parallel == "ddp":  # Ray leaves fully_shard to us
        # Weights of 1 x 1 have two equally valid strides, and bf16 gradients pick the other one.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        model = ray.train.torch.prepare_model(model)
    latest = ray.train.get_checkpoint()
    with (
        storage.storage_errors(),
        locks.scratch_space(),  # where Ray copies it to from a bucket
        latest.as_directory() if latest else contextlib.nullcontext() as directory,
    ):
        if directory and not storage.exists(storage.join(directory, "meta.json")):
            raise FileNotFoundError(directory)  # it was there when the driver looked
        worker.begin(model, directory)
    return worker


def _run(
    worker: Worker, should_stop: Callable[[], bool], more_workers_fit: Callable[[], bool]
) -> StopReason | None:
    """Train and validate the remaining epochs; return why before the last one, if it is."""
    config = worker.config
    if worker.unscored and not config.async_validation:
        _validate(worker, should_stop)
    for epoch in range(worker.epoch + 1, config.epochs + 1):
        run_epoch(worker, epoch, lambda: _report(worker, {SCORE: UNSCORED}), should_stop)
        if config.async_validation:
            _report(worker, _unscored(worker), validate=True)
        else:
            _validate(worker, should_stop)
        # Here alone nothing is lost: within an epoch, other workers begin it again.
        if epoch < config.epochs and more_workers_fit():
            return StopReason.MORE_WORKERS
    return None


def _validate(worker: Worker, should_stop: Callable[[], bool]) -> None:
    """Save the epoch with its score; without, if asked to stop: a resumed run scores it first.

    Raises:
        StopRequested: because of ``should_stop``.
    """
    try:
        metrics = worker.validate(should_stop)
    except StopRequested:
        _report(worker, _unscored(worker))
        raise
    _report(worker, metrics)


def _unscored(worker: Worker) -> dict[str, float]:
    return {"epoch": float(worker.epoch), SCORE: UNSCORED}


def _report(worker: Worker, metrics: dict[str, float], *, validate: bool = False) -> None:
    """Hand a checkpoint to Ray, which uploads (and validates) it while training goes on."""
    import ray.train

    directory = None
    with locks.scratch_space():
        if worker.saves_part:  # Ray removes the directory after the upload
            directory = tempfile.mkdtemp(prefix="checkpoint-", dir=locks.scratch_directory())
        worker.save(directory, metrics)
    saved = ray.train.Checkpoint.from_directory(directory) if directory else None
    ray.train.report(
        metrics,
        checkpoint=saved,
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
        checkpoint_upload_fn=functools.partial(_upload, worker.fence),
        validation=validate and saved is not None,
    )


def _upload(fence: Callable[[], None], saved: Any, name: str) -> Any:
    """Upload as Ray does by default, but with errors that `pipeline.training.failures` sorts.

    Ray counts the checkpoint, and removes worse ones, only after this has returned.
    """
    import ray.train

    place = ray.train.get_context().get_storage()
    with storage.storage_errors():
        fence()
        try:
            stored = place.persist_current_checkpoint(saved, name)
        except RuntimeError as error:  # the file by which Ray knows its directory is gone
            raise OSError(f"{place.experiment_fs_path} is not where the run began") from error
        fence()
        return stored


def validate_checkpoint(
    saved: Any,
    *,
    config: TrainConfig,
    run_log: TrainingLog,
    threads: int,
    use_gpu: bool,
) -> dict[str, float]:
    """Compute the metrics of a checkpoint in one task, while training goes on.

    Ray repeats it after what may pass.
    """
    torch.set_num_threads(threads)
    device = torch.device("cuda", 0) if use_gpu else torch.device("cpu")
    try:
        with locks.scratch_space(), saved.as_directory() as directory:
            model, meta = checkpoint.load_model(directory)
        validator = Validator(
            config=config,
            dataset=open_cached(config, tars=[VALIDATION]),
            rank=Rank(device=device, threads=threads),
            run_log=run_log,
            left_out=LeftOut(run_log.artifact),
            shows_progress=False,
        )
        metrics = validator(model.to(device), meta.epoch, meta.images_seen)
        validator.finish()
    except PASSING:
        time.sleep(_PAUSE_SECONDS)
        raise
    return metrics


def try_batch(config: TrainConfig, threads: int, use_gpu: bool, rank: int) -> tuple[int, float]:
    """Train on the first batch of one rank in memory alone; return its images and its loss."""
    worker = _worker_alone(config, threads, use_gpu, rank)
    batch = next(iter(enter(worker, 1)))
    return len(batch), float(worker.step(batch, 0.0).loss)


def measure(config: TrainConfig, threads: int, use_gpu: bool, rank: int) -> str:
    """Measure what limits one rank, in memory alone; see `pipeline.training.timing.headspace`."""
    worker = _worker_alone(config, threads, use_gpu, rank)
    enter(worker, 1)
    return headspace(worker.step, worker.images).text()


def _worker_alone(config: TrainConfig, threads: int, use_gpu: bool, rank: int) -> Worker:
    """Assemble one rank that waits for no other and keeps nothing."""
    torch.set_num_threads(threads)
    worker = Worker(
        config=dataclasses.replace(config, parallel="ddp"),
        dataset=open_cached(config),
        rank=Rank(
            device=torch.device("cuda", 0) if use_gpu else torch.device("cpu"),
            threads=threads,
            number=rank,
            world_size=config.worker_range[0],
        ),
        run_log=_Silent(),
        run_id="",
    )
    worker.begin(worker.state.model, None)
    return worker


class _Silent:
    """A `TrainingLog` that takes everything and keeps nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None
