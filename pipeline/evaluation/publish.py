"""What an evaluation leaves in MLflow: metrics, the per-class table, the chart, the maps."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image

from pipeline.evaluation import figures, report
from pipeline.evaluation.metrics import Summary
from pipeline.evaluation.report import Report
from pipeline.evaluation.scores import BOOST_OFF, BOOST_ON, Scores
from pipeline.inference import cam_figures
from pipeline.inference.cams import ExplainedImage
from pipeline.tracking.run_log import RunLog
from sharding.classes import ClassTable

SHEETS = "cam"
# MLflow hides a slider's pictures below the run's parameters until it is told otherwise.
_MORE = (
    f"Activation maps: a sheet per epoch among the artifacts, `{SHEETS}/`; over epochs as sliders "
    "under Model metrics, `cam` (a chart's menu, Configure, Show run parameters off; then move the "
    "slider, which starts before the first epoch).\n"
)


def metrics_of(summaries: Mapping[str, Summary], prefix: str) -> dict[str, float]:
    """Flat metrics: ``<prefix>/mAP/...`` with BoostLU, ``<prefix>_no_boost/mAP/...`` without."""
    boosted = summaries[BOOST_ON].as_metrics(prefix)
    raw = summaries[BOOST_OFF].as_metrics(f"{prefix}_no_boost")
    # The boost changes no count: the same charts twice would only be in the way.
    return boosted | {key: value for key, value in raw.items() if "/mAP/" in key}


def evaluation(
    sink: RunLog,
    *,
    classes: ClassTable,
    scores: Scores,
    ap_by_name: Mapping[str, np.ndarray],
    told: Report,
    prefix: str,
    step: int,
    folder: str,
) -> dict[str, float]:
    """Send metrics, per-class table and group chart; return the metrics.

    NaN metrics (a group without a counted class) are returned but not sent: a chart cannot
    show them.
    """
    metrics = metrics_of(told.summaries, prefix)
    sink.log([(key, value, step) for key, value in metrics.items() if math.isfinite(value)])
    table = report.per_class_columns(
        classes, *scores.supports(len(classes)), ap_by_name[BOOST_ON], ap_by_name[BOOST_OFF]
    )
    sink.table(table, f"{folder}/per_class_ap.json")
    sink.artifact(cam_figures.png(figures.group_bars(told.summaries)), f"{folder}/group_map.png")
    summary = told.markdown()
    sink.artifact(summary.encode(), f"{folder}/summary.md")
    # What the run's page shows first: the latest table.
    sink.tag("mlflow.note.content", f"{prefix}, {step:,} images seen\n\n{summary}\n{_MORE}")
    return metrics


def maps(
    sink: RunLog,
    explained: Iterable[ExplainedImage],
    classes: ClassTable,
    alpha: float,
    step: int,
    sheet: str,
) -> None:
    """Send one picture per image, the raw map beside the boosted one for each class, and all.

    Args:
        sink: where to.
        explained: the images.
        classes: of the model.
        alpha: slope of BoostLU.
        step: images seen.
        sheet: name of the artifact, without suffix, that has all pictures, one below the other.
    """
    pictures = []
    for image in explained:
        figure = cam_figures.cam_overlay(
            image.image_HWC,
            [(classes.names[e.class_index], e.raw_HW, e.boosted_HW) for e in image.explanations],
            alpha=alpha,
        )
        pictures.append(cam_figures.png(figure))
        sink.image(pictures[-1], f"cam/{image.image_id}", step)
    if pictures:
        sink.artifact(_below_each_other(pictures), f"{SHEETS}/{sheet}.png")


def _below_each_other(pictures: Sequence[bytes]) -> bytes:
    opened = [Image.open(io.BytesIO(png)).convert("RGB") for png in pictures]
    size = (max(image.width for image in opened), sum(image.height for image in opened))
    sheet, top = Image.new("RGB", size, "white"), 0
    for image in opened:
        sheet.paste(image, (0, top))
        top += image.height
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()
