"""The audit of a finished or running training: judge its candidates, export them for review.

Free of torch until a sheet is drawn, so that the job shows its help at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pipeline import storage
from pipeline.audit import candidates, judge
from pipeline.audit.candidates import Candidates
from pipeline.config.commands import AuditConfig
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.labels import LabelTable
from sharding.manifest import Dataset
from sharding.storage.files import replacing

SPLIT = "train"

# (dataset, split, image ids, label version) -> (id, encoded image), as `sharding.dataset.lookup`
# has it.
ReadImages = Callable[[Dataset, str, Sequence[str], str | None], Iterable[tuple[str, bytes]]]

# (dataset, what names the truth, split) -> labels, as `sharding.dataset.ground_truth` has it.
ReadTruth = Callable[[Dataset, str, str], LabelTable]


def run(config: AuditConfig, read_images: ReadImages, read_truth: ReadTruth) -> str:
    """Do what the options ask for; return what to tell the user.

    Raises:
        InputError: the run, the dataset, the epoch or the truth is not there, or do not match.
    """
    location = storage.absolute(config.run)
    if config.corrections:
        return _export_corrections(config, location)
    epochs = candidates.read_run(location)
    dataset = _dataset(config, location)
    told = []
    if config.truth is not None:
        told += [_judge(config, location, epochs, dataset, read_truth), ""]
    found = candidates.of_epoch(epochs, config.epoch).select(
        top=config.top,
        min_probability=config.min_probability,
        min_loss=config.min_loss,
        decisions=config.decisions,
    )
    name = f"{_name_of(location)}-epoch-{found.epoch:03d}"
    output = config.output or Path(f"export-{name}")
    with replacing(output / f"{SPLIT}.csv") as temporary:
        temporary.write_text(found.to_csv(dataset.classes), encoding="utf-8")
    told.append(f"candidates  {output / f'{SPLIT}.csv'}  ({len(found):,} of epoch {found.epoch})")
    if config.sheet and len(found):
        sheet = output / "sheet.html"
        checkpoint = config.checkpoint or location
        command = _write_sheet(sheet, found, name, checkpoint, dataset, read_images)
        told += [f"to review   {sheet}  (open it in a browser)", f"then        {command}"]
    return "\n".join(told)


def _export_corrections(config: AuditConfig, location: str) -> str:
    from pipeline.audit import corrections
    from pipeline.inference import locate

    directory = locate.checkpoint_directory(config.checkpoint or location)
    text, count = corrections.to_csv(directory, _dataset(config, location).classes)
    output = config.output or Path(f"export-{_name_of(location)}-corrections")
    with replacing(output / f"{SPLIT}.csv") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return f"corrections  {output / f'{SPLIT}.csv'}  ({count:,})"


def _name_of(location: str) -> str:
    return location.rstrip("/").rpartition("/")[2]


def _dataset(config: AuditConfig, location: str) -> Dataset:
    if config.dataset is not None:
        return Dataset.open(config.dataset)
    trained = storage.read_json(storage.join(location, "config.json"))
    if trained is None:
        raise InputError("not a run: config.json is missing", file=location, fix="pass runs/NAME")
    return Dataset.open(trained["dataset"])


def _judge(
    config: AuditConfig,
    location: str,
    epochs: Sequence[Candidates],
    dataset: Dataset,
    read_truth: ReadTruth,
) -> str:
    assert config.truth is not None
    observed = dataset.labels(SPLIT, epochs[-1].labels)
    truth = judge.Truth(observed, read_truth(dataset, config.truth, SPLIT))
    verdicts = [judge.judge(found, truth) for found in epochs]
    if config.log:
        _log(location, verdicts)
    return judge.table(verdicts, truth)


def _log(location: str, verdicts: Sequence[judge.Verdict]) -> None:
    import tempfile

    from pipeline.inference import locate
    from pipeline.models.checkpoint import read_meta
    from pipeline.tracking import client, writer

    run_id = read_meta(locate.checkpoint_directory(location)).mlflow_run_id
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
    found: Candidates,
    name: str,
    checkpoint: str,
    dataset: Dataset,
    read_images: ReadImages,
) -> str:
    """Write the sheet; return the command that takes in what the reviewer saves."""
    from pipeline.audit import review_sheet
    from pipeline.inference import predictor

    model = predictor.load(checkpoint)
    model.meta.check_classes(dataset.classes, checkpoint)
    file = f"reviewed-{name}-{SPLIT}.csv"
    command = (
        f"python jobs/reshard_openimages.py --dataset {dataset.directory} "
        f"--annotations {file} --name reviewed-{name}"
    )
    ids = format_image_ids(found.image_ids_N)
    review_sheet.write_sheet(
        path,
        found,
        title=f"{len(found)} candidates of {found.method}, epoch {found.epoch}",
        file=file,
        classes=dataset.classes,
        observed=dataset.labels(SPLIT, found.labels),
        model=model,
        images=read_images(dataset, SPLIT, ids, found.labels),
        command=command,
    )
    return command
