"""Send an evaluation's results to MLflow: metrics, the per-class table, the chart, the maps."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence

from PIL import Image

from pipeline.evaluation import figures
from pipeline.evaluation.per_class import PerClass
from pipeline.evaluation.report import Report
from pipeline.inference import cam_figures
from pipeline.inference.cams import Cams
from pipeline.tracking.run_log import RunLog

SHEETS = "cam"
# MLflow hides a slider's pictures below the run's parameters unless their chart is configured.
_MORE = (
    f"Activation maps: a sheet per epoch among the artifacts, `{SHEETS}/`; over epochs as sliders "
    "under Model metrics, `cam` (a chart's menu, Configure, Show run parameters off; then move the "
    "slider, which starts before the first epoch).\n"
)


def evaluation(
    log: RunLog, report: Report, per_class: PerClass, *, prefix: str, step: int, folder: str
) -> None:
    """Send metrics, per-class table, group chart and the report.

    NaN metrics (a group without a counted class) are not sent: a chart cannot show them.

    Args:
        log: of the run.
        report: the means.
        per_class: the table behind them.
        prefix: of the metrics' names: "val", or the split.
        step: training images seen.
        folder: of the artifacts.
    """
    metrics = report.metrics(prefix)
    log.log([(key, value, step) for key, value in metrics.items() if math.isfinite(value)])
    log.table(per_class.columns(), f"{folder}/per_class_ap.json")
    log.artifact(cam_figures.png(figures.group_bars(report.summaries)), f"{folder}/group_map.png")
    summary = report.markdown()
    log.artifact(summary.encode(), f"{folder}/summary.md")
    # The run's page shows its description first: the latest table.
    log.tag("mlflow.note.content", f"{prefix}, {step:,} images seen\n\n{summary}\n{_MORE}")


def maps(
    log: RunLog,
    explained: Iterable[tuple[str, Cams]],
    step: int,
    sheet: str,
) -> None:
    """Send one picture per image, raw and boosted map side by side, and a sheet of all pictures.

    Args:
        log: of the run.
        explained: image ids and their maps.
        step: images seen.
        sheet: name of the artifact, without suffix, that has all pictures, one below the other.
    """
    pictures = []
    for image_id, cams in explained:
        pictures.append(cams.png(0))
        log.image(pictures[-1], f"cam/{image_id}", step)
    if pictures:
        log.artifact(_below_each_other(pictures), f"{SHEETS}/{sheet}.png")


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
