"""Figures of an evaluation: group means, class activation maps, precision and recall.

Figures are made without pyplot, so that workers and threads share no state. Colours are Okabe and
Ito's, which people with any common colour vision tell apart.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import FuncNorm, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from pipeline.attribution import EDGES, Attributions
from pipeline.metrics import Summary
from sharding.classes import NUM_GROUPS

INK, FAINT = "#222222", "#D9D9D9"
BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9"
# Without BoostLU grey, with it blue; further runs take the other colours.
_SERIES = ("#9AA3AB", BLUE, ORANGE, GREEN, PURPLE)
# Evidence against a class in blue, for it in vermilion, none in white: readable in print, too.
_EVIDENCE = LinearSegmentedColormap.from_list(
    "evidence", ["#08306B", "#4292C6", "#FFFFFF", "#F16913", "#7F2704"]
)
_DPI = 120

Cam = tuple[str, npt.NDArray[np.floating], npt.NDArray[np.floating]]


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white")
    return buffer.getvalue()


def group_bars(summaries: Mapping[str, Summary], title: str = "mAP per class group") -> Figure:
    """Bars of mAP (percent) per group and over all classes, one colour per summary."""
    figure = _figure(9.6, 5.0)
    axes = figure.add_subplot()
    values = [[*s.map_groups.values(), s.map_all] for s in summaries.values()]
    # A gap before the last place: "All" is another kind of mean than the groups.
    places = np.array([*range(NUM_GROUPS), NUM_GROUPS + 0.4])
    width = 0.82 / len(summaries)
    for i, (name, means) in enumerate(zip(summaries, values, strict=True)):
        heights = np.array([0 if math.isnan(mean) else 100 * mean for mean in means])
        offsets = places + (i - (len(summaries) - 1) / 2) * width
        bars = axes.bar(offsets, heights, width * 0.94, label=name, color=_SERIES[i % len(_SERIES)])
        labels = ["" if math.isnan(mean) else f"{100 * mean:.1f}" for mean in means]
        axes.bar_label(bars, labels, padding=2, fontsize=12 if len(summaries) < 3 else 9)
    axes.set_xticks(places, _group_labels(next(iter(summaries.values()))), fontsize=12)
    axes.axvline(NUM_GROUPS - 0.3, color=FAINT, linewidth=1, linestyle=(0, (4, 4)))
    tallest = max((100 * v for row in values for v in row if not math.isnan(v)), default=1.0)
    axes.set_ylim(0, tallest * 1.12 or 1)
    axes.set_ylabel("mAP (%)", fontsize=13)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    _legend_above(figure, axes, title, len(summaries))
    return figure


def cam_overlay(
    image_HWC: npt.NDArray[np.uint8], cams: Sequence[Cam], *, alpha: float | None = None
) -> Figure:
    """The image, and per class its raw map beside the boosted one over it.

    Args:
        image_HWC: uint8 RGB as the network saw it.
        cams: (class name, raw map, boosted map), maps of any equal size (H W, floats). A row
            each, on one colour scale for both maps, so that their strengths compare.
        alpha: the slope of BoostLU, for the heading.
    """
    rows = max(1, len(cams))
    figure = _figure(11.0, 3.65 * rows + 0.35)
    grid = figure.add_gridspec(rows, 4, width_ratios=[1, 1, 1, 0.05])
    slope = "" if alpha is None else f" (α = {alpha:g})"
    for row, (name, raw_HW, boosted_HW) in enumerate(cams):
        picture = figure.add_subplot(grid[row, 0])
        picture.imshow(image_HWC)
        _picture_frame(picture, "" if row else "image")
        picture.set_xlabel(name, fontsize=15, color=INK, fontweight="bold", labelpad=6)
        norm = _root_scale(raw_HW, boosted_HW)
        maps = (("raw map", raw_HW), (f"BoostLU{slope}", boosted_HW))
        for column, (label, cam_HW) in enumerate(maps, start=1):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(_blend(image_HWC, cam_HW, norm))
            _picture_frame(axes, "" if row else label)
            axes.set_xlabel(f"score {_signed(cam_HW.mean())}", fontsize=13, color=INK, labelpad=6)
        bar = figure.colorbar(ScalarMappable(norm, _EVIDENCE), cax=figure.add_subplot(grid[row, 3]))
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.ax.tick_params(labelsize=11, length=0)
    return figure


def cam_pictures(
    image_HWC: npt.NDArray[np.uint8],
    raw_HW: npt.NDArray[np.floating],
    boosted_HW: npt.NDArray[np.floating],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Both maps over the image, bare uint8 pixels of its size; arguments as of `cam_overlay`."""
    norm = _root_scale(raw_HW, boosted_HW)
    raw_HWC, boosted_HWC = (_blend(image_HWC, cam, norm) for cam in (raw_HW, boosted_HW))
    return (255 * raw_HWC).round().astype(np.uint8), (255 * boosted_HWC).round().astype(np.uint8)


def precision_recall(
    curves: Mapping[str, npt.NDArray[np.float64]],
    levels_L: npt.NDArray[np.float64],
    title: str = "Precision at recall, mean over the classes of a group",
) -> Figure:
    """Mean curves (`curves.by_group`), one line each; the area under a line is its mAP."""
    figure = _figure(8.4, 5.4)
    axes = figure.add_subplot()
    # Groups are ordered, so are their shades; their mean is drawn in ink.
    shades = colormaps["viridis"](np.linspace(0, 0.85, NUM_GROUPS))
    for (name, precision_L), colour in zip(curves.items(), [*shades, INK], strict=False):
        area = 100 * precision_L.mean()
        label = f"{name}  –" if math.isnan(area) else f"{name}  {area:.1f}"
        axes.step(
            100 * levels_L, 100 * precision_L, color=colour, linewidth=2.2, label=label, where="pre"
        )
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 103)
    axes.set_xlabel("recall (%)", fontsize=13)
    axes.set_ylabel("precision (%)", fontsize=13)
    axes.set_title(title, loc="left", fontsize=15, color=INK, pad=12, fontweight="bold")
    legend = axes.legend(title="mAP (%)", fontsize=12, title_fontsize=12, frameon=False)
    legend.set_loc("lower left")
    _quiet(axes)
    axes.grid(color=FAINT, linewidth=0.8)
    return figure


def attribution_histogram(
    found: Mapping[str, Attributions],
    title: str = "Attribution scores at verified positives",
) -> Figure:
    """Distributions of the map values of one or more runs, on a logarithmic scale.

    The paper compares a model trained on partial with one trained on full labels: the shape is
    alike, the positive end is lower. Legend: how much lies above zero, and its mean.
    """
    figure = _figure(8.4, 5.0)
    axes = figure.add_subplot()
    palette = (BLUE, ORANGE, GREEN, PURPLE, SKY)
    for i, (name, scores) in enumerate(found.items()):
        mean = f", mean {scores.mean_above_zero:.2f}" if scores.above_zero > 0 else ""
        label = f"{name}: {100 * scores.above_zero:.0f}% above zero{mean}"
        colour = palette[i % len(palette)]
        axes.stairs(scores.density_H, EDGES, color=colour, alpha=0.22, fill=True)
        axes.stairs(scores.density_H, EDGES, color=colour, linewidth=2.2, label=label)
    filled = np.flatnonzero(sum(scores.counts_H for scores in found.values()))
    if len(filled):
        axes.set_xlim(EDGES[max(0, filled[0] - 2)], EDGES[min(len(EDGES) - 1, filled[-1] + 3)])
    axes.axvline(0, color=INK, linewidth=1, linestyle=(0, (4, 4)))
    axes.set_yscale("log")
    axes.set_xlabel("attribution score", fontsize=13)
    axes.set_ylabel("density", fontsize=13)
    axes.set_title(title, loc="left", fontsize=15, color=INK, pad=12, fontweight="bold")
    axes.legend(fontsize=12, frameon=False, loc="upper right")
    _quiet(axes)
    return figure


def _blend(
    image_HWC: npt.NDArray[np.uint8], cam_HW: npt.NDArray[np.floating], norm: Normalize
) -> npt.NDArray[np.float64]:
    """A pale grey image with the map's colours over it, the stronger the more opaque (H W 3)."""
    height, width = image_HWC.shape[:2]
    small = Image.fromarray(np.asarray(cam_HW, np.float32))
    cam = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    grey = np.asarray(Image.fromarray(image_HWC).convert("L"), np.float64)[..., None] / 255
    place = np.asarray(norm(cam))
    opacity = 0.9 * np.clip(np.abs(2 * place - 1), 0, 1)[..., None]
    return (1 - opacity) * (0.25 + 0.75 * grey) + opacity * _EVIDENCE(place)[..., :3]


def _root_scale(*maps: npt.NDArray[np.floating]) -> FuncNorm:
    """Zero, no evidence, in the middle; signed square roots of the values to either side.

    On a linear scale the unboosted map would vanish beside one that is alpha times as strong.
    """
    largest = max((float(np.abs(m).max()) for m in maps), default=0.0) or 1.0
    forward, inverse = (
        (lambda x: np.sign(x) * np.sqrt(np.abs(x))),
        (lambda x: np.sign(x) * np.square(x)),
    )
    return FuncNorm((forward, inverse), vmin=-largest, vmax=largest)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    FigureCanvasAgg(figure)
    return figure


def _group_labels(summary: Summary) -> list[str]:
    counts = [*summary.counted.values(), summary.counted_all]
    names = [*(f"Group {group}" for group in summary.counted), "All"]
    return [
        f"{name}\n{count:,} class{'' if count == 1 else 'es'}"
        for name, count in zip(names, counts, strict=True)
    ]


def _legend_above(figure: Figure, axes: Axes, title: str, columns: int) -> None:
    """Title on the left, legend on the right of one line above the axes."""
    axes.set_title(title, loc="left", fontsize=16, color=INK, pad=14, fontweight="bold")
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=columns,
        frameon=False,
        fontsize=12.5,
        handlelength=1.1,
        borderaxespad=0.3,
    )
    _quiet(axes)


def _quiet(axes: Axes) -> None:
    """No frame, no ticks, grid below: the data is what is seen."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(which="both", length=0)
    axes.tick_params(axis="y", labelsize=11)
    axes.set_axisbelow(True)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _picture_frame(axes: Axes, title: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title, fontsize=14, color=INK, pad=8)
