"""Run a function over many items side by side, each call a trial of Ray Tune.

A trial is a driver of its own: it may train with Ray Train and call Ray's tasks. It claims no CPU,
as what it starts does, and stays on this machine, where a file of MLflow's may lie.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pipeline.config.space import Dimension

# A user's own setting wins. Ctrl-C has to end the job, not Tune alone; nobody reads Tune's files.
_SETTINGS = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial may end before its first epoch has
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a table however little it is to print
}
_NAME, _EPOCH, _SCORE = "name", "epoch", "score"
_SHARE = 0.0001  # of what every node has one of, and no other


class Named(Protocol):
    """What a trial is about; the name tells it from the others."""

    @property
    def name(self) -> str:
        """Name."""


def run(
    function: Callable[..., Any],
    items: Sequence[Named],
    setting: Any,
    *,
    at_once: int,
    on_end: Callable[[str, bool], None],
    epochs: int = 0,
) -> None:
    """Call ``function(item, setting)`` for every item, so many at a time, in their order.

    A call whose process dies is made once more. With ``epochs``, calls `report` what they have
    reached, and ASHA (Li et al. 2020) ends the process of one that is far behind the others.

    Args:
        function: what it returns is dropped; an exception ends its own trial alone.
        items: what the calls are about.
        setting: the same for all.
        at_once: calls at a time.
        on_end: called here with the name of each item whose call has ended, and whether its
            process died.
        epochs: most that a call reports; 0 for calls that report nothing.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from ray import tune
    from ray.tune.progress_reporter import TrialProgressCallback

    class Ended(TrialProgressCallback):  # type: ignore[misc]  # in the place of Tune's own lines
        def on_trial_result(self, **_: Any) -> None:
            pass

        def on_trial_complete(self, trial: Any, **_: Any) -> None:
            on_end(trial.config[_NAME], False)

        def on_trial_error(self, trial: Any, **_: Any) -> None:
            on_end(trial.config[_NAME], True)

    known = {item.name: item for item in items}
    call = tune.with_parameters(_call, function=function, items=known, setting=setting)
    with tempfile.TemporaryDirectory() as directory:
        tune.Tuner(
            tune.with_resources(call, {"cpu": 0, _this_node(): _SHARE}),
            param_space={_NAME: tune.grid_search(list(known))},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=at_once, scheduler=_asha(epochs) if epochs else None
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str(Path(directory)),
                verbose=0,
                callbacks=[Ended()],
                failure_config=tune.FailureConfig(max_failures=1),
            ),
        ).fit()


def report(epoch: int, score: float) -> None:
    """Say within a call what it has reached; returns when it may go on."""
    from ray import tune

    tune.report({_EPOCH: epoch, _SCORE: score})


def sample(space: Sequence[Dimension], count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Draw values from a space at random: a number (four digits) or a word by name.

    Args:
        space: its dimensions.
        count: of draws; more of them begin with those of fewer.
        seed: of the draws.
    """
    import numpy as np
    from ray import tune

    random = np.random.default_rng(seed)

    def value(of: Dimension) -> Any:
        if of.choices:
            return str(random.choice(of.choices))
        if of.is_whole:
            whole = tune.lograndint if of.is_log else tune.randint
            return int(whole(int(of.low), int(of.high) + 1).sample(random_state=random))
        real = tune.loguniform if of.is_log else tune.uniform
        return float(f"{real(of.low, of.high).sample(random_state=random):.4g}")

    return [{of.name: value(of) for of in space} for _ in range(count)]


def _asha(epochs: int) -> Any:
    """Make the scheduler; it ends what reaches the bound, so that this is beyond the last epoch."""
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(time_attr=_EPOCH, metric=_SCORE, mode="max", max_t=epochs + 1)


def _this_node() -> str:
    """Name the resource that only the node of this process has."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    (offer,) = (node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    return next(name for name in offer if name.startswith("node:") and "__" not in name)


def _call(
    config: Mapping[str, str],
    function: Callable[..., Any],
    items: Mapping[str, Any],
    setting: Any,
) -> None:
    function(items[config[_NAME]], setting)
