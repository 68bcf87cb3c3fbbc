"""A list of what is present names classes of the dataset, or is refused; others are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sharding.dataset.ground_truth import read_ground_truth
from sharding.errors import InputError
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
