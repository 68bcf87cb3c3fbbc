"""Preflight names the nodes that differ, and stops only for differences that break a job."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cluster.preflight import (
    ABSENT,
    PACKAGES,
    check,
    check_shared,
    compare,
    facts,
    read_word,
)
from sharding.errors import InputError

DRIVER = {"Python": "3.11.7", "code": "abc", "torch": "2.15.0", "mlflow": "3.17.0"}


def test_equal_nodes_are_silent_whatever_their_number(
    capsys: pytest.CaptureFixture[str],
) -> None:
    check(DRIVER, {})
    check(DRIVER, {f"10.0.0.{n}": dict(DRIVER) for n in range(9)})
    assert compare(DRIVER, DRIVER) is None
    assert capsys.readouterr().out == ""


def test_one_line_has_each_difference() -> None:
    assert compare(DRIVER, {**DRIVER, "torch": "2.11.0", "Python": "3.11.9"}) == (
        "Python 3.11.9, driver 3.11.7; torch 2.11.0, driver 2.15.0",
        False,
    )


@pytest.mark.parametrize(
    ("name", "version", "fatal"),
    [
        ("torch", "1.15.0", True),
        ("torch", "2.15.0+cu130", False),
        ("torch", ABSENT, True),
        ("Python", "3.12.7", True),
        ("Python", "3.11.2", False),
        ("code", "abd", True),
    ],
)
def test_what_is_fatal(name: str, version: str, fatal: bool) -> None:
    difference = compare(DRIVER, {**DRIVER, name: version})
    assert difference is not None
    assert difference.fatal is fatal


def test_what_a_node_does_not_tell_is_absent() -> None:
    missing = {key: value for key, value in DRIVER.items() if key != "torch"}
    assert compare(DRIVER, missing) == compare(DRIVER, {**DRIVER, "torch": ABSENT})


def test_what_the_driver_lacks_is_not_asked_of_nodes() -> None:
    assert compare({**DRIVER, "torch": ABSENT}, DRIVER) is None


def test_this_process_has_every_package() -> None:
    here = facts("abc")
    assert here["code"] == "abc"
    assert here["Python"].startswith("3.")
    assert [package for package in PACKAGES if here[package] == ABSENT] == []


def test_small_differences_and_silence_are_told_and_let_pass(
    capsys: pytest.CaptureFixture[str],
) -> None:
    check(DRIVER, {"a": {**DRIVER, "torch": "2.11.0"}, "b": None, "c": DRIVER})
    assert capsys.readouterr().out.splitlines() == [
        "preflight: node b does not answer",
        "preflight: node a: torch 2.11.0, driver 2.15.0",
    ]


def test_a_breaking_difference_stops_the_job_and_names_the_nodes() -> None:
    broken = {**DRIVER, "torch": "1.13.0"}
    with pytest.raises(InputError, match=r"cannot run on a, c: .*Fix: install requirements.lock"):
        check(DRIVER, {"a": broken, "b": DRIVER, "c": broken})


def test_a_node_reads_what_the_driver_wrote_or_says_why_not(tmp_path: Path) -> None:
    file = tmp_path / "word"
    file.write_text("abc")
    assert read_word(str(file), "abc") == ""
    assert read_word(str(file), "abd", seconds=0) == "holds another file of that name"
    absent = read_word(str(tmp_path / "other"), "abc", seconds=0)
    assert absent.startswith("cannot read what the driver writes (")
    assert "No such file" in absent


def test_nodes_that_do_not_see_the_storage_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    check_shared("/data/runs", {"10.0.0.1": "", "10.0.0.3": None})
    assert capsys.readouterr().out == ""
    with pytest.raises(InputError) as refused:
        check_shared("/data/runs", {"10.0.0.1": "", "10.0.0.2": "cannot read"})
    assert str(refused.value).startswith("/data/runs: not shared with 10.0.0.2. Fix: mount")
    assert capsys.readouterr().out == "preflight: node 10.0.0.2: cannot read\n"
