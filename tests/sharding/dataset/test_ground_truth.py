"""A list of what is present names classes of the dataset, or is refused; others are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sharding.classes import ClassTable
from sharding.dataset.ground_truth import read_ground_truth
from sharding.errors import InputError
from sharding.labels import LabelTable
from sharding.manifest import Dataset


def write_present(path: Path, *words: str) -> str:
    """Write a list that has each of these words in the image of id 2."""
    path.write_text("\n".join(["ImageID,LabelName", *(f"{2:016x},{word}" for word in words), ""]))
    return str(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("square 3", "square 5"),
            r"truth\.csv, row 2: 'square 3' is no class .*classes\.parquet has them: /m/0003 for",
        ),
        (("/m/other", "/m/more"), r"truth\.csv, row 2: '/m/other' is no class .* Fix: write MIDs"),
    ],
)
def test_a_list_of_other_names_is_refused(
    squares: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    source = write_present(tmp_path / "truth.csv", *words)
    with pytest.raises(InputError, match=message):
        read_ground_truth(Dataset.open(squares), source)


def test_a_list_may_be_written_by_a_spreadsheet(squares: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(squares)
    path = tmp_path / "truth.csv"
    write_present(path, "/m/0003")
    plain = path.read_text()
    quoted = "".join(
        ",".join(f'"{cell}"' for cell in line.split(",")) + "\r\n" for line in plain.split()
    )
    for text in (plain, "\ufeff" + plain, quoted, "\ufeff" + quoted):
        path.write_text(text, encoding="utf-8")
        truth = read_ground_truth(dataset, str(path))
        assert truth.dense(np.arange(1), 8).tolist() == [[0, 0, 0, 1, 0, 0, 0, 0]]
        assert read_ground_truth(dataset, str(path.rename(tmp_path / "train.csv").parent))
        path = (tmp_path / "train.csv").rename(path)


def write_labels(folder: Path, mids: list[str]) -> str:
    """Write a dataset's class list, and a table whose one image has the first and no second."""
    zeros_K = np.zeros(len(mids), np.int64)
    ClassTable.build(mids, mids, zeros_K, zeros_K).write(folder / "classes.parquet")
    table = folder / "labels/complete/train.parquet"
    LabelTable.from_lists([f"{2:016x}"], [[0]], [[1]]).write(table)
    return str(table)


def test_a_table_of_another_dataset_is_read_by_mid(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = Dataset.open(squares)

    def read(*mids: str) -> list[int]:
        truth = read_ground_truth(dataset, write_labels(tmp_path, list(mids)))
        [states] = truth.dense(np.arange(1), 8).tolist()
        return states

    assert read("/m/0007", "/m/0003") == [-1, -1, -1, 0, -1, -1, -1, 1]
    assert capsys.readouterr().out == ""
    assert read("/m/0007", "/m/other") == [-1, -1, -1, -1, -1, -1, -1, 1]
    assert "train.parquet: 1 label of classes outside the dataset's" in capsys.readouterr().out
    with pytest.raises(InputError, match="none of its labels is of a class of the dataset"):
        read("/m/more", "/m/other")


def test_a_table_without_a_class_list_has_to_fit_the_datasets_own(
    squares: Path, tmp_path: Path
) -> None:
    table = tmp_path / "a/b/c/train.parquet"
    LabelTable.from_lists([f"{2:016x}"], [[7]], [[]]).write(table)
    truth = read_ground_truth(Dataset.open(squares), str(table))
    assert truth.dense(np.arange(1), 8).tolist() == [[-1] * 7 + [1]]
    LabelTable.from_lists([f"{2:016x}"], [[8]], [[]]).write(table)
    with pytest.raises(InputError, match=r"has class 8 of 8. Fix: keep it in labels/VERSION/"):
        read_ground_truth(Dataset.open(squares), str(table))


def test_classes_outside_the_list_are_counted(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_present(tmp_path / "truth.csv", "/m/0003", "Cat", "/m/0007", "Dog")
    truth = read_ground_truth(Dataset.open(squares), source)
    assert truth.dense(np.arange(1), 8).tolist() == [[0, 0, 0, 1, 0, 0, 0, 1]]
    said = capsys.readouterr().out.splitlines()
    outside = "2 rows of classes outside the dataset's list left out, the first 'Cat' in row 3"
    assert said == [f"{source}: {outside}"]
    read_ground_truth(Dataset.open(squares), write_present(tmp_path / "whole.csv", "/m/0003"))
    assert capsys.readouterr().out == ""
