import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharding.dataset.quarantine import Entry, Quarantine
from sharding.errors import InputError
from sharding.openimages.annotations import read_split
from sharding.openimages.dump import Dump
from tests.support.dumpmaking import MIDS, write_labels

A = Entry(image_id="0" * 16, split="train", source="a.jpg", reason="cut off")
B = Entry(image_id="1" * 16, split="train", source="b.jpg", reason="missing")
C = Entry(image_id="0" * 16, split="test", source="c.jpg", reason="missing")


def test_entries_are_sorted_distinct_and_survive_the_file(tmp_path):
    quarantine = Quarantine(entries=(B, A, C, A))
    assert quarantine.entries == (C, A, B)
    quarantine.write(tmp_path / "a.parquet")
    assert Quarantine.read(tmp_path / "a.parquet") == quarantine
    Quarantine(entries=(A, B, C)).write(tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert pq.read_schema(tmp_path / "a.parquet").names == [
        "image_id", "split", "source", "reason",
    ]  # fmt: skip


def test_an_empty_table_is_a_table(tmp_path):
    Quarantine().write(tmp_path / "a.parquet")
    assert len(Quarantine.read(tmp_path / "a.parquet")) == 0


def test_merging_and_recovering():
    both = Quarantine(entries=(A,)).merged(Quarantine(entries=(B, C)), Quarantine(entries=(A,)))
    assert len(both) == 3
    assert both.image_ids("train") == {A.image_id, B.image_id}
    assert both.without_images("train", [A.image_id]).entries == (C, B)


def test_bad_annotation_rows_are_quarantined_with_file_and_line(tmp_path):
    write_labels(tmp_path, {"train": ["123e5,verification,/m/0a,1", "x,y"]})
    rows = read_split(Dump.open(tmp_path), "train", MIDS).rejected_rows
    entries = Quarantine.of_rejected_rows("train", rows).entries
    file = tmp_path / "2017_11" / "train" / "annotations-human.csv"
    assert [(entry.image_id, entry.source, entry.reason) for entry in entries] == [
        ("123e5", f"{file}:2", "bad_id: '123e5'"),
        ("x", f"{file}:3", "bad_columns: 'x,y'"),
    ]


@pytest.mark.parametrize("content", [None, b"garbage", "other"])
def test_what_is_no_quarantine_table_is_one_line(tmp_path, content):
    path = tmp_path / "quarantine.parquet"
    if content == "other":
        pq.write_table(pa.table({"a": [1]}), path)
    elif content:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        Quarantine.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
