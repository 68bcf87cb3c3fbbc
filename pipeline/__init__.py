"""Shards in, trained CAM + BoostLU networks and per-group mAP out.

`load`, `open_dataset` and `evaluate` are the public face; jobs/ are the commands.

Shape suffixes used throughout: B batch, C image channels, D feature channels, K classes,
H W space, N samples, E annotated entries.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.data.staging import open_dataset
    from pipeline.evaluation.run import Evaluation
    from pipeline.inference.predictor import load

    __version__: str

__all__ = ["__version__", "evaluate", "load", "open_dataset"]

_LAZY = {"load": "pipeline.inference.predictor", "open_dataset": "pipeline.data.staging"}


def __getattr__(name: str) -> Any:
    # Lazily: whoever imports a module of this package need not wait for torch.
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name == "__version__":
        from importlib import metadata

        try:
            return metadata.version("openimages-boostlu")
        except metadata.PackageNotFoundError:  # Ray shipped the packages alone
            return "unknown"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def evaluate(checkpoint: str | Path, dataset: str | Path, **options: Any) -> Evaluation:
    """Evaluate a checkpoint on a split of a dataset: mAP per class group, BoostLU off and on.

    Joins the Ray cluster, or starts Ray on this machine. Nothing is sent to MLflow;
    jobs/evaluate_openimages.py does that.

    Args:
        checkpoint: a run directory, a checkpoint directory, or MLflow's runs:/ or models:/.
        dataset: directory or URL, with the checkpoint's class list.
        options: further attributes of `pipeline.config.commands.EvaluateConfig`, for example
            ``split="validation"``, ``intervals=200``.

    Raises:
        InputError: see `pipeline.evaluation.run.evaluate`.
    """
    from pipeline.config.commands import EvaluateConfig
    from pipeline.evaluation import run

    config = EvaluateConfig(checkpoint=str(checkpoint), dataset=str(dataset), **options)
    return run.evaluate(config)
