"""Integers that stand for floats compare as they do, and turn into them again."""

from __future__ import annotations

import math

import torch

from pipeline.methods.parts.float_order import floats_of, ordered_integers

TINY = 2.0**-149


def test_integers_compare_as_the_floats_do() -> None:
    ascending = [-math.inf, -3.4e38, -1.5, -1.0, -TINY, -0.0, 0.0, TINY, 1.0, 1.5, 3.4e38, math.inf]
    found = ordered_integers(torch.tensor(ascending))
    assert found.dtype is torch.int32
    assert (found.diff() > 0).all()
    assert found[5:8].tolist() == [-1, 0, 1]


def test_every_bit_comes_back() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)).exp() * 1e-3
    values = torch.cat([values, -values, torch.tensor([0.0, -0.0, math.inf, -math.inf])])
    back = floats_of(ordered_integers(values))
    assert torch.equal(back.view(torch.int32), values.view(torch.int32))
    order = ordered_integers(values).argsort(stable=True)
    assert torch.equal(values[order], values.sort().values)
