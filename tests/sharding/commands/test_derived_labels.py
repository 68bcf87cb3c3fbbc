"""Label versions made from others: over the same tars, repeatable, and back to where they began."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sharding.commands.options import ReshardOptions
from sharding.commands.reshard import reshard
from sharding.commands.summary import Resharded
from sharding.errors import InputError
from sharding.manifest import Dataset
from tests.sharding.test_labels import states
from tests.support.commands import backwards, check
from tests.support.dumpmaking import MIDS
from tests.support.killing import run_until
from tests.support.photos import tree


def derive(dataset: Path, **rule: Any) -> Resharded:
    return reshard(ReshardOptions(dataset=str(dataset), **rule), backwards)


@pytest.fixture
def hierarchy(tmp_path: Path) -> Path:
    """The first class is a kind of the second, in the words of Open Images."""
    tree = {"LabelName": MIDS[1], "Subcategory": [{"LabelName": MIDS[0]}]}
    path = tmp_path / "hierarchy.json"
    path.write_text(json.dumps({"LabelName": "/m/0bl9f", "Subcategory": [tree]}))
    return path


def test_a_share_of_the_labels_is_a_version_over_the_same_tars(dataset: Path) -> None:
    before = tree(dataset)
    done = derive(dataset, known=0.5, draw=3)
    assert done.name == "2017_11-known-0.5-draw-3"
    after = tree(dataset)
    changed = {name for name in after if after[name] != before.get(name)}
    assert not {name for name in changed if name.startswith("images/")}
    opened = Dataset.open(dataset)
    old, new = (opened.labels("train", name) for name in (None, done.name))
    assert states(new).items() < states(old).items()
    assert len(new.classes_E) == round(0.5 * len(old.classes_E))
    for split in ("validation", "test"):
        assert states(opened.labels(split, done.name)) == states(opened.labels(split))
    version = opened.manifest.labels[done.name]
    assert version.policy == {
        "base": "2017_11",
        "derived": {"known": 0.5, "draw": 3, "splits": ["train"]},
    }
    assert version.sources == opened.manifest.labels["2017_11"].sources
    assert version.report["train"]["derived_left_out"] == len(old.classes_E) - len(new.classes_E)
    assert check(dataset).intact
    derive(dataset, known=0.5, draw=3)
    assert tree(dataset) == after, "repeating the command changes nothing"
    with pytest.raises(InputError, match="are there already"):
        derive(dataset, known=0.6, draw=3, name=done.name)


def test_two_defaults_that_lost_their_tables_are_mended_one_after_the_other(dataset: Path) -> None:
    def again(draw: int) -> Resharded:
        return derive(dataset, known=0.5, draw=draw, base="2017_11", make_default=True)

    first, second = again(1).name, again(2).name
    lost = [path for name in (first, second) for path in dataset.glob(f"labels/{name}/*.parquet")]
    before = {path: path.read_bytes() for path in lost}
    assert len(before) == 6
    for path in lost:
        path.unlink()
    with pytest.raises(InputError, match=f"{second}/.*label table is missing"):
        again(1)
    assert again(2).diff == {}, "what it was compared with is lost, too"
    assert again(1).diff["against"] == second
    assert again(2).diff["against"] == first
    assert {path: path.read_bytes() for path in lost} == before


def test_single_positives_of_a_named_base_and_split(dataset: Path) -> None:
    derive(dataset, known=0.9, name="some")
    done = derive(dataset, single_positive=True, base="some", splits=("train", "test"))
    assert done.name == "some-single-positive-draw-0"
    opened = Dataset.open(dataset)
    for split in ("train", "test"):
        kept = states(opened.labels(split, done.name))
        assert set(kept.values()) == {1}
        assert len({image for image, _ in kept}) == len(kept)
        assert kept.items() <= states(opened.labels(split, "some")).items()


def test_a_closure_is_recorded_and_is_the_difference_to_its_base(
    dataset: Path, hierarchy: Path
) -> None:
    done = derive(dataset, hierarchy=hierarchy, splits=("train", "validation"))
    opened = Dataset.open(dataset)
    version = opened.manifest.labels[done.name]
    assert "hierarchy.json" in version.sources
    for split in ("train", "validation"):
        report = version.report[split]
        old, new = (states(opened.labels(split, name)) for name in ("2017_11", done.name))
        assert old.items() <= new.items()
        added = {key: state for key, state in new.items() if key not in old}
        assert {k for _, k in added} <= {0, 1}
        assert sum(added.values()) == report["derived_positives"]
        assert len(added) - sum(added.values()) == report["derived_negatives"]
    assert version.report["train"]["derived_positives"] > 0
    assert version.report["train"]["derived_conflicts"] > 0
    assert "implied labels left out" in str(done)
    assert check(dataset).intact


def test_a_share_of_no_label_is_refused(dataset: Path) -> None:
    before = tree(dataset)
    with pytest.raises(InputError, match=r"no label would be left .*larger share"):
        derive(dataset, known=1e-6)
    assert tree(dataset) == before


def test_killed_anywhere_a_derivation_ends_the_same(
    original: Path, hierarchy: Path, tmp_path: Path
) -> None:
    undisturbed = shutil.copytree(original, tmp_path / "undisturbed")
    derive(undisturbed, hierarchy=hierarchy)
    event, died = 0, True
    while died:
        dataset = shutil.copytree(original, tmp_path / f"killed-{event}")
        died = run_until(event, partial(derive, dataset, hierarchy=hierarchy))
        assert len(Dataset.open(dataset).labels("train"))  # readable at every moment
        derive(dataset, hierarchy=hierarchy)
        assert tree(dataset) == tree(undisturbed), f"killed at event {event}"
        event += 13
    assert event > 26


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"known": 0.1, "single_positive": True},
        {"known": 10.0},
        {"known": 0.1, "draw": -1},
        {"known": 0.1, "images": "more"},
    ],
)
def test_options_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        ReshardOptions(dataset="d", **wrong)
