"""Rows, seeds and draws become trainings; rows that differ only at inference share one."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config.study import StudyConfig
from pipeline.study.plan import Plan, describe, plan
from sharding.errors import InputError


def planned(*rows: str, versions: tuple[str, ...] = ("first",), **options: Any) -> Plan:
    config = StudyConfig(
        dataset="/d", output="/o", rows=rows, **{"preset": "demo", "seeds": 2, **options}
    )
    return plan(config, versions, "first")


def test_rows_that_differ_at_inference_share_a_training() -> None:
    found = planned("ablation")
    assert len(found.rows) == 7
    assert [run.name for run in found.runs[:4]] == [
        "an-boost1-seed0",
        "an-boost5-seed0",
        "ll-r-boost1-seed0",
        "ll-r-boost5-seed0",
    ]
    assert len(found.runs) == 2 * 4
    first = found.runs[0]
    assert (first.rows, first.slopes) == (("an@1/1", "an@1/5"), (5.0,))
    assert (first.config.model.alpha_train, first.config.model.alpha_infer) == (1, 1)
    assert [cell.slope for cell in found.cells["ll-r@5/1"]] == [1, 1]
    assert {cell.run for cell in found.cells["ll-r@5/1"]} == {
        "ll-r-boost5-seed0",
        "ll-r-boost5-seed1",
    }


def test_a_method_that_infers_while_it_trains_shares_nothing() -> None:
    found = planned("em-apl@1/1", "em-apl@1/5", seeds=1)
    assert [run.config.model.alpha_infer for run in found.runs] == [1, 5]


def test_seeds_and_options_reach_the_training() -> None:
    found = planned(
        "ll-r:delta_rel=0.7,image_size=64", "an", train=("epochs=3", "flip=false"), seeds=3
    )
    first = found.runs[0].config
    assert (first.seed, first.method, first.method_options) == (0, "ll-r", ("delta_rel=0.7",))
    assert (first.epochs, first.data.image_size, first.data.flip) == (3, 64, False)
    assert found.runs[1].config.data.image_size == 96, "the demo's"
    assert [run.seed for run in found.runs] == [0, 0, 1, 1, 2, 2]
    assert len({run.name for run in found.runs}) == 6


def test_draws_are_label_versions_but_not_for_complete_labels() -> None:
    found = planned("full@1/1", "an@1/1", draws=2, versions=("first", "complete"))
    assert found.labels == "complete"
    labels = {run.name: run.config.labels for run in found.runs if run.seed == 0}
    assert labels == {
        "full-boost1-seed0": "complete",
        "an-boost1-seed0-draw0": "complete-single-positive-draw-0",
        "an-boost1-seed0-draw1": "complete-single-positive-draw-1",
    }
    assert [cell.run for cell in found.cells["full@1/1"]][:2] == ["full-boost1-seed0"] * 2


def test_every_seed_may_have_its_own_draw() -> None:
    found = planned("full@1/1", "an@1/1", draw_per_seed=True, seeds=2, versions=("complete",))
    labels = {run.name: run.config.labels for run in found.runs}
    assert labels == {
        "full-boost1-seed0": "complete",
        "an-boost1-seed0-draw0": "complete-single-positive-draw-0",
        "full-boost1-seed1": "complete",
        "an-boost1-seed1-draw1": "complete-single-positive-draw-1",
    }
    assert [cell.run for cell in found.cells["an@1/1"]] == [
        "an-boost1-seed0-draw0",
        "an-boost1-seed1-draw1",
    ], "one cell a seed: the interval is Student's over both together"
    assert found.draws == 1


def test_without_draws_a_full_row_takes_the_complete_labels() -> None:
    found = planned("full", "an", versions=("first", "complete"), seeds=1)
    assert [run.config.labels for run in found.runs] == ["complete", "first"]


@pytest.mark.parametrize(
    ("rows", "options", "says"),
    [
        (("an:delta_rel=1",), {}, "no option of an or of a training 'delta_rel'"),
        (("ll-r:delta_rl=1",), {}, "did you mean delta_rel?"),
        (("an",), {"train": ("epoch=1",)}, "did you mean epochs?"),
        (("an",), {"train": ("seed=1",)}, "'seed'"),
        (("an",), {"train": ("flip=maybe",)}, "flip=true or flip=false"),
        (("an",), {"train": ("epochs=many",)}, "not a whole number"),
        (("an",), {"baseline": "ll-r"}, "no row 'll-r'"),
        (("an", "ll-r", "an"), {}, "row 'an@5/5' is there twice"),
        (("an", "an@5/5"), {}, "row 'an@5/5' is there twice"),
        (("an",), {"preset": "cocoo"}, "did you mean coco?"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(
    rows: tuple[str, ...], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError) as error:
        planned(*rows, **options)
    assert says in str(error.value)


def test_two_trainings_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="have one name"):
        planned("gr:q=0.01,1", "gr:q=0.01-1", seeds=1)


@pytest.mark.parametrize(
    "options",
    [
        {"rows": ()},
        {"seeds": 0},
        {"draws": -1},
        {"at_once": 0},
        {"draws": 2, "draw_per_seed": True},
    ],
    ids=str,
)
def test_a_study_of_nothing_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        StudyConfig(**{"dataset": "d", "output": "o", **options})


def test_the_plan_says_what_is_left() -> None:
    found = planned("an@1/1", "ll-r", seeds=1, baseline="ll-r")
    text = describe(found, ["an-boost1-seed0"])
    assert "2 rows, 2 trainings, 1 of them finished; compared with ll-r@5/5" in text
    assert "finished  an-boost1-seed0: scored without BoostLU, labels first" in text
    assert "to train  ll-r-boost5-seed0: scored without BoostLU, BoostLU 5, labels first" in text
