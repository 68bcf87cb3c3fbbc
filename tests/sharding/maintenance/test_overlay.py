from hypothesis import given
from hypothesis import strategies as st

from sharding.labels import LabelTable
from sharding.maintenance.overlay import overlay
from tests.sharding.maintenance.test_diff import tables
from tests.sharding.test_labels import states


@given(tables(), tables(), st.booleans())
def test_an_overlay_is_that_of_two_dictionaries(base, patch, patch_wins):
    result = overlay(base, patch, patch_wins=patch_wins)
    first, second = states(base), states(patch)
    assert states(result) == ({**first, **second} if patch_wins else {**second, **first})
    ids = base.image_ids_N.tolist()
    assert result.image_ids_N.tolist()[: len(ids)] == ids
    assert result.image_ids_N.tolist()[len(ids) :] == sorted(
        set(patch.image_ids_N.tolist()) - set(ids)
    )


def test_rows_keep_their_shards_and_positives_come_first():
    base = LabelTable.from_lists(["0" * 16], [[7]], [[1]], ["train-000003"])
    patch = LabelTable.from_lists(["0" * 16, "f" * 16], [[1, 9], [2]], [[], []])
    result = overlay(base, patch, patch_wins=True)
    assert list(result.shards) == ["train-000003", ""]
    assert result.classes_E.tolist() == [1, 7, 9, 2]
    kept = overlay(base, patch, patch_wins=False)
    assert kept.classes_E.tolist() == [7, 9, 1, 2]
    assert kept.states_E.tolist() == [1, 1, 0, 1]
