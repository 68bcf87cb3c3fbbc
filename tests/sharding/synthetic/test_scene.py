"""Scenes of the demo dump: few distinct objects, mostly visible, with boxes that fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.synthetic.camera import background, expose
from sharding.synthetic.paint import paint
from sharding.synthetic.scene import Placed, compose
from sharding.synthetic.shapes import SHAPES, outline
from sharding.synthetic.vocabulary import COLOURS, TEXTURES, Kind, Vocabulary

seeds = st.integers(0, 2**32)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, side=st.integers(48, 300), classes=st.sampled_from([5, 60, 1000]))
def test_a_scene_has_two_to_six_distinct_objects(seed: int, side: int, classes: int) -> None:
    scene = compose(Vocabulary.make(classes, 0), side, np.random.default_rng(seed))
    there = [item.class_index for item in scene.objects]
    assert 2 <= len(there) <= 6
    assert len(set(there)) == len(there) < classes
    assert max(scene.width, scene.height) == side
    for item in scene.objects:
        left, right, top, bottom = item.box(scene.width, scene.height)
        assert (right - left) * (bottom - top) < 0.4, "an object is a small part of the image"
        assert 0 <= item.x <= scene.width
        assert 0 <= item.y <= scene.height


@settings(max_examples=60, deadline=None)
@given(
    seed=seeds,
    shape=st.sampled_from(SHAPES),
    x=st.floats(5, 95),
    y=st.floats(5, 75),
    angle=st.floats(-3, 3),
    squeeze=st.floats(0.8, 1),
)
def test_a_box_holds_its_object_and_nothing_more(
    seed: int, shape: str, x: float, y: float, angle: float, squeeze: float
) -> None:
    item = Placed(class_index=0, shape=shape, x=x, y=y, radius=20.0, angle=angle, squeeze=squeeze)
    # On black a shadow is invisible: what is bright is the object.
    canvas_HWC = np.zeros((80, 100, 3), np.float32)
    kind = Kind(shape=shape, colour="yellow", texture="plain", mid="/m/0")
    paint(canvas_HWC, kind, item, 0.0, np.random.default_rng(seed))
    rows, columns = np.nonzero(canvas_HWC.max(axis=2) > 8)
    left, right, top, bottom = item.box(100, 80)
    drawn = (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1)
    # Acute corners fade out a pixel or two before their point.
    np.testing.assert_allclose(
        np.array([left, right, top, bottom]) * (100, 100, 80, 80), drawn, atol=2.5
    )


def test_a_box_ends_where_the_visible_part_ends() -> None:
    """A star whose rightmost point lies above the image is narrower than its outline."""
    item = Placed(class_index=0, shape="star", x=5, y=5, radius=20.0, angle=1.125, squeeze=1.0)
    _, right, top, _ = item.box(100, 80)
    assert top == 0
    assert 20 < right * 100 < 22 < item.contours()[0][:, 0].max()


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_fits_the_unit_circle_and_fills_some_of_it(shape: str) -> None:
    radii = np.hypot(*np.concatenate(outline(shape)).T)
    assert 0.85 < radii.max() < 1.01


def test_classes_of_different_parts_look_different() -> None:
    """Not a proof that they can be learned, but a texture that has no effect shows here."""
    item = Placed(class_index=0, shape="disc", x=40, y=40, radius=30, angle=0.2, squeeze=0.9)
    start = Kind(shape="disc", colour="red", texture="plain", mid="/m/0")
    others = [
        *(replace(start, colour=colour) for colour in COLOURS if colour != start.colour),
        *(replace(start, texture=texture) for texture in TEXTURES[1:]),
    ]

    def picture(kind: Kind) -> np.ndarray:
        canvas_HWC = np.full((80, 80, 3), 120, np.float32)
        paint(canvas_HWC, kind, item, 0.0, np.random.default_rng(0))
        return canvas_HWC

    drawn = [picture(kind) for kind in (start, *others)]
    for a in range(len(drawn)):
        for b in range(a):
            assert np.abs(drawn[a] - drawn[b]).mean() > 4


@settings(max_examples=30, deadline=None)
@given(seed=seeds, width=st.integers(40, 130), height=st.integers(40, 130))
def test_backgrounds_are_muted(seed: int, width: int, height: int) -> None:
    rng = np.random.default_rng(seed)
    canvas_HWC = background(width, height, rng)
    assert canvas_HWC.shape == (height, width, 3)
    assert canvas_HWC.dtype == np.float32
    colourfulness = np.ptp(canvas_HWC, axis=2).mean()
    assert colourfulness < 90, "objects differ by 150 and more between their channels"
    image_HWC = expose(canvas_HWC, rng)
    assert image_HWC.dtype == np.uint8
    assert image_HWC.shape == canvas_HWC.shape
