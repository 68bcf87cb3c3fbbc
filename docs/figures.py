"""Draw the figures of README and docs from the demo's run and collection.

$ make demo && .venv/bin/python docs/figures.py --run demo/runs/demo --dump demo/dump
"""

from __future__ import annotations

import csv
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

import pipeline
from pipeline.inference.cam_figures import FAINT, INK, new_figure, png
from pipeline.inference.cams import Cams

OUTPUT = Path(__file__).parent / "images"
Box = tuple[float, ...]
"""x from, x to, y from, y to, as shares of the image."""
_GREY, _BLUE = "#9AA3AB", "#0072B2"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is drawn."""

    run: str
    """Run directory of a training on the demo's collection."""
    dump: Path
    """The demo's dump."""
    images: int = 200
    """How many of the first test images to choose from."""


def main() -> None:
    """Draw the maps of the clearest image, and what BoostLU does to one line of them."""
    options = tyro.cli(Options, description=__doc__)
    OUTPUT.mkdir(exist_ok=True)
    cams = clearest(options)
    (OUTPUT / "cams.png").write_bytes(cams.png(0))
    (OUTPUT / "boostlu.png").write_bytes(boostlu_figure(cams))


def clearest(options: Options) -> Cams:
    """Compute maps of two classes of an image that point into the boxes of their classes.

    Of the first, the logit is below zero without BoostLU and above with it: what the figures show.
    """
    model = pipeline.load(options.run)
    boxes: dict[str, dict[str, Box]] = {}
    with (options.dump / "ground_truth/test-boxes.csv").open() as file:
        for image_id, mid, *sides in itertools.islice(csv.reader(file), 1, None):
            if mid in model.meta.mids:
                boxes.setdefault(image_id, {})[mid] = tuple(map(float, sides))
    for image_id in sorted(boxes)[: options.images]:
        cams = model.cam([options.dump / f"images/test/{image_id}.jpg"], list(boxes[image_id]))
        right = [p for p, mid in enumerate(cams.mids) if points(cams, p, boxes[image_id][mid])]
        turned = [p for p in right if cams.raw_NPHW[0, p].mean() < 0 < logit(cams, p)]
        sure = sorted((p for p in right if p not in turned), key=lambda p: -logit(cams, p))
        if turned and sure:
            chosen = [max(turned, key=lambda p: logit(cams, p)), sure[0]]
            return model.cam(
                [options.dump / f"images/test/{image_id}.jpg"], [cams.mids[p] for p in chosen]
            )
    raise SystemExit("no image shows it; train longer, or look at more --images")


def logit(cams: Cams, p: int) -> float:
    """Average the boosted map of a class of the one image."""
    return float(cams.boosted_NPHW[0, p].mean())


def points(cams: Cams, p: int, box: Box) -> bool:
    """Check whether the middle of the map's highest cell lies in the box of the class."""
    map_HW = cams.boosted_NPHW[0, p]
    row, column = np.unravel_index(map_HW.argmax(), map_HW.shape)
    x, y = (column + 0.5) / map_HW.shape[1], (row + 0.5) / map_HW.shape[0]
    left, right, top, bottom = box
    return bool(map_HW.max() > 0 and left <= x <= right and top <= y <= bottom)


def boostlu_figure(cams: Cams) -> bytes:
    """Draw the function, and every cell of one map before and after it with their means."""
    figure = new_figure(11.0, 3.8)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.5])
    x = np.linspace(-2, 2, 401)
    left.plot(x, x, color=_GREY, linewidth=2, label="without")
    left.plot(x, np.maximum(x, cams.alpha * x), color=_BLUE, linewidth=2.2, label="BoostLU")
    left.set_title(f"BoostLU(x) = max(x, {cams.alpha:g}x)", fontsize=13, color=INK, loc="left")
    left.set_xlabel("x, an attribution score of the map")
    raw_HW, boosted_HW = cams.raw_NPHW[0, 0], cams.boosted_NPHW[0, 0]
    order = raw_HW.ravel().argsort()
    places = np.arange(len(order))
    named = ((boosted_HW, _BLUE, "after BoostLU", 0.2), (raw_HW, _GREY, "raw map", -0.2))
    for map_HW, colour, name, shift in named:
        logit = map_HW.mean()
        right.bar(places + shift, map_HW.ravel()[order], 0.4, color=colour, label=name)
        right.axhline(
            logit, color=colour, dashes=(4, 3), label=f"its mean, the logit: {logit:+.2f}"
        )
    title = f"the {len(order)} cells of the map of {cams.names[0]!r}"
    right.set_title(title, fontsize=13, color=INK, loc="left")
    right.set_xlabel("cells by score")
    right.set_xticks([])
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=11, loc="upper left")
        axes.grid(color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


if __name__ == "__main__":
    main()
