"""Options are shown in groups, and parse as without them."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import tyro

from pipeline.config import groups
from pipeline.config.commands import AuditConfig, EvaluateConfig, PredictConfig
from pipeline.config.presets import preset
from pipeline.config.study import StudyConfig
from pipeline.config.train import TrainConfig
from sharding.commands.options import ReshardOptions, ShardOptions
from sharding.errors import InputError
from sharding.importers.options import ImportOptions

KINDS = (
    *(AuditConfig, EvaluateConfig, ImportOptions, PredictConfig, ReshardOptions, ShardOptions),
    *(StudyConfig, TrainConfig),
)
SHARD = ["--annotations", "a", "--images", "i", "--output", "o"]


def test_every_option_in_a_group_is_there_once_and_no_title_is_an_option() -> None:
    assert {kind.__name__ for kind in KINDS} == set(groups.GROUPS)
    for kind in KINDS:
        known = {field.name for field in dataclasses.fields(kind)}
        grouped = [name for names in groups.GROUPS[kind.__name__].values() for name in names]
        assert len(grouped) == len(set(grouped))
        assert not known & set(groups.GROUPS[kind.__name__])
        if kind not in (ShardOptions, ImportOptions):  # which share some
            assert set(grouped) <= known


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_is_shown_with_its_help(
    kind: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        groups.parse(kind, args=["--help"])
    text = capsys.readouterr().out
    titles = re.findall("─ ([a-z]+) options ─", text)
    assert set(groups.GROUPS[kind.__name__]) >= set(titles) - {"fetch", *SECTIONS}
    words = " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())
    options = groups.options_of(kind)
    for name, option in options.items():
        assert f" --{option.flags[0]} " in words.replace(",", " "), name
    helps = dict(groups._docs(kind))
    assert [name for name in set(helps) & set(options) if helps[name] not in words] == []
    assert not re.search(r"None|default: ('')?\)", words), "its text says what is done without it"


SECTIONS = {"model", "data", "optimizer"}


def test_options_are_named_as_their_flags() -> None:
    options = groups.options_of(TrainConfig, flat=True)
    assert options["name"].flags == ("run",)
    assert options["optimizer.learning_rate"].flags == ("learning-rate", "lr")
    assert groups.options_of(ShardOptions)["fetch.at_once"].flags == ("fetch.at-once",)


def test_options_parse_as_without_groups() -> None:
    arguments = [*SHARD, "--seed", "3", "--labels", "x", "--fetch.tries", "2", "--strict"]
    assert groups.parse(ShardOptions, args=arguments) == tyro.cli(ShardOptions, args=arguments)


def test_a_presets_values_take_the_place_of_the_defaults() -> None:
    start = preset("coco", "em-apl").config
    how = {"config": (tyro.conf.OmitArgPrefixes,)}
    found = groups.parse(TrainConfig, start, args=["--workers", "2", "--lr", "1"], **how)
    assert found == tyro.cli(
        TrainConfig, default=start, args=["--workers", "2", "--lr", "1"], **how
    )


def test_a_value_that_cannot_be_is_refused_as_ever() -> None:
    with pytest.raises(InputError, match="images-per-shard is 0"):
        groups.parse(ShardOptions, args=[*SHARD, "--images-per-shard", "0"])
