import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.errors import InputError
from sharding.image_ids import (
    IdIndex,
    format_id_column,
    format_image_ids,
    parse_id_column,
    parse_image_ids,
)

KEYS = st.lists(st.integers(0, 2**64 - 1))


@given(KEYS)
def test_ids_survive_the_round_trip(keys):
    keys_N = np.array(keys, np.uint64)
    texts = format_image_ids(keys_N)
    assert texts == [f"{key:016x}" for key in keys]
    assert parse_image_ids(texts).tolist() == keys
    assert parse_image_ids(format_id_column(keys_N)).tolist() == keys


def test_ids_that_look_like_numbers_stay_ids():
    texts = ["00000000000123e5", "0000000000000010", "1234567890123456"]
    assert parse_image_ids(texts).tolist() == [0x123E5, 0x10, 0x1234567890123456]


@pytest.mark.parametrize(
    "bad",
    ["", "123e5", "000002B66C9C498E", "000002b66c9c498", "000002b66c9c498e0", "000002b66c9c498g",
     " 00002b66c9c498e", "0x0002b66c9c498e", "000002b66c9c49８e", "+00002b66c9c498e"],
)  # fmt: skip
def test_what_is_no_id_is_named(bad):
    with pytest.raises(InputError, match="16 lowercase hex") as caught:
        parse_image_ids(["000002b66c9c498e", bad])
    assert repr(bad) in str(caught.value)


@given(st.lists(st.binary(max_size=18) | st.text("0123456789abcdef", min_size=16, max_size=16)))
def test_a_column_marks_exactly_the_ids(words):
    column = pa.array([w.encode() if isinstance(w, str) else w for w in words], pa.binary())
    keys_N, valid_N = parse_id_column(column)
    hexadecimal = set(b"0123456789abcdef")
    for word, key, valid in zip(column.to_pylist(), keys_N.tolist(), valid_N, strict=True):
        assert valid == (len(word) == 16 and set(word) <= hexadecimal)
        assert key == (int(word, 16) if valid else 0)


def test_slices_and_wide_offsets_are_read_at_their_own_place():
    texts = [f"{number:016x}" for number in range(6)]
    for kind in (pa.string(), pa.large_string(), pa.binary()):
        column = pa.array(texts, pa.string()).cast(kind).slice(2, 3)
        assert parse_id_column(column)[0].tolist() == [2, 3, 4]


def test_nulls_are_no_ids():
    assert parse_id_column(pa.array(["0" * 16, None]))[1].tolist() == [True, False]


@given(KEYS, KEYS)
def test_an_index_finds_the_first_row_of_an_id(listed, others):
    index = IdIndex(np.array(listed, np.uint64))
    wanted = listed + others
    rows = [listed.index(key) if key in listed else -1 for key in wanted]
    assert index.rows_of(np.array(wanted, np.uint64)).tolist() == rows
    assert [index.row_of(key) for key in wanted] == rows
    assert [key in index for key in wanted] == [row >= 0 for row in rows]
