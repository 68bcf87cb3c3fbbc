"""Confidences become versions beside the labels: read, checked, counted, removed, rearranged."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharding.commands.confidences import ConfidencesAdded, reshard_confidences
from sharding.commands.options import RemoveOptions, ReshardOptions
from sharding.commands.prepare import prepare
from sharding.commands.remove import remove
from sharding.commands.shard import shard_dump
from sharding.confidences import ConfidenceTable, read_unobserved
from sharding.dataset import confidence_versions
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.manifest import Dataset, Manifest
from tests.support.commands import backwards, check, flip_a_byte, relabel, shard_options
from tests.support.dumpmaking import MIDS, pack_gz, pack_tar_gz
from tests.support.killing import run_until
from tests.support.machine import Row, write_csv, write_predictions, write_rows
from tests.support.photos import image_ids, tree


def add(dataset: Path, table: Path, **more: Any) -> ConfidencesAdded:
    return reshard_confidences(ReshardOptions(dataset=str(dataset), confidences=table, **more))


def read(dataset: Path, name: str, split: str = "train") -> dict[tuple[str, str], float]:
    """{(image id, MID): confidence}."""
    version = Dataset.open(dataset).confidence_version(name)
    table = ConfidenceTable.read(dataset / version.splits[split].path)
    found = table.entries(np.arange(len(table)))
    ids = format_image_ids(table.image_ids_N[found.rows_E])
    keys = zip(ids, (MIDS[k] for k in found.classes_E), strict=True)
    return dict(zip(keys, found.values_E.tolist(), strict=True))


def as_read(rows: list[Row]) -> Mapping[tuple[str, str], Any]:
    return {(image_id, mid): pytest.approx(value) for image_id, mid, value in rows}


@pytest.fixture
def rows(inputs: tuple[Path, Path]) -> list[Row]:
    """Two confidences of each training image, one of each image for testing."""
    train, test = (image_ids(inputs[1], split) for split in ("train", "test"))
    pairs = [
        (name, MIDS[(n + k) % 4], (n + 5 * k) % 10 / 10)
        for n, name in enumerate(train)
        for k in (0, 1)
    ]
    return [*pairs, *((name, MIDS[0], 0.5) for name in test)]


def of_split(rows: list[Row], inputs: tuple[Path, Path], split: str) -> list[Row]:
    names = set(image_ids(inputs[1], split))
    return [row for row in rows if row[0] in names]


def test_a_csv_becomes_a_version_and_no_label_changes(
    dataset: Path, rows, inputs, tmp_path
) -> None:
    before = tree(dataset)
    done = add(dataset, write_csv(tmp_path / "machine.csv", rows))
    after = tree(dataset)
    for split in ("train", "test"):
        assert read(dataset, "machine", split) == as_read(of_split(rows, inputs, split))
    assert read(dataset, "machine", "validation") == {}
    changed = {name for name in after if after[name] != before.get(name)}
    assert not {name for name in changed if name.startswith(("images/", "labels/"))}
    opened = Dataset.open(dataset)
    table = ConfidenceTable.read(dataset / "confidences/machine/train.parquet")
    assert table.image_ids_N.tolist() == opened.labels("train").image_ids_N.tolist()
    observed = sum(
        (image_id, mid) in known
        for split in ("train", "test")
        for known in [_observed(opened, split)]
        for image_id, mid, _ in of_split(rows, inputs, split)
    )
    assert observed == done.observed > 0
    assert f"{observed:,} of entries that the default labels know" in str(done)
    assert check(dataset).intact
    assert "| machine | 48 | 0 | 5 |" in (dataset / "README.md").read_text()
    add(dataset, tmp_path / "machine.csv")
    assert tree(dataset) == after, "repeating the command changes nothing"


def _observed(dataset: Dataset, split: str) -> set[tuple[str, str]]:
    table = dataset.labels(split)
    entries = table.entries()
    ids = format_image_ids(table.image_ids_N[entries.rows_E])
    return {(image_id, MIDS[k]) for image_id, k in zip(ids, entries.classes_E, strict=True)}


def test_every_form_of_table_gives_the_same(dataset: Path, rows, tmp_path) -> None:
    images: dict[str, dict[str, float]] = {}
    for image_id, mid, value in rows:
        images.setdefault(image_id, {})[mid] = float(value)
    add(dataset, write_csv(tmp_path / "plain.csv", rows))
    split = tmp_path / "2017_11"
    write_csv(split / "2017_11/train/annotations-machine.csv", rows[:20])
    write_csv(split / "2017_11/test/annotations-machine.csv", rows[20:])
    archive = tmp_path / "annotations_machine_2017_11.tar.gz"
    members = [f"2017_11/{name}/annotations-machine.csv" for name in ("train", "test")]
    pack_tar_gz(split, archive, members)
    halves = list(images.items())
    folder = tmp_path / "predictions"
    write_predictions(folder, dict(halves[:9]))
    write_predictions(folder, dict(halves[9:]), "part-000001")
    forms = {
        "archive": archive,
        "dump": split,
        "rows": write_rows(tmp_path / "rows.parquet", rows),
        "predictions": folder,
    }
    for name, table in forms.items():
        add(dataset, table, confidences_name=name)
        assert read(dataset, name) == read(dataset, "plain"), name
        assert read(dataset, name, "test") == read(dataset, "plain", "test"), name
    pack_gz(split)
    add(dataset, split, confidences_name="packed")
    assert read(dataset, "packed") == read(dataset, "plain")
    assert check(dataset).intact


def test_unfinished_predictions_become_no_version(dataset: Path, rows, tmp_path) -> None:
    folder = tmp_path / "predictions"
    write_predictions(folder, {rows[0][0]: {rows[0][1]: 0.5}})
    (folder / "_plan.json").write_text("{}")
    (folder / "_SUCCESS").unlink()
    before = tree(dataset)
    with pytest.raises(InputError, match=r"predictions: .* unfinished. Fix: repeat the `predict`"):
        add(dataset, folder)
    assert tree(dataset) == before
    (folder / "_SUCCESS").write_text("{}")
    assert add(dataset, folder).version.report == {"rows": 1}


def test_rows_that_are_none_are_counted_and_the_first_is_named(
    dataset: Path, rows, tmp_path, capsys
) -> None:
    image_id, mid, _ = rows[0]
    odd: list[Row] = [
        (image_id, mid, 0.95),  # said before: the largest counts
        (image_id, mid, 0.01),
        (image_id, MIDS[3], "1.5"),
        (image_id, MIDS[3], "-0.5"),
        (image_id, MIDS[3], "nan"),
        (image_id, "/m/0unknown", 0.5),
        (image_id, "cat", 0.5),
        ("123", mid, 0.5),
        ("f" * 16, mid, 0.5),
    ]
    path = write_csv(tmp_path / "odd.csv", [*rows, *odd])
    with path.open("a") as file:
        file.write(f"{image_id},verification,{MIDS[3]},1\n{image_id},{mid}\n\n")
    done = add(dataset, path)
    assert done.version.report == {
        "rows": len(rows) + len(odd) + 2,
        "duplicates": 2,
        "bad_confidence": 3,
        "unknown_mid": 1,
        "bad_mid": 1,
        "bad_id": 1,
        "image_of_no_split": 1,
        "human_label": 1,
        "bad_columns": 1,
    }
    assert read(dataset, "odd")[image_id, mid] == pytest.approx(0.95)
    assert f"odd.csv, row {len(rows) + 4}: bad_confidence: '1.5'" in capsys.readouterr().out
    with pytest.raises(InputError, match="bad_confidence") as refused:
        add(dataset, path, strict=True, confidences_name="strict")
    assert refused.value.row == len(rows) + 4


def test_odd_parquet_is_counted_or_refused(dataset: Path, rows, tmp_path) -> None:
    image_id, mid, _ = rows[0]
    odd = [(image_id, mid, float("nan")), (image_id, mid, 1.25), (image_id, MIDS[1], 1.0)]
    done = add(dataset, write_rows(tmp_path / "odd.parquet", odd))
    assert done.version.report == {"rows": 3, "bad_confidence": 2}
    found = write_predictions(
        tmp_path / "p",
        {image_id: {MIDS[1]: 1.0}, f"a/{rows[2][0]}.jpg": {mid: 0.5}, "x": None, "y": {mid: 0.1}},
    )
    done = add(dataset, found)
    assert done.version.report == {"rows": 3, "unreadable_image": 1, "bad_id": 1}
    assert len(read(dataset, "p")) == 2
    with pytest.raises(InputError, match="its columns are a"):
        add(dataset, _parquet(tmp_path / "columns.parquet", {"a": [1]}))
    with pytest.raises(InputError, match="not a table of confidences"):
        add(
            dataset,
            _parquet(
                tmp_path / "text.parquet",
                {"image_id": [image_id], "mid": [mid], "confidence": ["high"]},
            ),
        )
    assert "columns" not in (Manifest.read(dataset).confidences or {})


def _parquet(path: Path, columns: dict[str, list[Any]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)
    return path


def test_what_is_no_table_of_these_images_is_refused(dataset: Path, rows, tmp_path) -> None:
    before = tree(dataset)
    strangers = write_csv(tmp_path / "strangers.csv", [("f" * 16, MIDS[0], 0.5)])
    with pytest.raises(InputError, match=r"no confidence of an image of the dataset.*1 of images"):
        add(dataset, strangers)
    with pytest.raises(InputError, match="no such table"):
        add(dataset, tmp_path / "absent.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no machine labels"):
        add(dataset, tmp_path / "empty")
    assert tree(dataset) == before
    add(dataset, write_csv(tmp_path / "machine.csv", rows))
    other = write_csv(tmp_path / "other/machine.csv", rows[:5])
    with pytest.raises(InputError, match="are there already, of another table"):
        add(dataset, other)
    assert len(read(dataset, "machine")) == 48
    for name in ("../x", "a" * 256, "readme.md"):
        with pytest.raises(InputError, match="cannot name a version"):
            add(dataset, other, confidences_name=name)


def test_row_groups_and_order_do_not_matter(dataset: Path, rows, tmp_path, monkeypatch) -> None:
    add(dataset, write_csv(tmp_path / "machine.csv", rows))
    whole = read(dataset, "machine")
    monkeypatch.setattr(confidence_versions, "_ROWS", 5)
    add(dataset, write_csv(tmp_path / "parts.csv", rows[::-1]))
    assert read(dataset, "parts") == whole
    assert list(read(dataset, "parts")) == list(whole)
    assert check(dataset).intact
    assert not (dataset / "staging").exists()


def test_labels_win(dataset: Path, rows, tmp_path) -> None:
    add(dataset, write_csv(tmp_path / "machine.csv", rows))
    opened = Dataset.open(dataset)
    labels = opened.labels("train")
    table, ignored = read_unobserved(dataset / "confidences/machine/train.parquet", labels)
    known = _observed(opened, "train")
    left = {key for key in read(dataset, "machine") if key not in known}
    assert len(table.classes_E) == len(left)
    assert ignored == 48 - len(left) > 0
    found = table.entries(np.arange(len(table)))
    assert {
        (i, MIDS[k])
        for i, k in zip(
            format_image_ids(table.image_ids_N[found.rows_E]), found.classes_E, strict=True
        )
    } == left
    values = table.look_up(found.rows_E, found.classes_E)
    np.testing.assert_array_equal(values, found.values_E)
    assert np.isnan(table.look_up(np.array([0, 1]), np.array([60_000, 60_000]))).all()
    other = dataclasses.replace(labels, image_ids_N=labels.image_ids_N[::-1].copy())
    with pytest.raises(InputError, match="do not follow the images"):
        read_unobserved(dataset / "confidences/machine/train.parquet", other)


def test_removed_images_lose_their_confidences(dataset: Path, rows, inputs, tmp_path) -> None:
    add(dataset, write_csv(tmp_path / "machine.csv", rows))
    victim = image_ids(inputs[1], "train")[7]
    remove(RemoveOptions(dataset=str(dataset), ids=(victim,)), backwards)
    left = [row for row in of_split(rows, inputs, "train") if row[0] != victim]
    assert read(dataset, "machine") == as_read(left)
    report = check(dataset)
    assert report.intact, str(report)
    assert add(dataset, tmp_path / "machine.csv").version.report["image_of_no_split"] == 2
    assert check(dataset).intact


def test_new_tars_take_the_confidences_along(dataset: Path, rows, inputs, tmp_path) -> None:
    add(dataset, write_csv(tmp_path / "machine.csv", rows))
    before = read(dataset, "machine")
    relabel(dataset, inputs[0], name="again", rewrite=True)
    assert read(dataset, "machine") == before
    assert check(dataset).intact


def test_damage_is_found_and_mended_by_the_same_command(dataset: Path, rows, tmp_path) -> None:
    add(dataset, write_csv(tmp_path / "machine.csv", rows))
    before, path = tree(dataset), dataset / "confidences/machine/train.parquet"
    flip_a_byte(path)
    report = check(dataset)
    assert not report.intact
    assert "confidences/machine/train.parquet: its content has changed" in str(report)
    assert "repeat the command that wrote them" in str(report)
    with pytest.raises(InputError, match="its content has changed"):
        remove(RemoveOptions(dataset=str(dataset), ids=(rows[0][0],)), backwards)
    add(dataset, tmp_path / "machine.csv")
    assert tree(dataset) == before
    shutil.copy(dataset / "confidences/machine/test.parquet", path)
    manifest = Manifest.read(dataset)
    version = (manifest.confidences or {})["machine"]
    other = dataclasses.replace(version.splits["train"], sha256=version.splits["test"].sha256)
    swapped = dataclasses.replace(version, splits={**version.splits, "train": other})
    dataclasses.replace(manifest, confidences={"machine": swapped}).write(dataset)
    assert "its rows do not follow the images" in str(check(dataset))


def test_a_manifest_that_names_other_files_is_damaged(dataset: Path, rows, tmp_path) -> None:
    add(dataset, write_csv(tmp_path / "machine.csv", rows))
    path = dataset / "dataset.json"
    text = path.read_text().replace("confidences/machine/train.parquet", "../../etc/train.parquet")
    path.write_text(
        "\n".join(
            line for line in text.splitlines() if '"sha256": "' not in line or line.startswith("  ")
        )
    )
    with pytest.raises(InputError, match="no table of confidences"):
        Manifest.read(dataset)
    with pytest.raises(InputError, match="manifest"):
        check(dataset)


def test_shard_writes_them_too_and_repeating_adds_them_later(inputs, rows, tmp_path) -> None:
    table, output = write_csv(tmp_path / "machine.csv", rows), tmp_path / "made"
    plain = shard_options(inputs, output)
    shard_dump(prepare(plain), backwards)
    assert Manifest.read(output).confidences is None
    both = shard_options(inputs, output, confidences=table)
    for directory in (output, tmp_path / "at once"):
        options = dataclasses.replace(both, output=str(directory))
        summary = str(shard_dump(prepare(options), backwards))
        assert "confidences machine" in summary
        assert read(directory, "machine") == as_read(of_split(rows, inputs, "train"))
    assert tree(output) == tree(tmp_path / "at once")


def test_killed_anywhere_it_ends_the_same(original: Path, rows, tmp_path) -> None:
    table = write_csv(tmp_path / "machine.csv", rows)
    whole = shutil.copytree(original, tmp_path / "whole")
    add(whole, table)
    event = 0
    while True:
        copy = shutil.copytree(original, tmp_path / "copy")
        died = run_until(event, add, copy, table)
        add(copy, table)
        assert tree(copy) == tree(whole)
        shutil.rmtree(copy)
        if not died:
            break
        event += 17
    assert event > 20
