"""Figures show the numbers they are given, and refuse none of the odd ones."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image

from pipeline.evaluation import figures, ranking
from pipeline.evaluation.attribution import Attributions
from pipeline.evaluation.metrics import Summary, average_precision, summarize
from pipeline.evaluation.scores import Scores
from pipeline.inference import cam_figures
from tests.pipeline.evaluation.entries import make_scores

RNG = np.random.default_rng(0)
GROUPS = np.array([1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 1])


def summary(shift: float = 0.0) -> Summary:
    ap_K = np.array([0.1, 0.3, np.nan, 0.7, 0.9]) + shift
    return summarize(ap_K, np.arange(1, 6), np.ones(5, int), np.ones(5, int))


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_group_bars_carry_values_names_and_counts() -> None:
    figure = figures.group_bars({"BoostLU off": summary(), "BoostLU on": summary(0.05)})
    (axes,) = figure.axes
    heights = sorted(round(bar.get_height(), 6) for bar in axes.patches)
    assert heights == [0, 0, 10, 15, 30, 35, 50, 55, 70, 75, 90, 95]
    texts = {text.get_text() for text in axes.texts}
    assert {"10.0", "15.0", "95.0"} <= texts
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert ticks[0] == "Group 1\n1 class"
    assert ticks[2] == "Group 3\n0 classes"
    assert ticks[5] == "All\n4 classes"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "BoostLU off",
        "BoostLU on",
    ]


@pytest.mark.parametrize("count", [1, 5])
def test_group_bars_render_for_any_number_of_runs(count: int) -> None:
    drawn = pixels(
        cam_figures.png(figures.group_bars({f"run {i}": summary() for i in range(count)}))
    )
    assert drawn.shape[1] > 1000
    assert (drawn < 250).any()


def test_group_bars_of_nothing_counted_render() -> None:
    nothing = summarize(np.full(5, np.nan), np.arange(1, 6), np.zeros(5, int), np.zeros(5, int))
    assert cam_figures.png(figures.group_bars({"run": nothing})).startswith(b"\x89PNG")


def test_cam_overlay_has_one_scale_per_class_and_both_scores() -> None:
    image = RNG.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    raw = RNG.normal(size=(4, 6)).astype(np.float32)
    boosted = np.where(raw > 0, 5 * raw, raw)
    figure = cam_figures.cam_overlay(image, [("Cat", raw, boosted), ("Dog", -raw, -raw)], alpha=5)
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert {"Cat", "Dog"} <= set(labels)
    shown = f"score {raw.mean():+.2f}".replace("-", "−")
    assert shown in labels
    assert "BoostLU (α = 5)" in [axes.get_title() for axes in figure.axes]
    # Image, raw, boosted and the scale, for each class.
    assert len(figure.axes) == 8
    assert figure.axes[3].get_ylim() == pytest.approx((-boosted.max(), boosted.max()))
    assert cam_figures.png(figure).startswith(b"\x89PNG")


def test_overlay_colours_evidence_for_warm_against_cold_and_none_grey() -> None:
    grey = np.full((32, 32, 3), 128, np.uint8)
    cam = np.zeros((2, 2), np.float32)
    cam[0, 0], cam[1, 1] = 4, -4
    blended = cam_figures._blend(grey, cam, cam_figures._root_scale(cam))
    warm, cold = blended[0, 0], blended[-1, -1]
    assert warm[0] > warm[2] + 0.2
    assert cold[2] > cold[0] + 0.2
    untouched = cam_figures._blend(grey, np.zeros((2, 2)), cam_figures._root_scale(cam))
    assert np.ptp(untouched, axis=2).max() < 1e-9


@pytest.mark.parametrize("size", [(1, 1), (14, 14), (3, 40)])
def test_constant_or_tiny_maps_and_small_images_render(size: tuple[int, int]) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    figure = cam_figures.cam_overlay(image, [("x", np.zeros(size), np.zeros(size))])
    assert cam_figures.png(figure).startswith(b"\x89PNG")


def test_precision_recall_names_each_line_with_its_map() -> None:
    levels = figures.LEVELS_L
    curves = {"Group 1": 1 - levels, "Group 2": np.full(len(levels), np.nan)}
    figure = figures.precision_recall(curves)
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["Group 1  50.0", "Group 2  –"]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), 100 * (1 - levels))
    assert cam_figures.png(figure).startswith(b"\x89PNG")


def test_attribution_histogram_says_what_lies_above_zero() -> None:
    values = {"partial": np.array([[-1.0, -2.0], [1.0, 3.0]]), "full": np.array([-1.0, -3.0])}
    counted = {name: Attributions.of(scores) for name, scores in values.items()}
    figure = figures.attribution_histogram(counted)
    texts = {t.get_text() for t in figure.axes[0].get_legend().get_texts()}
    assert texts == {"partial: 50% above zero, mean 2.00", "full: 0% above zero"}
    assert cam_figures.png(figure).startswith(b"\x89PNG")


def eleven_classes() -> Scores:
    """Ten classes with ties, and an eleventh of negatives only."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 4000)
    class_ids = rng.integers(0, 11, 4000)
    labels[class_ids == 10] = 0
    scores = np.round(4 * (rng.normal(size=4000) + labels)) / 4
    return make_scores(scores, labels, class_ids)


def test_area_under_a_group_curve_is_its_map() -> None:
    entries = eleven_classes()
    ap_K = average_precision(entries.raw_E, entries.labels_E, entries.classes_E, 11)
    none = np.zeros(11, int)
    summary = summarize(ap_K, GROUPS, none, none)
    found = figures.recall_curves(entries, GROUPS)
    for group, value in summary.map_groups.items():
        assert found[f"Group {group}"].mean() == pytest.approx(value, abs=2e-3)
    assert found["All"].mean() == pytest.approx(summary.map_all, abs=2e-3)


def test_precision_at_recall_by_hand() -> None:
    # Descending: +, -, +, + with the last two tied to a negative.
    scores = np.array([4, 3, 2, 2, 2], np.float32)
    labels = np.array([1, 0, 1, 1, 0], np.int8)
    keys = np.sort(ranking.make_keys(scores, labels, np.zeros(5, np.int64)))
    levels = np.array([0.01, 1 / 3, 0.34, 2 / 3, 1.0])
    found = ranking.rank(keys, 2).at_recall(levels)
    np.testing.assert_allclose(found[0], [1, 1, 3 / 5, 3 / 5, 3 / 5])
    assert np.isnan(found[1]).all()


def write_font(path: Path, family: str, letter: str) -> None:
    """Write a font of which one letter is a black square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 800), (800, 800), (800, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "letter"])
    builder.setupCharacterMap({ord(letter): "letter"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "letter": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (500, 0), "letter": (900, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


def test_letters_come_from_a_font_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_font(tmp_path / "cjk.ttf", "Noto Sans CJK SC", "\u72ac")
    fonts = list(font_manager.fontManager.ttflist)
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts)
    font_manager.fontManager.addfont(tmp_path / "cjk.ttf")
    cam_figures.fonts.cache_clear()
    ones_HW = np.ones((2, 2))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Glyph")
            cam = ("dog \u72ac", ones_HW, ones_HW)
            assert cam_figures.png(cam_figures.cam_overlay(np.zeros((4, 4, 3), np.uint8), [cam]))
    finally:
        cam_figures.fonts.cache_clear()


@pytest.mark.parametrize("name", ["$5_$", "Ke$ha", "$100_$ & 5$", "C:\\$new\\$", r"\$5_$ x^{"])
def test_a_name_is_drawn_as_it_is_written(name: str) -> None:
    ones_HW = np.ones((2, 2))
    overlay = cam_figures.cam_overlay(np.zeros((4, 4, 3), np.uint8), [(name, ones_HW, ones_HW)])
    label = overlay.axes[0].xaxis.label
    assert label._preprocess_math(label.get_text()) == (name, False)
    assert cam_figures.png(overlay, about=name)
    assert cam_figures.png(figures.group_bars({name: summary()}))
    assert cam_figures.png(
        figures.attribution_histogram({name: Attributions.of(RNG.normal(size=9))})
    )
