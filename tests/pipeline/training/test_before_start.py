"""A run's name is claimed by its configuration; what is in the way is one line with its fix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.cluster import session
from pipeline.config.sections import ModelConfig
from pipeline.config.train import TrainConfig
from pipeline.training import prepare
from sharding.errors import InputError

CONFIG = TrainConfig(dataset="/data/set", name="a")


def test_the_same_configuration_goes_on(tmp_path: Path) -> None:
    assert not prepare.claim(str(tmp_path / "a"), CONFIG)
    assert prepare.claim(str(tmp_path / "a"), CONFIG)


@pytest.mark.parametrize("place", ["file/runs", "/proc/runs"])
def test_a_storage_that_takes_nothing_is_one_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"a run cannot be kept here .* Fix: pass as --storage"):
        prepare.claim(str(tmp_path / place / "a"), CONFIG)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"dataset": "/da',
        b"[1, 2]",
        b"\xff",
        b"{}",
        json.dumps({**CONFIG.to_dict(), "later": 1}).encode(),
    ],
)
def test_a_configuration_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json: not a configuration .* Fix: choose"):
        prepare.claim(str(tmp_path), CONFIG)
    (tmp_path / "config.json").unlink()  # the fix
    assert not prepare.claim(str(tmp_path), CONFIG)


@pytest.mark.parametrize(("wanted", "gpu"), [(True, False), (True, True), (False, False)])
def test_batch_norm_that_cannot_be_shared_is_told(
    wanted: bool, gpu: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "place", lambda *asked: (gpu, 2))
    config = TrainConfig(dataset="d", model=ModelConfig(sync_batchnorm=wanted))
    assert prepare.resources(config) == (gpu, 2)
    assert ("--sync-batchnorm is for GPUs" in capsys.readouterr().out) == (wanted and not gpu)
