"""Draw a study: every row's mAP over all classes with its interval, and the runs behind it."""

from __future__ import annotations

import math
import re

from matplotlib.figure import Figure

from pipeline.evaluation.figures import RUN_COLOURS
from pipeline.inference.cam_figures import FAINT, INK, new_figure, plain
from pipeline.study.table import StudyTable

_OFF = "#9AA3AB"
_LONGEST = 36  # of a line of a row's name, in characters


def intervals(table: StudyTable) -> Figure:
    """Draw a row of the table per line: mean, interval and single runs; grey without BoostLU."""
    figure = new_figure(9.6, 1.6 + 0.42 * len(table.own))
    axes = figure.add_subplot()
    for place, (own, off) in enumerate(zip(table.own, table.off, strict=True)):
        layers = [(own, RUN_COLOURS[0], 0.0)]
        if own.row.label in table.gains:
            layers = [(off, _OFF, 0.14), (own, RUN_COLOURS[0], -0.14)]
        for line, colour, shift in layers:
            mean = line.means["all"]
            if math.isnan(mean.mean):
                continue
            runs = 100 * line.values["all"].ravel()  # one without scores is NaN, and not drawn
            axes.plot(runs, [place + shift] * len(runs), "|", color=colour, markersize=9)
            if not math.isnan(mean.low):
                ends = [100 * mean.low, 100 * mean.high]
                axes.plot(ends, [place + shift] * 2, color=colour, linewidth=2)
            axes.plot(100 * mean.mean, place + shift, "o", color=colour, markersize=7)
    names = [_broken(plain(line.row.label)) for line in table.own]
    axes.set_yticks(range(len(table.own)), names)
    axes.set_ylim(len(table.own) - 0.5, -0.5)
    grey = ";\ngrey: the same networks with BoostLU off at inference" if table.gains else ""
    label = f"mAP (%): mean, 95 % interval, single runs{grey}"
    axes.set_xlabel(label, fontsize=12, color=INK)
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    return figure


def _broken(name: str) -> str:
    """Break a row's name after a colon or commas, where it is too long for one line."""
    lines = [""]
    for part in re.split("(?<=[:,])", name):
        if lines[-1] and len(lines[-1] + part) > _LONGEST:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)
