"""Draw class activation maps over their images.

Figures are made without pyplot, so that workers and threads share no state.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import font_manager, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import FuncNorm, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from sharding.thumbnails import data_uri

INK, FAINT = "#222222", "#D9D9D9"

# Evidence against a class in blue, for it in vermilion, none in white: readable in print, too.
COLOURS = ("#08306B", "#4292C6", "#FFFFFF", "#F16913", "#7F2704")
_EVIDENCE = LinearSegmentedColormap.from_list("evidence", COLOURS)
_DPI = 120
_OTHER_SCRIPTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Droid Sans Fallback"),
    *("Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans Thai"),
    *("Noto Sans Arabic", "Noto Sans Hebrew", "Noto Emoji", "Unifont"),
)
Cam = tuple[str, npt.NDArray[np.floating], npt.NDArray[np.floating]]


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of a size in inches, laid out by constraints."""
    rcParams["font.family"] = fonts()
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    FigureCanvasAgg(figure)
    return figure


@functools.cache
def fonts() -> list[str]:
    """List the font of figures and, of those installed, the ones for letters that it lacks."""
    installed = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in _OTHER_SCRIPTS if name in installed)]


def plain(text: str) -> str:
    """Escape a name for a figure, where two dollar signs would enclose a formula."""
    return text.replace("$", r"\$")


def png(figure: Figure, about: str = "") -> bytes:
    """Encode a figure as PNG, with what it is ``about`` (run, split, epoch) in a line above."""
    if about:
        figure.suptitle(plain(about), x=0.01, ha="left", fontsize=11, color=INK)
    buffer = io.BytesIO()
    # At zlib's usual level a third of a picture's time would be compression, for 11 % of its bytes.
    compression = {"compress_level": 3}
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white", pil_kwargs=compression)
    return buffer.getvalue()


def cam_overlay(
    image_HWC: npt.NDArray[np.uint8], cams: Sequence[Cam], *, alpha: float | None = None
) -> Figure:
    """Draw an image and, in a row per class, its raw and its boosted map over it.

    Args:
        image_HWC: uint8 RGB as the network saw it.
        cams: (class name, raw map, boosted map), maps of any equal size (H W, floats). Both maps
            of a row have one colour scale, so that their strengths compare.
        alpha: the slope of BoostLU, for the heading.
    """
    rows = max(1, len(cams))
    figure = new_figure(11.0, 3.65 * rows + 0.35)
    grid = figure.add_gridspec(rows, 4, width_ratios=[1, 1, 1, 0.05])
    slope = "" if alpha is None else f" (α = {alpha:g})"
    for row, (name, raw_HW, boosted_HW) in enumerate(cams):
        picture = figure.add_subplot(grid[row, 0])
        picture.imshow(image_HWC)
        _picture_frame(picture, "" if row else "image")
        picture.set_xlabel(plain(name), fontsize=15, color=INK, fontweight="bold", labelpad=6)
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
        bar.set_label("attribution score", fontsize=11, color=INK)
    return figure


def cam_layers(
    raw_HW: npt.NDArray[np.floating], boosted_HW: npt.NDArray[np.floating]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Colour both maps on one scale as RGBA pixels (H W 4) of their own size.

    Scaled up they lie over a pale grey image; weak evidence is transparent.
    """
    norm = _root_scale(raw_HW, boosted_HW)
    raw_HWC, boosted_HWC = (
        np.concatenate(_coloured(cam_HW, norm), axis=-1) for cam_HW in (raw_HW, boosted_HW)
    )
    return (255 * raw_HWC).round().astype(np.uint8), (255 * boosted_HWC).round().astype(np.uint8)


def captioned_layers(
    raw_HW: npt.NDArray[np.floating], boosted_HW: npt.NDArray[np.floating], alpha: float
) -> list[tuple[str, str]]:
    """Caption both maps; encode `cam_layers` as data URIs."""
    layers = (data_uri(Image.fromarray(layer)) for layer in cam_layers(raw_HW, boosted_HW))
    names = ("raw map", f"BoostLU (α = {alpha:g})")
    maps = zip(names, (raw_HW, boosted_HW), layers, strict=True)
    return [(f"{name}, score {_signed(cam_HW.mean())}", uri) for name, cam_HW, uri in maps]


def _coloured(
    cam_HW: npt.NDArray[np.floating], norm: Normalize
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Colour (H W 3) and opacity (H W 1) of a map, in 0..1: the stronger the more opaque."""
    place = np.asarray(norm(cam_HW))
    return _EVIDENCE(place)[..., :3], 0.9 * np.clip(np.abs(2 * place - 1), 0, 1)[..., None]


def _blend(
    image_HWC: npt.NDArray[np.uint8], cam_HW: npt.NDArray[np.floating], norm: Normalize
) -> npt.NDArray[np.float64]:
    """Lay a map's colours over a pale grey image (H W 3 in 0..1)."""
    height, width = image_HWC.shape[:2]
    small = Image.fromarray(np.asarray(cam_HW, np.float32))
    cam = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    grey = np.asarray(Image.fromarray(image_HWC).convert("L"), np.float64)[..., None] / 255
    colour, opacity = _coloured(cam, norm)
    return (1 - opacity) * (0.25 + 0.75 * grey) + opacity * colour


def scale_end(*maps: npt.NDArray[np.floating]) -> float:
    """Find the score at the end of the colour scale that some maps share."""
    return max((float(np.abs(m).max()) for m in maps), default=0.0) or 1.0


def _root_scale(*maps: npt.NDArray[np.floating]) -> FuncNorm:
    """Make a colour scale of signed square roots with zero, no evidence, in the middle.

    On a linear scale the raw map would vanish beside one that is alpha times as strong.
    """
    largest = scale_end(*maps)
    forward, inverse = (
        (lambda x: np.sign(x) * np.sqrt(np.abs(x))),
        (lambda x: np.sign(x) * np.square(x)),
    )
    return FuncNorm((forward, inverse), vmin=-largest, vmax=largest)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _picture_frame(axes: Axes, title: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title, fontsize=14, color=INK, pad=8)
