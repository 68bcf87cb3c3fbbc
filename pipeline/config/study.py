"""Define the options of a study: which rows are trained how often, and what they are compared by.

Free of torch, so that a job shows its help at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from pipeline.config import presets
from pipeline.config.sections import refuse_outside
from sharding.errors import InputError
from sharding.layout import Split


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """One study: rows x seeds x draws of positives. The same command continues it."""

    dataset: str
    """Dataset directory (made by the job shard) that every worker sees, or a URL."""
    output: str
    """Directory that every worker sees, for the runs, their scores and the tables."""
    rows: tuple[str, ...] = ("ablation",)
    """The paper's ablation, single-positive or openimages, or rows of your own, written
    method:option=value@alpha_train/alpha_infer; options, separated by commas, and slopes may be
    left out."""
    preset: Annotated[str | None, tyro.conf.arg(metavar=f"{{{','.join(presets.PRESETS)}}}")] = None
    """A data set's published protocol, or the demo's."""
    train: tuple[str, ...] = ()
    """Options of every training as name=value, such as epochs=5 image_size=224."""
    seeds: int = 3
    """Trainings of each row, with seeds 0, 1, ..."""
    draws: int = 0
    """Draw one positive per image so often, and train on each draw; 0 takes the labels as they
    are."""
    draw_per_seed: bool = False
    """Draw one positive per image anew for every seed, which is trained on its draw alone."""
    labels: str | None = None
    """Label version to train on and to draw from; by default the dataset's own."""
    split: Split = "test"
    """Split that is scored."""
    baseline: str | None = None
    """Row that the others are compared with; default: the first."""
    tune: tuple[str, ...] = ()
    """Search options of the one row on validation mAP, as name=low:high, name=low:high:log or
    name=first|second; the best is then compared with the row."""
    trials: int = 20
    """Configurations that a search draws."""
    at_once: int | None = None
    """Runs at a time; default: as many as the cluster has room for."""
    experiment: str | None = None
    """MLflow experiment; default: the preset's."""
    dry_run: bool = False
    """Print the plan, and train nothing."""

    def __post_init__(self) -> None:
        if not self.rows:
            raise InputError("a study without rows", fix="pass --rows ablation, or methods")
        counts = {"seeds": "[1, inf)", "draws": "[0, inf)", "at_once": "[1, inf)"}
        refuse_outside(self, {**counts, "trials": "[1, inf)"})
        if self.preset:
            presets.preset(self.preset)
        if self.draws and self.draw_per_seed:
            raise InputError(
                "--draws trains every seed on every draw, --draw-per-seed on one",
                fix="pass one of them",
            )
        if self.tune and (len(self.rows) > 1 or self.baseline or self.drawn):
            raise InputError(
                "--tune searches the options of one row, against which the best is compared",
                fix="pass one --rows, and neither --baseline, --draws nor --draw-per-seed",
            )

    @property
    def drawn(self) -> range:
        """Numbers of the draws to train on; none where labels are taken as they are."""
        return range(self.seeds if self.draw_per_seed else self.draws)

    def draws_of(self, seed: int) -> Sequence[int | None]:
        """List the draws that a seed is trained on; None means the labels as they are."""
        return [seed] if self.draw_per_seed else [*self.drawn] or [None]
