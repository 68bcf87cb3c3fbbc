"""Run a study: train what is left of its plan side by side on Ray Tune, and write its tables."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

from pipeline import storage
from pipeline.cluster import own_run, session, trials
from pipeline.config.study import StudyConfig
from pipeline.data.staging import open_dataset
from pipeline.inference import cam_figures
from pipeline.study import figure, plan, render, results, search, settle
from pipeline.study.execute import Setting, execute, known_of
from pipeline.study.plan import Plan, PlannedRun
from pipeline.study.progress import RunLines, TrialLines
from pipeline.study.results import Record
from pipeline.study.table import StudyTable, failed_trials, tabulate
from pipeline.tables import spaced
from pipeline.tracking import client, runs, writer
from pipeline.training.prepare import VALIDATION
from sharding.errors import InputError, command, here
from sharding.log import count, info
from sharding.manifest import Dataset
from sharding.progress import clock, say

_PAGE, _LATEX, _CSV, _FIGURE = "study.md", "study.tex", "study.csv", "study.png"


def prepare(config: StudyConfig) -> tuple[StudyConfig, Plan]:
    """Plan a study on the dataset that there is; returns its configuration with absolute places.

    Raises:
        InputError: no such dataset, label version or split, or as of `plan.plan`.
    """
    config = replace(
        config, dataset=storage.absolute(config.dataset), output=storage.absolute(config.output)
    )
    dataset = open_dataset(config.dataset, tars=False)
    planned = plan.plan(config, dataset.manifest.labels, dataset.manifest.default_labels)
    planned = settle.settled(planned, config.output)
    to_draw = {plan.drawn_labels(planned.labels, draw) for draw in config.drawn}
    for name in {planned.labels, *(each.config.labels for each in planned.runs)} - to_draw:
        dataset.label_version(name)
    if config.split not in (splits := dataset.label_version(planned.labels)[1].splits):
        raise InputError(
            f"labels {planned.labels!r} have no split {config.split!r}",
            file=config.dataset,
            fix=f"pass --split, one of {', '.join(splits)}",
        )
    if config.tune:
        _check_search(config, planned, dataset)
    return config, planned


def _check_search(config: StudyConfig, planned: Plan, dataset: Dataset) -> None:
    """Refuse a search whose trials have nothing to be compared by."""
    if len(planned.rows) != 1:
        raise InputError("--tune searches the options of one row", fix="pass one --rows")
    search.space_of(config, planned.rows[0])
    for labels in {each.config.labels for each in planned.runs}:
        if VALIDATION not in dataset.label_version(labels)[1].splits:
            raise InputError(
                f"labels {labels!r} have no validation split, which --tune searches by",
                file=config.dataset,
                fix="take label versions that have one",
            )


def run(config: StudyConfig, planned: Plan) -> StudyTable:
    """Train and score what is left of a plan, then write the tables of all of it.

    Trials of a search that failed are among the lost runs of what is returned.

    Args:
        config: of the study, with absolute places.
        planned: its plan.

    Raises:
        InputError: the output cannot be written to, or holds runs of another configuration.
    """
    storage.check_writable(config.output)
    read_records(config, planned)
    begun = time.monotonic()
    with _parent(config, planned) as parent:
        if config.tune:
            planned = _tuned(config, planned, parent)
        records = read_records(config, planned)
        left = [each for each in planned.runs if not _is_done(config, planned, each, records)]
        if left:
            records |= _train(config, planned, left, parent)
        table = tabulate(planned, records)
        _write(config, planned, records, table, parent, time.monotonic() - begun)
    if config.tune and (found := storage.read_json(storage.join(config.output, search.FILE))):
        table = replace(table, lost=[*table.lost, *failed_trials(found)])
    return table


def read_records(config: StudyConfig, planned: Plan) -> dict[str, Record | None]:
    """Read what came out of the plan's runs so far.

    Raises:
        InputError: a file is damaged, or of a run that was trained otherwise.
    """
    records = {each.name: results.read(config.output, each.name) for each in planned.runs}
    hashes = results.hashes_of(open_dataset(config.dataset, tars=False))
    for each in planned.runs:
        if (record := records[each.name]) is not None:
            results.check(record, each, hashes)
    return records


def missing_draws(config: StudyConfig, planned: Plan) -> list[tuple[str, int]]:
    """Name the label versions, with the number of the draw, that have yet to be made."""
    present = open_dataset(config.dataset, tars=False).manifest.labels
    names = {plan.drawn_labels(planned.labels, draw): draw for draw in config.drawn}
    return [(name, draw) for name, draw in names.items() if name not in present]


def describe(config: StudyConfig, planned: Plan) -> str:
    """List the runs of a plan, those of which nothing is left to do marked."""
    records = read_records(config, planned)
    done = [each.name for each in planned.runs if _is_done(config, planned, each, records)]
    return plan.describe(planned, done)


def page_of(config: StudyConfig) -> str:
    """Name the file of a study's tables."""
    return storage.join(config.output, _PAGE)


def _is_done(
    config: StudyConfig, planned: Plan, each: PlannedRun, records: Mapping[str, Record | None]
) -> bool:
    return results.is_done(records[each.name], each, config.split, planned.labels)


def _tuned(config: StudyConfig, planned: Plan, parent: str) -> Plan:
    """Search the options of the one row, and plan the row and the best beside each other."""
    labels = planned.runs[0].config.labels
    assert labels is not None
    drawn = search.draw(config, planned.rows[0], labels)
    kept = [search.read(config.output, each.name) for each in drawn]
    alike = settle.alike([each.config for each in drawn], kept)
    drawn = [replace(each, config=config) for each, config in zip(drawn, alike, strict=True)]
    setting = _setting(config, planned, parent, 1)
    if not search.is_over(setting, drawn):
        # Ray Train frees the CPUs of a trial that was stopped by what the dashboard knows.
        session.connect(log_to_driver=False, include_dashboard=True)
        at_once, alike = settle.side_by_side(
            session.nodes(), alike, kept, _at_once(config, len(drawn))
        )
        drawn = [replace(each, config=config) for each, config in zip(drawn, alike, strict=True)]
        say(f"{count(len(drawn), 'trial')} on validation, {at_once} at a time")
        lines = TrialLines(len(drawn))
        setting = _setting(config, planned, parent, at_once)
        search.search(drawn, config.tune, setting, at_once, lines.ended)
    best = search.best_of(config.output, drawn)
    found = prepare(replace(config, rows=(best.row.label,), tune=()))[1]
    if found.rows[0].label == planned.rows[0].label:
        say(f"the search found nothing better than {best.row.label}")
        return found
    say(f"best of the search: {best.row.label}")
    return prepare(replace(config, rows=(planned.rows[0].label, best.row.label), tune=()))[1]


def _train(
    config: StudyConfig, planned: Plan, left: Sequence[PlannedRun], parent: str
) -> dict[str, Record | None]:
    """Train and score runs side by side; return their records."""
    session.connect(log_to_driver=False)
    at_once, configs = settle.side_by_side(
        session.nodes(),
        [each.config for each in planned.runs],
        [results.read(config.output, each.name) for each in planned.runs],
        _at_once(config, len(left)),
    )
    by_name = {each.name: each for each in configs}
    left = [replace(each, config=by_name[each.name]) for each in left]
    setting = _setting(config, planned, parent, at_once)
    to_do = f"{count(len(left), 'run')} to do, {at_once} at a time, in {here(config.output)}"
    say(f"{to_do}; what they print is in its logs/")
    lines = RunLines(left, at_once, lambda name: results.read(config.output, name))
    lost = set[str]()

    def on_end(name: str, died: bool) -> None:
        lines.ended(name, died)
        if died:
            lost.add(name)

    trials.run(execute, left, setting, at_once=at_once, on_end=on_end)
    found = {each.name: results.read(config.output, each.name) for each in left}
    for each in left:  # a process that died wrote no record: there may be an earlier command's
        if each.name in lost and not _is_done(config, planned, each, found):
            found[each.name] = _died(each, setting)
    return found


def _died(each: PlannedRun, setting: Setting) -> Record:
    record = Record(
        status="failed",
        config=each.config.to_dict(),
        split=setting.split,
        labels=setting.labels,
        reason="its process died; repeat the command",
        data=results.part_of(setting.hashes, each.config.labels, setting.split, setting.labels),
        **known_of(each, setting),
    )
    results.write(setting.study, each, record)
    return record


def _setting(config: StudyConfig, planned: Plan, parent: str, at_once: int) -> Setting:
    return Setting(
        study=config.output,
        split=config.split,
        labels=planned.labels,
        parent=parent,
        workers=at_once * max(each.config.worker_range[1] for each in planned.runs),
        environment={**client.credentials(), "MLFLOW_TRACKING_URI": client.tracking_uri()},
        preset=config.preset or "",
        hashes=results.hashes_of(open_dataset(config.dataset, tars=False)),
    )


def _at_once(config: StudyConfig, runs_left: int) -> int:
    return min(config.at_once or runs_left, runs_left)


@contextlib.contextmanager
def _parent(config: StudyConfig, planned: Plan) -> Iterator[str]:
    """Open the study's MLflow run, of which its trainings are children, and close it."""
    found = own_run.find(config.output)
    has_begun = bool(storage.names_in(config.output) or storage.directories_in(config.output))
    run_id = runs.open_run(
        experiment=planned.runs[0].config.experiment,
        name=storage.join(config.output).rstrip("/").rpartition("/")[2],
        key=config.output,
        resume=found.by_path and has_begun,
        own=found.run_id,
        params={key: value for key, value in asdict(config).items() if value not in (None, ())},
        tags={
            "code_hash": session.code_hash(),
            "mlflow.source.name": "jobs/study_openimages.py",
            "mlflow.source.type": "JOB",
        },
        config=asdict(config),
    )
    own_run.keep(config.output, run_id, found)
    with runs.closing(run_id):
        yield run_id


def _write(
    config: StudyConfig,
    planned: Plan,
    records: Mapping[str, Record | None],
    table: StudyTable,
    parent: str,
    seconds: float,
) -> None:
    """Write the tables and the figure into the study's directory and to its MLflow run."""
    title = f"Study of {here(config.dataset)}"
    facts = [f"command: `{command_of(config)}`", *_facts(planned, table, seconds)]
    found = storage.read_json(storage.join(config.output, search.FILE)) if config.tune else None
    tried = None if found is None else render.searched(found)
    page = render.markdown(table, title, facts, tried)
    files = {
        _PAGE: page.encode(),
        _LATEX: render.latex(table).encode(),
        _CSV: render.as_csv(planned, records).encode(),
        _FIGURE: cam_figures.png(figure.intervals(table), title),
    }
    log = writer.RunWriter(client.tracking_uri(), parent, writer.spool_of(parent))
    for name, content in files.items():
        storage.write_bytes(storage.join(config.output, name), content)
        log.artifact(content, f"study/{name}")
    # A later command has a later step, so that its numbers replace those of the one before.
    step = client.age_of(parent)
    log.log([(name, mean, step) for name, mean in render.metrics(table).items()])
    log.tag("mlflow.note.content", spaced(render.description(table, facts, tried)))
    if unsent := log.flush():
        info(f"MLflow has not taken {unsent} items of the study", "WARNING")


def _facts(planned: Plan, table: StudyTable, seconds: float) -> list[str]:
    """Say how many runs the numbers are of, on what, and how long they took."""
    trained = f"{count(len(planned.runs), 'training')} for {count(len(planned.rows), 'row')}"
    return [
        f"{trained}, {len(table.lost)} without scores; baseline {planned.baseline}",
        f"labels {planned.labels}; code {session.code_hash()}",
        f"{clock(table.seconds)} of training and scoring, {clock(seconds)} in the last command, "
        f"on {_processor()} with {count(os.cpu_count() or 1, 'CPU')}",
    ]


def _processor() -> str:
    """Name the processor of this machine, where Linux does."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        return next(names, platform.machine())
    return platform.machine()


def command_of(config: StudyConfig) -> str:
    """Write the command that repeats a study."""
    defaults = {field.name: field.default for field in fields(StudyConfig)}
    arguments: list[str] = []
    for name, value in asdict(config).items():
        if value != defaults[name] and name != "dry_run":
            values = value if isinstance(value, tuple) else () if value is True else (value,)
            places = map(here, values) if name in ("dataset", "output") else map(str, values)
            arguments += [f"--{name.replace('_', '-')}", *places]
    return command("study", *arguments)
