"""A command line that cannot be is one line with a fix that names the nearest."""

from __future__ import annotations

import pytest

from pipeline.cli import main

TRAIN, SCORE = "train --dataset d ", "evaluate --checkpoint c --dataset d "


@pytest.mark.parametrize(
    ("line", "problem", "fix"),
    [
        ("trian", "no job 'trian'", "did you mean train? "),
        (TRAIN + "--method llr", "no method 'llr'", "did you mean ll-r? There are full, an, "),
        (TRAIN + "--preset openimage-v3", "no preset 'openimage-v3'", "did you mean openimages-v3"),
        (TRAIN + "--list method", "no list 'method'", "did you mean methods? There are "),
        (TRAIN + "--list", "--list: expected one argument", ""),
        (TRAIN + "--print-config yaml", "no print-config 'yaml'", "choose one of table, json"),
        (TRAIN + "--prest coco", "no option '--prest'", "did you mean --preset? "),
        (TRAIN + "--epochs three", "--epochs 'three' is not a whole number", "pass a whole number"),
        (TRAIN + "--lr x", "--learning-rate 'x' is not a number", "pass a number"),
        (TRAIN + "--epochs", "--epochs has no value", "pass a whole number after it"),
        (TRAIN + "more", "'more' belongs to no option", "remove it"),
        ("train --datset d", "no option '--datset'", "did you mean --dataset? "),
        ("train", "--dataset missing", "pass --dataset STR; --help says what it is"),
        (SCORE + "--rule booslu", "no rule 'booslu'", "did you mean boostlu? "),
        (SCORE + "--split tset", "no split 'tset'", "did you mean test? "),
        (SCORE + "--workers x", "--workers 'x' is not a whole number", "pass a whole number"),
        ("export --checkpoint c --output o --formats onxx", "no formats 'onxx'", "did you mean on"),
        ("verify --dataset d --fetch.tires 3", "no option '--fetch.tires'", "did you mean --fetch"),
        ("import --source s --output o --format vok", "no format 'vok'", "did you mean voc? "),
    ],
)
def test_one_line_names_what_is_wrong_and_the_nearest(
    line: str, problem: str, fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(line.split())
    assert ended.value.code == 2
    (shown,) = capsys.readouterr().err.splitlines()
    assert shown.startswith(f"error: {problem}. Fix: {fix}")
