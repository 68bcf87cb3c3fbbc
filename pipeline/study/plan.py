"""Plan a study: rows x seeds x draws become trainings, of which several rows may share one."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline import storage
from pipeline.config import groups, presets
from pipeline.config.study import StudyConfig
from pipeline.config.train import TrainConfig
from pipeline.methods import registry
from pipeline.methods.protocol import Method
from pipeline.study import rows as study_rows
from pipeline.study.rows import Row
from sharding.errors import InputError, unknown
from sharding.log import count

COMPLETE = "complete"
"""Label version that an import keeps of a collection whose labels are all known."""
RUNS, RESULTS, LOGS = "runs", "results", "logs"
"""Folders of a study: run directories, their scores, what they printed."""
_PLANNED = ("name", "storage", "dataset", "seed", "method", "method_options", "experiment")


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One training, and the slopes of BoostLU that it is scored with.

    Attributes:
        config: of the training.
        slopes: of inference, above 1, ascending; without BoostLU every run is scored.
        rows: labels of the rows that it serves.
        seed, draw: of the run; None for a draw where the labels are taken as they are.
    """

    config: TrainConfig
    slopes: tuple[float, ...]
    rows: tuple[str, ...]
    seed: int
    draw: int | None

    @property
    def name(self) -> str:
        """Name of the run and of its files."""
        return self.config.name

    @property
    def title(self) -> str:
        """What the terminal calls the run."""
        draw = "" if self.draw is None else f" draw {self.draw}"
        return f"{', '.join(self.rows)} seed {self.seed}{draw}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Where a row's result of one seed and draw is found: a run, and a slope of its scores."""

    run: str
    slope: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a study trains, and which row takes what of it.

    Attributes:
        rows: in the order of the tables.
        baseline: label of the row that the others are compared with.
        runs: in the order in which they begin.
        cells: by row's label; one per seed and draw, the draws of a seed side by side.
        draws: of each seed; 1 where the labels are taken as they are.
        labels: version that the splits other than train are judged by.
    """

    rows: tuple[Row, ...]
    baseline: str
    runs: tuple[PlannedRun, ...]
    cells: Mapping[str, Sequence[Cell]]
    draws: int
    labels: str


def plan(config: StudyConfig, versions: Iterable[str], default: str) -> Plan:
    """Plan a study; nothing is read or written.

    Runs of one seed come before those of the next, so that a study that is cut short has all rows.

    Args:
        config: of the study.
        versions: label versions that the dataset has.
        default: the one that is taken where none is named.

    Raises:
        InputError: a row, an option or the baseline is unknown; or two trainings have one name.
    """
    written = study_rows.parse(config.rows, config.preset or "")
    rows, configs = _complete(written, config)
    versions = set(versions)
    base = COMPLETE if config.drawn and COMPLETE in versions else default
    labels = config.labels or base
    runs: dict[str, PlannedRun] = {}
    cells: dict[str, list[Cell]] = {row.label: [] for row in rows}
    for seed in range(config.seeds):
        for draw in config.draws_of(seed):
            for row in rows:
                run = _run(row, configs[row.label], config, seed, draw, labels, versions)
                slope = configs[row.label].model.alpha_infer
                known = runs.setdefault(run.name, run)
                if known.config != run.config:
                    raise InputError(
                        f"{row.label!r} and {known.rows[0]!r} have one name, {run.name}",
                        fix="write one of them with options that differ in letters or digits",
                    )
                runs[run.name] = _shared(known, run)
                cells[row.label].append(Cell(run=run.name, slope=slope))
    return Plan(
        rows=rows,
        baseline=_baseline(config.baseline, written, rows),
        runs=tuple(runs.values()),
        cells=cells,
        draws=len(config.draws_of(0)),
        labels=labels,
    )


def training_config(row: Row, study: StudyConfig) -> TrainConfig:
    """Configure a row's training but for name, seed and labels: preset, study's options, row's.

    Raises:
        InputError: as of `presets.parse`, or an option that neither method nor training has.
    """
    allowed = {
        flag.replace("-", "_"): option
        for name, option in groups.options_of(TrainConfig, flat=True).items()
        if name not in _PLANNED
        for flag in (name.rpartition(".")[2], *option.flags)
    }
    known = registry.options_of(row.method)
    flags, of_method = [f"--method={row.method}", f"--dataset={study.dataset}"], []
    if study.preset:
        flags.append(f"--preset={study.preset}")
    for text in (*study.train, *row.options):
        name, equals, value = text.partition("=")
        if text in row.options and name in known:
            of_method.append(text)
        elif name.replace("-", "_") in allowed and equals:
            flags += _flag(name, value, allowed[name.replace("-", "_")])
        else:
            what = f"option of {row.method} or of a training"
            raise unknown(
                what, name, [*known, *allowed], listed="see --list methods and train --help"
            )
    if row.slopes:
        flags += [
            f"--alpha-{when}={slope:g}"
            for when, slope in zip(("train", "infer"), row.slopes, strict=True)
        ]
    if of_method:
        flags += ["--method-options", *of_method]
    config = presets.parse(flags, "").config
    registry.complete_options(config)
    return dataclasses.replace(config, experiment=study.experiment or config.experiment)


def _flag(name: str, value: str, option: groups.Option) -> list[str]:
    flag = option.flags[0]
    if option.kind is bool:
        if value.lower() not in ("true", "false"):
            raise InputError(f"{name} is {value!r}", fix=f"write {name}=true or {name}=false")
        return [f"--{flag}" if value.lower() == "true" else f"--no-{flag}"]
    return [f"--{flag}={value}"]


def _run(
    row: Row,
    config: TrainConfig,
    study: StudyConfig,
    seed: int,
    draw: int | None,
    labels: str,
    versions: set[str],
) -> PlannedRun:
    """Plan the training of a row, a seed and a draw."""
    if config.labels is None:
        if row.method == "full":  # knows every label, so that none is drawn
            draw, chosen = None, COMPLETE if COMPLETE in versions else labels
        else:
            chosen = labels if draw is None else drawn_labels(labels, draw)
    else:
        draw, chosen = None, config.labels
    slope = config.model.alpha_infer
    if not _depends_on_inference(row.method):
        # For all rows that share it, the best epoch is that of the network as it was trained.
        model = dataclasses.replace(config.model, alpha_infer=config.model.alpha_train)
        config = dataclasses.replace(config, model=model)
    slopes = (slope,) if slope > 1 else ()
    config = dataclasses.replace(
        config,
        name=_name(row, config, seed, draw),
        storage=storage.join(study.output, RUNS),
        seed=seed,
        labels=chosen,
    )
    return PlannedRun(config=config, slopes=slopes, rows=(row.label,), seed=seed, draw=draw)


def _depends_on_inference(method: str) -> bool:
    """Whether a method looks at the training images between epochs, as inference does."""
    return registry.class_of(method).passes_wanted is not Method.passes_wanted


def _name(row: Row, config: TrainConfig, seed: int, draw: int | None) -> str:
    """Name a run by all that tells it from others of its study."""
    model = config.model
    boost = f"boost{model.alpha_train:g}"
    if model.alpha_infer != model.alpha_train:
        boost += f"-{model.alpha_infer:g}"
    parts = [row.method, *row.options, boost, f"seed{seed}"]
    parts += [] if draw is None else [f"draw{draw}"]
    return re.sub(r"[^A-Za-z0-9.=+_-]+", "-", "-".join(parts))


def _shared(known: PlannedRun, run: PlannedRun) -> PlannedRun:
    """Let one training serve the rows and slopes of both."""
    return dataclasses.replace(
        known,
        slopes=tuple(sorted({*known.slopes, *run.slopes})),
        rows=tuple(dict.fromkeys((*known.rows, *run.rows))),
    )


def drawn_labels(base: str, draw: int) -> str:
    """Name a label version with one positive per image, as `reshard --single-positive` does."""
    return f"{base}-single-positive-draw-{draw}"


def _complete(
    written: Sequence[Row], study: StudyConfig
) -> tuple[tuple[Row, ...], dict[str, TrainConfig]]:
    """Configure each row's training; a row of no slopes is called by those that it gets."""
    rows, configs = [], dict[str, TrainConfig]()
    for row in written:
        config = training_config(row, study)
        if row.slopes is None and config.model.head == "cam":
            slopes = f"{config.model.alpha_train:g}/{config.model.alpha_infer:g}"
            row = dataclasses.replace(row, label=f"{row.label}@{slopes}")
        if row.label in configs:
            raise InputError(f"row {row.label!r} is there twice", fix="leave one of them out")
        rows.append(row)
        configs[row.label] = config
    return tuple(rows), configs


def _baseline(wanted: str | None, written: Sequence[Row], rows: Sequence[Row]) -> str:
    """Find the row that the others are compared with, by either of its names."""
    labels = {row.label: row.label for row in rows}
    names = labels | dict(zip((row.label for row in written), labels, strict=True))
    if wanted is not None and wanted not in names:
        raise unknown("row", wanted, names)
    return names[wanted] if wanted else rows[0].label


def describe(planned: Plan, done: Iterable[str] = ()) -> str:
    """List a plan's runs, those that are done already marked."""
    finished = set(done)
    lines = [
        f"{count(len(planned.rows), 'row')}, {count(len(planned.runs), 'training')}, "
        f"{len(finished & {run.name for run in planned.runs})} of them finished; "
        f"compared with {planned.baseline}"
    ]
    for run in planned.runs:
        slopes = "".join(f", BoostLU {slope:g}" for slope in run.slopes)
        mark = "finished  " if run.name in finished else "to train  "
        lines.append(
            f"{mark}{run.name}: scored without BoostLU{slopes}, labels {run.config.labels}"
        )
    return "\n".join(lines)
