"""Export a plan of the labels to verify next: the classes, the entries, their sheet."""

from __future__ import annotations

import io
import math

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.audit import inputs, review_plan
from pipeline.audit.inputs import Inputs, Readers
from pipeline.audit.review_page import Questions
from pipeline.audit.review_plan import HALF_INTERVAL, Pool, Precision
from pipeline.audit.scored import about
from pipeline.config.commands import AuditConfig
from pipeline.evaluation.metrics import average_precision
from pipeline.evaluation.references import Baseline
from pipeline.evaluation.scores import Scores
from pipeline.tables import Table, csv_of, percent
from sharding.classes import NUM_GROUPS, ClassTable
from sharding.errors import InputError, refuse_unfinished_predictions
from sharding.image_ids import format_image_ids, parse_image_ids
from sharding.labels import POSITIVE, entry_keys
from sharding.log import count, info
from sharding.manifest import Dataset
from sharding.storage.parquet import as_input_error

_SAME = 1e-3
"""Largest difference of an entry's two logits that rounding in other batches explains."""
_NOTE = (
    "Drawn to be verified, whatever the network says: answer by the photograph alone, and leave "
    "out as few as you can."
)


def export_plan(config: AuditConfig, opened: Inputs, readers: Readers, evaluation: Baseline) -> str:
    """Plan a review: classes to `plan.csv`, and from a pool the entries and their sheet."""
    assert config.plan is not None
    dataset, scores = opened.dataset, evaluation.scores
    split, labels = (about(evaluation, key) for key in ("split", "labels"))
    K = len(dataset.classes)
    columns = (scores.boosted_E, scores.labels_E == POSITIVE, scores.classes_E)
    precision = review_plan.estimate(*columns, dataset.classes.groups_K)
    pool = None if config.pool is None else _pool(config.pool, dataset, scores)
    available_K = None if pool is None else pool.counts(K)
    sequence_N = review_plan.allocate(precision, config.plan, available_K)
    more_K = np.bincount(sequence_N, minlength=K)
    output = opened.output(config)
    path = inputs.write_csv(
        output / "plan.csv", _plan_csv(precision, more_K, scores, dataset.classes)
    )
    report = [_plan_table(precision, more_K), ""]
    planned = (
        f"{count(len(sequence_N), 'label')} of {count(int(np.count_nonzero(more_K)), 'class')}"
    )
    report.append(f"plan        {path}  ({planned}, split {split})")
    if pool is None:
        return "\n".join(report)
    places_N = review_plan.draw(sequence_N, pool, scores.boosted_E, scores.classes_E)
    asked = Questions(
        split=split,
        labels=labels,
        note=_NOTE,
        image_ids_N=pool.image_ids_M[places_N],
        classes_N=pool.classes_M[places_N],
        facts_N=[_plan_facts(precision, int(k)) for k in pool.classes_M[places_N]],
    )
    rows = zip(
        format_image_ids(asked.image_ids_N),
        [dataset.classes.mids[int(k)] for k in asked.classes_N],
        [dataset.classes.names[int(k)] for k in asked.classes_N],
        strict=True,
    )
    entries = csv_of(("ImageID", "LabelName", "Class"), rows)
    report.append(f"entries     {inputs.write_csv(output / 'entries.csv', entries)}")
    if config.sheet and len(asked):
        sheet = output / "sheet.html"
        name = f"{opened.name}-plan"
        title = f"{count(len(asked), 'label')} to verify, split {split}"
        then = inputs.write_sheet(sheet, asked, opened, readers, name=name, title=title)
        report.append(inputs.to_review(sheet, then))
    return "\n".join(report)


def _plan_facts(precision: Precision, k: int) -> list[tuple[str, str]]:
    width = HALF_INTERVAL * precision.standard_errors(np.zeros_like(precision.labels_K))[k]
    labels = count(int(precision.labels_K[k]), "label")
    return [("asked for", f"the class's AP is known to ± {100 * width:.1f} points, by {labels}")]


def _plan_csv(
    precision: Precision,
    more_K: npt.NDArray[np.int64],
    scores: Scores,
    classes: ClassTable,
) -> str:
    K = len(classes)
    ap_K = average_precision(scores.boosted_E, scores.labels_E, scores.classes_E, K)
    before_K, after_K = (precision.standard_errors(more) for more in (0 * more_K, more_K))
    positives_K = np.bincount(scores.classes_E[scores.labels_E == POSITIVE], minlength=K)
    order = np.lexsort((-more_K, classes.groups_K))
    header = (
        *("Group", "Class", "LabelName", "Positives", "Negatives", "AP"),
        *("HalfInterval", "ToVerify", "HalfIntervalExpected"),
    )
    rows = (
        (
            int(classes.groups_K[k]),
            classes.names[k],
            classes.mids[k],
            int(positives_K[k]),
            int(precision.labels_K[k] - positives_K[k]),
            f"{ap_K[k]:.4f}",
            f"{HALF_INTERVAL * before_K[k]:.4f}",
            int(more_K[k]),
            f"{HALF_INTERVAL * after_K[k]:.4f}",
        )
        for k in order
        if precision.labels_K[k]
    )
    return csv_of(header, rows)


def _plan_table(precision: Precision, more_K: npt.NDArray[np.int64]) -> str:
    before, after = (precision.half_widths(more) for more in (0 * more_K, more_K))
    rows = [
        [
            f"{group}",
            f"{int(precision.labels_K[precision.groups_K == group].sum()):,}",
            f"± {percent(before[group] or math.nan)}",
            f"{int(more_K[precision.groups_K == group].sum()):,}",
            f"± {percent(after[group] or math.nan)}",
        ]
        for group in range(1, NUM_GROUPS + 1)
    ]
    notes = [
        "Half the 95 % interval of a group's mAP, in points, as the labels are and as it is "
        "expected with the planned ones."
    ]
    if not any(precision.variances_K):
        notes.append("–: every class is ranked perfectly, which says nothing of other labels.")
    headers = ["group", "labels", "mAP known to", "to verify", "expected"]
    return Table(headers=headers, sections=[rows], notes=notes, text_columns=0).terminal()


def _pool(folder: str, dataset: Dataset, scores: Scores) -> Pool:
    """Read predictions; keep the entries that are not verified.

    Raises:
        InputError: there are none or not all yet, or they are of other classes, another split or
            network.
    """
    from pipeline.inference.pixels import UNREAD

    folder = storage.absolute(folder)
    fix = "pass the output of `predict --dataset DIR --split SPLIT --threshold 0` by this network"
    written = storage.names_in(folder)
    refuse_unfinished_predictions(folder, written)
    names = [name for name in written if name.endswith(".parquet")]
    if not names:
        raise InputError("no predictions are there", file=folder, fix=fix)
    parts, unread = [], 0
    for name in sorted(names):
        place = storage.join(folder, name)
        with as_input_error(place, kind="file of predictions", fix=fix):
            table = pq.read_table(io.BytesIO(storage.read_bytes(place)))
            of_classes = (table.schema.metadata or {}).get(b"classes_sha256", b"").decode()
            parts.append(_flat(table.select(["image", "class_index", "score"])))
            unread += pc.sum(pc.starts_with(table["error"], UNREAD)).as_py() or 0
        if of_classes != dataset.classes.sha256:
            raise InputError("predictions of another class list", file=place, fix=fix)
    if unread:
        problem = f"{count(unread, 'image')} of the predictions could not be read"
        repeat = "repeat the `predict` command, which tries these again"
        if not sum(len(ids) for ids, _, _ in parts):
            raise InputError(problem, file=folder, fix=repeat)
        info(f"{folder}: {problem}, and none of their labels are planned: {repeat}", "WARNING")
    ids_M, classes_M, scores_M = (np.concatenate(column) for column in zip(*parts, strict=True))
    known_M = _verified_scores(ids_M, classes_M, scores)
    again_M = ~np.isnan(known_M)
    differences = np.abs(known_M - scores_M)[again_M]
    if not len(differences) or np.median(differences) > _SAME:
        raise InputError(
            "predictions of other images or another network than the scores are",
            file=folder,
            fix=fix,
        )
    free_M = ~again_M
    return Pool(image_ids_M=ids_M[free_M], classes_M=classes_M[free_M], scores_M=scores_M[free_M])


def _verified_scores(
    ids_M: npt.NDArray[np.uint64], classes_M: npt.NDArray[np.int64], scores: Scores
) -> npt.NDArray[np.float64]:
    """Look up each entry's score of the evaluation, (M,); NaN where it is not verified."""
    ids_N, images_E = np.unique(scores.image_ids_E, return_inverse=True)
    images_M = np.searchsorted(ids_N, ids_M).clip(max=len(ids_N) - 1)
    keys_E = entry_keys(images_E, scores.classes_E)
    order_E = np.argsort(keys_E)
    keys_M = entry_keys(images_M, classes_M)
    place_M = np.searchsorted(keys_E, keys_M, sorter=order_E).clip(max=len(keys_E) - 1)
    entry_M = order_E[place_M]
    is_known_M = (ids_N[images_M] == ids_M) & (keys_E[entry_M] == keys_M)
    return np.where(is_known_M, scores.boosted_E[entry_M], np.nan)


def _flat(
    table: pa.Table,
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """List a part's labels one by one: (image ids, classes, scores)."""
    table = table.filter(pc.is_valid(table["class_index"])).combine_chunks()
    ids_N = parse_image_ids(table["image"].combine_chunks())
    counts_N = pc.list_value_length(table["class_index"]).to_numpy()
    classes_M = pc.list_flatten(table["class_index"]).to_numpy().astype(np.int64)
    scores_M = pc.list_flatten(table["score"]).to_numpy()
    return np.repeat(ids_N, counts_N), classes_M, scores_M
