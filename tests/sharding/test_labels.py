import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.errors import InputError
from sharding.image_ids import parse_image_ids
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED, LabelTable

IDS = ["00000000000000ff", "00000000000123e5", "ffffffffffffffff"]


@pytest.fixture
def table() -> LabelTable:
    return LabelTable.from_lists(
        IDS, [[5, 1], [], [0]], [[2], [], [4999]], ["train-000000", "train-000001", ""]
    )


def states(table: LabelTable) -> dict[tuple[int, int], int]:
    """{(image id, class): state}: what a table says, without its layout."""
    entries = table.entries()
    pairs = zip(table.image_ids_N[entries.rows_E].tolist(), entries.classes_E.tolist(), strict=True)
    return dict(zip(pairs, entries.states_E.tolist(), strict=True))


def assert_same(table: LabelTable, other: LabelTable) -> None:
    for name in ("image_ids_N", "offsets_N1", "classes_E", "states_E"):
        np.testing.assert_array_equal(getattr(table, name), getattr(other, name))
        assert getattr(table, name).dtype == getattr(other, name).dtype
    assert list(table.shards) == list(other.shards)


def test_the_three_states_are_the_ones_everybody_uses():
    assert (POSITIVE, NEGATIVE, UNOBSERVED) == (1, 0, -1)


def test_dense_labels_say_what_was_put_in(table):
    labels_BK = table.dense(np.array([2, 0, 1, -1]), 5000)
    assert labels_BK.dtype == np.int8
    assert np.argwhere(labels_BK != UNOBSERVED).tolist() == [
        [0, 0], [0, 4999], [1, 1], [1, 2], [1, 5],
    ]  # fmt: skip
    assert labels_BK[0, [0, 4999]].tolist() == [POSITIVE, NEGATIVE]
    assert labels_BK[1, [1, 2, 5]].tolist() == [POSITIVE, NEGATIVE, POSITIVE]


def test_rows_are_found_by_id_whatever_the_order(table):
    wanted = parse_image_ids([IDS[2], "0000000000000000", IDS[0], IDS[1]])
    assert table.rows_of(wanted).tolist() == [2, -1, 0, 1]
    empty = LabelTable.from_lists([], [], [])
    assert empty.rows_of(wanted).tolist() == [-1] * 4


def test_select_reorders_and_makes_unlabelled_rows(table):
    chosen = table.select(parse_image_ids([IDS[2], "0" * 16, IDS[0]]), ["a", "b", "c"])
    assert chosen.image_ids_N.tolist() == [2**64 - 1, 0, 255]
    assert list(chosen.shards) == ["a", "b", "c"]
    assert chosen.counts_N.tolist() == [2, 0, 3]
    assert states(chosen) == {k: v for k, v in states(table).items() if k[0] != 0x123E5}


def test_counts_per_class(table):
    positives_K, negatives_K = table.count_per_class(5000)
    assert np.flatnonzero(positives_K).tolist() == [0, 1, 5]
    assert np.flatnonzero(negatives_K).tolist() == [2, 4999]


def test_a_table_survives_the_file_and_equal_tables_are_equal_bytes(table, tmp_path):
    digest = table.write(tmp_path / "a.parquet")
    again = LabelTable.read(tmp_path / "a.parquet")
    assert again.write(tmp_path / "b.parquet") == digest
    assert_same(again, table)


LISTS = st.lists(st.sets(st.integers(0, 65535), max_size=6), max_size=8)


@given(LISTS, LISTS, st.integers(0, 99))
@settings(deadline=None)
def test_entries_in_any_order_and_files_give_the_table_back(
    tmp_path_factory, positives, negatives, seed
):
    negatives = [n - p for p, n in zip(positives, negatives, strict=False)]
    positives = positives[: len(negatives)]
    ids = [f"{7919 * row:016x}" for row in range(len(positives))]
    table = LabelTable.from_lists(ids, positives, negatives)
    path = tmp_path_factory.mktemp("labels") / "table.parquet"
    table.write(path)
    assert_same(LabelTable.read(path), table)
    entries = table.entries()
    # Sorted by image, positives first, then by class.
    order_E = np.lexsort((entries.classes_E, entries.states_E == NEGATIVE, entries.rows_E))
    assert order_E.tolist() == list(range(len(order_E)))
    mixed_E = np.random.default_rng(seed).permutation(len(order_E))
    columns = (a[mixed_E] for a in (entries.rows_E, entries.classes_E, entries.states_E))
    assert_same(LabelTable.from_entries(table.image_ids_N, *columns), table)
    parts = [
        table.select(table.image_ids_N[part], ids[part]) for part in (slice(2), slice(2, None))
    ]
    whole = LabelTable.concatenate(*parts)
    assert list(whole.shards) == ids
    assert states(whole) == states(table)


def test_dense_labels_give_the_table_back(table):
    labels_NK = table.dense(np.arange(3), 5000)
    dense = LabelTable.from_dense(table.image_ids_N, labels_NK)
    assert_same(dense, table.select(table.image_ids_N))


def test_the_file_has_the_columns_that_others_read(table, tmp_path):
    table.write(tmp_path / "a.parquet")
    raw = pq.read_table(tmp_path / "a.parquet")
    assert raw.column_names == ["image_id", "positives", "negatives", "shard"]
    assert raw.schema.field("positives").type.value_type == pa.uint16()
    assert raw.to_pylist()[0] == {
        "image_id": IDS[0],
        "positives": [1, 5],
        "negatives": [2],
        "shard": "train-000000",
    }


@pytest.mark.parametrize("problem", ["missing", "garbage", "cut", "other", "nulls", "bad id"])
def test_what_is_no_label_table_is_one_line_that_names_it(table, tmp_path, problem):
    path = tmp_path / "labels.parquet"
    table.write(path)
    if problem == "missing":
        path.unlink()
    elif problem == "garbage":
        path.write_bytes(b"not parquet at all")
    elif problem == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif problem == "other":
        pq.write_table(pa.table({"a": [1]}), path)
    else:
        raw = pq.read_table(path).to_pylist()
        raw[0]["image_id" if problem == "bad id" else "positives"] = (
            "123e5" if problem == "bad id" else None
        )
        pq.write_table(pa.Table.from_pylist(raw, schema=pq.read_schema(path)), path)
    with pytest.raises(InputError) as caught:
        LabelTable.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_inconsistent_arrays_are_refused():
    good = LabelTable.from_lists(IDS[:1], [[1]], [[2]])
    with pytest.raises(ValueError, match="offsets"):
        LabelTable(**{**vars(good), "offsets_N1": np.array([0, 1])})
    with pytest.raises(ValueError, match="states or shards"):
        LabelTable(**{**vars(good), "shards": []})


@pytest.mark.parametrize(
    ("ids", "positives", "fault"),
    [
        (IDS[:2], [[0], [2]], None),
        (IDS[:2], [[0], [3]], f"image {IDS[1]} has class 3 of 3"),
        (IDS[:2], [[0, 0], []], f"image {IDS[0]} has class 0 twice, or as positive and"),
        (IDS[:2], [[], [1]], f"image {IDS[1]} has class 1 twice, or as positive and"),
        ([IDS[1]] * 2, [[0], [2]], f"image {IDS[1]} stands there twice"),
    ],
)
def test_labels_that_contradict_themselves_are_named(ids, positives, fault):
    said = LabelTable.from_lists(ids, positives, [[], [1]]).fault(3)
    assert said is fault if fault is None else said.startswith(fault)
