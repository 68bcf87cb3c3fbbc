"""Compare LL-R with BoostLU and AN without on the demo data: test mAP over several seeds.

    python -m benchmarks.quality.demo_methods --dataset demo/dataset --seeds 3

Runs the real jobs, several trainings side by side with one worker each, and prints one row per
configuration: mean and standard deviation over seeds of the test mAP over all classes, with and
without BoostLU at inference. The table is a result, not a claim.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tyro
from mlflow.tracking import MlflowClient

JOBS = Path(__file__).parents[2] / "jobs"
KEYS = ("test_no_boost/mAP/all", "test/mAP/all")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to compare."""

    dataset: Path
    """Dataset directory (make demo writes demo/dataset)."""
    output: Path = Path("demo/methods")
    """Where runs and their MLflow store go."""
    seeds: int = 3
    """Trainings per configuration."""
    epochs: int = 10
    """Of each training."""
    parallel: int = 2
    """Trainings at a time, one worker each."""
    delta_rel: float = 0.2
    """LL-R's share of entries rejected, in percent more per epoch."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training: configuration and seed."""

    method: str
    alpha: int
    seed: int

    @property
    def name(self) -> str:
        """Name the run."""
        return f"{self.method}-alpha{self.alpha}-seed{self.seed}"


def main(options: Options) -> None:
    """Train, evaluate, print."""
    options.output.mkdir(parents=True, exist_ok=True)
    cases = [("an", 1), ("ll-r", 5)]
    runs = [Run(method=m, alpha=a, seed=s) for s in range(options.seeds) for m, a in cases]
    with ThreadPoolExecutor(options.parallel) as pool:
        metrics_by_run = dict(
            zip(runs, pool.map(lambda run: measure(run, options), runs), strict=True)
        )
    print("| training | seeds | BoostLU off at inference | BoostLU on at inference |")
    print("|---|---:|---:|---:|")
    for method, alpha in cases:
        rows = [metrics_by_run[run] for run in runs if (run.method, run.alpha) == (method, alpha)]
        cells = [_mean_and_deviation([row[key] for row in rows]) for key in KEYS]
        label = f"{method.upper()}, alpha {alpha} in training"
        print(f"| {label} | {len(rows)} | {' | '.join(cells)} |")
    for run, metrics in metrics_by_run.items():
        print(f"{run.name}: " + ", ".join(f"{key} {100 * metrics[key]:.2f}" for key in KEYS))


def measure(run: Run, options: Options) -> dict[str, float]:
    """Train one configuration and return its test metrics (shares, not percent)."""
    delta = [f"delta_rel={options.delta_rel}"] if run.method == "ll-r" else []
    _job(
        options,
        "train_openimages.py",
        *("--preset", "demo", "--dataset", str(options.dataset.resolve()), "--name", run.name),
        *("--method", run.method, "--method-options", *delta),
        *("--alpha-train", str(run.alpha), "--seed", str(run.seed)),
        *("--epochs", str(options.epochs), "--workers", "1", "--cpus-per-worker", "1"),
    )
    _job(
        options,
        "evaluate_openimages.py",
        *("--checkpoint", f"runs/{run.name}", "--dataset", str(options.dataset.resolve())),
        *("--experiment", run.name, "--workers", "1"),
    )
    client = MlflowClient(f"sqlite:///{(options.output / 'mlflow.db').resolve()}")
    experiment = client.get_experiment_by_name(run.name)
    assert experiment is not None
    return dict(client.search_runs([experiment.experiment_id])[0].data.metrics)


def _job(options: Options, script: str, *arguments: str) -> None:
    command = [sys.executable, str((JOBS / script).resolve()), *arguments]
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    with open(options.output / "log.txt", "a", encoding="utf-8") as log:
        subprocess.run(
            command, cwd=options.output, env=environment, stdout=log, stderr=log, check=True
        )


def _mean_and_deviation(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.2f} ± {100 * deviation:.2f}"


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
