"""Audit the label candidates of a finished or running training: judge them, export them.

Free of torch until a sheet is drawn, so that the job shows its help at once.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import storage
from pipeline.audit import candidates, judge, label_tools
from pipeline.audit.candidates import Candidates
from pipeline.config.commands import AuditConfig
from pipeline.data.labels import confidences_of, labels_of
from pipeline.data.staging import Cache, open_dataset
from sharding.errors import InputError, command
from sharding.image_ids import format_image_ids
from sharding.labels import LabelTable
from sharding.log import count
from sharding.manifest import Dataset
from sharding.storage.files import replacing

SPLIT = "train"
_MOST_NAMED = 3

ReadImages = Callable[[Dataset, str, Sequence[str], str | None], Iterable[tuple[str, bytes]]]
"""(dataset, split, image ids, label version) -> (id, encoded image): `sharding.dataset.lookup`."""
ReadCredits = Callable[[Dataset, Sequence[str]], Mapping[str, str]]
"""(dataset, image ids) -> author and licence by id: `sharding.dataset.lookup`."""
ReadTruth = Callable[[Dataset, str, str], LabelTable]
"""(dataset, what names the truth, split) -> labels: `sharding.dataset.ground_truth`."""


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """What an audit reads.

    Attributes:
        run: directory or URL of the training run.
        location: directory or URL of the dataset, as it was written.
        dataset: opened; its images are on a local disk only where a sheet is drawn.
        checkpoint: whose maps or corrections, as `locate.checkpoint_directory` takes it.
    """

    run: str
    location: str
    dataset: Dataset
    checkpoint: str

    @classmethod
    def open(cls, config: AuditConfig) -> _Inputs:
        run = storage.absolute(config.run)
        trained_on, cache = _dataset_of(run)
        location = config.dataset or trained_on
        pictures = (config.sheet or bool(config.tools)) and not config.corrections
        dataset = open_dataset(location, cache, tars=pictures, confidences=config.confidences)
        checkpoint = config.checkpoint or run
        return cls(run=run, location=location, dataset=dataset, checkpoint=checkpoint)

    @property
    def name(self) -> str:
        return self.run.rstrip("/").rpartition("/")[2]


def run(
    config: AuditConfig, read_images: ReadImages, read_credits: ReadCredits, read_truth: ReadTruth
) -> str:
    """Do what the options ask for; return the report for the user.

    Args:
        config: the options.
        read_images: reads the photographs of candidates.
        read_credits: reads who took them.
        read_truth: reads the labels to judge by.

    Raises:
        InputError: the run, the dataset, the epoch or the truth is not there, or do not match.
    """
    if config.corrections:
        return _export_corrections(config)
    inputs = _Inputs.open(config)
    epochs = candidates.read_run(inputs.run)
    report = []
    missing = None
    if config.truth is not None:
        truth = read_truth(inputs.dataset, config.truth, SPLIT)
        missing = judge.Truth(labels_of(inputs.dataset, SPLIT, epochs[-1].labels), truth)
        verdicts = [judge.judge(of_epoch, missing) for of_epoch in epochs]
        if config.log:
            _log(inputs.run, verdicts)
        report += [judge.table(verdicts, missing), ""]
    chosen = _ranked(candidates.of_epoch(epochs, config.epoch), inputs.dataset, config).select(
        top=config.top,
        min_probability=config.min_probability,
        min_loss=config.min_loss,
        decisions=config.decisions,
    )
    name = f"{inputs.name}-epoch-{chosen.epoch:03d}"
    output = config.output or Path(f"export-{name}")
    path = _write_csv(output, chosen.to_csv(inputs.dataset.classes))
    report.append(f"candidates  {path}  ({len(chosen):,} of epoch {chosen.epoch})")
    if not len(chosen) and inputs.dataset.is_complete(chosen.labels):
        report.append(f"why none    labels {chosen.labels} know every label: there is none to find")
    if missing is not None:
        report.append(f"judged      {judge.describe(chosen, missing)}")
    if config.sheet and len(chosen):
        sheet = output / "sheet.html"
        then = _write_sheet(sheet, chosen, name, inputs, read_images, read_credits)
        report += [f"to review   {sheet}  (open it in a browser)", f"then        {then}"]
    if config.tools and len(chosen):
        ids = list(dict.fromkeys(format_image_ids(chosen.image_ids_N)))
        images = read_images(inputs.dataset, SPLIT, ids, chosen.labels)
        classes = inputs.dataset.classes
        for path in label_tools.write(output, config.tools, chosen, classes, images):
            report.append(f"written     {path}")
    return "\n".join(report)


def _ranked(found: Candidates, dataset: Dataset, config: AuditConfig) -> Candidates:
    """Add the confidences that are asked for, and order the candidates.

    Raises:
        InputError: they are to be ordered by confidences, and there are none.
    """
    if config.confidences is not None:
        labels = labels_of(dataset, SPLIT, found.labels)
        table, _ = confidences_of(dataset, SPLIT, config.confidences, labels)
        found = found.with_confidences(table)
    if config.rank == "loss":
        return found
    if found.confidences_N is None:
        raise InputError(
            "the run was trained without a machine to disagree with",
            fix="pass --confidences VERSION, which reshard --confidences TABLE writes",
        )
    return found.by_disagreement()


def _dataset_of(run: str) -> tuple[str, Cache]:
    """Read from a run's configuration which dataset it trains on, and by way of which cache."""
    trained = storage.read_json(storage.join(run, "config.json"))
    if trained is None:
        is_there = storage.exists(run)
        problem = "not a run: config.json is missing" if is_there else "no such directory"
        raise InputError(problem, file=run, fix=f"pass {_runs_near(run) or 'runs/NAME'}")
    return str(trained["dataset"]), Cache.of(trained)


def _runs_near(run: str) -> str:
    """List the first runs in the directory that a run was looked for in."""
    parent = run.rstrip("/").rpartition("/")[0]
    places = (storage.join(parent, name) for name in storage.directories_in(parent))
    there = (place for place in places if storage.exists(storage.join(place, "config.json")))
    return " or ".join(itertools.islice(there, _MOST_NAMED))


def _export_corrections(config: AuditConfig) -> str:
    from pipeline.audit import corrections
    from pipeline.inference import locate

    inputs = _Inputs.open(config)
    directory = locate.checkpoint_directory(inputs.checkpoint)
    text, count = corrections.to_csv(directory, inputs.dataset.classes)
    path = _write_csv(config.output or Path(f"export-{inputs.name}-corrections"), text)
    return f"corrections  {path}  ({count:,})"


def _write_csv(output: Path, text: str) -> Path:
    path = output / f"{SPLIT}.csv"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _log(run: str, verdicts: Sequence[judge.Verdict]) -> None:
    """Add precision and recall to the run's curves in MLflow."""
    from pipeline.inference import locate
    from pipeline.models.checkpoint import read_meta
    from pipeline.tracking import client, writer

    run_id = read_meta(locate.checkpoint_directory(run)).mlflow_run_id
    with tempfile.TemporaryDirectory() as directory:
        tracker = writer.RunWriter(client.tracking_uri(), run_id, f"{directory}/spool.jsonl")
        for verdict in verdicts:
            tracker.log([(name, value, verdict.images_seen) for name, value in verdict.metrics()])
        if tracker.flush(timeout=20):
            raise InputError(
                f"MLflow did not take the curves of run {run_id}",
                file=client.tracking_uri(),
                fix="run the command where the training ran, or set MLFLOW_TRACKING_URI",
            )


def _write_sheet(
    path: Path,
    chosen: Candidates,
    name: str,
    inputs: _Inputs,
    read_images: ReadImages,
    read_credits: ReadCredits,
) -> str:
    """Write the sheet; return the command that takes in what the reviewer saves."""
    from pipeline.audit import review_sheet
    from pipeline.inference import predictor

    model = predictor.load(inputs.checkpoint)
    model.meta.check_classes(inputs.dataset.classes, inputs.checkpoint)
    file = f"reviewed-{name}-{SPLIT}.csv"
    options: tuple[str, ...] = ("--dataset", inputs.location, "--annotations", file)
    options += ("--labels", f"reviewed-{name}")
    if chosen.labels != inputs.dataset.label_version()[0]:
        options += ("--base", chosen.labels)
    then = command("reshard", *options)
    ids = format_image_ids(chosen.image_ids_N)
    review_sheet.write_sheet(
        path,
        chosen,
        title=f"{count(len(chosen), 'candidate')} of {chosen.method}, epoch {chosen.epoch}",
        file=file,
        classes=inputs.dataset.classes,
        observed=labels_of(inputs.dataset, SPLIT, chosen.labels),
        model=model,
        images=read_images(inputs.dataset, SPLIT, ids, chosen.labels),
        credits=read_credits(inputs.dataset, ids),
        command=then,
    )
    return then
