"""The audit of a finished or running training: judge its candidates, export them for review.

Free of torch until a sheet is drawn, so that the job shows its help at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import audit, candidates, storage
from pipeline.candidates import DECISIONS, Candidates, Decision
from sharding.atomic import replacing
from sharding.errors import InputError
from sharding.labels import LabelTable, format_image_ids
from sharding.manifest import Dataset

SPLIT = "train"
# (dataset, split, image ids, label version) -> (id, encoded image), as `sharding.lookup` has it.
ReadImages = Callable[[Dataset, str, Sequence[str], str | None], Iterable[tuple[str, bytes]]]
# (dataset, what names the truth, split) -> labels, as `sharding.truth` has it.
ReadTruth = Callable[[Dataset, str, str], LabelTable]


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """Which candidates to export and where to, and what to judge them by."""

    run: str
    """Directory (or URL) of a training run."""
    output: Path | None = None
    """Directory for train.csv and sheet.html; default: export-RUN-epoch-NNN."""
    dataset: str | None = None
    """Dataset that has the images; default: the one that was trained on."""
    epoch: int | None = None
    """Whose candidates; default: the last one's."""
    top: int = 100
    """Most candidates exported, largest loss first; each adds about 30 kB to the sheet."""
    min_probability: float = 0.0
    """Least probability of a candidate that is exported."""
    min_loss: float = 0.0
    """Least loss of a candidate that is exported."""
    decisions: tuple[Decision, ...] = DECISIONS
    """Export only what the method decided so."""
    sheet: bool = True
    """Write the review sheet as well; it takes a forward pass per image."""
    checkpoint: str | None = None
    """Whose activation maps or corrections; default: the run's best."""
    corrections: bool = False
    """Write what ll-cp corrected for good, all of it, to train.csv instead of candidates."""
    truth: str | None = None
    """Labels known in full: a label version, a dump, or a folder like the demo's ground_truth."""
    log: bool = False
    """Add precision and recall by --truth to the run's curves in MLflow."""

    def __post_init__(self) -> None:
        if self.top < 1:
            raise InputError(f"the top {self.top} candidates", fix="pass --top 1 or more")


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
    from pipeline import corrections, locate

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
    truth = audit.Truth(observed, read_truth(dataset, config.truth, SPLIT))
    verdicts = [audit.judge(found, truth) for found in epochs]
    if config.log:
        _log(location, verdicts)
    return audit.table(verdicts, truth)


def _log(location: str, verdicts: Sequence[audit.Verdict]) -> None:
    import tempfile

    from pipeline import checkpoint, locate, tracking

    run_id = checkpoint.read_meta(locate.checkpoint_directory(location)).mlflow_run_id
    with tempfile.TemporaryDirectory() as directory:
        tracker = tracking.Tracker(tracking.tracking_uri(), run_id, f"{directory}/spool.jsonl")
        for verdict in verdicts:
            tracker.log([(name, value, verdict.images_seen) for name, value in verdict.metrics()])
        if tracker.flush(timeout=20):
            raise InputError(
                f"MLflow did not take the curves of run {run_id}",
                file=tracking.tracking_uri(),
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
    from pipeline import predictor, review

    model = predictor.load(checkpoint)
    model.meta.check_classes(dataset.classes, checkpoint)
    file = f"reviewed-{name}-{SPLIT}.csv"
    command = (
        f"python jobs/reshard_openimages.py --dataset {dataset.directory} "
        f"--annotations {file} --name reviewed-{name}"
    )
    ids = format_image_ids(found.image_ids_N)
    review.write_sheet(
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
