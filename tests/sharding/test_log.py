"""JSON lines for programs, plain lines for people."""

from __future__ import annotations

import io
import itertools
import json
import re
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from sharding import progress
from sharding.errors import InputError, one_line_errors
from sharding.log import VARIABLE, count, info, redact
from sharding.progress import Progress, Waiting, say
from tests.support.waiting import wait_until


@pytest.fixture
def as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "json")


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Every line of stderr; stdout must be empty."""
    output = capsys.readouterr()
    assert output.out == ""
    return [json.loads(line) for line in output.err.splitlines()]


def advance() -> None:
    with Progress(4, "epoch 1/3", unit="step") as progress:
        progress.advance(3, "loss 0.5000", {"train/loss": 0.5})
        progress.advance(1)


def test_progress_as_json(as_json: None, capsys: pytest.CaptureFixture[str]) -> None:
    advance()
    (line,) = lines(capsys)
    assert line["asctime"][:2] == "20"
    assert (line["levelname"], line["message"]) == ("INFO", "epoch 1/3")
    assert (line["done"], line["total"], line["unit"]) == (4, 4, "step")
    assert line["train/loss"] == 0.5
    assert line["per_second"] > 0
    assert line["seconds_left"] == 0


def test_progress_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    advance()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("epoch 1/3: 4/4 step, ")
    assert line.endswith(", loss 0.5000")


def test_what_was_done_before_is_no_speed(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(100, "epoch 1/3", unit="step", initial=50) as progress:
        progress.advance(0, "loss 0.5000")
    assert capsys.readouterr().err == "epoch 1/3: 50/100 step, loss 0.5000\n"


def test_work_of_which_nothing_is_done_shows_its_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = itertools.count(0, 5)  # seconds between two readings
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    with Progress(4, "evaluate test", unit="task") as work:
        for _ in range(4):
            work.look()
        assert capsys.readouterr().err == "evaluate test: 0/4 task, 0:20 so far\n"
        work.advance(4)
    assert "4/4 task" in capsys.readouterr().err


def test_what_is_not_finite_is_null(as_json: None, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(4, "epoch 1/3") as progress:
        progress.advance(0, numbers={"train/loss": float("inf")})
    (line,) = lines(capsys)
    assert line["seconds_left"] is None
    assert line["train/loss"] is None


def test_errors_keep_their_fields(as_json: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), one_line_errors():
        raise InputError("bad", file="a.csv", row=7, fix="mend it")
    (line,) = lines(capsys)
    assert line["levelname"] == "ERROR"
    assert line["message"] == "a.csv, row 7: bad. Fix: mend it"
    assert (line["file"], line["row"], line["fix"]) == ("a.csv", 7, "mend it")


def test_remarks(as_json: None, capsys: pytest.CaptureFixture[str]) -> None:
    info("MLflow does not answer", "WARNING")
    (line,) = lines(capsys)
    assert (line["levelname"], line["message"]) == ("WARNING", "MLflow does not answer")


def test_remarks_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    info("MLflow does not answer", "WARNING")
    assert capsys.readouterr().out == "MLflow does not answer\n"


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        ("http://alice:hunter2@127.0.0.1:9/x", "http://alice:***@127.0.0.1:9/x"),
        ("http://alice:p@ss:w@host/x", "http://alice:***@host/x"),
        ("s3://AKIA:ab/cd@bucket/x", "s3://AKIA:***@bucket/x"),
        ("s3://AKIA:12/cd+e/f@bucket/x", "s3://AKIA:***@bucket/x"),
        ("http://alice:p@ss/w@host/x", "http://alice:***@host/x"),
        ("http://host:8080/a@b.jpg", "http://host:8080/a@b.jpg"),
        ("http://[::1]:8080/a@b.jpg", "http://[::1]:8080/a@b.jpg"),
        ("http://host/a:b@c.jpg", "http://host/a:b@c.jpg"),
        ("https://ghp_0123@host/x.jpg", "https://***@host/x.jpg"),
        ("s3://anonymous@bucket/x.jpg", "s3://anonymous@bucket/x.jpg"),
        (
            "https://b.s3.amazonaws.com/x.jpg?X-Amz-Expires=60&X-Amz-Signature=ab12&v=3",
            "https://b.s3.amazonaws.com/x.jpg?X-Amz-Expires=60&X-Amz-Signature=***&v=3",
        ),
        ("https://h/x.jpg?sv=2024&sig=a%2Fb%3D twice", "https://h/x.jpg?sv=2024&sig=*** twice"),
        (f"https://h/x.jpg?e={'0' * 40}", "https://h/x.jpg?e=***"),
        ("https://h/x.jpg?id=12", "https://h/x.jpg?id=12"),
        ("mail alice@example.org", "mail alice@example.org"),
    ],
)
def test_credentials_are_not_shown(
    secret: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert redact(secret) == shown
    info(secret)
    assert capsys.readouterr().out == f"{shown}\n"
    say(secret)
    with Progress(1, secret) as progress:
        progress.advance(note=secret)
    assert (secret in capsys.readouterr().err) == (secret == shown)
    error = InputError(f"no answer of {secret}", file=secret, fix=f"ask {secret}")
    assert str(error) == f"{shown}: no answer of {shown}. Fix: ask {shown}"
    assert error.fields == {"file": shown, "fix": f"ask {shown}"}


def test_a_bar_leaves_out_what_a_terminal_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "80")
    with Progress(100, "epoch 10/10", unit="step") as bar:
        bar.advance(50, note="loss 0.25, 90 image/s, waits 12% for data, rank 3 is slow")
    last = screen.getvalue().split("\r")[-1].rstrip("\n")
    assert len(last) <= 80
    assert last.endswith("left, loss 0.25, 90 image/s")


def test_what_is_waited_for_shows_its_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = iter((100.0, 101.0, 114.9, 115.2, 116.0, 131.0))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(times)))
    with Waiting("the workers start") as waiting:
        for _ in range(5):
            waiting.look()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["the workers start: 15 s", "the workers start: 31 s"]


def test_a_block_that_takes_long_shows_its_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_WAITS", 0.02)
    said: list[str] = []
    with progress.ticking("Ray starts"):
        wait_until(lambda: said.append(capsys.readouterr().err) or any(said))
    said.append(capsys.readouterr().err)
    assert re.match(r"Ray starts: \d+ s\n", "".join(said))
    time.sleep(0.05)
    assert not capsys.readouterr().err, "it ends with the block"


def test_a_terminal_has_one_line_of_what_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    with Waiting("the workers start") as waiting:
        waiting.look()
    assert "the workers start: 0:00" in screen.getvalue()
    assert "\n" not in screen.getvalue().strip("\r\n ")


def test_a_bar_without_a_rate_names_no_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    with Progress(94, "epoch 3/10", unit="step", initial=72) as progress:
        progress.advance(0, note="loss 0.25")
    assert "72/94 step, loss 0.25" in screen.getvalue(), "it began before its bar"
    assert max(map(len, re.split("[\\r\\n]", screen.getvalue()))) <= 80
    assert "left" not in screen.getvalue()
    with Progress(4, "evaluate test", unit="task") as progress:
        progress.look()
    assert "0/4 task, 0:00 so far" in screen.getvalue()


def test_a_bar_writes_times_as_lines_do() -> None:
    bar = {"prefix": "x", "unit": "it", "postfix": "", "ncols": 80, "bar_format": progress._BAR}
    line = progress._Bar.format_meter(20, 94, 10.0, initial=10, rate=None, **bar)
    assert line.endswith("20/94 it, 1:14 left")
    assert progress._Bar.format_meter(20, 94, 10.0, initial=10, rate=2.0, **bar).endswith(
        "0:37 left"
    )


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [(1, "shard", "1 shard"), (2, "class", "2 classes"), (1000, "image", "1,000 images")],
)
def test_one_is_no_plural(number: int, unit: str, text: str) -> None:
    assert count(number, unit) == text
