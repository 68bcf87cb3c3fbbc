"""Train a run on Ray, as the driver sees it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pipeline import storage
from pipeline.cluster import checkpoints, lease, preemption, session, tasks
from pipeline.cluster.checkpoints import SCORE
from pipeline.cluster.preemption import StopReason
from pipeline.config.train import TrainConfig
from pipeline.tracking import client, runs, writer
from pipeline.tracking.run_log import TrainingLog
from pipeline.training import failures, prepare, progress
from pipeline.training.failures import PASSING, TrainingInterrupted, one_at_a_time
from pipeline.training.prepare import Checked, Prepared
from pipeline.training.progress import MAP, EpochLines, OnEpoch, shown
from sharding.errors import InputError
from sharding.layout import SPLITS
from sharding.log import count, info
from sharding.progress import say

# Within one call: a storage that only ever takes small files would be retried for ever.
_MOST_OUTAGES = 3


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Where a finished run is.

    Attributes:
        directory: the run's directory (path or URL).
        best: path of the best checkpoint by validation mAP.
        best_metrics: its validation metrics and epoch.
        metrics: validation metrics of the last epoch.
        mlflow_run_id: its MLflow run.
        split: that an evaluation scores next: test, where there is one.
    """

    directory: str
    best: str
    best_metrics: Mapping[str, float]
    metrics: dict[str, float]
    mlflow_run_id: str
    split: str


@one_at_a_time()
def train(
    config: TrainConfig, preset: str = "", on_epoch: OnEpoch = lambda *_: None
) -> TrainResult:
    """Train, or continue the run of the same name; Ray is joined, or started, if it is not yet.

    Args:
        config: the run.
        preset: name of what it began from, for MLflow.
        on_epoch: called in another thread with number and values of each epoch that is scored.

    Raises:
        InputError: the dataset, the configuration or the cluster cannot carry the run.
        TrainingEnded: see the table in `pipeline.training.failures`.
    """
    checked = prepare.check(config)
    if (finished := _finished(checked)) is not None:
        return finished
    run = prepare.prepare(checked, preset, meanwhile=client.load)
    session.check_shared(run.config.storage)
    with lease.hold(run.directory) as held:
        resumed = prepare.claim(run.directory, run.config, run.dataset.digest)
        return _train(dataclasses.replace(run, resumed=resumed), held, on_epoch)


def _finished(run: Checked) -> TrainResult | None:
    """Read the result of a run of which nothing is left to do; None if anything may be.

    Neither Ray is started nor the run in MLflow touched.
    """
    name = checkpoints.latest(run.directory) if run.resumed else None
    scores = checkpoints.metrics_of(run.directory)
    if name is None or SCORE not in scores.get(name, {}) or checkpoints.unscored_epochs(scores):
        return None
    try:
        meta, is_whole = run.latest, checkpoints.is_whole(storage.join(run.directory, name))
    except (InputError, OSError):
        return None
    if meta is None or meta.step or meta.epoch < run.config.epochs or not is_whole:
        return None
    if Path(writer.spool_of(meta.mlflow_run_id)).exists() or not runs.is_finished(
        meta.mlflow_run_id
    ):
        return None
    say(f"{run.directory}: already finished, {count(meta.epoch, 'epoch')}; nothing was done")
    scored = {each: metrics[SCORE] for each, metrics in scores.items() if SCORE in metrics}
    best = storage.join(run.directory, max(scored, key=lambda each: scored[each]))
    return _result(best, run, scores[name], meta.mlflow_run_id)


def _result(
    best: str, run: Checked, metrics: Mapping[str, float] | None, run_id: str
) -> TrainResult:
    name = best.rpartition("/")[2]
    _, version = run.dataset.label_version(run.config.labels)
    return TrainResult(
        directory=run.directory,
        best=best,
        best_metrics=checkpoints.metrics_of(run.directory).get(name, {}),
        metrics=dict(metrics or {}),
        mlflow_run_id=run_id,
        split=[split for split in SPLITS if split in version.splits][-1],
    )


def _train(run: Prepared, held: lease.Lease, on_epoch: OnEpoch) -> TrainResult:
    with tracked_run(run, held) as (run_id, run_log):
        info(progress.describe(run))
        say("starting the workers")
        trainer = _trainer(run, run_id, run_log, held)
        # Ray's own handler of Ctrl-C ends the process with status 1 and not a word.
        trainer._register_sigint_handler = lambda controller: None
        scores = checkpoints.metrics_of(run.directory) if run.resumed else {}
        before = max((each[MAP] for each in scores.values() if MAP in each), default=math.nan)
        lines = EpochLines(run.config.epochs, before, on_epoch)
        with shown(run_log, lines), preemption.on_sigterm(run_log.request_stop):
            result = _fit(failures.PatientTrainer(trainer, run, run_log), run, held)
        with contextlib.suppress(OSError, InputError):  # the run is done all the same
            held.check()
            checkpoints.repair(run.directory)
    if missing := checkpoints.unscored_epochs(checkpoints.metrics_of(run.directory)):
        failed = f"validation failed, as said above, after epoch {', '.join(map(str, missing))}"
        info(f"{failed}: repeat the command to make it again", "WARNING")
    from pipeline.inference import mlflow_model

    best = checkpoints.best_of_result(result, run.directory)
    mlflow_model.log_links(run_id, _logged(run, best))
    return _result(best, run, result.metrics, run_id)


def _logged(run: Prepared, best: str) -> list[str]:
    """Choose the checkpoints that become MLflow models: those that are kept, the best, or none."""
    how = run.config.log_model
    names = checkpoints.metrics_of(run.directory) if how == "kept" else {}
    kept = [storage.join(run.directory, name) for name in names]
    return kept or ([] if how == "off" else [best])


@one_at_a_time()
def dry_run(config: TrainConfig) -> str:
    """Check all that `train` checks, and one worker's first batch; return what would be trained.

    Raises:
        InputError: the dataset, the configuration or the cluster cannot carry the run.
    """
    run = prepare.prepare(prepare.check(config))
    images, loss = run.on_one_worker(_try_batch, "first batch")
    first = f"first batch of a worker: {count(images, 'image')}, loss {loss:.3g}; nothing was kept"
    return f"{progress.describe(run)}\n{first}"


@one_at_a_time()
def headspace(config: TrainConfig) -> str:
    """Measure on one worker what limits a training; see `pipeline.training.timing.headspace`.

    Raises:
        InputError: the dataset, the configuration or the cluster cannot carry the run.
    """
    run = prepare.prepare(prepare.check(config))
    return str(run.on_one_worker(_measure, "headspace"))


@contextlib.contextmanager
def tracked_run(run: Prepared, held: lease.Lease) -> Iterator[tuple[str, TrainingLog]]:
    """Open the MLflow run and its writer; flush the writer and set the run's status in the end.

    The status of a run that another process has taken over is that process's.

    Yields:
        The run's id, and a handle of its only writer.
    """
    run_id = prepare.open_run(run)
    spool = writer.spool_of(run_id)
    environment = client.credentials()
    actor = tasks.start_actor(
        writer.RunWriter, client.tracking_uri(), run_id, spool, None, environment
    )
    run_log = cast(TrainingLog, actor)
    status = "FAILED"
    try:
        yield run_id, run_log
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit, TrainingInterrupted):
        status = "KILLED"
        raise
    finally:
        if unsent := tasks.answer(run_log.flush(), otherwise="the last"):
            info(
                f"MLflow has not taken {unsent} items; its points are sent when the command is "
                "repeated, its tables, images and files are not",
                "WARNING",
            )
        if not held.is_lost():
            runs.close_run(run_id, status)


def _fit(trainer: Any, run: Prepared, held: lease.Lease) -> Any:
    """Return Ray's result; fit again after nodes went or came, or the storage was gone.

    Raises:
        InputError, TrainingEnded: see the table in `pipeline.training.failures`.
    """
    from ray.train import TrainingFailedError

    outages = 0
    while True:
        try:
            held.check()
            checkpoints.repair(run.directory)
            checkpoints.queue_validations(run.directory, latest=run.config.async_validation)
            result = trainer.fit()
        except (TrainingFailedError, OSError) as error:
            outages += 1
            if outages > _MOST_OUTAGES or not failures.storage_recovers(error, run.write_again):
                raise failures.ending(error, run.directory) from error
            continue
        end = result.return_value
        if end.reason is StopReason.NODE_DRAINED:
            info("a node is to be taken away: saved, going on without it", "WARNING")
        elif end.reason is StopReason.MORE_WORKERS:
            info("more workers fit now: saved, going on with them")
        else:
            if end.reason is None and checkpoints.awaits_validation(run.directory):
                end = dataclasses.replace(end, reason=StopReason.SIGTERM)  # while Ray waited
            end.raise_if_early(run.directory, checkpoints.last_good(result, run.directory))
            return result


def _trainer(run: Prepared, run_id: str, run_log: TrainingLog, held: lease.Lease) -> Any:
    """Configure Ray's trainer, which continues the run if its directory has checkpoints."""
    import ray.train
    import ray.train.torch

    from pipeline.cluster.elastic import KEEP_SIZE
    from pipeline.cluster.fence import Fence

    config, use_gpu, cpus = run.config, run.use_gpu, run.cpus
    low, high = config.worker_range
    options = {"config": config, "run_log": run_log, "threads": cpus, "use_gpu": use_gpu}
    validate = functools.partial(_validate_checkpoint, **options)
    return ray.train.torch.TorchTrainer(
        _train_loop,
        train_loop_config={
            "config": config.to_dict(),
            "run_id": run_id,
            "run_log": run_log,
            "threads": cpus,
            "lease": held,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=high if low == high else (low, high),
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cpus, **({"GPU": 1} if use_gpu else {})},
            elastic_resize_monitor_interval_s=KEEP_SIZE,
        ),
        validation_config=ray.train.ValidationConfig(
            validate,
            ray_remote_kwargs={
                "num_cpus": cpus,
                "num_gpus": int(use_gpu),
                "max_retries": 3,
                "retry_exceptions": list(PASSING),
            },
        ),
        run_config=ray.train.RunConfig(
            name=config.run_name,
            storage_path=config.storage,
            callbacks=[Fence(held, run_log)],
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            failure_config=ray.train.FailureConfig(**failures.RETRIES),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=config.keep_checkpoints,
                checkpoint_score_attribute=checkpoints.SCORE,
                checkpoint_score_order="max",
            ),
        ),
    )


# Ray's controller imports the module of what it hands to workers: this one, which is light.


def _train_loop(settings: dict[str, Any]) -> failures.LoopEnd:
    from pipeline.training.train_loop import train_loop

    return train_loop(settings)


def _validate_checkpoint(saved: Any, **options: Any) -> dict[str, float]:
    from pipeline.training.train_loop import validate_checkpoint

    return validate_checkpoint(saved, **options)


def _try_batch(*arguments: Any) -> tuple[int, float]:
    from pipeline.training.train_loop import try_batch

    return try_batch(*arguments)


def _measure(*arguments: Any) -> str:
    from pipeline.training.train_loop import measure

    return measure(*arguments)
