"""Options that cannot be, or that a job would not use, are refused before it starts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sharding.commands.options import (
    RemoveOptions,
    ReshardOptions,
    ShardOptions,
    VerifyOptions,
    ViewOptions,
)
from sharding.errors import InputError
from sharding.importers.options import ImportOptions


def of_shard(**more: Any) -> ShardOptions:
    return ShardOptions(output="d", annotations=Path("a"), images="i", **more)


def of_import(**more: Any) -> ImportOptions:
    return ImportOptions(output="d", source=Path("s"), **more)


def of_reshard(**more: Any) -> ReshardOptions:
    return ReshardOptions(dataset="d", **more)


def of_verify(**more: Any) -> VerifyOptions:
    return VerifyOptions(dataset="d", **more)


def of_view(**more: Any) -> ViewOptions:
    return ViewOptions(dataset="d", **more)


def of_remove(**more: Any) -> RemoveOptions:
    return RemoveOptions(dataset="d", ids=("0" * 16,), **more)


DUMP, TABLE, TREE = (
    {"annotations": Path("a")},
    {"confidences": Path("t.csv")},
    {"hierarchy": Path("h.json")},
)
IGNORED: list[tuple[Callable[..., Any], dict[str, Any], dict[str, Any], str]] = [
    (of_reshard, TABLE, {"name": "v"}, "--labels would be ignored with --confidences"),
    (of_reshard, TABLE, {"make_default": True}, "--make-default would be"),
    (of_reshard, TABLE, {"rewrite": True}, "--rewrite would be"),
    (of_reshard, TABLE, {"base": "v"}, "--base would be"),
    (of_reshard, TABLE, {"images": "i"}, "--images would be"),
    (of_reshard, TABLE, {"draw": 1, "splits": ("test",)}, "--draw and --splits would be"),
    (of_reshard, DUMP, {"draw": 1}, "--draw would be ignored with --annotations"),
    (of_reshard, DUMP, {"splits": ("test",)}, "--splits would be"),
    (of_reshard, DUMP, {"confidences_name": "c"}, "--confidences-name would be"),
    (of_reshard, {"known": 0.5}, {"conflict": "positive"}, "--conflict would be"),
    (of_reshard, {"known": 0.5}, {"machine": 0.9}, "--machine would be ignored with --known"),
    (of_reshard, {"known": 0.5}, {"images": "i"}, "--images would be"),
    (of_reshard, {"single_positive": True}, {"strict": True}, "ignored with --single-positive"),
    (of_reshard, TREE, {"draw": 3}, "--draw would be ignored with --hierarchy"),
    (of_reshard, TREE, {"release": "v4"}, "--release would be"),
    (of_shard, {}, {"confidences_name": "c"}, "ignored without --confidences"),
    (of_verify, {}, {"images": "i"}, "--images would be ignored without --repair"),
    (of_verify, {}, {"accept_changed": True}, "--accept-changed would be"),
    (of_view, {"reason": ""}, {"class_name": "Dog"}, "--class would be ignored with --reason"),
    (of_view, {"reason": "x"}, {"shard": "train-000000"}, "--shard would be"),
    (of_view, {"reason": "x"}, {"state": "negative"}, "--state would be"),
    (of_view, {"reason": "x"}, {"name": "v"}, "--labels would be"),
    (of_view, {}, {"state": "negative"}, "--state would be ignored without --class"),
    (of_import, {"format": "voc"}, {"table": Path("t")}, "--table would be ignored with --format"),
    (of_import, {"format": "coco"}, {"classes": Path("c")}, "--classes would be"),
    (of_import, {"format": "cub"}, {"unlisted": "negative"}, "--unlisted would be"),
    (of_import, {"format": "nuswide"}, {"separator": ";"}, "--separator would be"),
    (of_import, {"format": "voc"}, {"image_column": "a"}, "--image-column would be"),
    (of_import, {"format": "csv"}, {"year": 2012}, "--year would be ignored with --format csv"),
    (of_import, {"format": "cub"}, {"year": 2011}, "--year would be"),
    (of_import, {"format": "voc"}, {"seed": 7}, "--seed would be ignored without --single"),
]


@pytest.mark.parametrize(("options", "others", "ignored", "problem"), IGNORED)
def test_what_a_job_would_not_use_is_refused_with_the_fix(
    options: Callable[..., Any], others: dict[str, Any], ignored: dict[str, Any], problem: str
) -> None:
    made = options(**others)
    options(**others, **{name: getattr(made, name) for name in ignored})  # left at its default
    with pytest.raises(InputError, match=re.escape(problem)) as refused:
        options(**others, **ignored)
    assert refused.value.fix == f"leave out {refused.value.problem.partition(' would be')[0]}"


@pytest.mark.parametrize(
    "used",
    [
        lambda: of_reshard(**TABLE, confidences_name="c", strict=True),
        lambda: of_reshard(**DUMP, images="i", conflict="positive", machine=0.5, strict=True),
        lambda: of_reshard(known=0.1, draw=3, splits=("test",), base="v", name="n", rewrite=True),
        lambda: of_reshard(**TREE, splits=("test",), base="v", make_default=True),
        lambda: of_shard(**TABLE, confidences_name="c"),
        lambda: of_verify(repair=True, images="i", accept_changed=True),
        lambda: of_view(reason="x", split="test", limit=3),
        lambda: of_view(class_name="Dog", state="negative", shard="train-000000", name="v"),
        lambda: of_import(format="csv", table=Path("t"), separator=";", labels_column="a"),
        lambda: of_import(format="voc", year=2007, single_positive=True, seed=7),
    ],
)
def test_what_a_job_uses_is_taken(used: Callable[[], Any]) -> None:
    used()


@pytest.mark.parametrize("workers", [0, -1])
@pytest.mark.parametrize(
    ("options", "others"),
    [
        (of_shard, {}),
        (of_import, {"format": "csv"}),
        (of_reshard, DUMP),
        (of_verify, {}),
        (of_remove, {}),
    ],
)
def test_fewer_than_one_worker_is_refused(
    options: Callable[..., Any], others: dict[str, Any], workers: int
) -> None:
    with pytest.raises(InputError, match=f"--workers is {workers}. Fix: give a positive number"):
        options(**others, workers=workers)
    assert options(**others, workers=1).workers == 1
