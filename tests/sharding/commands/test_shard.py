"""From dump and images to a dataset: complete, reproducible, and proof against kills."""

from __future__ import annotations

import fcntl
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharding.commands.prepare import prepare
from sharding.commands.shard import shard_dump
from sharding.dataset.quarantine import Quarantine
from sharding.errors import InputError
from sharding.layout import LOCK_FILE, UNFINISHED_FILE
from sharding.manifest import Dataset
from sharding.shards.task import ShardTask
from tests.support import nfs
from tests.support.commands import shard, shard_options
from tests.support.dumpmaking import MIDS
from tests.support.killing import run_until
from tests.support.photos import (
    SPLIT_SIZES,
    broken_images,
    image_ids,
    tree,
    whole_images,
    write_photo_dump,
)

LEFTOVERS = (".tmp.", UNFINISHED_FILE)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_photo_dump(tmp_path_factory.mktemp("input"))


@pytest.fixture(scope="module")
def undisturbed(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "dataset"
    shard(inputs, output)
    return output


def test_every_labelled_image_is_in_one_shard_with_its_labels(undisturbed: Path, inputs) -> None:
    dataset = Dataset.open(undisturbed)
    assert list(dataset.classes.mids) == list(MIDS)
    for split, size in SPLIT_SIZES.items():
        table = dataset.labels(split)
        shards = dataset.shards(split)
        assert len(table) == size == sum(shard.images for shard in shards)
        assert max(shard.images for shard in shards) <= 10
        assert [shard.path for shard in shards for _ in range(shard.images)] == list(table.shards)
        ids = [f"{int(key):016x}" for key in table.image_ids_N]
        assert sorted(ids) == image_ids(inputs[1], split)
        in_tars = []
        for record in shards:
            lines = (undisturbed / record.index).read_text().splitlines()[1:]
            in_tars += [line.split()[3].partition(".")[0] for line in lines]
        assert in_tars == ids
        assert len(table.states_E) == 2 * size


def test_groups_are_counted_on_the_whole_training_dump(undisturbed: Path) -> None:
    dataset = Dataset.open(undisturbed)
    positives_K, negatives_K = dataset.labels("train").count_per_class(len(MIDS))
    assert np.array_equal(dataset.classes.positives_K, positives_K)
    assert np.array_equal(dataset.classes.negatives_K, negatives_K)
    assert dataset.classes.positives_K.sum() + dataset.classes.negatives_K.sum() == 48


def test_the_same_input_gives_the_same_bytes(undisturbed: Path, inputs, tmp_path: Path) -> None:
    shard(inputs, tmp_path / "again")
    assert tree(tmp_path / "again") == tree(undisturbed)
    assert not any(word in name for name in tree(undisturbed) for word in LEFTOVERS)


def test_a_finished_dataset_is_left_alone(undisturbed: Path, inputs, tmp_path: Path) -> None:
    output = shutil.copytree(undisturbed, tmp_path / "dataset")
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    printed = shard(inputs, output)
    assert "already finished; nothing was done" in printed
    assert "24 images in" in printed
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


def test_a_finished_dataset_keeps_its_name(undisturbed: Path, inputs) -> None:
    before = tree(undisturbed)
    problem = r"dataset\.json: this finished dataset is named 'tiny', not 'huge'.*--dataset-name"
    with pytest.raises(InputError, match=problem):
        shard(inputs, undisturbed, dataset_name="huge")
    assert tree(undisturbed) == before
    assert "already finished" in shard(inputs, undisturbed, dataset_name=None)


def test_a_lost_shard_is_written_again(undisturbed: Path, inputs, tmp_path: Path) -> None:
    output = shutil.copytree(undisturbed, tmp_path / "dataset")
    lost = sorted((output / "images").glob("train-*.tar"))[0]
    lost.unlink()
    assert "continued" in shard(inputs, output)
    assert tree(output) == tree(undisturbed)


def test_killed_anywhere_it_finishes_with_the_same_bytes(
    undisturbed: Path, inputs, tmp_path: Path
) -> None:
    event, died, kept_work = 0, True, 0
    while died:
        output = tmp_path / f"killed-{event}"
        died = run_until(event, shard, inputs, output)
        dataset_existed = (output / "dataset.json").is_file()
        before = {p.name: p.stat().st_mtime_ns for p in output.glob("images/*.tar")}
        shard(inputs, output)
        assert tree(output) == tree(undisturbed), f"killed at event {event}"
        after = {p.name: p.stat().st_mtime_ns for p in output.glob("images/*.tar")}
        kept_work += sum(after[name] == time for name, time in before.items())
        assert dataset_existed <= (before == after), "a finished dataset was touched"
        shutil.rmtree(output)
        event += 1 if event < 16 else 7  # the first ones settle whose directory it is
    assert event > 100
    assert kept_work > 50


def test_killed_before_it_said_anything_the_directory_is_still_free(inputs, tmp_path) -> None:
    (tmp_path / f"{UNFINISHED_FILE}.tmp.0123abcd").write_text('{"half of')
    assert "24 images" in shard(inputs, tmp_path)
    assert not list(tmp_path.glob("*.tmp.*"))


@pytest.mark.parametrize("name", [f"{UNFINISHED_FILE}.tmp.notes", "dataset.json.tmp.0123abcd"])
def test_what_only_resembles_a_leftover_is_a_stranger(inputs, tmp_path, name) -> None:
    (tmp_path / name).write_text("years of work")
    with pytest.raises(InputError, match="not empty"):
        shard(inputs, tmp_path)
    assert (tmp_path / name).read_text() == "years of work"


def test_killed_again_and_again_it_still_finishes(
    undisturbed: Path, inputs, tmp_path: Path
) -> None:
    output, kills, rng = tmp_path / "dataset", 0, random.Random(1)
    while run_until(rng.randrange(10, 90), shard, inputs, output):
        kills += 1
        assert kills < 50
    assert kills >= 3
    assert tree(output) == tree(undisturbed)


def test_bad_images_are_quarantined_and_the_rest_is_kept(inputs, tmp_path: Path) -> None:
    images = shutil.copytree(inputs[1], tmp_path / "images")
    ids = image_ids(images, "train")
    kinds = list(broken_images().items())[: len(ids) - 4]
    for image_id, (_, content) in zip(ids, kinds, strict=False):
        (images / f"train/{image_id}.jpg").write_bytes(content)
    (images / f"train/{ids[-1]}.jpg").unlink()
    output = shard((inputs[0], images), tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    assert len(dataset.labels("train")) == len(ids) - len(kinds) - 1
    quarantine = Quarantine.read(tmp_path / "out/quarantine.parquet")
    assert quarantine.image_ids("train") == {*ids[: len(kinds)], ids[-1]}
    assert dataset.manifest.quarantined == len(kinds) + 1
    report = dataset.manifest.labels["2017_11"].report["train"]
    assert report["images_without_pixels"] == len(kinds) + 1
    assert "1 missing" in output
    assert "damaged JPEG" in output
    # Groups stay those of the dump, whatever happened to its images.
    assert int(dataset.classes.positives_K.sum() + dataset.classes.negatives_K.sum()) == 48


def test_rows_are_told_by_their_number_however_few_are_listed(inputs, tmp_path: Path) -> None:
    dump = shutil.copytree(inputs[0], tmp_path / "dump")
    labels = dump / "2017_11/test/annotations-human.csv"
    image_id = image_ids(inputs[1], "test")[0]
    again, one, two = labels.read_text().splitlines()[1], "/m/0a", "/m/0elsewhere"
    odd = [
        *[f"{image_id},verification,{one},7"] * 2500,
        *[f"{image_id},verification,{two},1"] * 3,
        *[again] * 2,
        f"{again[:-1]}{1 - int(again[-1])}",
        *["xyz,verification"] * 4,
    ]
    labels.write_text("\n".join([labels.read_text().rstrip(), *odd]) + "\n")
    output = shard((dump, inputs[1]), tmp_path / "out")
    assert "set aside    2,500 bad_confidence, 4 bad_columns (listed" in output
    assert "3 rows outside the class list, 2 rows said before, 1 classes of an image" in output
    assert len(Quarantine.read(tmp_path / "out/quarantine.parquet")) < 1100
    assert "no label" not in shard(inputs, tmp_path / "clean")


def test_dali_reads_every_kind_of_accepted_image(inputs, tmp_path: Path) -> None:
    from pipeline.data.loader import Loader

    kinds = whole_images().values()
    dump, images = write_photo_dump(tmp_path / "in", {"train": len(kinds)})
    for image_id, content in zip(image_ids(images, "train"), kinds, strict=True):
        (images / f"train/{image_id}.jpg").write_bytes(content)
    shard((dump, images), tmp_path / "out")
    loader = Loader.of_split(Dataset.open(tmp_path / "out"), "train", batch_size=8, image_size=32)
    assert sum(len(batch) for batch in loader.epoch(0)) == len(kinds)


def test_shrunk_datasets_hold_shrunk_images(inputs, tmp_path: Path) -> None:
    output = shard(inputs, tmp_path / "out", shorter_side=32)
    assert "35 shrunk" in output
    treatment = Dataset.open(tmp_path / "out").manifest.treatment
    assert (treatment["mode"], treatment["shorter_side"], treatment["quality"]) == (
        "shrink",
        32,
        90,
    )


def test_a_dump_without_train_labels_says_what_cuts_the_groups(inputs, tmp_path, capsys) -> None:
    dump = shutil.copytree(inputs[0], tmp_path / "dump")
    shutil.rmtree(dump / "2017_11/train")
    output = shard((dump, inputs[1]), tmp_path / "out")
    assert "no train labels; groups are cut by validation and test" in capsys.readouterr().out
    assert "counted in validation and test: there are no train labels" in output
    card = (tmp_path / "out/README.md").read_text()
    assert "in the validation and test dump, cut in five" in card


@pytest.mark.parametrize(
    ("row", "reason", "kept"),
    [
        ("0123,verification,/m/0a,1", "row 2: .*0123", ["0123"]),
        (f"{'0' * 16},verification,/m/elsewhere,1", "1 images without any", ["0" * 16]),
        ("", "0 images without any", []),
    ],
    ids=["bad rows", "classes outside the list", "no rows"],
)
def test_a_split_whose_rows_all_went_is_an_error_unless_it_may_be_empty(
    inputs, tmp_path: Path, row: str, reason: str, kept: list[str]
) -> None:
    dump = Path(shutil.copytree(inputs[0], tmp_path / "dump"))
    labels = dump / "2017_11/test/annotations-human.csv"
    labels.write_text(f"{labels.read_text().splitlines()[0]}\n{row}\n")
    with pytest.raises(InputError, match=rf"no label for test \(.*{reason}.*--allow-empty test"):
        shard((dump, inputs[1]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    output = shard((dump, inputs[1]), tmp_path / "out", allow_empty=("test",))
    assert "24 images" in output
    bad = Quarantine.read(tmp_path / "out/quarantine.parquet").entries
    assert [(entry.split, entry.image_id) for entry in bad] == [("test", image) for image in kept]


def test_strict_stops_at_the_first_bad_image(inputs, tmp_path: Path) -> None:
    images = shutil.copytree(inputs[1], tmp_path / "images")
    (bad,) = image_ids(images, "test")[:1]
    (images / f"test/{bad}.jpg").write_bytes(b"<html>")
    with pytest.raises(InputError, match=rf"{bad}\.jpg: image cannot be used: not an image"):
        shard((inputs[0], images), tmp_path / "out", strict=True)
    assert not (tmp_path / "out/dataset.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 5}, "seed was 0, is 5"),
        ({"images_per_shard": 11}, "images_per_shard was 10, is 11"),
        ({"shorter_side": 64}, "treatment was"),
        ({"conflict": "positive"}, "the annotations or their policy differ|policy was"),
    ],
)
@pytest.mark.parametrize("finished", [True, False], ids=["finished", "unfinished"])
def test_other_options_never_mix_into_a_dataset(
    undisturbed: Path, inputs, tmp_path: Path, change, message, finished
) -> None:
    output = tmp_path / "dataset"
    if finished:
        shutil.copytree(undisturbed, output)
    else:
        run_until(60, shard, inputs, output)
        assert (output / UNFINISHED_FILE).is_file()
        (output / LOCK_FILE).unlink()
    before = tree(output)
    with pytest.raises(InputError, match=message):
        shard(inputs, output, **change)
    assert tree(output) == before


def test_a_foreign_directory_is_not_written_to(inputs, tmp_path: Path) -> None:
    (tmp_path / "thesis.tmp.txt").write_text("years of work")
    with pytest.raises(InputError, match="not empty"):
        shard(inputs, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tmp.txt"]


def test_a_url_without_a_desk_makes_no_directory(inputs) -> None:
    with pytest.raises(InputError, match="a URL is no directory"):
        shard(inputs, Path("s3://bucket/dataset"))
    assert not Path("s3:").exists()


@pytest.mark.parametrize("flock", [fcntl.flock, nfs.flock_of()], ids=["disk", "nfs"])
def test_two_jobs_do_not_write_at_once(
    inputs, tmp_path: Path, flock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", flock)

    def busy(function: Any, items: Sequence[ShardTask]) -> Iterator[Any]:
        with pytest.raises(InputError, match="another job is writing"):
            shard(inputs, tmp_path / "out")
        return map(function, items)

    shard_dump(prepare(shard_options(inputs, tmp_path / "out")), busy)


def test_a_lock_that_a_killed_job_left_is_no_stranger(inputs, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK_FILE).touch()
    assert "24 images" in shard(inputs, tmp_path / "out")
    assert not (tmp_path / "out" / LOCK_FILE).exists()


def test_images_of_another_dump_are_one_line(inputs, tmp_path: Path) -> None:
    images = tmp_path / "images/train"
    images.mkdir(parents=True)
    (images / "ffffffffffffffff.jpg").write_bytes(whole_images()["jpeg"])
    with pytest.raises(InputError, match="none of the 35 labelled images could be used"):
        shard((inputs[0], images.parent), tmp_path / "out")
    assert not tree(tmp_path / "out")
    assert "24 images" in shard(inputs, tmp_path / "out")


def test_an_export_is_no_dump_to_shard(inputs, tmp_path: Path) -> None:
    export = tmp_path / "export/train"
    export.mkdir(parents=True)
    header = "ImageID,Source,LabelName,Confidence\n"
    (export / "corrections.csv").write_text(header + f"{'0' * 16},ll-cp-correction,{MIDS[0]},1\n")
    with pytest.raises(InputError, match=r"Fix: run .*reshard --dataset DATASET"):
        shard((export.parent, inputs[1]), tmp_path / "out")


def test_timm_and_webdataset_read_it_without_our_code(undisturbed: Path) -> None:
    import webdataset
    from timm.data import create_dataset

    table = Dataset.open(undisturbed).labels("train")
    tars = [str(path) for path in sorted((undisturbed / "images").glob("train-*.tar"))]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode("pil"))
    assert [int(s["__key__"], 16) for s in samples] == table.image_ids_N.tolist()
    assert samples[0]["jpg"].mode == "RGB"
    assert set(samples[0]["json"]) == {"image_id", "positives", "negatives"}
    timm = create_dataset(
        "wds/any", root=str(undisturbed), split="train", batch_size=4, target_key="positives"
    )
    assert len(timm) == SPLIT_SIZES["train"]
    assert [target for _, target in timm] == [s["json"]["positives"] for s in samples]


def test_the_card_and_the_info_describe_the_dataset(undisturbed: Path) -> None:
    card = (undisturbed / "README.md").read_text()
    assert "| train | 24 |" in card
    assert "CC BY 4.0" in card
    info = json.loads((undisturbed / "_info.json").read_text())
    assert info["splits"]["train"]["num_samples"] == 24
    assert sum(info["splits"]["test"]["shard_lengths"]) == 5
