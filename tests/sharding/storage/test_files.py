import json

import pytest

from sharding.storage.files import remove_temporaries, replacing, write_json


def test_a_file_appears_whole_in_a_new_directory(tmp_path):
    path = tmp_path / "deep" / "file"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "whole"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise failure

    with pytest.raises(failure):
        write_half()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("place", ["file/x/y", "x" * 250])
def test_the_first_error_is_the_one_that_is_raised(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"Not a directory|name too long") as caught:
        write_json(tmp_path / place, {})
    assert caught.value.__context__ is None


def test_json_is_stable_and_ends_with_a_newline(tmp_path):
    for name, value in (("a", {"x": 1, "b": [1, "é"]}), ("b", {"b": [1, "é"], "x": 1})):
        write_json(tmp_path / name, value)
    first = (tmp_path / "a").read_bytes()
    assert first == (tmp_path / "b").read_bytes()
    assert first.endswith(b"\n")
    assert json.loads(first) == {"x": 1, "b": [1, "é"]}


def test_sweep_removes_what_a_killed_writer_left_and_nothing_else(tmp_path):
    kept = tmp_path / "images" / "train-000000.tar"
    kept.parent.mkdir()
    kept.write_text("tar")
    (tmp_path / "images" / "train-000001.tar.tmp.0a1b2c3d").write_text("half")
    (tmp_path / "images" / "notes.tmp.txt").write_text("of somebody else")
    assert remove_temporaries(tmp_path) == 1
    assert sorted(path.name for path in kept.parent.iterdir()) == ["notes.tmp.txt", kept.name]
