"""Parquet files have reproducible bytes; what is no such table is told in one line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharding.errors import InputError
from sharding.storage import parquet

SCHEMA = pa.schema([("image_id", pa.string()), ("group", pa.uint8())])
TABLE = pa.table([["a", "b"], pa.array([1, 2], pa.uint8())], schema=SCHEMA)


def read(path: Path, **options: object) -> pa.Table:
    return parquet.read_table(path, SCHEMA, kind="test table", fix="write it", **options)  # type: ignore[arg-type]


def test_a_table_is_hashed_as_it_lies_on_disk_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "below" / "t.parquet"
    sha256 = parquet.write_table(TABLE.replace_schema_metadata({"about": "x"}), path)
    content = path.read_bytes()
    assert sha256 == hashlib.sha256(content).hexdigest()
    assert sha256 == parquet.write_table(TABLE.replace_schema_metadata({"about": "x"}), path)
    assert [entry.name for entry in path.parent.iterdir()] == ["t.parquet"]
    for table in (read(path), read(Path("s3://b/t"), content=content)):
        assert table == TABLE
        assert table.schema.metadata == {b"about": b"x"}


@pytest.mark.parametrize(
    ("compression", "codec"), [({}, "ZSTD"), ({"compression": "snappy"}, "SNAPPY")]
)
def test_compression_is_the_one_asked_for(
    tmp_path: Path, compression: dict[str, parquet.Compression], codec: str
) -> None:
    parquet.write_table(TABLE, tmp_path / "t", **compression)
    assert pq.ParquetFile(tmp_path / "t").metadata.row_group(0).column(0).compression == codec


def test_columns_are_cast_and_others_left_out(tmp_path: Path) -> None:
    wide = pa.table({"more": [0, 0], "group": [1, 2], "image_id": ["a", "b"]})
    parquet.write_table(wide, tmp_path / "t")
    assert read(tmp_path / "t") == TABLE


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (None, "test table is missing"),
        (pa.table({"image_id": ["a"]}), r"not a test table \(.*group.*\)"),
        (pa.table({"image_id": ["a"], "group": [300]}), r"not a test table \(.*300.*\)"),
        (pa.table({"image_id": ["a"], "group": ["x"]}), r"not a test table \(.*x.*\)"),
        (pa.table({"image_id": [None], "group": [1]}), r"not a test table \(it holds nulls\)"),
    ],
)
def test_another_table_is_refused(tmp_path: Path, table: pa.Table | None, reason: str) -> None:
    if table is not None:
        parquet.write_table(table, tmp_path / "t")
    with pytest.raises(InputError, match=rf"/t: {reason}. Fix: write it$"):
        read(tmp_path / "t", nulls=False)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not one byte of Parquet\n" * 9])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t").write_bytes(content)
    for options in ({}, {"content": content}):
        with pytest.raises(InputError, match=r"/t: not a test table \(.+\). Fix: write it$"):
            read(tmp_path / "t", **options)
