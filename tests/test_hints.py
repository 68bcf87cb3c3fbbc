"""What a job proposes to do next is a command that its program accepts, where the job ran."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.cli import dataset_jobs, main, model_jobs
from pipeline.tracking import client
from sharding.commands.summary import Summary, try_training
from sharding.errors import InputError, command, python_command
from sharding.manifest import Dataset, Manifest
from tests.support.commands import Inputs, check, relabel, shard
from tests.support.photos import write_photo_dump
from tests.test_documented_commands import check_line


def hint(shown: str) -> str:
    """The command of the line that begins with "next"."""
    (found,) = re.findall(r"(?m)^ *next +(.*)$", shown)
    return found


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return write_photo_dump(tmp_path_factory.mktemp("input"))


def test_from_a_demo_dump_to_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = ("--train", "2", "--validation", "1", "--test", "1", "--classes", "5", "--workers", "1")
    main.main(["make-demo", "--output", "demo/dump", *sizes])
    following = hint(capsys.readouterr().out)
    check_line(following, monkeypatch)
    assert " --images demo/dump/images --output demo/dataset " in following
    train = ["train", "--dataset", "demo/dump"]
    with pytest.raises(SystemExit):
        main.main(train)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {tmp_path}/demo/dump: an annotation dump, not a dataset yet")
    assert f"shard --annotations {tmp_path}/demo/dump --images {tmp_path}/demo/dump/im" in error


def test_from_shards_to_training_and_back_to_labels(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "dataset"
    assert hint(shard(inputs, output)).endswith(f" verify --dataset {output}")
    following = hint(str(check(output)))
    assert following.endswith(f" train --preset demo --dataset {output} --dry-run")
    check_line(following, monkeypatch)
    following = hint(str(relabel(output, inputs[0], name="again")))
    assert " --labels again --dry-run" in following
    check_line(following, monkeypatch)
    lost = Manifest.read(output).shards[0]
    (output / lost.index).unlink()
    assert hint(str(check(output))).endswith(f" verify --dataset {output} --repair")
    check(output, repair=True)
    (output / lost.path).unlink()  # wants the images, which the command cannot name
    assert "next" not in str(check(output))


def test_complete_labels_are_trained_on_with_the_method_for_them(
    squares: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Dataset.open(squares)
    assert not dataset.is_complete()
    assert "--method" not in try_training(dataset, "D")
    name, version = dataset.label_version()
    train = version.splits["train"]
    positives = train.images * len(dataset.classes) - train.negatives
    splits = {**version.splits, "train": dataclasses.replace(train, positives=positives)}
    labels = {name: dataclasses.replace(version, splits=splits)}
    manifest = dataclasses.replace(dataset.manifest, labels=labels)
    following = try_training(dataclasses.replace(dataset, manifest=manifest), "D", name)
    assert following.endswith(f" --method full --dataset D --labels {name} --dry-run")
    check_line(following, monkeypatch)


def test_a_programs_quotes_differ_from_the_shells() -> None:
    for program in model_jobs._USE.values():
        assert '("it is/model' in program.format(model_jobs._quoted(Path("it is/model")))
        assert "'" not in program


def test_from_training_to_the_score(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = SimpleNamespace(directory="/r/x", best="/r/x/c", best_metrics={}, mlflow_run_id="1")
    result.split = "validation"
    model_jobs._print_result(result, "my data")  # type: ignore[arg-type]
    following = hint(capsys.readouterr().out)
    assert "--dataset 'my data' --split validation" in following
    check_line(following, monkeypatch)


def test_from_a_registered_model_to_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert (
        client.serve_command("tour").partition("MLFLOW_TRACKING_URI=")[2].startswith("sqlite:///")
    )
    check_line(client.serve_command("tour"), monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@host")
    assert "secret" not in client.serve_command("tour")


def test_results_and_hints_show_no_credentials(capsys: pytest.CaptureFixture[str]) -> None:
    dataset = "s3://key:hunter2@bucket/set"
    result = SimpleNamespace(
        directory=dataset, best=dataset, best_metrics={}, mlflow_run_id="1", split="test"
    )
    model_jobs._print_result(result, dataset)
    dataset_jobs._show(f"dataset  {dataset}")
    shown = capsys.readouterr().out
    assert shown.count("@bucket/set") == 4
    assert "hunter2" not in shown + command("verify", "--dataset", dataset) + python_command(
        dataset
    )


def test_a_folder_with_a_table_is_not_a_dataset_yet(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,labels\na.jpg,cat\n")
    with pytest.raises(InputError) as error:
        Manifest.read(tmp_path)
    assert f"{tmp_path}: a folder with a CSV, not a dataset yet" in str(error.value)
    assert f" import --format csv --source {tmp_path} --output DATASET first" in str(error.value)


def test_a_dataset_without_a_test_split_says_how_to_evaluate(squares: Path) -> None:
    dataset = Dataset.open(squares)
    (version,) = dataset.manifest.labels.values()
    splits = {name: file for name, file in version.splits.items() if name != "test"}
    labels = {"first": dataclasses.replace(version, splits=splits)}
    positives_K = dataset.classes.positives_K.copy()
    positives_K[:2] = 0
    less = dataclasses.replace(
        dataset,
        manifest=dataclasses.replace(dataset.manifest, labels=labels),
        classes=dataclasses.replace(dataset.classes, positives_K=positives_K),
    )
    said, whole = (
        str(Summary(location="D", dataset=each, reasons={}, seconds=None))
        for each in (less, dataset)
    )
    assert re.search(r"^ +test +none: evaluate with --split validation$", said, re.MULTILINE)
    assert re.search(r"^ +groups .*; 3 of them without a positive$", said, re.MULTILINE)
    assert "none: evaluate" not in whole
    assert "; 1 of them without a positive" in whole
