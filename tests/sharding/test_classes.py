import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.classes import ClassTable, assign_groups
from sharding.errors import InputError


def make(positives, negatives, **options) -> ClassTable:
    mids = [f"/m/{index}" for index in range(len(positives))]
    return ClassTable.build(
        mids,
        ["name"] * len(mids),
        np.array(positives, np.int64),
        np.array(negatives, np.int64),
        **options,
    )


@given(st.lists(st.integers(0, 9), min_size=5, max_size=40))
def test_groups_ascend_with_the_count_and_ties_go_by_index(counts):
    groups_K = assign_groups(np.array(counts))
    order = sorted(range(len(counts)), key=lambda index: (counts[index], index))
    assert groups_K[order].tolist() == sorted(groups_K.tolist())
    sizes = np.bincount(groups_K, minlength=6)[1:]
    assert sizes.sum() == len(counts)
    assert sizes.max() - sizes.min() <= 1


def test_5000_classes_make_five_groups_of_1000():
    counts_K = np.random.default_rng(0).integers(0, 10_000, 5000)
    assert np.bincount(assign_groups(counts_K)).tolist() == [0, 1000, 1000, 1000, 1000, 1000]


def test_negatives_count_for_the_group_unless_positives_are_asked_for():
    positives, negatives = [1, 2, 3, 4, 5], [90, 70, 50, 30, 10]
    assert make(positives, negatives).groups_K.tolist() == [5, 4, 3, 2, 1]
    by_positives = make(positives, negatives, group_by="positives")
    assert by_positives.groups_K.tolist() == [1, 2, 3, 4, 5]


def test_the_hash_is_that_of_the_order(tmp_path):
    table = make([1, 2, 3], [0, 0, 0])
    swapped = ClassTable.build(
        [*table.mids[1::-1], table.mids[2]], table.names, table.positives_K, table.negatives_K
    )
    assert table.sha256 != swapped.sha256
    assert table.sha256 == make([9, 9, 9], [1, 1, 1]).sha256
    table.write(tmp_path / "classes.parquet")
    assert ClassTable.read(tmp_path / "classes.parquet").sha256 == table.sha256


def test_a_class_table_survives_the_file(tmp_path):
    table = make([3, 1, 2, 0, 9, 9], [0, 5, 5, 5, 0, 1])
    table.write(tmp_path / "classes.parquet")
    again = ClassTable.read(tmp_path / "classes.parquet")
    assert (list(again.mids), list(again.names)) == (list(table.mids), list(table.names))
    for name in ("positives_K", "negatives_K", "groups_K"):
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name))
    assert again.index_of["/m/4"] == 4
    assert pq.read_schema(tmp_path / "classes.parquet").names == [
        "index", "mid", "name", "positives", "negatives", "group",
    ]  # fmt: skip


def test_a_repeated_mid_is_refused():
    with pytest.raises(ValueError, match="repeats"):
        ClassTable.build(["/m/1", "/m/1"], ["a", "b"], np.zeros(2), np.zeros(2))


@pytest.mark.parametrize("content", [None, b"garbage", "other"])
def test_what_is_no_class_table_is_one_line_that_names_it(tmp_path, content):
    path = tmp_path / "classes.parquet"
    if content == "other":
        pq.write_table(pa.table({"a": [1]}), path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        ClassTable.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("mid", "=cmd|'/c calc'!A1", "no MID"),
        ("mid", "/m/0\n/m/1", "no MID"),
        ("mid", None, "nulls"),
        ("name", "Cat\x1b[2J", "control characters"),
        ("group", 6, "not 1 to 5"),
        ("index", 4, "order of their index"),
    ],
)
def test_a_class_table_of_somebody_else_is_checked_as_a_list_is(tmp_path, column, value, message):
    path = tmp_path / "classes.parquet"
    make([1, 2, 3, 4, 5], [0] * 5).write(path)
    table = pq.read_table(path)
    values = [value, *table[column].to_pylist()[1:]]
    position = table.schema.get_field_index(column)
    changed = table.set_column(position, column, pa.array(values, table.schema.field(column).type))
    pq.write_table(changed, path)
    with pytest.raises(InputError, match=rf"classes.parquet: not a class table .*{message}"):
        ClassTable.read(path)
