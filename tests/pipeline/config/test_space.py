"""A search's space is read as it is written, and what it cannot be is one line."""

from __future__ import annotations

import pytest

from pipeline.config.space import Dimension, parse_space
from sharding.errors import InputError


def test_intervals_and_choices() -> None:
    space = parse_space(
        ["delta_rel=0.02:2:log", "alpha=2:10", "epochs=5:20", "crop=squash|random-resized"],
        whole=["epochs"],
    )
    assert space == (
        Dimension(name="delta_rel", low=0.02, high=2, is_log=True),
        Dimension(name="alpha", low=2, high=10),
        Dimension(name="epochs", low=5, high=20, is_whole=True),
        Dimension(name="crop", choices=("squash", "random-resized")),
    )
    assert [each.text for each in space[:2]] == ["delta_rel=0.02:2:log", "alpha=2:10"]
    assert parse_space([each.text for each in space], whole=["epochs"]) == space


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["alpha"], "--tune 'alpha'"),
        (["alpha=2"], "no interval"),
        (["alpha=2:x"], "no interval"),
        (["alpha=10:2"], "no interval"),
        (["alpha=nan:2"], "no interval"),
        (["alpha=0:2:log"], "no interval above 0"),
        (["alpha=1:2:exp"], "no interval"),
        (["alpha=1:2", "alpha=2:3"], "alpha is searched twice"),
        (["epochs=1.5:3"], "whole number"),
        (["crop=a|a"], "a choice twice"),
        (["crop=a|"], "an empty one"),
    ],
)
def test_another_form_is_refused(texts: list[str], says: str) -> None:
    with pytest.raises(InputError) as error:
        parse_space(texts, whole=["epochs"])
    assert says in str(error.value)
