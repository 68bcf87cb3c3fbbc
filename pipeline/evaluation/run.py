"""Evaluate a checkpoint on a split: scores from Ray tasks, AP per class, means, comparisons."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from pipeline import storage
from pipeline.cluster import session, tasks
from pipeline.config.commands import EvaluateConfig
from pipeline.data.labels import FirstBatches, LabelledSplit, labels_of
from pipeline.data.profile import grouped_by
from pipeline.data.staging import Cache, cache_options, open_dataset
from pipeline.evaluation import attribution, bootstrap, references
from pipeline.evaluation.attribution import MapStudy
from pipeline.evaluation.per_class import PerClass
from pipeline.evaluation.pointing_game import Boxes
from pipeline.evaluation.references import Baseline
from pipeline.evaluation.report import Comparison, Report
from pipeline.evaluation.scores import Scores, score
from pipeline.inference import beam, locate
from pipeline.inference.cams import Explained, explain
from pipeline.inference.choose_points import Decisions, Entries, choose
from pipeline.models import operating_points
from pipeline.models.checkpoint import Meta, load_model, read_meta
from pipeline.models.operating_points import OperatingPoints
from sharding.errors import InputError
from sharding.log import first_line, info
from sharding.manifest import Dataset

# Several parts per worker even out slow machines and make progress visible.
_PARTS_PER_WORKER = 4
_PICTURED_BATCH = 8


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What an evaluation is of and what it is compared with, opened and checked.

    Attributes:
        config: with an absolute dataset, and the cache that is used.
        checkpoint: the checkpoint directory that the configuration names, or its URL.
        meta: of the checkpoint.
        dataset: its metadata; the images are opened where they are scored.
        labels: name of the label version judged by.
        boxes: for the pointing game, where that was asked for.
        baseline: the evaluation to compare with, where that was asked for.
        points: the checkpoint's thresholds, to be judged; None where it has none, where new ones
            are chosen, and with a beam or another slope, which they are not of.
    """

    config: EvaluateConfig
    checkpoint: str
    meta: Meta
    dataset: Dataset
    labels: str
    boxes: Boxes | None = None
    baseline: Baseline | None = None
    points: OperatingPoints | None = None

    @classmethod
    def open(cls, config: EvaluateConfig) -> Subject:
        """Read everything that a configuration names, before the first image is scored.

        Raises:
            InputError: checkpoint, dataset, split, boxes or baseline are missing or do not fit
                each other, or the checkpoint's thresholds are damaged.
        """
        directory = locate.checkpoint_directory(config.checkpoint)
        meta = read_meta(directory)
        trained = meta.train_config
        config = dataclasses.replace(
            config,
            dataset=storage.absolute(config.dataset),
            **cache_options(vars(config), vars(trained)),
        )
        dataset = open_dataset(config.dataset, Cache.of(vars(config)), tars=False)
        meta.check_classes(dataset.classes, directory)
        beam.check(meta, directory, config.beam)
        if config.boxes or (config.alpha_infer or 1) > 1:
            meta.check_maps(directory)
        own = trained.model.alpha_infer
        if config.register and config.alpha_infer not in (None, own):
            raise InputError(
                f"a registered model is served with its own slope, {own:g}",
                fix="leave out --alpha-infer or --register",
            )
        points = None
        if config.thresholds:
            locate.check_thresholds_place(directory)
        elif not config.beam and config.alpha_infer in (None, own):
            points = operating_points.read(directory, meta.classes_sha256)
        # Named once: the dataset's default may change before a worker opens it.
        config = dataclasses.replace(config, labels=dataset.label_version(config.labels)[0])
        table = labels_of(dataset, config.split, config.labels)
        baseline = Baseline.read(config.against) if config.against else None
        if baseline is not None:
            baseline.check_entries(table, dataset.classes)
        return cls(
            config=config,
            checkpoint=directory,
            meta=meta,
            dataset=dataset,
            labels=str(config.labels),
            boxes=Boxes.of_dataset(Path(config.boxes), dataset, config.dataset)
            if config.boxes
            else None,
            baseline=baseline,
            points=points,
        )


@dataclass(frozen=True, kw_only=True)
class Part:
    """The results of one part of the split.

    Attributes:
        number: of the part, from 0.
        scores: of the part's annotated entries.
        maps: statistics of the part's maps, where they were asked for.
        explained: pictures of the split's first images; the first part has them.
    """

    number: int
    scores: Scores
    maps: MapStudy | None = None
    explained: tuple[Explained, ...] = ()


@dataclass(frozen=True, kw_only=True, repr=False)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        subject: what was evaluated.
        scores: annotated entries with both logits.
        per_class: AP and supports of every class.
        maps: statistics of the activation maps, where they were asked for.
        explained: activation maps of a few images.
        report: the means, and what they are compared with.
        decisions: by thresholds chosen here, or those that the checkpoint has.
        refusal: why the thresholds chosen here are not in the checkpoint, if they are not.
    """

    subject: Subject
    scores: Scores
    per_class: PerClass
    maps: MapStudy | None
    explained: tuple[Explained, ...]
    report: Report
    decisions: Decisions | None = None
    refusal: InputError | None = None

    def __repr__(self) -> str:
        return repr(self.report)

    def _repr_markdown_(self) -> str:
        return self.report.markdown()


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Evaluate on the cluster; any number of workers with as many CPUs gives the same bits.

    Ray is joined, or started, once everything that needs no cluster is checked.

    Raises:
        InputError: as of `Subject.open`; a file is missing or damaged; or the checkpoint is an
            MLflow model's own copy and the cluster has several nodes.
    """
    subject = Subject.open(config)
    session.connect()
    asked = config.workers, config.cpus_per_worker, config.wait_for_workers
    workers, gpus, cpus = session.shares(*asked)
    # Named in MLflow, so that the same bits can be had again.
    known = dataclasses.replace(subject.config, cpus_per_worker=cpus)
    subject = dataclasses.replace(subject, config=known)
    if locate.is_copy(subject.checkpoint) and len(session.nodes()) > 1:
        raise InputError(
            f"{config.checkpoint} was downloaded to this machine, which the others do not see",
            fix="pass a checkpoint directory or bucket that every node reads",
        )
    samples = sum(shard.images for shard in subject.dataset.shards(config.split))
    count = min(workers * _PARTS_PER_WORKER, -(-samples // config.batch_size))
    work = partial(evaluate_part, subject.config, subject.checkpoint, subject.boxes, count, cpus)
    finished = tasks.run_tasks(
        work,
        range(count),
        num_cpus=cpus,
        num_gpus=gpus,
        max_in_flight=workers,
        label=f"evaluate {config.split}",
    )
    # As they lie in the split: the last bits of a sum depend on the order of the entries.
    parts = sorted(finished, key=lambda part: part.number)
    scores = Scores.concatenate([part.scores for part in parts])
    studies = [part.maps for part in parts if part.maps is not None]
    maps = sum(studies[1:], start=studies[0]) if studies else None
    per_class = PerClass.of(scores, subject.dataset.classes, config.rule)
    decisions = _decisions(subject, scores)
    return Evaluation(
        subject=subject,
        scores=scores,
        per_class=per_class,
        maps=maps,
        explained=sum((part.explained for part in parts), start=()),
        report=make_report(subject, scores, per_class, maps),
        decisions=decisions,
        refusal=_keep(decisions.points, subject) if decisions and config.thresholds else None,
    )


def _decisions(subject: Subject, scores: Scores) -> Decisions | None:
    """Choose thresholds if asked to; else take the checkpoint's, if it has any."""
    config, points = subject.config, subject.points
    entries = Entries.of(scores.boosted_E, scores.labels_E, scores.classes_E)
    if config.thresholds:
        source = f"verified {config.split} entries of labels {subject.labels}"
        classes = subject.dataset.classes
        points = choose(entries, classes, precision=config.precision, source=source)
    target = config.precision if config.thresholds else None
    return None if points is None else Decisions(points=points, entries=entries, precision=target)


def _keep(points: OperatingPoints, subject: Subject) -> InputError | None:
    """Write thresholds into the checkpoint; where it takes none, the scores are not lost."""
    path = operating_points.path_in(subject.checkpoint)
    try:
        with locate.still_there(subject.checkpoint):
            read_meta(subject.checkpoint)  # the file would make its directory anew
        storage.write_bytes(path, points.to_json().encode())
    except (OSError, InputError) as error:
        reason = getattr(error, "problem", "") or first_line(error)
        fix = getattr(error, "fix", "repeat the command when it can be written")
        refusal = InputError(f"thresholds are not kept ({reason})", file=path, fix=fix)
        info(str(refusal), "WARNING")
        return refusal
    return None


def evaluate_part(
    config: EvaluateConfig, directory: str, boxes: Boxes | None, parts: int, threads: int, part: int
) -> Part:
    """Evaluate one part of the split; runs in a Ray task.

    Args:
        config: with an absolute dataset, and the cache that is used.
        directory: the checkpoint, or its URL.
        boxes: for the pointing game.
        parts: into how many the split is cut, between batches.
        threads: to decode and compute with.
        part: which of them, from 0.
    """
    torch.set_num_threads(threads)
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    dataset = open_dataset(config.dataset, Cache.of(vars(config)), tars=[config.split])
    model, meta = load_model(directory)
    model = model.to(device)
    model.head.alpha_infer = config.alpha_infer or model.head.alpha_infer
    images = LabelledSplit.open(
        dataset,
        config.split,
        config.labels,
        device,
        image_size=meta.train_config.data.image_size,
        threads=threads,
        batch_size=config.batch_size,
    )
    maps = None
    if boxes is not None or (config.attribution and model.has_maps):
        batches = -(-config.attribution // attribution.BATCH)
        first = None if boxes is not None else batches * attribution.BATCH
        share = images.in_batches(attribution.BATCH).part(part, parts, first)
        maps = attribution.study(model, share, config.attribution, boxes)
    explained: tuple[Explained, ...] = ()
    if part == 0:
        first_images = FirstBatches(images.in_batches(_PICTURED_BATCH))
        explained = tuple(explain(model, first_images, dataset.classes))
    # Last: the maps are those of the network's own head.
    model = beam.attach(model, meta, directory, config.beam).to(device)
    scores = score(model, images.part(part, parts))
    return Part(number=part, scores=scores, maps=maps, explained=explained)


def make_report(
    subject: Subject, scores: Scores, per_class: PerClass, maps: MapStudy | None
) -> Report:
    """Report the means with everything that the configuration asks for."""
    config, dataset = subject.config, subject.dataset
    summaries = per_class.summaries()
    return Report(
        summaries=summaries,
        intervals=bootstrap.all_intervals(
            summaries, scores, dataset.classes.groups_K, config.rule, config.replicates
        ),
        published=references.published_beside(
            subject.meta.train_config.method,
            release=dataset.label_version(subject.labels)[1].release,
            split=config.split,
            num_classes=len(dataset.classes),
        ),
        comparison=_comparison(scores, subject, subject.baseline) if subject.baseline else None,
        pointing_game=maps.pointing_game(dataset.classes.groups_K) if maps else {},
        grouped_by=grouped_by(dataset),
    )


def _comparison(scores: Scores, subject: Subject, baseline: Baseline) -> Comparison | None:
    groups_K, rule = subject.dataset.classes.groups_K, subject.config.rule
    try:
        differences = bootstrap.compare(baseline.scores, scores, groups_K, rule=rule)
    except InputError as error:  # an image that only one of them could read: no reason to end
        info(f"no comparison with {baseline.name}: {error}", "WARNING")
        return None
    return Comparison(first=baseline.name, second="this run", differences=differences)
