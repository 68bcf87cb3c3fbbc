"""Train and score one run of a study, within a trial of Ray Tune."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.cluster import own_run, placement, session
from pipeline.config.commands import EvaluateConfig
from pipeline.config.train import TrainConfig
from pipeline.study import results
from pipeline.study.plan import LOGS, PlannedRun
from pipeline.study.results import OFF, Record, Status
from pipeline.tracking import runs
from sharding.errors import InputError
from sharding.layout import Split
from sharding.log import first_line, info


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all runs of a study share.

    Attributes:
        study: its directory.
        split, labels: to score.
        parent: MLflow run of the study.
        workers: most tasks that a scoring is spread over; fewer where nodes were lost meanwhile.
        environment: variables that MLflow reads, of the shell that started the study.
        preset: that the runs began from, for MLflow.
        hashes: of the dataset (`pipeline.study.results.hashes_of`).
    """

    study: str
    split: Split
    labels: str
    parent: str
    workers: int
    environment: Mapping[str, str]
    preset: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)

    def enter(self) -> None:
        """Let this process, one of Ray's, find MLflow where the study's does."""
        os.environ.update(self.environment)

    def adopt(self, config: TrainConfig, status: str | None = None) -> None:
        """Make a training's MLflow run, if one was opened, a child of the study's."""
        with contextlib.suppress(InputError, OSError):  # a checkpoint that cannot be read
            if run_id := own_run.latest(storage.join(config.storage, config.name)):
                runs.adopt(run_id, self.parent, status)


def execute(run: PlannedRun, setting: Setting) -> Record:
    """Train a run, or go on with it, and score its best checkpoint; write and return the record.

    Whatever ends the run is written down; only the end of this process is raised. Where it fails,
    scores that it had of the same training and labels are kept.
    """
    begun = time.monotonic()
    setting.enter()
    status: Status = "finished"
    reason, known = "", dict[str, Any]()
    with logged(setting.study, run.name):
        try:
            known = _train_and_score(run, setting)
        except Exception as error:
            status, reason = ending_of(error)
            known = known_of(run, setting)
        setting.adopt(run.config)
    data = results.part_of(setting.hashes, run.config.labels, setting.split, setting.labels)
    record = Record(
        status=status,
        config=run.config.to_dict(),
        split=setting.split,
        labels=setting.labels,
        reason=reason,
        seconds=time.monotonic() - begun,
        data=data,
        **known,
    )
    results.write(setting.study, run, record)
    return record


def known_of(run: PlannedRun, setting: Setting) -> dict[str, Any]:
    """Take over what an earlier command found out about the same training."""
    before = results.read(setting.study, run.name)
    if before is None or (before.split, before.labels) != (setting.split, setting.labels):
        return {}
    if TrainConfig.from_dict(before.config).epochs != run.config.epochs:
        return {}
    return {name: getattr(before, name) for name in ("scores", "epoch", "mlflow_run_id")}


def _train_and_score(run: PlannedRun, setting: Setting) -> dict[str, Any]:
    from pipeline.training.train import train

    result = train(run.config, setting.preset)
    return {
        "scores": _score(result.best, run, setting),
        "epoch": round(result.best_metrics.get("epoch", 0)),
        "mlflow_run_id": result.mlflow_run_id,
    }


def _score(
    checkpoint: str, run: PlannedRun, setting: Setting
) -> Mapping[float, Mapping[str, float]]:
    """Compute the means of the checkpoint at every slope, and record them in MLflow."""
    from pipeline.evaluation import record
    from pipeline.evaluation.run import evaluate
    from pipeline.evaluation.scores import BOOST_OFF, BOOST_ON

    scores = {}
    for slope in run.slopes or (None,):
        workers, cpus = placement.that_fit(
            session.nodes(), setting.workers, run.config.cpus_per_worker
        )
        evaluation = evaluate(
            EvaluateConfig(
                checkpoint=checkpoint,
                dataset=run.config.dataset,
                split=setting.split,
                labels=setting.labels,
                workers=workers,
                cpus_per_worker=cpus,
                cache=run.config.cache,
                cache_gb=run.config.cache_gb,
                attribution=0,
                alpha_infer=slope,
            )
        )
        summaries = evaluation.report.summaries
        scores[OFF] = summaries[BOOST_OFF].means()
        if slope is not None:
            scores[slope] = summaries[BOOST_ON].means()
        try:
            record.record(evaluation)
        except (record.NotRecorded, InputError) as error:  # the scores are there all the same
            info(str(error), "WARNING")
    return scores


def ending_of(error: Exception) -> tuple[Status, str]:
    """Say how a run ended that has no scores, and why; the traceback goes to its log."""
    traceback.print_exc()
    from pipeline.training.failures import TrainingStopped

    cause = getattr(error, "cause", error)
    if isinstance(error, TrainingStopped):
        return "diverged", str(error)
    return "failed", str(cause) if isinstance(cause, InputError) else first_line(error)


@contextlib.contextmanager
def logged(study: str, run: str) -> Iterator[None]:
    """Add what the block prints to a file of the study's logs, unless that is in a bucket."""
    if "://" in study:
        yield
        return
    path = Path(study, LOGS, f"{run}.txt")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as log:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            yield
        sys.stderr.flush()
