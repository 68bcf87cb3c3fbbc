"""Options come from flags over a file; old flags still work; mistakes name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main, options
from pipeline.cli.dataset_jobs import _DemoOptions
from pipeline.cli.model_jobs import _OLD_NAMES, TRAIN_OPTIONS
from pipeline.config import presets, show
from pipeline.config.commands import AuditConfig, ExportOptions, PredictConfig
from pipeline.config.show import print_form
from pipeline.config.train import TrainConfig
from pipeline.methods.registry import complete_options
from sharding.commands.options import RemoveOptions, ShardOptions, ViewOptions
from sharding.errors import InputError
from sharding.importers.options import ImportOptions


def trained(*arguments: str) -> TrainConfig:
    """The configuration of a training command."""
    given = options.expand(arguments, TRAIN_OPTIONS, _OLD_NAMES)
    return presets.parse(given, "Train.").config


def job() -> None:
    """Do something."""


@pytest.fixture
def config() -> TrainConfig:
    return trained(
        *("--preset", "coco", "--method", "em-apl", "--dataset", "d", "--run", "runs/first"),
        *("--weights", "None", "--async-validation", "--log-model", "off", "--clip-norm", "1"),
    )


def test_a_runs_configuration_is_taken_back(config: TrainConfig, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config.to_dict()))
    assert trained("--config", str(file)) == config
    other = trained(f"--config={file}", "--run", "second", "--lr", "1e-3", "--no-async-validation")
    assert (other.name, other.optimizer.learning_rate) == ("second", 1e-3)
    assert other.method_options == config.method_options
    assert not other.async_validation


def test_what_print_config_prints_is_taken_back(config: TrainConfig, tmp_path: Path) -> None:
    command = presets.TrainCommand(config=config, print_config="json")
    file = tmp_path / "printed.json"
    file.write_text(print_form(command, complete_options(config)))
    assert trained("--config", str(file)) == config


def test_a_hand_written_file_says_no_more_than_needed(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "preset: coco\nmethod: ll-r\ndataset: d\nlearning-rate: 1e-3\nlog_model: off\n"
        "model:\n  backbone: resnet18\n  compile: yes\nmethod_options: [delta_rel=0.3]\n"
    )
    config = trained("--config", str(file), "--epochs", "3")
    assert (config.optimizer.learning_rate, config.optimizer.epochs) == (1e-3, 3)
    assert (config.model.backbone, config.model.compile) == ("resnet18", True)
    assert (config.method_options, config.log_model) == (("delta_rel=0.3",), "off")
    assert config.model.weights == "IMAGENET1K_V1", "the preset's"


def test_yaml_takes_numbers_as_they_are_written(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("dataset: d\nlabels: 2017_11\nworkers: 1:4\nbatch_size: 1_020\nepochs: 010\n")
    config = trained("--config", str(file))
    assert (config.labels, config.workers) == ("2017_11", "1:4")
    assert config.optimizer.epochs == 10
    file = tmp_path / "remove.yaml"
    file.write_text("dataset: d\nids: [0000012345670123, 00000000000000e1]\n")
    found = options.parse(RemoveOptions, ["--config", str(file)], None, job)
    assert [*found.ids] == ["0000012345670123", "00000000000000e1"]


def test_the_source_of_a_value_is_the_file_or_the_flag(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "preset: coco\nrun: x\nlr: 0.1\nepochs: 3\nseed: 5\nflip: no\ncompile: yes\n"
        "labels: a\nmethod_options: [delta_rel=0.3]\n"
    )
    arguments = ["--config", str(file), "--seed=4", "--no-compile", "--labels", "b", "--profile"]
    found = options.of_file(arguments, TRAIN_OPTIONS, _OLD_NAMES)
    command = presets.parse(options.expand(arguments, TRAIN_OPTIONS, _OLD_NAMES), "Train.")
    shown = show.rows(command, complete_options(command.config), found)
    said = {row.name: (row.value, row.provenance) for row in shown}
    assert said["name"] == ("x", "config file")
    assert said["optimizer.learning_rate"] == (0.1, "config file")
    assert said["optimizer.epochs"] == (3, "config file")
    assert said["data.flip"] == (False, "config file")
    assert said["method_options.delta_rel"] == (0.3, "config file")
    assert said["seed"] == (4, "flag")
    assert said["labels"] == ("b", "flag")
    assert said["profile"] == (True, "flag")
    assert said["model.compile"] == (False, "default")
    assert said["data.image_size"] == (448, "code")


def test_a_file_may_name_an_option_as_its_flag(tmp_path: Path) -> None:
    file = tmp_path / "view.yaml"
    file.write_text("dataset: d\nclass: Dog\nlabels: v2\n")
    found = options.parse(ViewOptions, ["--config", str(file)], None, job)
    assert (found.class_name, found.name) == ("Dog", "v2")
    file.write_text("dataset: d\nclass_name: Dog\nname: v2\n")
    assert options.parse(ViewOptions, ["--config", str(file)], None, job) == found


def test_every_job_takes_a_file(tmp_path: Path) -> None:
    file = tmp_path / "shard.yml"
    file.write_text("annotations: a\nimages: i\noutput: o\nfetch:\n  tries: 7\nstrict: true\n")
    found = options.parse(ShardOptions, ["--config", str(file), "--seed", "3"], None, job)
    assert (found.output, found.fetch.tries, found.strict, found.seed) == ("o", 7, True, 3)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.yaml", "lerning_rate: 1", "no option 'lerning_rate'.*did you mean learning_rate"),
        ("a.yaml", "a: [", "not a configuration"),
        ("a.yaml", "- 1", "not a configuration"),
        ("a.json", "epochs: 1", "not a configuration"),
        ("absent.json", None, "no configuration"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, text: str | None, problem: str) -> None:
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=f"{name}: {problem}"):
        trained("--config", str(file))


def test_old_flags_are_accepted_and_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert trained("--dataset", "d", "--name", "x") == trained("--dataset", "d", "--run=x")
    with pytest.raises(SystemExit):
        trained("--help")
    assert "--name" not in capsys.readouterr().out


def test_a_run_is_a_name_or_a_path() -> None:
    config = trained("--dataset", "d", "--run", "s3://bucket/runs/x/")
    assert (config.storage, config.name) == ("s3://bucket/runs", "x")
    with pytest.raises(InputError, match="not in --storage other"):
        trained("--dataset", "d", "--run", "runs/x", "--storage", "other")


_IMPORT = (ImportOptions, "--format csv --source s --output o")
_VIEW = (ViewOptions, "--dataset d")
_PREDICT = (PredictConfig, "--checkpoint c --output o --images i")


@pytest.mark.parametrize(
    ("command", "word", "problem"),
    [
        (_VIEW, "--output=s3://bucket/view.html", r"--output s3://bucket/view.html is a URL"),
        (_VIEW, "--output=file:///tmp/view.html", r"--output file:///tmp/view.html is a URL"),
        (_VIEW, "--output=", "--output is empty. Fix: give it a value"),
        (_VIEW, "--dataset=", "--dataset is empty"),
        ((ExportOptions, "--checkpoint c --output o"), "--output=gs://b/x", "gs://b/x is a URL"),
        ((AuditConfig, "--run r"), "--output=s3://b/x", "--output s3://b/x is a URL"),
        ((AuditConfig, "--run r"), "--truth=", "--truth is empty"),
        ((_DemoOptions, "--output o"), "--output=s3://b/x", "--output s3://b/x is a URL"),
        (_IMPORT, "--source=s3://b/x", "--source s3://b/x is a URL"),
        (_IMPORT, "--output=", "--output is empty"),
        (_IMPORT, "--output=file://dataset", r"--output file://dataset names a host.*file:///PATH"),
        (_PREDICT, "--images=", "--images is empty"),
    ],
)
def test_a_place_that_would_be_another_is_refused(
    command: tuple[Any, str], word: str, problem: str
) -> None:
    kind, others = command
    for words in ([word], word.split("=")):
        with pytest.raises(InputError, match=problem):
            options.parse(kind, [*others.split(), *words], None, job)


@pytest.mark.parametrize("option", ["dataset", "storage", "cache"])
def test_a_training_refuses_such_a_place_too(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"dataset": "d", option: "file://host/x"}
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    with pytest.raises(SystemExit):
        main.main(["train", *words])
    assert f"error: --{option} file://host/x names a host" in capsys.readouterr().err


def test_places_that_are_meant_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "view.yaml"
    file.write_text("dataset: ''\noutput: s3://bucket/view.html\n")
    words = ["--config", str(file), "--dataset", "s3://b/d", "--output", ".", "--reason", ""]
    found = options.parse(ViewOptions, words, None, job)
    assert (found.dataset, found.output, found.reason) == ("s3://b/d", Path("."), "")
    words = ["--run", "file:///runs/x", "--scores", "a", "file:///b"]
    assert options.parse(AuditConfig, words, None, job).run == "file:///runs/x"
    with pytest.raises(InputError, match=r"--output s3://bucket/view\.html is a URL"):
        options.parse(ViewOptions, ["--config", str(file), "--dataset", "d"], None, job)


def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(options.tyro._experimental_options, "ansi_codes", True)
    monkeypatch.setenv("NO_COLOR", "1")
    arguments = ["--checkpoint", "c", "--output", "o", "--images", "i"]
    options.parse(PredictConfig, arguments, None, job)
    assert options.tyro._experimental_options["ansi_codes"] is False
