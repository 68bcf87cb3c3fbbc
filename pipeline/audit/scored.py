"""Export the verified labels that evaluations contradict, to review them like candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.audit import inputs, label_errors
from pipeline.audit.inputs import Inputs, Readers
from pipeline.audit.label_errors import LabelErrors, Opinion
from pipeline.audit.review_page import Questions, percent
from pipeline.config.commands import AuditConfig
from pipeline.data.labels import labels_of
from pipeline.evaluation.references import Baseline
from pipeline.models.checkpoint import read_meta
from pipeline.tables import csv_of
from pipeline.tables import percent as cell
from sharding.classes import ClassTable
from sharding.errors import InputError, ignored
from sharding.image_ids import format_image_ids
from sharding.labels import LabelTable, entry_keys
from sharding.log import count
from sharding.manifest import Dataset

_STATES = ("negative", "positive")
_NOTE = (
    "Verified labels: the same letter confirms one, the other turns it. Probabilities of the "
    "networks are those of their evaluations."
)


def read(names: Sequence[str]) -> list[Baseline]:
    """Read evaluations, as MLflow run ids or score files, of one split and label version.

    Raises:
        InputError: one is not there, or of another split or label version than the first.
    """
    evaluations = [Baseline.read(name) for name in names]
    split, labels = (about(evaluations[0], key) for key in ("split", "labels"))
    for evaluation in evaluations:
        if (about(evaluation, "split"), about(evaluation, "labels")) != (split, labels):
            raise InputError(
                f"scores are not of split {split} by labels {labels}, as those of {names[0]} are",
                file=evaluation.name,
                fix="pass evaluations of one split and label version",
            )
    return evaluations


def check_entries(evaluations: Sequence[Baseline], dataset: Dataset) -> None:
    """Refuse evaluations of another class list, or of other entries than the dataset's labels have.

    Raises:
        InputError: naming the first such, or the dataset lacks the split or label version.
    """
    split, labels = (about(evaluations[0], key) for key in ("split", "labels"))
    table = labels_of(dataset, split, labels)
    for evaluation in evaluations:
        evaluation.check_entries(table, dataset.classes)


def refuse_ignored(
    given: Sequence[str], evaluation: Baseline, problem: str, otherwise: str = ""
) -> None:
    """Refuse options that mean nothing beside the scores of an evaluation.

    Args:
        given: of them, as they are written.
        evaluation: of `read`.
        problem: why they would be ignored, to follow their names.
        otherwise: what else would mend it, to follow the advice to leave them out.

    Raises:
        InputError: naming those that are given.
    """
    if given:
        raise ignored(given, f": {problem}", otherwise=otherwise, file=evaluation.name)


def about(evaluation: Baseline, key: str) -> str:
    """Read what an evaluation's scores are of, by name: "split", "labels", "checkpoint".

    Raises:
        InputError: its file does not say it.
    """
    if key not in evaluation.about:
        raise InputError(
            f"the scores do not say their {key}",
            file=evaluation.name,
            fix="evaluate the checkpoint again; an evaluation's file in MLflow says it",
        )
    return evaluation.about[key]


def export_errors(
    config: AuditConfig, opened: Inputs, readers: Readers, evaluations: Sequence[Baseline]
) -> tuple[str, Questions]:
    """Write the verified labels that all networks contradict; return the report and the questions.

    Args:
        config: whose ``top`` is the most of them.
        opened: inputs.
        readers: of the dataset.
        evaluations: of `read`.
    """
    dataset = opened.dataset
    split, labels = (about(evaluations[0], key) for key in ("split", "labels"))
    opinions = [_opinion(evaluation, split, dataset, config) for evaluation in evaluations]
    every = label_errors.find(opinions, len(dataset.classes))
    found = every.first(config.top)
    path = opened.output(config) / "label-errors.csv"
    inputs.write_csv(path, _errors_csv(found, dataset.classes))
    report = [
        f"labels      {path}  ({len(found):,} of {len(every):,} that all networks contradict, "
        f"{every.judged:,} verified {split} labels judged)"
    ]
    if config.truth is not None:
        report.append(_judged(found, readers.truth(dataset, config.truth, split)))
    asked = Questions(
        split=split,
        labels=labels,
        note=_NOTE,
        image_ids_N=found.image_ids_N,
        classes_N=found.classes_N,
        facts_N=[_error_facts(found, n) for n in range(len(found))],
    )
    return "\n".join(report), asked


def _opinion(evaluation: Baseline, split: str, dataset: Dataset, config: AuditConfig) -> Opinion:
    scores = evaluation.scores
    said = Opinion(
        image_ids_E=scores.image_ids_E,
        classes_E=scores.classes_E,
        labels_E=scores.labels_E,
        logits_E=scores.boosted_E,
    )
    if split != "train" or not config.held_out:
        return said
    meta = read_meta(about(evaluation, "checkpoint"))
    return said.held_out(dataset.labels(split, meta.labels))


def _error_facts(found: LabelErrors, n: int) -> list[tuple[str, str]]:
    networks = count(int(found.networks_N[n]), "network")
    probability = f"{percent(found.probabilities_N[n])} present by {networks}"
    return [
        ("verified as", _STATES[found.labels_N[n]]),
        ("evaluated", f"{probability}, loss {found.losses_N[n]:.2f}"),
    ]


def _errors_csv(found: LabelErrors, classes: ClassTable) -> str:
    columns = (
        format_image_ids(found.image_ids_N),
        [classes.mids[int(k)] for k in found.classes_N],
        [classes.names[int(k)] for k in found.classes_N],
        found.labels_N.tolist(),
        [f"{loss:.4f}" for loss in found.losses_N],
        [f"{probability:.6f}" for probability in found.probabilities_N],
        found.networks_N.tolist(),
    )
    header = ("ImageID", "LabelName", "Class", "Label", "Loss", "Probability", "Networks")
    return csv_of(header, zip(*columns, strict=True))


def _judged(found: LabelErrors, truth: LabelTable) -> str:
    """Say how many labels are wrong by a truth, of those that it knows."""
    entries = truth.entries()
    keys_E = entry_keys(entries.rows_E, entries.classes_E)
    states = dict(zip(keys_E.tolist(), entries.states_E.tolist(), strict=True))
    rows_N = truth.rows_of(found.image_ids_N)
    keys_N = entry_keys(np.maximum(rows_N, 0), found.classes_N).tolist()
    known = [
        states[key] != label
        for row, key, label in zip(rows_N, keys_N, found.labels_N, strict=True)
        if row >= 0 and key in states
    ]
    share = cell(sum(known) / len(known), 0) if known else "–"
    return f"judged      {sum(known):,} of {len(known):,} labels exported are wrong ({share} %)"
