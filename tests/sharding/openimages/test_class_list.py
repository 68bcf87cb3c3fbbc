from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.errors import InputError
from sharding.maintenance.diff import diff_classes
from sharding.openimages.class_list import read_classes, read_descriptions, read_mids
from sharding.openimages.dump import Dump
from sharding.openimages.dump_files import DumpFile
from tests.support.dumpmaking import MIDS, write_classes, write_labels


def file_of(path) -> DumpFile:
    return DumpFile(path=path, location=f"{path.parent.name}/{path.name}")


def written(tmp_path, content: bytes) -> DumpFile:
    path = tmp_path / "table"
    path.write_bytes(content)
    return file_of(path)


def test_the_list_keeps_its_own_order(tmp_path):
    mids = ["/m/0108_09c", "/m/01_097", "/m/010dmf"]  # Google's order ignores the underscore
    write_labels(tmp_path, {"train": []})
    write_classes(tmp_path, mids)
    assert read_classes(Dump.open(tmp_path)) == [(mid, f"name of {mid}") for mid in mids]
    assert sorted(mids) != mids


def test_line_ends_may_be_mixed_and_the_last_may_be_missing(tmp_path):
    assert read_mids(written(tmp_path, b"/m/0a\r\n/m/0b\n\n/m/0c")) == ["/m/0a", "/m/0b", "/m/0c"]
    names = read_descriptions(written(tmp_path, b"/m/0a,A\r\n/m/0b,B\n/m/0c,C"))
    assert names == {"/m/0a": "A", "/m/0b": "B", "/m/0c": "C"}


def test_quoted_names_and_a_header_and_a_byte_order_mark(tmp_path):
    content = (
        '\ufeffLabelName,DisplayName\n/m/02wvth,"Fiat 500 ""topolino"""\n/m/0a,"Ducks, geese"\n'
    )
    assert read_descriptions(written(tmp_path, content.encode())) == {
        "/m/02wvth": 'Fiat 500 "topolino"',
        "/m/0a": "Ducks, geese",
    }


def test_a_class_without_a_name_bears_its_mid_and_names_may_repeat(tmp_path):
    write_labels(tmp_path, {"train": []})
    write_classes(tmp_path, MIDS[:3], descriptions="/m/0a,Trunk\n/m/0c,Trunk\n/m/0zz,Unused\n")
    assert read_classes(Dump.open(tmp_path)) == [
        ("/m/0a", "Trunk"), ("/m/0b", "/m/0b"), ("/m/0c", "Trunk"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "row", "message"),
    [
        (b"/m/0a\nCat\n", 2, "'Cat' is not a MID"),
        (b"/m/0a,Cat\n", 1, "is not a MID"),
        (b"/m/0a\n\n/m/0b\n/m/0a\n", 4, "already on line 1"),
        (b"\n\n", None, "empty"),
        (b"/m/0a\n\xff\n", None, "not UTF-8"),
    ],
)
def test_a_bad_class_list_is_one_line_with_its_row(tmp_path, content, row, message):
    with pytest.raises(InputError, match=message) as caught:
        read_mids(written(tmp_path, content))
    assert caught.value.row == row
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "row"),
    [
        (b"/m/0a,A\n/m/0b,B,C\n", 2),
        (b"/m/0a,A\n/m/0b\n", 2),
        (b"/m/0a,A\n/m/0a,B\n", 2),
        (b"0,1\n", 1),
        (b'/m/0a,"A\n/m/0b,B\n', 2),
        (b"/m/0a,A\nLabelName,DisplayName\n", 2),
    ],
)
def test_bad_descriptions_are_one_line_with_their_row(tmp_path, content, row):
    with pytest.raises(InputError) as caught:
        read_descriptions(written(tmp_path, content))
    assert caught.value.row == row
    assert "\n" not in str(caught.value)


CLEAN = b'/m/0a,Cat\r\n/m/0b,"Ducks, ""geese"""\n/m/0_c,Trunk\n'


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 3), st.binary(max_size=3))))
def test_damaged_class_files_are_read_or_refused_in_one_line(tmp_path_factory, mutations):
    content = CLEAN
    for place, removed, splice in mutations:
        content = content[:place] + splice + content[place + removed :]
    file = written(tmp_path_factory.mktemp("classes"), content)
    for read, text in ((read_descriptions, content), (read_mids, content.replace(b",", b"\n"))):
        file.path.write_bytes(text)
        try:
            found = read(file)
        except InputError as error:
            message = str(error)
            assert str(file) in message
            continue
        assert all(mid.encode() in text for mid in found)
        assert len(set(found)) == len(found)


@pytest.mark.shared
@pytest.mark.parametrize("place", ["2017_11", "archives"])
def test_the_real_v3_classes(shared, place):
    dump = Dump.open(shared / "data" / "openimages" / "v3_2017_11" / place)
    classes = read_classes(dump)
    mids = [mid for mid, _ in classes]
    assert len(classes) == len(set(mids)) == 5000
    assert (mids[3272], mids[1076]) == ("/m/068hy", "/m/01yrx")  # Google's own model indices
    assert mids != sorted(mids)
    assert [m.replace("_", "") for m in mids] == sorted(m.replace("_", "") for m in mids)
    names = [name for _, name in classes]
    assert not set(names) & set(mids)
    times = Counter(names)
    assert sum(number > 1 for number in times.values()) == 52
    assert times["Trunk"] == 3


@pytest.mark.shared
def test_the_real_descriptions_parse_in_full(shared):
    data = shared / "data" / "openimages"
    v3 = read_descriptions(file_of(data / "v3_2017_11" / "2017_11" / "class-descriptions.csv"))
    v4 = read_descriptions(file_of(data / "v4_2018_04" / "class-descriptions.csv"))
    v6 = read_descriptions(file_of(data / "v6" / "oidv6-class-descriptions.csv"))
    assert (len(v3), len(v4), len(v6)) == (19995, 19995, 19994)
    assert v3["/m/02wvth"] == 'Fiat 500 "topolino"'
    assert v3["/m/01qtdl"] == "Datsun 1500, 1600, 2000 roadster"
    assert v3["/m/064093q"] == "Toyota concept vehicles, 2000–09"
    assert not any("\r" in name or "\n" in name for name in v3.values())
    assert sum(v3[mid] != v4[mid] for mid in v3) == 18
    assert set(v3) - set(v6) == {"/m/0dzlbx"}
    assert sum(v3[mid] != v6[mid] for mid in v6) == 407


@pytest.mark.shared
def test_v3_and_v4_classes_are_matched_by_mid(shared):
    data = shared / "data" / "openimages"
    v3 = read_mids(file_of(data / "v3_2017_11" / "2017_11" / "classes-trainable.txt"))
    v4 = read_mids(file_of(data / "v4_2018_04" / "classes-trainable.txt"))
    diff = diff_classes(v3, v4)
    assert (diff["kept"], len(diff["dropped"]), len(diff["added"])) == (4417, 583, 2769)
    kept = [mid for mid in v3 if mid in set(v4)]
    assert kept == [mid for mid in v4 if mid in set(v3)]  # relative order kept
    assert not any(old == new for old, new in zip(v3, v4, strict=False))  # and not one its index
