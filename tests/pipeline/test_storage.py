"""Run files on a path: absolute, atomic, absent means None."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import storage
from sharding.errors import InputError
from tests.support.buckets import Bucket


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


def test_a_bucket_is_as_a_directory(bucket: Bucket, tmp_path: Path) -> None:
    for place in (str(tmp_path / "run"), bucket.url("run")):
        assert not storage.exists(storage.join(place, "a", "config.json"))
        assert storage.names_in(place) == storage.files_below(place) == []
        storage.write_json(storage.join(place, "a", "config.json"), {"a": 1})
        storage.write_bytes(storage.join(place, "b"), b"0123")
        assert storage.read_json(storage.join(place, "a", "config.json")) == {"a": 1}
        assert storage.exists(storage.join(place, "a"))
        assert storage.names_in(place) == ["b"]
        below = [storage.join(place, name) for name in ("a/config.json", "b")]
        assert storage.files_below(place) == below
        with storage.open_file(storage.join(place, "b")) as file:
            assert (file.seek(2), file.read(1)) == (2, b"2")
    assert sorted(bucket.objects("run")) == ["a/config.json", "b"]


def test_what_a_kill_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / "part.tmp.0a1b2c3d").touch()
    storage.remove_temporaries(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_that_stumbles_is_asked_again(bucket: Bucket) -> None:
    bucket.server.faults = {"PUT kept/a": [503, 500], "kept/a": [500]}
    storage.write_bytes(bucket.url("a"), b"content")
    assert storage.read_bytes(bucket.url("a")) == b"content"
    assert not any(bucket.server.faults.values())


@pytest.mark.parametrize(
    ("location", "message"),
    [("s3://nowhere/a", "cannot be written"), ("gopher://old/place", "no such place")],
)
def test_nowhere_to_write_is_one_line(bucket: Bucket, location: str, message: str) -> None:
    with pytest.raises(InputError, match=f"{location}: {message}"):
        storage.write_bytes(location, b"")
