"""Audit a finished or running training: judge its label candidates, export what to review.

Free of torch until a sheet is drawn, so that the job shows its help at once.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.audit import candidates, inputs, judge, label_tools
from pipeline.audit.candidates import Candidates
from pipeline.audit.inputs import Inputs, Readers
from pipeline.audit.review_page import Questions, percent
from pipeline.config.commands import OF_CANDIDATES, AuditConfig
from pipeline.data.labels import confidences_of, labels_of
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.labels import LabelTable
from sharding.log import count
from sharding.manifest import Dataset

SPLIT = "train"
_OF_TRAINED = ", or pass --scores of the labels that the run trained on"
_NOTE = (
    "Loss and probability in training are of the step that made the candidate: of an augmented "
    "picture, and by a network that had learned less; they often differ."
)


def run(config: AuditConfig, readers: Readers) -> str:
    """Do what the options ask for; return the report for the user.

    Raises:
        InputError: the run, the dataset, the epoch, the scores or the truth is not there, or do
            not match.
    """
    if config.corrections:
        return _export_corrections(config)
    if not config.scores:
        return _export_candidates(config, Inputs.open(config), readers)
    from pipeline.audit import scored

    of_candidates = config.given(*OF_CANDIDATES)
    evaluations = scored.read(config.scores)
    split, labels = (scored.about(evaluations[0], key) for key in ("split", "labels"))
    if split != SPLIT:
        given = [*of_candidates, *config.given("held_out")]
        problem = f"the scores are of split {split}"
        scored.refuse_ignored(given, evaluations[0], problem, _OF_TRAINED)
    opened = Inputs.open(config, split)
    scored.check_entries(evaluations, opened.dataset)
    if config.plan is not None:
        from pipeline.audit import planned

        return planned.export_plan(config, opened, readers, evaluations[0])
    has_candidates = split == SPLIT and bool(candidates.read_names(opened.run))
    if has_candidates:
        epochs = candidates.read_run(opened.run, opened.dataset.classes)
        newest = candidates.of_epoch(epochs, config.epoch)
        has_candidates = newest.labels == labels
    if not has_candidates:
        any_there = bool(candidates.read_names(opened.run))
        problem = f"the run has no candidates{f' of labels {labels}' if any_there else ''}"
        otherwise = _OF_TRAINED if any_there else ""
        scored.refuse_ignored(of_candidates, evaluations[0], problem, otherwise)
    readers = _truth_once(readers)
    report, errors = scored.export_errors(config, opened, readers, evaluations)
    if has_candidates:
        return f"{report}\n{_export_candidates(config, opened, readers, errors)}"
    name = f"{opened.name}-labels"
    if config.sheet and len(errors):
        sheet = opened.output(config) / "sheet.html"
        title = count(len(errors), "verified label") + " that networks contradict"
        then = inputs.write_sheet(sheet, errors, opened, readers, name=name, title=title)
        report += f"\n{inputs.to_review(sheet, then)}"
    return report


def _truth_once(readers: Readers) -> Readers:
    """Keep the truth once it is read: verified labels and candidates are both judged by it."""
    known: dict[tuple[str, str], LabelTable] = {}

    def truth(dataset: Dataset, source: str, split: str) -> LabelTable:
        if (source, split) not in known:
            known[source, split] = readers.truth(dataset, source, split)
        return known[source, split]

    return dataclasses.replace(readers, truth=truth)


def _export_candidates(
    config: AuditConfig, opened: Inputs, readers: Readers, errors: Questions | None = None
) -> str:
    """Export candidates; label errors, if any, stand below them on the same sheet."""
    epochs = candidates.read_run(opened.run, opened.dataset.classes)
    report = []
    missing = None
    if config.truth is not None:
        truth = readers.truth(opened.dataset, config.truth, SPLIT)
        missing = judge.Truth(labels_of(opened.dataset, SPLIT, epochs[-1].labels), truth)
        verdicts = [judge.judge(of_epoch, missing) for of_epoch in epochs]
        if config.log:
            _log(opened.run, verdicts)
        report += [judge.table(verdicts, missing), ""]
    chosen = _ranked(candidates.of_epoch(epochs, config.epoch), opened.dataset, config).select(
        top=config.top,
        min_probability=config.min_probability,
        min_loss=config.min_loss,
        decisions=config.decisions,
    )
    name = f"{opened.name}-epoch-{chosen.epoch:03d}"
    output = config.output or Path(f"export-{name}")
    path = inputs.write_csv(output / f"{SPLIT}.csv", chosen.to_csv(opened.dataset.classes))
    report.append(f"candidates  {path}  ({len(chosen):,} of epoch {chosen.epoch})")
    if not len(chosen) and opened.dataset.is_complete(chosen.labels):
        report.append(f"why none    labels {chosen.labels} know every label: there is none to find")
    if missing is not None:
        report.append(f"judged      {judge.describe(chosen, missing)}")
    asked = questions(chosen)
    title = f"{count(len(chosen), 'candidate')} of {chosen.method}, epoch {chosen.epoch}"
    if errors is not None and len(errors):
        asked = asked.followed_by(errors)
        title += f", and {count(len(errors), 'verified label')} that networks contradict"
    if config.sheet and len(asked):
        sheet = output / "sheet.html"
        then = inputs.write_sheet(sheet, asked, opened, readers, name=name, title=title)
        report.append(inputs.to_review(sheet, then))
    if config.tools and len(chosen):
        ids = list(dict.fromkeys(format_image_ids(chosen.image_ids_N)))
        images = readers.images(opened.dataset, SPLIT, ids, chosen.labels)
        classes = opened.dataset.classes
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


def questions(chosen: Candidates) -> Questions:
    """Ask whether the candidates are present."""
    return Questions(
        split=SPLIT,
        labels=chosen.labels,
        note=_NOTE,
        image_ids_N=chosen.image_ids_N,
        classes_N=chosen.classes_N,
        facts_N=[_facts(chosen, n) for n in range(len(chosen))],
    )


def _facts(chosen: Candidates, n: int) -> list[tuple[str, str]]:
    """Say what training made of a candidate, and what the machine thought where one was asked."""
    trained = (
        f"loss {chosen.losses_N[n]:.2f}, probability {percent(chosen.probabilities_N[n])}, "
        f"{chosen.decisions_N[n]} ({chosen.method}, epoch {chosen.epoch})"
    )
    if chosen.confidences_N is None:
        return [("training", trained)]
    confidence = float(chosen.confidences_N[n])
    said = "silent" if math.isnan(confidence) else f"confidence {confidence:.2f}"
    return [("training", trained), ("machine", said)]


def _export_corrections(config: AuditConfig) -> str:
    from pipeline.audit import corrections
    from pipeline.inference import locate

    opened = Inputs.open(config)
    directory = locate.checkpoint_directory(opened.checkpoint)
    text, count = corrections.to_csv(directory, opened.dataset.classes)
    output = config.output or Path(f"export-{opened.name}-corrections")
    path = inputs.write_csv(output / f"{SPLIT}.csv", text)
    return f"corrections  {path}  ({count:,})"


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
