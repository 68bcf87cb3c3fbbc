"""Names of one file are one, however they are written; those of two files are two."""

from __future__ import annotations

from pathlib import Path

from sharding.sources.spelling import NameIndex, Spellings, look


def test_spellings_of_one_file_are_its_first(tmp_path: Path) -> None:
    for name in ("Photos/CAFE\u0301.JPG", "Photos/a.jpg", "Photos/A.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    spellings = Spellings(tmp_path)
    given = ("photos/caf\u00e9.jpg", "Photos/CAFE\u0301.JPG", "Photos/caf\u00e9.jpg")
    assert [spellings.first(name) for name in (*given, given[0])] == [given[0]] * 4
    two = ("Photos/A.jpg", "Photos/a.jpg", "photos/A.jpg", "photos/a.jpg", "photos/A.JPG")
    assert [spellings.first(name) for name in two] == [*two[:2], *two[:2], "photos/A.JPG"]


def test_a_letter_is_no_two_letters(tmp_path: Path) -> None:
    (tmp_path / "strasse.jpg").touch()
    spellings = Spellings(tmp_path)
    names = ["strasse.jpg", "stra\u00dfe.jpg", "STRASSE.jpg"]
    assert [spellings.first(name) for name in names] == [*names[:2], names[0]]
    assert look("STRA\u1e9eE") == look("stra\u00dfe")
    assert look("\ufb01x") != look("fix")
    assert look("A\u030a\u03a3\u00c9") == look("\u00e5\u03c2e\u0301")


def test_names_without_a_file_stay_as_they_are(tmp_path: Path) -> None:
    spellings = Spellings(tmp_path)
    assert [spellings.first(name) for name in ("b.jpg", "B.jpg")] == ["b.jpg", "B.jpg"]


def test_a_name_means_what_is_written_so_else_all_that_are_alike() -> None:
    index = NameIndex(["p.jpg", "P.jpg", "a/p.jpg", "a/q.jpg", "b\\\\r.jpg"])
    for written, names, ends in (
        ("p.jpg", ["p.jpg"], ["P.jpg", "a/p.jpg", "p.jpg"]),
        ("./p.JPG", ["P.jpg", "p.jpg"], ["P.jpg", "a/p.jpg", "p.jpg"]),
        ("a\\p.jpg", ["a/p.jpg"], ["P.jpg", "a/p.jpg", "p.jpg"]),
        ("A/q.jpg", ["a/q.jpg"], ["a/q.jpg"]),
        ("/x/a/q.jpg", [], ["a/q.jpg"]),
        ("q.jpg", [], ["a/q.jpg"]),
        ("x/q.jpg", [], []),
        ("b\\\\r.jpg", ["b\\\\r.jpg"], []),
        ("", [], []),
    ):
        assert index.named(written) == names, written
        assert index.ending_alike(written) == ends, written
