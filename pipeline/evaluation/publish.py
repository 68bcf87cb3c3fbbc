"""Send an evaluation's results to MLflow: metrics, the per-class table, the chart, the maps."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterable, Sequence

from PIL import Image

from pipeline.evaluation import figures
from pipeline.evaluation.per_class import PerClass
from pipeline.evaluation.report import Report
from pipeline.evaluation.scores import BOOST_OFF, BOOST_ON
from pipeline.inference import cam_figures, cam_page
from pipeline.inference.cams import Explained
from pipeline.models import model_card
from pipeline.models.checkpoint import Meta
from pipeline.tables import percent, spaced
from pipeline.tracking.run_log import RunLog
from sharding.log import optional

# No image series: MLflow would open the run on its panels, which are empty before the first step.
SHEETS, PAGE = "cam", "cam/maps.html"
_MORE = f"Activation maps: artifact `{PAGE}`%s; as PNG `{SHEETS}/epoch_*.png`.\n"


def evaluation(
    log: RunLog,
    report: Report,
    per_class: PerClass,
    meta: Meta,
    *,
    prefix: str,
    folder: str,
    about: str,
) -> None:
    """Send the metrics, then per-class table, group chart and report, each of which may fail.

    NaN metrics (a group without a counted class) are not sent: a chart cannot show them.

    Args:
        log: of the run.
        report: the means.
        per_class: the table behind them.
        meta: of the checkpoint.
        prefix: of the metrics' names: "val", or the split.
        folder: of the artifacts.
        about: run, split and epoch, for the figure.
    """
    metrics = [item for item in report.metrics(prefix).items() if math.isfinite(item[1])]
    metrics.sort(key=lambda item: not item[0].endswith("/mAP/all"))  # MLflow compares by the first
    log.log([(key, value, meta.images_seen) for key, value in metrics])
    with optional("per-class table"):
        log.table(per_class.ranked(), f"{folder}/per_class_ap.json")
    with optional("group chart"):
        chart = cam_figures.png(figures.group_bars(report.summaries), about)
        log.artifact(chart, f"{folder}/group_map.png")
    with optional("summary"):
        summary = report.markdown()
        log.artifact(summary.encode(), f"{folder}/summary.md")
        # The run's page shows its description first: the latest table, also where an earlier
        # epoch, whose validation failed, is validated after a later one.
        latest = (f"{prefix}/mAP/all", meta.images_seen)
        log.tag("mlflow.note.content", spaced(card(report, meta, prefix)), latest)


def card(report: Report, meta: Meta, split: str) -> str:
    """Compose the model card of a checkpoint with an evaluation as its results."""
    # First what is shown of a long description before "Show more".
    off, on = (report.summaries[name] for name in (BOOST_OFF, BOOST_ON))
    name = "validation" if split == "val" else split
    boost = f" with BoostLU, {percent(off.map_all)} without"
    first = (
        f"mAP on {name}, epoch {meta.epoch}: **{percent(on.map_all)}**"
        f"{boost if meta.train_config.model.head == 'cam' else ''}; "
        f"groups 1 to {len(on.map_groups)}: "
        f"{', '.join(map(percent, on.map_groups.values()))}."
    )
    more = _MORE % (", a slider over epochs" if split == "val" else "")
    return model_card.card(meta, f"{first}\n\n{report.markdown()}\n{more}")


def maps(log: RunLog, explained: Iterable[Explained], *, epoch: int, about: str) -> None:
    """Send an epoch's activation maps, raw and boosted side by side: a sheet, and a page's slide.

    Args:
        log: of the run.
        explained: images and their maps.
        epoch: counted from 1.
        about: run, split and epoch, for the pictures.
    """
    explained = list(explained)
    pictures = [each.cams.png(0, about=about) for each in explained]
    if pictures:
        log.artifact(_below_each_other(pictures), f"{SHEETS}/epoch_{epoch:03d}.png")
        new = cam_page.slide(epoch, explained)
        title = about.rpartition(", ")[0]
        log.update(PAGE, functools.partial(cam_page.extend, title=title, new=new))


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
