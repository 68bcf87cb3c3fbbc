import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.labels import LabelTable
from sharding.maintenance.diff import diff_classes, diff_tables
from sharding.openimages.annotations import read_split
from sharding.openimages.class_list import read_classes
from sharding.openimages.dump import Dump
from tests.sharding.test_labels import states
from tests.support.dumpmaking import write_labels

OLD = LabelTable.from_lists(["0" * 15 + c for c in "123"], [[0, 1], [2], []], [[3], [0], [1]])
NEW = LabelTable.from_lists(
    ["0" * 15 + c for c in "4312"], [[0], [1], [0], [2, 3]], [[], [], [1], []]
)


def test_added_removed_flipped_and_images():
    diff = diff_tables(OLD, NEW, 4)
    assert {name: counts_K.tolist() for name, counts_K in diff.counts_K.items()} == {
        "added_positives": [1, 0, 0, 1],
        "added_negatives": [0, 0, 0, 0],
        "removed_positives": [0, 0, 0, 0],
        "removed_negatives": [1, 0, 0, 1],
        "flipped_to_positive": [0, 1, 0, 0],
        "flipped_to_negative": [0, 1, 0, 0],
    }
    assert diff.unchanged == 2
    assert (diff.images_new.tolist(), diff.images_gone.tolist()) == ([4], [])
    assert diff.totals()["labels_removed_negative"] == 2
    assert diff.by_class(["/m/a", "/m/b", "/m/c", "/m/d"]) == {
        "/m/a": {"added_positives": 1, "removed_negatives": 1},
        "/m/b": {"flipped_to_positive": 1, "flipped_to_negative": 1},
        "/m/d": {"added_positives": 1, "removed_negatives": 1},
    }


@st.composite
def tables(draw) -> LabelTable:
    images = draw(st.lists(st.integers(0, 12), unique=True, max_size=8))
    said = [draw(st.dictionaries(st.integers(0, 5), st.booleans())) for _ in images]
    return LabelTable.from_lists(
        [f"{image:016x}" for image in images],
        [[c for c, positive in row.items() if positive] for row in said],
        [[c for c, positive in row.items() if not positive] for row in said],
    )


@given(tables(), tables())
def test_the_diff_is_that_of_two_dictionaries(old, new):
    before, after = states(old), states(new)
    diff = diff_tables(old, new, 6)
    assert diff.totals() == {
        "labels_added_positive": sum(after[k] == 1 for k in after.keys() - before.keys()),
        "labels_added_negative": sum(after[k] == 0 for k in after.keys() - before.keys()),
        "labels_removed_positive": sum(before[k] == 1 for k in before.keys() - after.keys()),
        "labels_removed_negative": sum(before[k] == 0 for k in before.keys() - after.keys()),
        "labels_flipped_to_positive": sum(
            after[k] > before[k] for k in before.keys() & after.keys()
        ),
        "labels_flipped_to_negative": sum(
            after[k] < before[k] for k in before.keys() & after.keys()
        ),
        "labels_unchanged": sum(after[k] == before[k] for k in before.keys() & after.keys()),
        "images_new": len(set(new.image_ids_N.tolist()) - set(old.image_ids_N.tolist())),
        "images_gone": len(set(old.image_ids_N.tolist()) - set(new.image_ids_N.tolist())),
    }


def test_classes_are_matched_by_mid_and_never_by_name():
    assert diff_classes(["/m/a", "/m/b", "/m/c"], ["/m/c", "/m/x", "/m/a"]) == {
        "kept": 2, "dropped": ["/m/b"], "added": ["/m/x"],
    }  # fmt: skip


def test_a_table_of_another_class_list_is_refused():
    with pytest.raises(ValueError, match="not below 3"):
        diff_tables(OLD, NEW, 3)


@pytest.mark.shared
def test_a_changed_copy_of_the_real_rows_differs_by_exactly_the_changes(shared, tmp_path):
    dump = Dump.open(shared / "data" / "openimages" / "v3_2017_11")
    mids = [mid for mid, _ in read_classes(dump)]
    lines = dump.annotation_files("validation")[0].path.read_text().splitlines()[1:]
    known = set(mids)
    inside = [line for line in lines if line.split(",")[2] in known]
    flipped = [f"{line[:-1]}{1 - int(line[-1])}.0" for line in inside[:30]]
    added = [f"{0xABC:016x},verification,{mid},1" for mid in mids[:7]]
    write_labels(tmp_path, {"validation": [*flipped, *inside[50:], *added]}, "v7")
    old = read_split(dump, "validation", mids).table
    new = read_split(Dump.open(tmp_path), "validation", mids).table
    totals = diff_tables(old, new, len(mids)).totals()
    assert totals["labels_flipped_to_positive"] + totals["labels_flipped_to_negative"] == 30
    assert totals["labels_removed_positive"] + totals["labels_removed_negative"] == 20
    assert (totals["labels_added_positive"], totals["labels_added_negative"]) == (7, 0)
    assert totals["labels_unchanged"] == len(inside) - 50
    assert totals["images_new"] == 1
