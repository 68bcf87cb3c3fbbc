"""Run files on a path: absolute, atomic, absent means None."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import storage


def test_paths_become_absolute_and_urls_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("runs") == str(tmp_path / "runs")
    assert storage.absolute("s3://bucket/runs") == "s3://bucket/runs"
    assert storage.join("s3://bucket/runs/", "a", "b") == "s3://bucket/runs/a/b"


def test_json_round_trip_leaves_nothing_else(tmp_path: Path) -> None:
    location = str(tmp_path / "run" / "config.json")
    assert storage.read_json(location) is None
    storage.write_json(location, {"a": 1})
    storage.write_json(location, {"a": 2})
    assert storage.read_json(location) == {"a": 2}
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]
