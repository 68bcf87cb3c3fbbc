"""Open what an audit reads, and write what it exports: annotation CSV and review sheet.

Free of torch until a sheet is drawn, so that the job shows its help at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import storage
from pipeline.audit.review_page import Questions
from pipeline.config.commands import AuditConfig
from pipeline.data.labels import labels_of
from pipeline.data.staging import Cache, cache_options, open_dataset
from sharding.errors import InputError, command, here
from sharding.image_ids import format_image_ids
from sharding.labels import LabelTable
from sharding.manifest import Dataset
from sharding.storage.files import replacing

_MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Readers:
    """What an audit calls to read a dataset beyond what training may.

    Attributes:
        images: (dataset, split, image ids, label version) -> (id, encoded image), of
            `sharding.dataset.lookup`.
        credits: (dataset, image ids) -> author and licence by id, of the same.
        truth: (dataset, what names the truth, split) -> labels, of
            `sharding.dataset.ground_truth`.
    """

    images: Callable[[Dataset, str, Sequence[str], str | None], Iterable[tuple[str, bytes]]]
    credits: Callable[[Dataset, Sequence[str]], Mapping[str, str]]
    truth: Callable[[Dataset, str, str], LabelTable]


@dataclass(frozen=True, kw_only=True)
class Inputs:
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
    def open(cls, config: AuditConfig, split: str = "train") -> Inputs:
        """Open the run and its dataset, with the images of one split where they are shown.

        Raises:
            InputError: there is no such run or dataset.
        """
        run = storage.absolute(config.run)
        trained_on, cache = _dataset_of(run, config)
        location = config.dataset or trained_on
        has_rows = not config.corrections and (config.plan is None or config.pool is not None)
        pictures = has_rows and (config.sheet or bool(config.tools))
        tars = [split] if pictures else []
        dataset = open_dataset(location, cache, tars=tars, confidences=config.confidences)
        checkpoint = config.checkpoint or run
        return cls(run=run, location=location, dataset=dataset, checkpoint=checkpoint)

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.run.rstrip("/").rpartition("/")[2]

    def output(self, config: AuditConfig) -> Path:
        """Choose the directory of an export that evaluations lead to."""
        kind = "labels" if config.plan is None else "plan"
        return config.output or Path(f"export-{self.name}-{kind}")


def _dataset_of(run: str, config: AuditConfig) -> tuple[str, Cache]:
    """Read from a run's configuration which dataset it trains on; choose the cache it comes by."""
    trained = storage.read_json(storage.join(run, "config.json"))
    if trained is None:
        is_there = storage.exists(run)
        problem = "not a run: config.json is missing" if is_there else "no such directory"
        raise InputError(problem, file=run, fix=f"pass {_runs_near(run) or 'runs/NAME'}")
    return str(trained["dataset"]), Cache.of(cache_options(vars(config), trained))


def _runs_near(run: str) -> str:
    """List the first runs in the directory that a run was looked for in."""
    parent = run.rstrip("/").rpartition("/")[0]
    places = (storage.join(parent, name) for name in storage.directories_in(parent))
    there = (place for place in places if storage.exists(storage.join(place, "config.json")))
    return " or ".join(itertools.islice(there, _MOST_NAMED))


def write_csv(path: Path, text: str) -> Path:
    """Write a CSV file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def to_review(sheet: Path, then: str) -> str:
    """Say where a sheet is and which command follows it."""
    return f"to review   {sheet}  (open it in a browser)\nthen        {then}"


def write_sheet(
    path: Path, questions: Questions, inputs: Inputs, readers: Readers, *, name: str, title: str
) -> str:
    """Write the review sheet; return the command that takes in what the reviewer saves.

    Args:
        path: where to.
        questions: what to review.
        inputs: of the audit.
        readers: of the dataset.
        name: of the review, in the names of its file and of the label version it becomes.
        title: what is reviewed.
    """
    from pipeline.audit import review_sheet
    from pipeline.inference import predictor

    dataset = inputs.dataset
    model = predictor.load(inputs.checkpoint)
    model.meta.check_classes(dataset.classes, inputs.checkpoint)
    file = f"reviewed-{name}-{questions.split}.csv"
    options: tuple[str, ...] = ("--dataset", here(inputs.location), "--annotations", file)
    options += ("--labels", f"reviewed-{name}")
    if questions.labels != dataset.label_version()[0]:
        options += ("--base", questions.labels)
    then = command("reshard", *options)
    ids = format_image_ids(questions.image_ids_N)
    review_sheet.write_sheet(
        path,
        questions,
        title=title,
        file=file,
        classes=dataset.classes,
        observed=labels_of(dataset, questions.split, questions.labels),
        model=model,
        images=readers.images(dataset, questions.split, ids, questions.labels),
        credits=readers.credits(dataset, ids),
        command=then,
    )
    return then
