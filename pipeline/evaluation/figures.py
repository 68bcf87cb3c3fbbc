"""Draw an evaluation's figures: group means, precision over recall, attribution scores.

Figures are made without pyplot, so that workers and threads share no state. Colours are Okabe and
Ito's, which people with any common colour vision tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.config.commands import Rule
from pipeline.evaluation import ranking
from pipeline.evaluation.attribution import EDGES, Attributions
from pipeline.evaluation.metrics import Summary, average_precision
from pipeline.evaluation.scores import Scores
from pipeline.inference.cam_figures import FAINT, INK, new_figure, plain
from pipeline.inference.choose_points import Entries, probabilities
from sharding.classes import NUM_GROUPS

_BLUE, _ORANGE, _GREEN, _PURPLE, _SKY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9"
# Without BoostLU grey, with it blue; further runs take the other colours.
_BARS = ("#9AA3AB", _BLUE, _ORANGE, _GREEN, _PURPLE)
RUN_COLOURS = (_BLUE, _ORANGE, _GREEN, _PURPLE, _SKY)
_BINS = 10
# Middles of a thousand equal slices of recall: their mean is the area under the step curve.
LEVELS_L = (np.arange(1000) + 0.5) / 1000


def group_bars(summaries: Mapping[str, Summary]) -> Figure:
    """Draw bars of mAP (percent) per group and over all classes, one colour per summary."""
    figure = new_figure(9.6, 5.0)
    axes = figure.add_subplot()
    values = [[*s.map_groups.values(), s.map_all] for s in summaries.values()]
    # A gap before the last place: "All" is another kind of mean than the groups.
    places = np.array([*range(NUM_GROUPS), NUM_GROUPS + 0.4])
    width = 0.82 / len(summaries)
    for i, (name, means) in enumerate(zip(summaries, values, strict=True)):
        heights = np.array([0 if math.isnan(mean) else 100 * mean for mean in means])
        offsets = places + (i - (len(summaries) - 1) / 2) * width
        bars = axes.bar(
            offsets, heights, width * 0.94, label=plain(name), color=_BARS[i % len(_BARS)]
        )
        labels = ["" if math.isnan(mean) else f"{100 * mean:.1f}" for mean in means]
        axes.bar_label(bars, labels, padding=2, fontsize=12 if len(summaries) < 3 else 9)
    axes.set_xticks(places, _group_labels(next(iter(summaries.values()))), fontsize=12)
    axes.axvline(NUM_GROUPS - 0.3, color=FAINT, linewidth=1, linestyle=(0, (4, 4)))
    tallest = max((100 * v for row in values for v in row if not math.isnan(v)), default=1.0)
    axes.set_ylim(0, tallest * 1.12 or 1)
    axes.set_ylabel("mAP (%)", fontsize=13)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    _legend_above(axes, "mAP per class group", len(summaries))
    return figure


def recall_curves(
    scores: Scores, groups_K: npt.NDArray[np.integer], rule: Rule = "boostlu"
) -> dict[str, npt.NDArray[np.float64]]:
    """Average precision (L,) at the recalls `LEVELS_L`, "Group 1" .. "Group 5" and "All".

    The classes averaged are those that the rule counts; one without positive is a line at 0. The
    area under a curve is the group's mAP, up to 1 / L times the jumps of the curve.
    """
    num_classes = len(groups_K)
    columns = (scores.boosted_E, scores.labels_E, scores.classes_E)
    counted_K = ~np.isnan(average_precision(*columns, num_classes, rule))
    curves_KL = ranking.rank(np.sort(ranking.make_keys(*columns)), num_classes).at_recall(LEVELS_L)
    curves_KL[counted_K & np.isnan(curves_KL[:, 0])] = 0
    members = {f"Group {g}": (groups_K == g) & counted_K for g in range(1, NUM_GROUPS + 1)}
    members["All"] = counted_K
    return {
        name: curves_KL[of].mean(axis=0) if of.any() else np.full(len(LEVELS_L), np.nan)
        for name, of in members.items()
    }


def precision_recall(curves: Mapping[str, npt.NDArray[np.float64]]) -> Figure:
    """Draw `recall_curves`, one line each; the area under a line is its mAP."""
    figure = new_figure(8.4, 5.4)
    axes = figure.add_subplot()
    # Groups are ordered, so are their shades; their mean is drawn in ink.
    shades = colormaps["viridis"](np.linspace(0, 0.85, NUM_GROUPS))
    for (name, precision_L), colour in zip(curves.items(), [*shades, INK], strict=False):
        area = 100 * precision_L.mean()
        label = f"{name}  –" if math.isnan(area) else f"{name}  {area:.1f}"
        x_L, y_L = 100 * LEVELS_L, 100 * precision_L
        axes.step(x_L, y_L, color=colour, linewidth=2.2, label=label, where="pre")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 103)
    axes.set_xlabel("recall (%)", fontsize=13)
    axes.set_ylabel("precision (%)", fontsize=13)
    _title(axes, "Precision at recall, mean over the classes of a group")
    legend = axes.legend(title="mAP (%)", fontsize=12, title_fontsize=12, frameon=False)
    legend.set_loc("lower left")
    _quiet(axes)
    axes.grid(color=FAINT, linewidth=0.8)
    return figure


def attribution_histogram(runs: Mapping[str, Attributions]) -> Figure:
    """Draw the distributions of the map values of one or more runs, on a logarithmic scale.

    The paper compares a model trained on partial with one trained on full labels: the shape is
    alike, the positive end is lower. Legend: how much lies above zero, and its mean.
    """
    figure = new_figure(8.4, 5.0)
    axes = figure.add_subplot()
    for i, (name, scores) in enumerate(runs.items()):
        mean = f", mean {scores.mean_above_zero:.2f}" if scores.above_zero > 0 else ""
        label = f"{plain(name)}: {100 * scores.above_zero:.0f}% above zero{mean}"
        colour = RUN_COLOURS[i % len(RUN_COLOURS)]
        axes.stairs(scores.density_H, EDGES, color=colour, alpha=0.22, fill=True)
        axes.stairs(scores.density_H, EDGES, color=colour, linewidth=2.2, label=label)
    filled = np.flatnonzero(sum(scores.counts_H for scores in runs.values()))
    if len(filled):
        axes.set_xlim(EDGES[max(0, filled[0] - 2)], EDGES[min(len(EDGES) - 1, filled[-1] + 3)])
    axes.axvline(0, color=INK, linewidth=1, linestyle=(0, (4, 4)))
    axes.set_yscale("log")
    axes.set_xlabel("attribution score", fontsize=13)
    axes.set_ylabel("density", fontsize=13)
    _title(axes, "Attribution scores at verified positives")
    axes.legend(fontsize=12, frameon=False, loc="upper right")
    _quiet(axes)
    return figure


def reliability(entries: Entries, temperatures_K: npt.NDArray[np.float64]) -> Figure:
    """Draw how often a class is present over its predicted probability, in ten equal bins.

    Legend: the expected calibration error, the mean distance to the diagonal over entries.
    """
    figure = new_figure(6.4, 5.6)
    axes = figure.add_subplot()
    axes.plot([0, 100], [0, 100], color=FAINT, linewidth=1.4)
    fitted_E = temperatures_K[entries.classes_E]
    for name, at, colour in (
        ("as trained", np.ones_like(fitted_E), _BARS[0]),
        ("calibrated", fitted_E, _BLUE),
    ):
        p_E = probabilities(entries.logits_E, at)
        bins_E = np.minimum((p_E * _BINS).astype(np.int64), _BINS - 1)
        counts, said, seen = (
            np.bincount(bins_E, weights, _BINS)
            for weights in (None, p_E, entries.is_positive_E.astype(float))
        )
        error = 100 * np.abs(said - seen).sum() / max(len(p_E), 1)
        filled = counts > 0
        x, y = (100 * sums[filled] / counts[filled] for sums in (said, seen))
        label = f"{name}, calibration error {error:.1f}"
        axes.plot(x, y, color=colour, marker="o", linewidth=2.2, label=label)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.set_xlabel("predicted probability (%)", fontsize=13)
    axes.set_ylabel("verified as present (%)", fontsize=13)
    _title(axes, "Reliability on verified entries")
    axes.legend(loc="upper left", frameon=False, fontsize=12)
    _quiet(axes)
    return figure


def _group_labels(summary: Summary) -> list[str]:
    counts = [*summary.counted.values(), summary.counted_all]
    names = [*(f"Group {group}" for group in summary.counted), "All"]
    return [
        f"{name}\n{count:,} class{'' if count == 1 else 'es'}"
        for name, count in zip(names, counts, strict=True)
    ]


def _legend_above(axes: Axes, title: str, columns: int) -> None:
    """Put the title left and the legend right of one line above the axes."""
    _title(axes, title)
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


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=15, color=INK, pad=12, fontweight="bold")


def _quiet(axes: Axes) -> None:
    """Remove frame and ticks and put the grid below: the data is what is seen."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(which="both", length=0)
    axes.tick_params(axis="y", labelsize=11)
    axes.set_axisbelow(True)
