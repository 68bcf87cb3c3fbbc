"""Keep what came out of a study's runs: a file for each, written last, that says a run is done."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pipeline import storage
from pipeline.config import precision
from pipeline.config.train import TrainConfig, differences
from pipeline.methods import registry
from pipeline.study.plan import RESULTS, PlannedRun
from sharding.errors import InputError
from sharding.manifest import Dataset

Stored = TypeVar("Stored")
Status = Literal["finished", "failed", "diverged"]
OFF = 1.0
"""Slope of inference without BoostLU."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What came out of one run.

    Attributes:
        status: finished, with scores; diverged, which training again would not change; or failed.
        config: of the training, nested, as of `TrainConfig.to_dict`.
        split, labels: that the scores are of.
        scores: by slope of inference, means as of `pipeline.evaluation.metrics.Summary.means`.
        reason: why the run has no scores.
        epoch: of the checkpoint that was scored.
        seconds: of training and scoring in the last command.
        mlflow_run_id: of the training.
        data: hashes of what it was trained on and scored by, of `hashes_of`.
    """

    status: Status
    config: Mapping[str, Any]
    split: str
    labels: str
    scores: Mapping[float, Mapping[str, float]] = field(default_factory=dict)
    reason: str = ""
    epoch: int = 0
    seconds: float = 0.0
    mlflow_run_id: str = ""
    data: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON; the inverse of `from_dict`."""
        scores = {repr(slope): dict(means) for slope, means in self.scores.items()}
        return {**dataclasses.asdict(self), "scores": scores}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Record:
        """Rebuild a record that was stored."""
        TrainConfig.from_dict(raw["config"])  # raises for one of another version
        scores = {float(slope): means for slope, means in raw["scores"].items()}
        return cls(**{**raw, "scores": scores})


def path_of(study: str, run: str) -> str:
    """Name the file of a run's record."""
    return storage.join(study, RESULTS, f"{run}.json")


def write(study: str, run: PlannedRun, record: Record) -> None:
    """Write a run's record."""
    storage.write_json(path_of(study, run.name), record.to_dict())


def read(study: str, run: str) -> Record | None:
    """Read a run's record; None if there is none.

    Raises:
        InputError: the file is damaged.
    """
    return read_stored(path_of(study, run), Record.from_dict, "run's result")


def read_stored(
    location: str, make: Callable[[Mapping[str, Any]], Stored], what: str
) -> Stored | None:
    """Read one file of a study; None if there is none.

    Args:
        location: of the file.
        make: builds what was stored from its plain values.
        what: it is, for the error.

    Raises:
        InputError: the file is damaged.
    """
    try:
        raw = storage.read_json(location)
        return None if raw is None else make(raw)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"not a {what} ({error})", file=location, fix="remove it, and repeat the command"
        ) from None


def hashes_of(dataset: Dataset) -> dict[str, str]:
    """Hash a dataset's images by split, and its label tables by version and split."""
    versions = dataset.manifest.labels.items()
    splits = {split for _, version in versions for split in version.splits}
    images = {f"images of {split}": dataset.shards_digest(split) for split in splits}
    return images | {
        f"labels {name} of {split}": file.sha256
        for name, version in versions
        for split, file in version.splits.items()
    }


def part_of(
    hashes: Mapping[str, str], trained: str | None, split: str, judged: str
) -> dict[str, str]:
    """Select the hashes of what a run is trained on and scored by.

    Args:
        hashes: of `hashes_of`.
        trained: label version of the training.
        split, judged: that is scored, and the label version to score by.
    """
    parts = {"images of train", f"labels {trained} of train"}
    parts |= {f"images of {split}", f"labels {judged} of {split}"}
    return {what: sha256 for what, sha256 in hashes.items() if what in parts}


def check(record: Record, run: PlannedRun, hashes: Mapping[str, str]) -> None:
    """Refuse a study in whose directory a run of this name was trained otherwise.

    Nothing is refused of a run that failed and has no scores: it is tried again.

    Args:
        record: of the run.
        run: as it is planned now.
        hashes: of the dataset as it is now, of `hashes_of`.

    Raises:
        InputError: naming what was changed.
    """
    if record.status == "failed" and not record.scores:
        return
    refuse_changes(run.name, TrainConfig.from_dict(record.config), run.config)
    refuse_other_data(run.name, record.data, hashes)


def refuse_other_data(name: str, data: Mapping[str, str], hashes: Mapping[str, str]) -> None:
    """Refuse to take what a training gave on other images or labels for its result on these.

    Args:
        name: of the run.
        data: hashes of what it was trained and scored on.
        hashes: of the dataset as it is now, of `hashes_of`.

    Raises:
        InputError: naming what differs.
    """
    other = [what for what, sha256 in data.items() if hashes.get(what, sha256) != sha256]
    if other:
        raise InputError(
            f"run {name!r} of this study is of another dataset ({', '.join(other)} differ)",
            fix="choose another --output for this dataset",
        )


def refuse_changes(name: str, before: TrainConfig, now: TrainConfig) -> None:
    """Refuse to take what a training gave for what another configuration would give.

    More epochs are allowed where a prolonged run is what a longer one would have been. What was
    stored before ``auto`` was settled for whole studies says nothing of its precision.

    Raises:
        InputError: naming what was changed.
    """
    changed = differences(precision.settled(before, now), now)
    changed.pop("dataset", None)  # which may have moved; its contents are compared
    if before.epochs != now.epochs:
        scheduled = [registry.options_for(each).get("total_epochs") for each in (before, now)]
        if before.epochs > now.epochs or scheduled[0] != scheduled[1]:
            changed["epochs"] = before.epochs, now.epochs
    if changed:
        changes = ", ".join(f"{key} was {old}, is {new}" for key, (old, new) in changed.items())
        raise InputError(
            f"run {name!r} of this study was trained with another configuration ({changes})",
            fix="repeat the first command to go on, or choose another --output",
        )


def is_done(record: Record | None, run: PlannedRun, split: str, labels: str) -> bool:
    """Tell whether nothing is left to do of a run; a failed one is tried again."""
    if record is None or record.status == "failed":
        return False
    if TrainConfig.from_dict(record.config).epochs != run.config.epochs:
        return False
    if record.status == "diverged":
        return True
    scored = (record.split, record.labels) == (split, labels)
    return scored and {OFF, *run.slopes} <= set(record.scores)
