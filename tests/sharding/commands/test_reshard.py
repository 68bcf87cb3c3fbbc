"""New labels over old images: tables change, tars do not, and every kill can be repeated."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharding.commands.summary import Resharded
from sharding.dataset.quarantine import Quarantine
from sharding.errors import InputError
from sharding.labels import LabelTable
from sharding.layout import SPLITS
from sharding.manifest import Dataset
from sharding.shards.transcode import ImagePolicy, transcode
from sharding.sources.shard import ShardSource
from sharding.storage.tar_index import read_index
from tests.support import commands
from tests.support.commands import check, shard
from tests.support.dumpmaking import HEADER, MIDS, write_classes, write_labels
from tests.support.killing import run_until
from tests.support.photos import image_ids, tree, write_photo_dump

NEW_MIDS = (MIDS[2], "/m/0new", MIDS[0], MIDS[3])
MISSING = 4


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(V3 dump, images); four training images lie in `later` instead."""
    root = tmp_path_factory.mktemp("input")
    dump, images = write_photo_dump(root)
    (root / "later/train").mkdir(parents=True)
    for image_id in image_ids(images, "train")[:MISSING]:
        name = f"train/{image_id}.jpg"
        (images / name).rename(root / "later" / name)
    return dump, images


@pytest.fixture(scope="module")
def newer(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A V4 dump: another class list, one label more, one gone, one flipped, one image more."""
    folder = tmp_path_factory.mktemp("newer")
    train = rows_of(inputs[0], "train")
    at_hand = [n for n, row in enumerate(train) if (inputs[1] / f"train/{row[:16]}.jpg").is_file()]
    flip = next(n for n in at_hand if train[n].endswith(f"{MIDS[0]},1"))
    gone = next(n for n in at_hand if MIDS[2] in train[n])
    image = train[flip][:16]
    unseen = next(mid for mid in (MIDS[2], MIDS[3]) if f"{image},verification,{mid}" not in train)
    new = [row for n, row in enumerate(train) if n != gone]
    new[new.index(train[flip])] = train[flip][:-1] + "0"
    if not any(row.startswith(f"{image},verification,{unseen}") for row in new):
        new.append(f"{image},crowdsource-verification,{unseen},1")
    new += [f"{image},verification,/m/0new,1", f"{'e' * 16},verification,{MIDS[0]},1"]
    rows = {"train": new, "test": rows_of(inputs[0], "test")}
    return write_classes(write_labels(folder, rows, "v4"), NEW_MIDS, "v4")


def rows_of(dump: Path, split: str) -> list[str]:
    return (dump / f"2017_11/{split}/annotations-human.csv").read_text().splitlines()[1:]


def relabel(dataset: Path, annotations: Path, **more: Any) -> Resharded:
    done = commands.relabel(dataset, annotations, **more)
    assert is_well(dataset)
    return done


def is_well(dataset: Path, **more: Any) -> bool:
    result = check(dataset, **more)
    assert result.intact, str(result)
    return True


def images_of(dataset: Path) -> dict[str, str]:
    return {name: digest for name, digest in tree(dataset).items() if name.startswith("images/")}


def states(table: LabelTable) -> dict[tuple[int, int], int]:
    owners = np.repeat(table.image_ids_N, table.counts_N).tolist()
    entries = zip(owners, table.classes_E.tolist(), strict=True)
    return dict(zip(entries, table.states_E.tolist(), strict=True))


def test_a_new_dump_is_a_new_label_version_and_touches_no_tar(dataset: Path, newer: Path) -> None:
    before, old = images_of(dataset), Dataset.open(dataset).labels("train")
    done = relabel(dataset, newer)
    assert images_of(dataset) == before
    opened = Dataset.open(dataset)
    assert opened.manifest.default_labels == "2017_11"
    new = opened.labels("train", "2018_04")
    assert new.image_ids_N.tolist() == old.image_ids_N.tolist()
    assert list(new.shards) == list(old.shards)
    # The same rows read by MID: one flip, one label less, at most one more.
    before_states, after_states = states(old), states(new)
    common = before_states.keys() & after_states.keys()
    assert sum(before_states[key] != after_states[key] for key in common) == 1
    assert len(before_states.keys() - after_states.keys()) == 1
    totals = done.diff["splits"]["train"]
    assert totals["labels_flipped_to_negative"] == 1
    new_and_without_pixels = 1
    assert totals["labels_added_positive"] == new_and_without_pixels + len(
        after_states.keys() - before_states.keys()
    )
    assert done.diff["classes"] == {"kept": 3, "dropped": [MIDS[1]], "added": ["/m/0new"]}
    assert opened.labels("validation").image_ids_N.tolist()
    assert json.loads((dataset / "labels/2018_04/diff.json").read_text()) == done.diff


def test_images_without_pixels_are_wanted(dataset: Path, newer: Path, inputs) -> None:
    done = relabel(dataset, newer)
    assert done.wanted["train"] == MISSING + 1
    wanted = (dataset / "labels/2018_04/wanted.txt").read_text().split()
    later = image_ids(inputs[0].parent / "later", "train")
    assert sorted(wanted) == sorted(f"train/{i}" for i in (*later, "e" * 16))
    assert f"{MISSING + 1} labelled images, listed in labels/2018_04/wanted.txt" in str(done)


def test_repeating_the_command_changes_nothing(dataset: Path, newer: Path) -> None:
    relabel(dataset, newer)
    before = tree(dataset)
    relabel(dataset, newer)
    assert tree(dataset) == before


def test_new_images_get_shards_of_their_own(dataset: Path, newer: Path, inputs) -> None:
    before = images_of(dataset)
    later = inputs[0].parent / "later"
    done = relabel(dataset, newer, images=str(later), make_default=True)
    assert done.added == MISSING
    assert done.wanted["train"] == 1
    after = images_of(dataset)
    assert before.items() <= after.items()
    opened = Dataset.open(dataset)
    assert opened.manifest.default_labels == "2018_04"
    for name in ("2017_11", "2018_04"):
        table = opened.labels("train", name)
        assert len(table) == 24 == sum(shard.images for shard in opened.shards("train"))
        assert {int(i, 16) for i in image_ids(later, "train")} <= set(table.image_ids_N.tolist())
    recovered = set(image_ids(later, "train"))
    quarantine = Quarantine.read(dataset / "quarantine.parquet")
    assert quarantine.image_ids("train") == {"e" * 16}
    assert not quarantine.image_ids("train") & recovered


@pytest.mark.parametrize("is_same", [True, False])
def test_tars_of_a_newer_manifest_are_not_overwritten(
    dataset: Path, original: Path, newer: Path, inputs, tmp_path: Path, is_same: bool
) -> None:
    later = shutil.copytree(inputs[0].parent / "later", tmp_path / "later")
    relabel(dataset, newer, images=str(later))
    (added,) = (
        tree(dataset / "images").keys()
        - tree(original / "images").keys()
        - {path.with_suffix(".idx").name for path in (dataset / "images").glob("*.tar")}
    )
    content = (dataset / "images" / added).read_bytes()
    shutil.rmtree(dataset / "labels")
    shutil.copytree(original, dataset, dirs_exist_ok=True)  # from a copy made earlier
    if not is_same:
        next((later / "train").glob("*.jpg")).unlink()
    commands.relabel(dataset, newer, images=str(later))
    assert ((dataset / "images" / added).read_bytes() == content) == is_same
    assert (dataset / "set_aside").exists() != is_same
    if not is_same:
        assert (dataset / "set_aside/1/images" / added).read_bytes() == content
    assert is_well(dataset)


def test_images_that_turn_up_later_are_taken_in(dataset: Path, inputs) -> None:
    before = images_of(dataset)
    later = str(inputs[0].parent / "later")
    retry = {"images": later, "retry_failed": True}
    output = shard(inputs, dataset, **retry)
    assert is_well(dataset)
    assert "24 images in" in output
    assert "set aside    nothing" in output
    assert before.items() <= images_of(dataset).items()
    assert len(states(Dataset.open(dataset).labels("train"))) == 48
    # Looking again finds nothing more to do, and the plain command is satisfied too.
    settled = tree(dataset)
    shard(inputs, dataset, **retry)
    assert tree(dataset) == settled
    assert "already finished" in shard(inputs, dataset)
    assert tree(dataset) == settled


def test_looking_in_vain_leaves_no_trace(dataset: Path, inputs) -> None:
    before = tree(dataset)
    shard(inputs, dataset, retry_failed=True)
    assert tree(dataset) == before


def test_rewriting_copies_jpegs_and_carries_the_new_labels(dataset: Path, newer: Path) -> None:
    old = {i: jpeg_of(dataset, i) for i in ids_at_hand(dataset)}
    done = relabel(dataset, newer, rewrite=True)
    assert done.rewritten > 1
    assert "tars rewritten" in str(done)
    opened = Dataset.open(dataset)
    table = opened.labels("train", "2018_04")
    for row, key in enumerate(table.image_ids_N.tolist()):
        image_id = f"{key:016x}"
        assert jpeg_of(dataset, image_id) == old[image_id]
        label = json.loads(member_of(dataset, image_id, "json"))
        observed = table.observed(np.array([row]))
        for state, field in ((1, "positives"), (0, "negatives")):
            assert label[field] == observed.classes_E[observed.states_E == state].tolist()
    named = {shard.path for shard in opened.manifest.shards}
    assert {f"images/{p.name}" for p in (dataset / "images").glob("*.tar")} == named
    assert list(opened.labels("train", "2017_11").shards) == list(table.shards)
    before = tree(dataset)
    relabel(dataset, newer, rewrite=True)
    assert tree(dataset) == before


def test_a_split_that_the_new_dump_lacks_can_be_mended_after_a_rewrite(
    dataset: Path, newer: Path, inputs
) -> None:
    relabel(dataset, newer, rewrite=True)
    created_by = Dataset.open(dataset).manifest.created_by
    written = {split: created_by[f"tar_labels/{split}"] for split in SPLITS}
    assert written == {"train": "2018_04", "validation": "2017_11", "test": "2018_04"}
    before = tree(dataset)
    for lost in ("images/validation-000000.tar", "labels/2017_11/validation.parquet"):
        (dataset / lost).unlink()
        assert is_well(dataset, repair=True, images=str(inputs[1]))
        assert tree(dataset) == before
    (dataset / "labels/2018_04/train.parquet").unlink()
    assert is_well(dataset, repair=True)
    assert tree(dataset) == before


def test_a_rewrite_of_a_lost_tar_is_one_line_and_goes_on_when_it_is_mended(
    dataset: Path, newer: Path, inputs
) -> None:
    lost = dataset / "images/train-000001.tar"
    lost.unlink()
    with pytest.raises(InputError, match=r"train-000001\.tar: cannot be read .*--repair --images"):
        relabel(dataset, newer, rewrite=True)
    assert is_well(dataset, repair=True, images=str(inputs[1]))
    assert relabel(dataset, newer, rewrite=True).rewritten > 1


def ids_at_hand(dataset: Path) -> list[str]:
    return [f"{int(k):016x}" for k in Dataset.open(dataset).labels("train").image_ids_N]


def member_of(dataset: Path, image_id: str, extension: str) -> bytes:
    opened = Dataset.open(dataset)
    table = opened.labels("train")
    row = int(table.rows_of(np.array([int(image_id, 16)], np.uint64))[0])
    tar = dataset / table.shards[row]
    offset, size = read_index(tar.with_suffix(".idx"))[image_id][extension]
    return tar.read_bytes()[offset : offset + size]


def jpeg_of(dataset: Path, image_id: str) -> bytes:
    return member_of(dataset, image_id, "jpg")


@pytest.mark.parametrize("what", ["labels", "images", "rewrite"])
def test_killed_anywhere_it_ends_the_same(original, newer, inputs, tmp_path, what) -> None:
    more: dict[str, Any] = {
        "labels": {},
        "images": {"images": str(inputs[0].parent / "later")},
        "rewrite": {"rewrite": True},
    }[what]
    undisturbed = shutil.copytree(original, tmp_path / "undisturbed")
    relabel(undisturbed, newer, **more)
    expected = tree(undisturbed)
    event, died = 0, True
    while died:
        dataset = shutil.copytree(original, tmp_path / f"killed-{event}")
        died = run_until(event, partial(relabel, dataset, newer, **more))
        for split in SPLITS:
            assert len(Dataset.open(dataset).labels(split))  # readable at every moment
        relabel(dataset, newer, **more)
        assert tree(dataset) == expected, f"killed at event {event}"
        shutil.rmtree(dataset)
        event += 11
    assert event > 40


def test_killed_before_its_report_the_new_default_gets_it_yet(
    dataset: Path, original, newer, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = shutil.copytree(original, tmp_path / "undisturbed")
    before = relabel(undisturbed, newer, make_default=True).diff
    with monkeypatch.context() as killed:
        killed.setattr("sharding.commands.reshard.write_json", lambda path, value: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            relabel(dataset, newer, make_default=True)
    assert Dataset.open(dataset).manifest.default_labels == "2018_04"
    assert not (dataset / "labels/2018_04/diff.json").exists()
    assert relabel(dataset, newer, make_default=True).diff == before != {}
    assert tree(dataset) == tree(undisturbed)


@pytest.mark.parametrize(
    ("source", "wins"),
    [("reviewed", True), ("ll-cp-correction", False), ("large-loss", False)],
)
def test_exports_are_laid_over_the_labels(dataset: Path, tmp_path: Path, source, wins) -> None:
    old = Dataset.open(dataset).labels("train")
    (key, index), state = next(item for item in states(old).items() if item[1] == 0)
    seen = {k for i, k in states(old) if i == key}
    free = next(k for k in range(len(MIDS)) if k not in seen)
    rows = [f"{key:016x},{source},{MIDS[k]},1" for k in (index, free)]
    folder = tmp_path / "export-1/train"
    folder.mkdir(parents=True)
    (folder / "corrections.csv").write_text("\n".join((HEADER, *rows, "")))
    done = relabel(dataset, folder.parent)
    new = states(Dataset.open(dataset).labels("train", done.name))
    expected = {**states(old), (key, free): 1, (key, index): 1 if wins else state}
    assert new == expected
    assert len(Dataset.open(dataset).labels("test", done.name)) == 5


def test_a_review_turns_and_confirms_labels_and_says_so(dataset: Path, tmp_path: Path) -> None:
    old = states(Dataset.open(dataset).labels("train"))
    positives, negatives = ([e for e, s in old.items() if s == state] for state in (1, 0))
    free = next((i, k) for i, _ in old for k in range(len(MIDS)) if (i, k) not in old)
    turned = {positives[0]: 0, negatives[0]: 1, negatives[1]: 1}
    answers = {**turned, positives[1]: 1, free: 0}
    rows = [f"{i:016x},reviewed,{MIDS[k]},{state}" for (i, k), state in answers.items()]
    saved = tmp_path / "reviewed-1-train.csv"
    saved.write_text("\n".join((HEADER, *rows, "")))
    done = relabel(dataset, saved, name="reviewed-1")
    opened = Dataset.open(dataset)
    assert states(opened.labels("train", "reviewed-1")) == {**old, **answers}
    report = opened.manifest.labels["reviewed-1"].report
    said = {key: n for key, n in report["train"].items() if key.startswith("reviewed_")}
    assert said == {
        "reviewed_new": 1,
        "reviewed_confirmed": 1,
        "reviewed_to_positive": 2,
        "reviewed_to_negative": 1,
    }
    assert "reviewed_new" not in report["test"]
    line = "1 new, 1 confirmed, 2 turned positive, 1 turned negative in train, over labels 2017_11"
    assert line in str(done)


def write_review(path: Path, image_ids: list[str]) -> Path:
    path.parent.mkdir(parents=True)
    rows = [f"{image_id},reviewed,{MIDS[0]},1" for image_id in image_ids]
    path.write_text("\n".join((HEADER, *rows, "")))
    return path


def test_a_review_of_a_split_that_its_base_lacks_is_refused(
    dataset: Path, newer: Path, inputs, tmp_path: Path
) -> None:
    relabel(dataset, newer)  # of train and test alone
    before = tree(dataset)
    image_id = image_ids(inputs[1], "validation")[0]
    review = write_review(tmp_path / "review/validation/corrections.csv", [image_id])
    folder = review.parents[1]
    problem = (
        r"validation/corrections\.csv: labels 2018_04 have no validation labels .*--base \(2017"
    )
    with pytest.raises(InputError, match=problem):
        relabel(dataset, folder, base="2018_04")
    assert tree(dataset) == before
    relabel(dataset, folder, base="2017_11")
    assert states(Dataset.open(dataset).labels("validation", "review"))[int(image_id, 16), 0] == 1


def test_a_file_without_rows_needs_no_base(dataset: Path, newer: Path, tmp_path: Path) -> None:
    relabel(dataset, newer)
    write_review(tmp_path / "review/validation/corrections.csv", [])
    write_review(tmp_path / "review/train/corrections.csv", ids_at_hand(dataset)[:1])
    relabel(dataset, tmp_path / "review", base="2018_04")
    assert set(Dataset.open(dataset).manifest.labels["review"].splits) == {"train", "test"}


def test_a_dump_takes_no_base(dataset: Path, newer: Path) -> None:
    with pytest.raises(InputError, match="--base would be ignored: a dump stands for itself"):
        relabel(dataset, newer, base="2017_11")


@pytest.mark.parametrize("with_images", [False, True])
def test_an_image_keeps_the_split_whose_tar_holds_it(
    dataset: Path, inputs, tmp_path: Path, with_images: bool
) -> None:
    moved = ids_at_hand(dataset)[0]
    images = tmp_path / "images"
    (images / "validation").mkdir(parents=True)
    shutil.copy(inputs[1] / f"train/{moved}.jpg", images / "validation")
    rows = {split: rows_of(inputs[0], split) for split in SPLITS}
    rows["train"] = [row for row in rows["train"] if not row.startswith(moved)]
    before = tree(dataset / "images")
    rows["validation"] += [f"{moved},verification,{mid},1" for mid in MIDS[:2]]
    dump = write_classes(write_labels(tmp_path / "v4", rows, "v4"), MIDS, "v4")
    done = relabel(dataset, dump, **({"images": str(images)} if with_images else {}))
    assert done.added == 0
    assert tree(dataset / "images") == before
    assert done.wanted["validation"] == 0
    opened = Dataset.open(dataset)
    assert opened.manifest.labels[done.name].report["validation"]["in_another_split"] == 2
    assert int(moved, 16) not in opened.labels("validation", done.name).image_ids_N
    assert "set aside    2 in_another_split (listed in quarantine.parquet)" in str(done)
    aside = [e for e in Quarantine.read(dataset / "quarantine.parquet").entries if e.is_row]
    assert {(e.split, e.image_id) for e in aside} == {("validation", moved)}
    with pytest.raises(InputError, match=r"in_another_split: .* the one of its tar"):
        relabel(dataset, dump, strict=True, name="strict")


def test_an_image_that_got_pixels_in_another_split_gets_none_in_its_first(
    dataset: Path, inputs, tmp_path: Path
) -> None:
    later = inputs[0].parent / "later"
    moved = image_ids(later, "train")[0]
    rows = {"validation": [*rows_of(inputs[0], "validation"), f"{moved},verification,{MIDS[0]},1"]}
    dump = write_classes(write_labels(tmp_path / "v4", rows, "v4"), MIDS, "v4")
    (tmp_path / "images/validation").mkdir(parents=True)
    shutil.copy(later / f"train/{moved}.jpg", tmp_path / "images/validation")
    assert relabel(dataset, dump, images=str(tmp_path / "images")).added == 1
    shard(inputs, dataset, images=str(later), retry_failed=True)
    assert is_well(dataset)
    held = {
        split: set(Dataset.open(dataset).labels(split).image_ids_N.tolist()) for split in SPLITS
    }
    assert int(moved, 16) in held["validation"]
    assert len(held["train"]) == 24 - 1


def test_mixed_exports_are_refused(dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "export-1/train"
    folder.mkdir(parents=True)
    rows = [f"{'0' * 16},{s},{MIDS[0]},1" for s in ("reviewed", "ll-cp-correction")]
    (folder / "corrections.csv").write_text("\n".join((HEADER, *rows, "")))
    with pytest.raises(InputError, match="mixes a model's labels"):
        relabel(dataset, folder.parent)


def test_a_name_stands_for_one_content(dataset: Path, newer: Path) -> None:
    before = tree(dataset)
    with pytest.raises(InputError, match="are there already"):
        relabel(dataset, newer, name="2017_11")
    assert tree(dataset) == before
    relabel(dataset, newer, name="other")
    assert set(Dataset.open(dataset).manifest.labels) == {"2017_11", "other"}


def test_images_are_read_back_from_a_tar(original: Path) -> None:
    opened = Dataset.open(original)
    (record, *_) = opened.shards("train")
    source = ShardSource.of(opened.directory, record)
    ids = list(read_index(opened.directory / record.index))
    with source.reader("train", ids) as read:
        for image_id in ids:
            assert transcode(read(image_id), ImagePolicy()).how == "kept"


@pytest.mark.parametrize("damage", ["v1.1 1\n", "", "v1.2 2\njpg 512 3 a.jpg\n", "v1.2 1\njpg x\n"])
def test_a_damaged_index_is_one_line(tmp_path: Path, damage: str) -> None:
    (tmp_path / "a.idx").write_text(damage)
    with pytest.raises(InputError, match="not a DALI index"):
        read_index(tmp_path / "a.idx")
    with pytest.raises(InputError, match="the index is missing"):
        read_index(tmp_path / "b.idx")
