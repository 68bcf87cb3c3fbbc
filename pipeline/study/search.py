"""Search a method's options on validation mAP, before anything is scored on the test split.

Configurations are drawn once, by seed, so that the same command continues the same search. Each is
an ordinary training, whose epochs are written down and reported to ASHA; one that is stopped or
done reports again what it had, so that ASHA decides on all of them after a restart, too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline import storage
from pipeline.cluster import trials
from pipeline.cluster.checkpoints import SCORE
from pipeline.config import groups
from pipeline.config.space import Dimension, parse_space
from pipeline.config.study import StudyConfig
from pipeline.config.train import TrainConfig
from pipeline.methods import registry
from pipeline.study import results
from pipeline.study.execute import Setting, ending_of, logged
from pipeline.study.plan import training_config
from pipeline.study.rows import Row
from sharding.errors import InputError

FOLDER, FILE = "search", "search.json"
"""A search's runs and their curves; the space with all trials, which is written last."""
_ALPHA = "alpha"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One configuration of a search.

    Attributes:
        number: from 0.
        values: drawn, by name of the option.
        row: as which it would stand in a study.
        config: of its training.
    """

    number: int
    values: Mapping[str, Any]
    row: Row
    config: TrainConfig

    @property
    def name(self) -> str:
        """Name of the run and of its files."""
        return self.config.name


@dataclass(frozen=True, kw_only=True)
class Curve:
    """How far a trial came.

    Attributes:
        status: running, finished, stopped (by ASHA, far behind the others), diverged or failed.
        values: of the trial.
        scores: validation mAP by epoch, from 1.
        reason: why it has no more of them.
        config: of the training, nested, as of `TrainConfig.to_dict`.
        data: hashes of what it was trained and validated on, of `results.hashes_of`.
    """

    status: str
    values: Mapping[str, Any]
    scores: Mapping[int, float] = field(default_factory=dict)
    reason: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)

    @property
    def best(self) -> float:
        """Best validation mAP; -inf without any."""
        return max(self.scores.values(), default=-math.inf)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Curve:
        """Rebuild a curve that was stored."""
        return cls(**{**raw, "scores": {int(k): float(v) for k, v in raw["scores"].items()}})


def space_of(config: StudyConfig, row: Row) -> tuple[Dimension, ...]:
    """Parse the space that a study searches.

    Raises:
        InputError: as of `parse_space`; or it has the labels, by which trials are scored, too.
    """
    settings = groups.options_of(TrainConfig, flat=True).items()
    whole = {name.rpartition(".")[2] for name, option in settings if option.kind is int}
    whole |= {name for name, value in registry.options_of(row.method).items() if type(value) is int}
    space = parse_space(config.tune, whole)
    if any(dimension.name == "labels" for dimension in space):
        raise InputError(
            "--tune labels: trials on other labels are scored by other labels, too",
            fix="compare label versions as rows, such as --rows ll-r:labels=A ll-r:labels=B",
        )
    return space


def draw(config: StudyConfig, row: Row, labels: str) -> list[Trial]:
    """Draw the trials of a search.

    Args:
        config: of the study.
        row: whose options are searched; they take precedence over its own.
        labels: version that the row is trained on (`pipeline.study.plan.plan` chooses it).

    Raises:
        InputError: as of `space_of`; or the space has an option that neither method nor training
            has, or a value that one of them refuses.
    """
    found = []
    for number, values in enumerate(trials.sample(space_of(config, row), config.trials)):
        changed = _with(row, values)
        trained = training_config(changed, config)
        trained = dataclasses.replace(
            trained,
            name=f"trial-{number:03d}",
            storage=storage.join(config.output, FOLDER),
            labels=labels,
        )
        found.append(Trial(number=number, values=values, row=changed, config=trained))
    return found


def _with(row: Row, values: Mapping[str, Any]) -> Row:
    """Put values into a row's options; ``alpha`` into its slopes where no option is called so."""
    options = dict(option.split("=", 1) for option in row.options)
    slopes = row.slopes
    for name, value in values.items():
        if name == _ALPHA and name not in registry.options_of(row.method):
            slopes = (_slope(value), _slope(value))
        else:
            options[name] = f"{value}"
    texts = tuple(f"{name}={value}" for name, value in options.items())
    label = row.method + (f":{','.join(texts)}" if texts else "")
    if slopes:
        label += f"@{slopes[0]:g}/{slopes[1]:g}"
    return dataclasses.replace(row, label=label, options=texts, slopes=slopes, published={})


def _slope(value: Any) -> float:
    try:
        return float(value)
    except ValueError:
        raise InputError(
            f"--tune: {_ALPHA} {value!r} is no number", fix="write numbers, such as alpha=2:10"
        ) from None


def is_over(setting: Setting, drawn: Sequence[Trial]) -> bool:
    """Tell whether nothing is left to do of a search; a trial that failed is tried again.

    Raises:
        InputError: the study's directory has a search of another space, configuration or dataset,
            or a damaged file.
    """
    curves = [read(setting.study, trial.name) for trial in drawn]
    known = [(trial, curve) for trial, curve in zip(drawn, curves, strict=True) if curve]
    for trial, curve in known:
        _check(curve, trial, setting)
    over = storage.read_json(storage.join(setting.study, FILE))
    if over is None or set(over["trials"]) != {trial.name for trial in drawn}:
        return False
    return len(known) == len(drawn) and not any(_is_left(*each) for each in known)


def best_of(study: str, drawn: Sequence[Trial]) -> Trial:
    """Choose the trial with the best score; one that failed counts with those that it has.

    Raises:
        InputError: no trial has a score.
    """
    curves = {trial.name: read(study, trial.name) for trial in drawn}
    scored = [trial for trial in drawn if (curve := curves[trial.name]) and curve.scores]
    if not scored:
        raise InputError(
            "no trial of the search has a validation score",
            file=storage.join(study, FILE),
            fix="see the reasons there; repeat the command to try again those that failed, or "
            "search another space in another --output",
        )
    return max(scored, key=lambda trial: curves[trial.name].best)  # type: ignore[union-attr]


def _check(curve: Curve, trial: Trial, setting: Setting) -> None:
    if dict(curve.values) != dict(trial.values):
        raise InputError(
            "this study searched another space",
            file=path_of(setting.study, trial.name),
            fix="repeat the first command to go on, or choose another --output",
        )
    if curve.config:
        results.refuse_changes(trial.name, TrainConfig.from_dict(curve.config), trial.config)
    results.refuse_other_data(trial.name, curve.data, setting.hashes)


def _is_left(trial: Trial, curve: Curve) -> bool:
    """Whether a trial was cut short, failed, or has more epochs now."""
    return curve.status in ("running", "failed") or _is_longer(trial, curve)


def _is_longer(trial: Trial, curve: Curve) -> bool:
    """Whether a trial that came to its end has more epochs now."""
    if curve.status != "finished" or not curve.config:
        return False
    return TrainConfig.from_dict(curve.config).epochs != trial.config.epochs


def _begun(trial: Trial, setting: Setting) -> Curve:
    labels = trial.config.labels
    return Curve(
        status="running",
        values=trial.values,
        config=trial.config.to_dict(),
        data=results.part_of(setting.hashes, labels, "validation", labels or ""),
    )


def search(
    drawn: Sequence[Trial],
    space: Sequence[str],
    setting: Setting,
    at_once: int,
    ended: Callable[[str, Curve], object],
) -> None:
    """Train what is left of a search, and write its file.

    Args:
        drawn: all trials.
        space: that they were drawn from, as it was written.
        setting: of the study.
        at_once: trials at a time.
        ended: called with the name of a trial that has ended, and its curve.
    """
    by_name = {trial.name: trial for trial in drawn}

    def on_end(name: str, died: bool) -> None:
        trial = by_name[name]
        curve = read(setting.study, name) or _begun(trial, setting)
        if curve.status == "running" or _is_longer(trial, curve):  # its process was ended
            status, reason = ("failed", "its process died") if died else ("stopped", "by ASHA")
            own = trial.config.to_dict()
            curve = dataclasses.replace(curve, status=status, reason=reason, config=own)
            write(setting.study, name, curve)
            setting.adopt(trial.config, "KILLED")
        ended(name, curve)

    epochs = max(trial.config.epochs for trial in drawn)
    trials.run(_try, drawn, setting, at_once=at_once, on_end=on_end, epochs=epochs)
    curves = {name: read(setting.study, name) for name in by_name}
    found = {name: dataclasses.asdict(curve) for name, curve in curves.items() if curve}
    rows = {trial.name: trial.row.label for trial in drawn}
    known = {"split": "validation", "space": list(space), "rows": rows, "trials": found}
    storage.write_json(storage.join(setting.study, FILE), known)


def path_of(study: str, name: str) -> str:
    """Name the file of a trial's curve."""
    return storage.join(study, FOLDER, f"{name}.json")


def read(study: str, name: str) -> Curve | None:
    """Read a trial's curve; None if it has not begun.

    Raises:
        InputError: the file is damaged.
    """
    return results.read_stored(path_of(study, name), Curve.from_dict, "trial's curve")


def write(study: str, name: str, curve: Curve) -> None:
    """Write a trial's curve."""
    storage.write_json(path_of(study, name), dataclasses.asdict(curve))


def _try(trial: Trial, setting: Setting) -> None:
    """Train a trial, epoch by epoch as ASHA lets it; within Ray Tune."""
    setting.enter()
    curve = read(setting.study, trial.name) or _begun(trial, setting)
    if is_left := _is_left(trial, curve):  # where ASHA ends it now, it did not fail
        own = trial.config.to_dict()
        curve = dataclasses.replace(curve, status="running", reason="", config=own)
        write(setting.study, trial.name, curve)
    for epoch, score in curve.scores.items():
        trials.report(epoch, score)
    if not is_left:
        return

    unwritten: list[Exception] = []

    def on_epoch(epoch: int, values: Mapping[str, float]) -> None:
        nonlocal curve
        curve = dataclasses.replace(curve, scores={**curve.scores, epoch: values[SCORE]})
        try:
            write(setting.study, trial.name, curve)
            trials.report(epoch, values[SCORE])
        except Exception as error:  # in the thread that shows progress, which must go on
            unwritten.append(error)

    from pipeline.training.train import train

    status, reason = "finished", ""
    with logged(setting.study, trial.name):
        try:
            train(trial.config, setting.preset, on_epoch)
            if unwritten:
                raise unwritten[0]
        except Exception as error:
            status, reason = ending_of(error)
        setting.adopt(trial.config)
    write(setting.study, trial.name, dataclasses.replace(curve, status=status, reason=reason))
