"""The driver's view of training: its speed is that of the steps it has seen."""

from __future__ import annotations

import itertools
import re
import time
from types import SimpleNamespace

import pytest

from pipeline.cluster import tasks
from pipeline.tracking.run_log import ProgressState
from pipeline.training import progress


def test_an_epoch_that_goes_on_in_the_middle_has_its_own_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    states = [
        None,
        *(ProgressState(label="epoch 2/3", steps=10_000, step=step) for step in (5000, 5010, 5020)),
    ]
    looks = itertools.chain(states, itertools.repeat(states[-1]))
    monkeypatch.setattr(tasks, "answer", lambda reference, otherwise: next(looks))
    with progress.shown(SimpleNamespace(state=lambda: None)):
        time.sleep(2.6)
    (line,) = capsys.readouterr().err.splitlines()
    speed = re.fullmatch(r"epoch 2/3: 5020/10000 step, (.*) step/s, (\d+) s left", line)
    assert speed, line
    assert 1 < float(speed[1]) < 25  # looks are half a second apart
    assert int(speed[2]) > 4980 / 25
