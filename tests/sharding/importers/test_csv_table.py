"""A folder of images with a CSV: three states of a label, splits, and every way to get it wrong."""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import lzma
import tarfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.faults import tables
from sharding.errors import InputError
from sharding.importers.collection import Collection, class_key
from sharding.importers.options import ImportOptions
from sharding.importers.prepare import prepare_import, read_collection
from sharding.importers.run import import_collection
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED
from sharding.maintenance.checks import check_dataset
from sharding.manifest import Dataset
from sharding.openimages.row_status import is_mid
from tests.support.foreign import write_csv, write_images, write_text


def read(folder: Path, lines: Sequence[str], **more: Any) -> Collection:
    write_text(folder / "labels.csv", lines)
    return read_collection(options(folder, **more))


def options(folder: Path, **more: Any) -> ImportOptions:
    return ImportOptions(format="csv", source=folder, output=folder / "dataset", **more)


def test_what_a_complete_table_does_not_name_is_absent(tmp_path: Path) -> None:
    found = read(tmp_path, ["image,labels", "a.jpg,cat|dog", "b/c.jpg,", "d.jpg, cat "])
    assert found.class_names == ("cat", "dog")
    assert found.parts["train"].names == ("a.jpg", "b/c.jpg", "d.jpg")
    assert found.parts["train"].labels_NK.tolist() == [[1, 1], [0, 0], [1, 0]]
    assert found.policy == {"unlisted": "negative"}


def test_beside_negatives_it_is_unobserved(tmp_path: Path) -> None:
    lines = ["image,labels,negatives", "a.jpg,cat,dog", "b.jpg,,cow|dog"]
    found = read(tmp_path, lines)
    assert found.class_names == ("cat", "cow", "dog")
    expected = [[POSITIVE, UNOBSERVED, NEGATIVE], [UNOBSERVED, NEGATIVE, NEGATIVE]]
    assert found.parts["train"].labels_NK.tolist() == expected
    complete = read(tmp_path, lines, unlisted="negative")
    assert (complete.parts["train"].labels_NK != UNOBSERVED).all()


def test_a_partial_table_becomes_a_version_of_that_name(tmp_path: Path) -> None:
    write_csv(tmp_path, ["image,labels,negatives", "a.jpg,cat,dog", "b.jpg,dog,"], [])
    job = prepare_import(options(tmp_path))
    assert job.labels.name == "partial"


def test_splits_go_by_many_names(tmp_path: Path) -> None:
    rows = ["a.jpg,x,train2017", "b.jpg,x,VAL", "c.jpg,x,testing", "d.jpg,x,holdout"]
    found = read(tmp_path, ["image,labels,split", *rows])
    assert {split: part.names for split, part in found.parts.items()} == {
        "train": ("a.jpg",),
        "validation": ("b.jpg",),
        "test": ("c.jpg",),
    }
    assert found.parts["train"].rejected_rows[0].reason == "unknown split: 'holdout'"


def test_without_a_split_column_all_three_are_drawn(tmp_path: Path) -> None:
    lines = ["image,labels", *(f"{number}.jpg,x|y{number % 3}" for number in range(100))]
    write_text(tmp_path / "labels.csv", lines)
    job = prepare_import(options(tmp_path))
    sizes = {split: len(labels.table) for split, labels in job.labels.splits.items()}
    assert sizes == {"train": 64, "validation": 16, "test": 20}
    ids = [labels.table.image_ids_N for labels in job.labels.splits.values()]
    assert len(np.unique(np.concatenate(ids))) == 100


def test_a_class_list_decides_order_and_leaves_others_out(tmp_path: Path) -> None:
    listed = write_text(tmp_path / "classes.txt", ["dog", "bird", "cat"])
    found = read(tmp_path, ["image,labels", "a.jpg,cat|cow"], classes=listed)
    assert found.class_names == ("dog", "bird", "cat")
    assert found.parts["train"].labels_NK.tolist() == [[0, 0, 1]]
    assert found.parts["train"].report["outside_the_class_list"] == 1


@pytest.mark.parametrize(
    ("listed", "problem"),
    [
        (["cat", "dog", "cafe\u0301"], "labels.csv, row 2: 'Dog' is not in the class list, which"),
        (["cat", "Dog", "polar  bear"], "row 3: 'Polar bear' is not in the class list, which has"),
        (["cat", "Dog", "cafe\u0301"], r"row 4: 'caf\xe9' is not in the class list, which has 'ca"),
        (
            ["0", "1"],
            "classes.txt: it names no class of the table, which has '0.0', 'Dog', 'Polar bear', ",
        ),
    ],
)
def test_a_class_list_that_writes_names_in_another_way_is_refused(
    listed: list[str], problem: str, tmp_path: Path
) -> None:
    lines = ["image,labels", "a.jpg,Dog|cat", "b.jpg,Polar bear", "c.jpg,caf\u00e9", "d.jpg,0.0"]
    classes = write_text(tmp_path / "classes.txt", listed)
    with pytest.raises(InputError) as caught:
        read(tmp_path, lines, classes=classes)
    assert problem in str(caught.value)
    both = write_text(tmp_path / "both.txt", ["cat", "dog", "Dog"])
    found = read(tmp_path, lines, classes=both)
    assert found.left_out == ("0.0", "Polar bear", "caf\u00e9")
    assert found.parts["train"].labels_NK.tolist() == [[1, 0, 1], [0] * 3, [0] * 3, [0] * 3]


def test_what_a_class_list_leaves_out_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["a.jpg,cat|cow|emu,train", "b.jpg,cow,train", "c.jpg,cat,validation", "d.jpg,cat,test"]
    write_csv(tmp_path, ["image,labels,split", *rows], [f"{letter}.jpg" for letter in "abcd"])
    listed = write_text(tmp_path / "classes.txt", ["cat"])
    done = import_collection(prepare_import(options(tmp_path, classes=listed)), map)
    assert "no label     3 labels of classes outside the class list\n" in str(done)
    assert "2 classes outside classes.txt, left out: 'cow', 'emu'\n" in capsys.readouterr().out


def test_columns_and_separators_can_be_named(tmp_path: Path) -> None:
    lines = ["file,tags,labels", 'a.jpg,"red, round",0']
    found = read(tmp_path, lines, image_column="file", labels_column="tags", separator="comma")
    assert found.class_names == ("red", "round")


@pytest.mark.parametrize(
    ("cell", "separator", "word"),
    [
        ("cat,dog", "|", "comma"),
        ("dog ; cat", "|", "semicolon"),
        ("cat/dog/cat", "|", "/"),
        ("cat\tdog", "|", "tab"),
        ("cat|dog", "comma", "pipe"),
    ],
)
@pytest.mark.parametrize("column", ["labels", "negatives"])
def test_a_list_with_another_separator_is_no_class(
    cell: str, separator: str, word: str, column: str, tmp_path: Path
) -> None:
    row = f'b.jpg,"{cell}",' if column == "labels" else f'b.jpg,,"{cell}"'
    lines = ["image,labels,negatives", "a.jpg,cat,", row, "c.jpg,dog,cat"]
    with pytest.raises(InputError) as caught:
        read(tmp_path, lines, separator=separator)
    own = {"|": "|", "comma": ","}[separator]
    assert str(caught.value) == (
        f"{tmp_path / 'labels.csv'}, row 3: {cell!r} is a list of other classes of this table. "
        f"Fix: if it is one class, name it in --classes FILE; if not, pass --separator {word}, "
        f"or write {own!r} between them"
    )
    found = read(tmp_path, lines, separator=word)
    assert found.class_names == ("cat", "dog")
    stated = [POSITIVE, POSITIVE] if column == "labels" else [NEGATIVE, NEGATIVE]
    assert found.parts["train"].labels_NK[1].tolist() == stated


def test_a_name_that_only_looks_like_a_list_is_a_class(tmp_path: Path) -> None:
    lines = ["image,labels", "a.jpg,living room|salt/pepper", 'b.jpg,"room, living|salt"']
    lines += ["c.jpg,living|room|x/", "d.jpg,x", "e.jpg,\"['x,salt']\""]
    names = ("living", "living room", "room", "salt", "salt/pepper", "x", "x,salt", "x/")
    with pytest.raises(InputError, match="row 3: 'room, living' is a list"):
        read(tmp_path, lines)
    lines[2] = "b.jpg,salt"
    assert read(tmp_path, lines).class_names == names


def test_a_class_list_may_name_a_class_that_is_made_of_others(tmp_path: Path) -> None:
    lines = ["image,labels", "a.jpg,salt/pepper", "b.jpg,salt|pepper"]
    listed = write_text(tmp_path / "classes.txt", ["salt", "salt/pepper"])
    found = read(tmp_path, lines, classes=listed)
    assert found.parts["train"].labels_NK.tolist() == [[0, 1], [1, 0]]
    listed = write_text(tmp_path / "classes.txt", ["salt", "pepper"])
    with pytest.raises(InputError, match="row 2: 'salt/pepper' is a list"):
        read(tmp_path, lines, classes=listed)


@pytest.mark.parametrize(("between", "word"), [(",", "comma"), (" ; ", "semicolon")])
def test_lists_whose_classes_never_stand_alone_are_no_classes(
    between: str, word: str, tmp_path: Path
) -> None:
    tags = ["house", "person", "road", "tree", "car", "sea", "sky"]
    pairs = [(first, second) for n, first in enumerate(tags) for second in tags[:n]]
    rows = [f"{n}.jpg\t{between.join(pair)}" for n, pair in enumerate([*pairs, ("rare", "sky")])]
    with pytest.raises(InputError) as caught:
        read(tmp_path, ["image\tlabels", *rows])
    assert str(caught.value) == (
        f"{tmp_path / 'labels.csv'}, row 2: 'person{between}house' looks like a list: 22 such "
        "names are made of 8. Fix: if such names are classes, name all classes in --classes FILE; "
        f"if not, pass --separator {word}, or write '|' between them"
    )
    found = read(tmp_path, ["image\tlabels", *rows], separator=word)
    assert found.class_names == tuple(sorted([*tags, "rare"]))
    assert found.parts["train"].labels_NK.sum(axis=1).tolist() == [2] * 22


RANKS = ("ace", *map(str, range(2, 11)), "jack", "queen", "king")
SUITS = ("clubs", "diamonds", "hearts", "spades")
CARDS = [f"{rank} of {suit}" for suit in SUITS for rank in RANKS]
SHAPES = [
    f"{size} {colour} {material}"
    for size in ("small", "large")
    for colour in ("red", "blue", "green", "gray")
    for material in ("rubber", "metal")
]
FRUIT = [f"{fruit}/{state}" for fruit in ("apple", "pear") for state in ("fresh", "rotten")]


def one_a_row(names: Sequence[str]) -> list[str]:
    return ["image\tlabels", *(f"{n}.jpg\t{name}" for n, name in enumerate(names))]


@pytest.mark.parametrize(
    ("names", "word"), [([*CARDS, "joker"], "space"), (SHAPES, "space"), (FRUIT, "/")]
)
def test_names_of_common_parts_are_classes_and_warned_of(
    names: list[str], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read(tmp_path, one_a_row(names)).class_names == tuple(sorted(names))
    told = capsys.readouterr().out
    assert f"row 2: {names[0]!r} looks like a list: " in told
    assert f"Fix: if it is one, pass --separator {word}, or write '|' between them\n" in told


def test_lists_between_spaces_are_known_by_a_class_that_stands_alone(tmp_path: Path) -> None:
    tags = ["house", "person", "road", "tree", "car"]
    pairs = [f"{first} {second}" for n, first in enumerate(tags) for second in tags[:n]]
    assert read(tmp_path, one_a_row(pairs)).class_names == tuple(sorted(pairs))
    with pytest.raises(InputError, match=r"row 2: 'person house' looks like a list: 10 .* of 5"):
        read(tmp_path, one_a_row([*pairs, "tree"]))


@pytest.mark.parametrize("between", [" of ", ", "])
def test_a_class_list_chooses_from_names_of_common_parts(between: str, tmp_path: Path) -> None:
    names = [name.replace(" of ", between) for name in CARDS]
    listed = write_text(tmp_path / "aces.txt", [name for name in names if name[0] == "a"])
    found = read(tmp_path, one_a_row(names), classes=listed)
    assert found.class_names == tuple(names[::13])
    assert len(found.left_out) == 48


def test_names_that_have_parts_are_classes(tmp_path: Path) -> None:
    kinds = {
        "animal": ("dog", "cat", "other"),
        "car": ("bus", "other", "unknown"),
        "plant": ("tree", "fern", "other", "unknown"),
    }
    names = [f"{kind}/{name}" for kind, names in kinds.items() for name in names]
    names += ["living room", "dining room", "living area", "dining area", "salt, pepper"]
    lines = ["image\tlabels", *(f"{n}.jpg\t{name}" for n, name in enumerate(names))]
    assert read(tmp_path, lines).class_names == tuple(sorted(names))
    sizes = [f"{kind}, {size}" for kind in ("dog", "cat") for size in ("small", "large")]
    lines = ["image\tlabels", *(f"{n}.jpg\t{name}" for n, name in enumerate(sizes))]
    with pytest.raises(InputError, match=r"row 2: 'dog, small' looks like a list: 4 .* of 4\. Fix"):
        read(tmp_path, lines)
    listed = write_text(tmp_path / "classes.txt", sizes)
    assert read(tmp_path, lines, classes=listed).class_names == tuple(sizes)


def test_columns_in_another_case_are_those_columns(tmp_path: Path) -> None:
    lines = ["Image,LABELS,Negatives,Split", "a.jpg,cat,dog,train", "b.jpg,dog,,Test"]
    found = read(tmp_path, lines)
    assert {split: part.names for split, part in found.parts.items()} == {
        "train": ("a.jpg",),
        "test": ("b.jpg",),
    }
    assert not found.unsplit
    assert found.policy == {"unlisted": "unobserved"}
    assert found.parts["test"].labels_NK.tolist() == [[UNOBSERVED, POSITIVE]]
    lines = ["image,labels,Labels,split", "a.jpg,cat,dog,train"]
    assert read(tmp_path, lines).class_names == ("cat",)
    lines = ["image,Negatives,split", "a.jpg,cat,train"]
    assert read(tmp_path, lines, labels_column="Negatives").policy["unlisted"] == "negative"
    with pytest.raises(InputError, match="row 1: there are two columns 'split'"):
        read(tmp_path, ["image,labels,Split,SPLIT", "a.jpg,cat,train,test"])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("../a.jpg,x,", "not a path below the source: '../a.jpg'"),
        ("/etc/a.jpg,x,", "not a path below the source: '/etc/a.jpg'"),
        (",x,", "not a path below the source: ''"),
        ("https://host/a.jpg,x,", "not a path below the source: 'https:/host/a.jpg'"),
        ("C:\\data\\a.jpg,x,", "not a path below the source: 'C:/data/a.jpg'"),
        ("a\0b.jpg,x,", "not a path below the source: 'a\\x00b.jpg'"),
        ('b.jpg,"[x, y]",', "like a list, but none of quoted names: '[x, y]'"),
        ('b.jpg,"[""\\ud800""]",', "not the text of a class: '\\ud800'"),
        ("b.jpg,x", "another number of cells than the header has"),
        ("b.jpg,x,,y", "another number of cells than the header has"),
        ("b.jpg,x|y,y", "present and absent at once: 'y'"),
        ('b.jpg,"TV"s,', "not a CSV (',' expected after '\"')"),
        (
            "b.jpg,\"['a' ...\n 'b']\",",
            "like a list, but none of quoted names: \"['a' ...\\n 'b']\"",
        ),
        (
            "b.jpg,\"array(['a',\n       'b'], dtype=object)\",",
            "like a list, but none of quoted names: \"array(['a',\\n       'b'], dtype=object)\"",
        ),
        ("b.jpg,[1. 0. 1.],", "like a list, but none of quoted names: '[1. 0. 1.]'"),
        ("b.jpg,array(['a']),", "like a list, but none of quoted names: \"array(['a'])\""),
    ],
)
def test_a_bad_row_labels_nothing_and_is_told(row: str, reason: str, tmp_path: Path) -> None:
    lines = ["image,labels,negatives", "ok.jpg,x,", row]
    part = read(tmp_path, lines).parts["train"]
    assert part.names == ("ok.jpg",)
    assert [(bad.file, bad.row, bad.reason) for bad in part.rejected_rows] == [
        ("labels.csv", 3, reason)
    ]
    with pytest.raises(InputError, match=r"labels\.csv, row 3: .* Fix: "):
        read(tmp_path, lines, strict=True)


def test_rows_of_one_image_are_united(tmp_path: Path) -> None:
    found = read(tmp_path, ["image,labels", "a.jpg,cat", "b.jpg,dog", "./a.jpg,dog", "a.jpg,"])
    part = found.parts["train"]
    assert part.names == ("a.jpg", "b.jpg")
    assert part.labels_NK.tolist() == [[1, 1], [0, 1]]
    assert (part.report["further_rows"], part.rejected_rows) == (2, ())


def test_a_file_that_is_written_in_two_ways_is_one_image(tmp_path: Path) -> None:
    write_images(tmp_path, ["p.jpg", "q.jpg", "Q.jpg", "r/caf\u00e9.jpg"])
    lines = ["image,labels,negatives", "P.jpg,cat,cow", "p.jpg,dog,", "p.JPG,cow,cat"]
    lines += ["q.jpg,cat,", "Q.jpg,dog,", "r/cafe\u0301.jpg,cat,", "R/Caf\u00e9.JPG,dog,dog"]
    part = read(tmp_path, lines).parts["train"]
    assert part.names == ("P.jpg", "q.jpg", "Q.jpg", "r/cafe\u0301.jpg")
    disputed = [UNOBSERVED, UNOBSERVED, POSITIVE]
    apart = [[1, UNOBSERVED, UNOBSERVED], [UNOBSERVED, UNOBSERVED, 1]]
    assert part.labels_NK.tolist() == [disputed, *apart, [1, UNOBSERVED, UNOBSERVED]]
    assert part.report["further_rows"] == 2
    assert [(bad.row, bad.image_id) for bad in part.rejected_rows] == [
        (4, "P.jpg"),
        (4, "P.jpg"),
        (8, "r/cafe\u0301.jpg"),
    ]


def test_a_file_that_is_written_in_two_ways_is_in_one_split(tmp_path: Path) -> None:
    write_images(tmp_path, ["p.jpg", "q.jpg"])
    lines = ["image,labels,split", "p.jpg,cat,train", "q.jpg,dog,train", "P.JPG,dog,test"]
    found = read(tmp_path, lines)
    assert {split: part.names for split, part in found.parts.items()} == {
        "train": ("q.jpg",),
        "test": ("p.jpg",),
    }
    assert found.parts["test"].labels_NK.tolist() == [[1, 1]]


def test_what_a_rejected_row_may_have_named_is_not_absent(tmp_path: Path) -> None:
    found = read(tmp_path, ["image,labels", "a.jpg,cat", "a.jpg,dog,what", "b.jpg,dog"])
    assert found.parts["train"].labels_NK.tolist() == [[POSITIVE, UNOBSERVED], [0, 1]]


def test_what_two_rows_dispute_is_unobserved_and_in_the_account(tmp_path: Path) -> None:
    found = read(tmp_path, ["image,labels,negatives", "a.jpg,cat,", "a.jpg,dog,cat"])
    part = found.parts["train"]
    assert part.labels_NK.tolist() == [[UNOBSERVED, POSITIVE]]
    assert [bad.row for bad in part.rejected_rows] == [3]


def test_an_image_of_two_splits_is_tested_with_all_its_labels(tmp_path: Path) -> None:
    lines = ["image,labels,split", "a.jpg,cat,train", "b.jpg,dog,train", "a.jpg,dog,test"]
    lines += ["a.jpg,dog,train"]
    found = read(tmp_path, lines)
    assert {split: part.names for split, part in found.parts.items()} == {
        "train": ("b.jpg",),
        "test": ("a.jpg",),
    }
    assert found.parts["test"].labels_NK.tolist() == [[1, 1]]
    assert [bad.reason for bad in found.parts["train"].rejected_rows] == [
        "in two splits: test here, train on row 2; test counts",
        "in two splits: train here, test on row 4; test counts",
    ]


@pytest.mark.parametrize(
    "cell",
    [
        "['cat', 'traffic light']",
        '"[""cat"", ""traffic light""]"',
        "\"['cat' 'traffic light']\"",
        "('cat', 'traffic light')",
        "{'traffic light', 'cat'}",
        "\"['cat'\n 'traffic light']\"",
        "cat|traffic light",
    ],
)
def test_lists_that_python_numpy_and_json_print_are_classes(cell: str, tmp_path: Path) -> None:
    quoted = cell if cell.startswith('"') else f'"{cell}"'
    found = read(tmp_path, ["image,labels", f"a.jpg,{quoted}", "b.jpg,[]", "c.jpg,[blurred]"])
    assert found.class_names == ("[blurred]", "cat", "traffic light")
    assert found.parts["train"].labels_NK.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]


def test_numbers_and_escapes_in_lists_are_read(tmp_path: Path) -> None:
    lines = ["image,labels", 'a.jpg,"[3, 17]"', 'b.jpg,"[""caf\\u00e9""]"', "c.jpg,\"['l\\'eau']\""]
    lines += ["d.jpg,[ 3 17\t 170]", "e.jpg,(1)", "f.jpg,[3)", "g.jpg,(1 2)"]
    lines += ["h.jpg,set()", "i.jpg,frozenset()"]
    names = ("(1 2)", "(1)", "17", "170", "3", "[3)", "café", "l'eau")
    assert read(tmp_path, lines).class_names == names


@pytest.mark.parametrize("cell", ["[{}x", "[{}x]", "['a'{}x]", "[1{}x]", "(1{},{}x)"])
def test_spaces_in_a_cell_take_linear_time(cell: str, tmp_path: Path) -> None:
    began = time.process_time()
    read(tmp_path, ["image,labels", "ok.jpg,x", f'a.jpg,"{cell.replace("{}", " " * 60_000)}"'])
    assert time.process_time() - began < 1.0  # it was 100 s


@pytest.mark.parametrize(
    ("one", "other", "warned"),
    [
        ("cat", "Cat", "'Cat' and 'cat'"),
        ("caf\u00e9", "cafe\u0301", r"'cafe\u0301' and 'caf\xe9'"),
        ("cat", "cat\u200b", r"'cat' and 'cat\u200b'"),
        ("cat", "NaN", "'NaN'"),
        ("cat", "<NA>", "'<NA>'"),
        ("cat", "[None]", "'[None]'"),
        ("cat", "dog", ""),
    ],
)
def test_classes_that_look_like_one_or_like_none_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], one: str, other: str, warned: str
) -> None:
    read(tmp_path, ["image,labels", f"a.jpg,{one}", f"b.jpg,{other}"])
    output = "".join(capsys.readouterr())
    assert f"look like one, or like none: {warned}\n" in output or not warned
    assert ("look like" in output) == bool(warned)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_columns_without_a_name_mean_nothing(delimiter: str, tmp_path: Path) -> None:
    rows = (("", " image", "labels", "", ""), ("0", "a.jpg", "cat|dog", "", ""))
    found = read(tmp_path, [delimiter.join(row) for row in rows])
    assert found.class_names == ("cat", "dog")
    assert found.parts["train"].rejected_rows == ()


@pytest.mark.parametrize(
    ("lines", "row"),
    [
        (["image,labels", "a.jpg,cat", 'b.jpg,"dog', "c.jpg,cow"], 3),
        (["image,labels", 'a.jpg,"cat', "b.jpg,dog", 'c.jpg,"cow"', "d.jpg,cat"], 2),
        (["image,labels", 'a.jpg,"cat', "b.jpg,dog", '"', "d.jpg,cat"], 2),
        (["image,labels", "a.jpg,\"array(['x'])", "b.jpg,array(['y'])"], 2),
        (["image,labels", "a.jpg,\"array(['x'])", 'b.jpg,y"'], 2),
        (["image,labels,title", 'a.jpg,"TV"s,"one', 'b.jpg,dog,"', "d.jpg,cat,"], 2),
        (["image,labels,title", 'a.jpg,cat,"one', "b.jpg,dog,two"], 2),
    ],
)
def test_a_quote_that_is_not_closed_is_an_error_of_its_row(
    lines: list[str], row: int, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"labels\.csv, row {row}: .*Fix: close the quote"):
        read(tmp_path, lines)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image,labels,labels", "a.jpg,cat,dog"], "row 1: there are two columns 'labels'"),
        (["image,labels,split", "a.jpg,x,train", ",x,test"], "no label for test (labels.csv, row"),
        (["name,labels", "a.jpg,x"], "labels.csv, row 1: there is no column 'image'; present: na"),
        (["image,labels"], "labels.csv: no row can be used"),
        (["image,labels", "a.jpg,"], "labels.csv: no row names a class"),
        (["image,labels,split", "a.jpg,x,test"], "training. Fix: call one of the splits train, "),
        (["image,labels,split", "a.jpg,x,test", "b.jpg,x,trian"], "training (labels.csv, row 3: "),
        (["image,labels", "a.jpg,/m/csv_dog|dog"], "two classes get the same key"),
    ],
)
def test_a_table_of_no_use_is_one_clear_line(
    lines: Sequence[str], message: str, tmp_path: Path
) -> None:
    write_text(tmp_path / "labels.csv", lines)
    with pytest.raises(InputError) as caught:
        prepare_import(options(tmp_path))
    assert message in str(caught.value)
    assert caught.value.fix


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"image,labels\n\xff\xfe\x00,x\n")
    with pytest.raises(InputError, match="not UTF-8"):
        read_collection(options(tmp_path))


def test_a_long_cell_is_read(tmp_path: Path) -> None:
    names = [f"class number {number:06d}" for number in range(8000)]
    found = read(tmp_path, ["image,labels", f"a.jpg,{'|'.join(names)}", "b.jpg,"])
    assert found.class_names == tuple(names)
    assert found.parts["train"].labels_NK.tolist() == [[1] * 8000, [0] * 8000]
    with pytest.raises(InputError, match=r"row 2: a cell of more than 16,000,000 characters"):
        read(tmp_path, ["image,labels", "a.jpg," + "x" * 16_000_001])


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress])
def test_a_compressed_table_is_read(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    table = tmp_path / "table.packed"
    table.write_bytes(compress(b"\xef\xbb\xbfimage,labels\na.jpg,cat\n"))
    found = read_collection(options(tmp_path, table=table))
    assert found.parts["train"].names == ("a.jpg",)
    assert found.sources == {table.name: hashlib.sha256(table.read_bytes()).hexdigest()}
    table.write_bytes(table.read_bytes()[:-6])
    with pytest.raises(InputError, match=r"table\.packed: the archive is cut off or damaged"):
        read_collection(options(tmp_path, table=table))


def test_an_archive_in_the_place_of_a_table_is_named(tmp_path: Path) -> None:
    inner = write_text(tmp_path / "inner.csv", ["image,labels", "a.jpg,cat"])
    with tarfile.open(tmp_path / "table.tar.gz", "w:gz") as tar:
        tar.add(inner, "labels.csv")
    with zipfile.ZipFile(tmp_path / "table.xlsx", "w") as pack:
        pack.write(inner, "xl/sheet1.xml")
    (tmp_path / "table.zst").write_bytes(b"\x28\xb5\x2f\xfd....")
    for table, what in (
        ("table.tar.gz", "a tar file is not read"),
        ("table.xlsx", "a zip, as a spreadsheet is one, is not read"),
        ("table.zst", "a zstd file is not read"),
    ):
        with pytest.raises(InputError, match=f"{table}: {what}. Fix: unpack it, or save it as te"):
            read_collection(options(tmp_path, table=tmp_path / table))


@pytest.mark.parametrize(
    ("lines", "row", "reason"),
    [
        (["image,labels", "/away/a.jpg,cat", "b.jpg"], 2, "not a path below the source: '/away/"),
        (["image,labels,split", "a.jpg,cat,0", "b.jpg,cat,1"], 2, "unknown split: '0'"),
        (["image,labels,note", "", "a.jpg,cat"], 3, "another number of cells than the header has"),
    ],
)
def test_a_table_without_a_good_row_says_what_is_wrong_with_the_first(
    lines: list[str], row: int, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"row {row}: no row can be used; the first: {reason}"):
        read(tmp_path, lines)


def test_absolute_paths_below_the_source_are_taken(tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    write_images(folder, ["cats/a.jpg"])
    (tmp_path / "link").symlink_to(folder)
    lines = ["image,labels", f"{folder}/cats/a.jpg,cat", f"{tmp_path}/link//b.jpg,dog"]
    lines += ["cats/a.jpg,dog", f"{folder}/../c.jpg,cat", f"{folder}s/d.jpg,cat"]
    part = read(tmp_path / "link", lines).parts["train"]
    assert part.names == ("cats/a.jpg", "b.jpg")
    assert part.labels_NK.tolist() == [[1, 1], [0, 1]]
    assert [bad.row for bad in part.rejected_rows] == [5, 6]


def test_mutated_tables_label_nothing_that_they_do_not_say() -> None:
    """A slice of ``python -m benchmarks.faults.tables``."""
    counts = tables.run(150, seed=14)
    assert not [outcome for outcome in counts if "WRONG" in outcome]
    assert all(counts[f"{kind}: agrees"] for kind in tables.KINDS)


def test_columns_that_are_not_read_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read(tmp_path, ["image,labels,negative,", "a.jpg,cat,dog,"])
    assert "columns that are not read: 'negative'" in "".join(capsys.readouterr())
    with pytest.raises(InputError, match="there is no column 'labels'; present: image, two lines"):
        read(tmp_path, ['image,"two', 'lines"', "a.jpg,cat"])


@given(st.text(min_size=1, max_size=30))
def test_every_class_name_gets_a_key_of_a_mids_shape(name: str) -> None:
    assert is_mid(class_key("csv", name).encode())


def test_names_that_are_mids_stay_mids(tmp_path: Path) -> None:
    found = read(tmp_path, ["image,labels", "a.jpg,/m/01yrx|kitten"])
    assert found.keys == ("/m/01yrx", "/m/csv_kitten")


_words = st.lists(st.sampled_from(["cat", "dog", "a b", "ä,ö", 'say "no"']), unique=True)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(_words, min_size=1, max_size=8))
def test_any_complete_table_comes_back_as_it_was_written(
    rows: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = io.StringIO()
    table = csv.writer(out)
    table.writerows([("image", "labels"), *((f"{n}.jpg", "|".join(r)) for n, r in enumerate(rows))])
    folder = tmp_path_factory.mktemp("table")
    (folder / "labels.csv").write_text(out.getvalue(), encoding="utf-8", newline="")
    if not any(rows):
        return
    found = read_collection(options(folder))
    part = found.parts["train"]
    assert part.names == tuple(f"{n}.jpg" for n in range(len(rows)))
    assert (part.labels_NK != UNOBSERVED).all()
    for labels_K, row in zip(part.labels_NK, rows, strict=True):
        assert {found.class_names[k] for k in np.flatnonzero(labels_K)} == set(row)


@pytest.mark.shared
def test_a_real_collection_of_photographs(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "coco256"
    settings = ImportOptions(
        format="csv", source=source, output=tmp_path / "dataset", images_per_shard=64
    )
    import_collection(prepare_import(settings), map)
    dataset = Dataset.open(settings.output)
    assert check_dataset(dataset, map) == []
    sizes = {split: len(dataset.labels(split)) for split in ("train", "validation")}
    assert sizes == {"train": 128, "validation": 128}
    assert len(dataset.classes) == 76
    assert dataset.manifest.quarantined == 0


@pytest.mark.shared
def test_the_single_positive_protocol_on_a_real_table(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "corel5k"
    with open(source / "labels.csv", encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    job = prepare_import(
        ImportOptions(
            format="csv",
            source=source,
            output=tmp_path / "dataset",
            labels_column="labels_260",
            single_positive=True,
        )
    )
    assert len(job.classes) == 260
    official = sum(row["split"] == "train" for row in rows)
    sizes = {split: len(found.table) for split, found in job.labels.splits.items()}
    validation = round(0.2 * official)
    assert sizes["train"] == official - validation
    assert sizes["validation"] == validation
    assert job.single_positive is not None
    lengths_N = job.single_positive.splits["train"].table.counts_N
    complete = job.labels.splits["train"].table
    positives_N = [
        int((complete.observed(np.array([row])).states_E == POSITIVE).sum())
        for row in range(len(complete))
    ]
    assert lengths_N.tolist() == [min(1, count) for count in positives_N]
