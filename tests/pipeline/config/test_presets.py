"""Presets are complete configurations, flags override them, and every value says where from."""

from __future__ import annotations

import itertools
import json
import re
import typing
from pathlib import Path

import pytest

from pipeline import methods
from pipeline.config import presets, show
from pipeline.config.paper_options import ablation, method_options
from pipeline.config.paper_training import DATASETS, Provenance, Value, training_values
from pipeline.config.presets import TrainCommand
from pipeline.config.sections import MethodName
from pipeline.config.train import TrainConfig, parse_options
from pipeline.methods.registry import complete_options
from sharding.errors import InputError

PAIRS = list(itertools.product(presets.PRESETS, methods.names()))
ABLATION = [f"{base}-ablation-{row}" for base in DATASETS for row in range(1, 8)]


def parsed(command: str) -> tuple[TrainConfig, dict[str, show.Row]]:
    """The configuration of a command line, and its rows by name."""
    found = presets.parse(command.split(), "Train.")
    rows = show.rows(found, complete_options(found.config))
    return found.config, {row.name: row for row in rows}


def test_method_names_are_those_of_the_registry() -> None:
    assert list(typing.get_args(MethodName)) == methods.names()


def test_help_lists_presets_methods_and_forms(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        presets.parse(["--help"], "Train.")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for name in (*presets.PRESETS, *methods.names(), "-ablation-1", "table", "json"):
        assert name in shown


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_every_preset_runs_every_method(name: str, method: str) -> None:
    found = presets.preset(name, method)
    config = found.config
    assert config.method == method
    assert TrainConfig.from_dict(config.to_dict()) == config
    methods.create(method, 20, **parse_options(config.method_options))
    command = TrainCommand(config=config, preset=found)
    rows = show.rows(command, complete_options(config))
    assert {row.name for row in rows} >= set(config.flat()) - {"method_options"}
    known = {*typing.get_args(Provenance), "default"}
    assert {row.provenance for row in rows} <= known, "nothing of a preset looks like a flag"
    assert all(row.source for row in rows if row.provenance != "default")


def test_values_are_those_of_the_papers() -> None:
    """They are written down once, in pipeline.config; this is how they reach the trainer."""
    config = presets.preset("cub", "em-apl").config
    assert (config.data.batch_size, config.optimizer.learning_rate) == (8, 1e-4)
    assert config.optimizer.head_multiplier == 1
    assert methods.options_for(config) == {
        "alpha": 0.01,
        "beta": 0.4,
        "warmup_epochs": 3,
        "total_epochs": 10,
        "theta": 0.9,
    }


def test_open_images_alone_is_ll_r_with_boostlu() -> None:
    config = presets.preset("openimages-v3").config
    assert (config.method, config.method_options) == ("ll-r", ("delta_rel=0.01",))
    assert (config.model.alpha_train, config.model.alpha_infer) == (5, 5)
    assert (config.model.backbone, config.data.batch_size, config.workers) == (
        "resnet101",
        288,
        "4",
    )
    assert (config.optimizer.epochs, config.optimizer.learning_rate) == (20, 2e-5)


@pytest.mark.parametrize("method", methods.names())
def test_boostlu_is_on_in_the_papers_own_rows_alone(method: str) -> None:
    model = presets.preset("coco", method).config.model
    expected = 5 if method in ("ll-r", "ll-ct", "ll-cp") else 1
    assert (model.alpha_train, model.alpha_infer) == (expected, expected)


def test_linear_init_has_epochs_for_both_phases() -> None:
    config = presets.preset("pascal", "role-li").config
    assert config.optimizer.epochs == 35
    assert parse_options(config.method_options)["linear_epochs"] == 25


@pytest.mark.parametrize("name", ABLATION)
def test_the_ablation_is_a_preset(name: str) -> None:
    config = presets.preset(name).config
    row = ablation()[int(name[-1]) - 1]
    assert (config.model.alpha_train, config.model.alpha_infer, config.method) == row
    plain = presets.preset(name.partition("-ablation")[0], row[2]).config
    assert config.method_options == plain.method_options
    assert (config.data, config.optimizer) == (plain.data, plain.optimizer)


@pytest.mark.parametrize(
    ("name", "method", "message"),
    [
        ("imagenet", None, "coco.*openimages-v3"),
        ("pascal-ablation-8", None, "1 to 7"),
        ("pascal-ablation-", "sgd", "no method"),
        ("demo-ablation-1", None, "choose one of"),
        ("coco", "sgd", "ll-cp"),
        ("coco-ablation-1", "ll-r", "leave out --method"),
    ],
)
def test_what_there_is_not_is_told(name: str, method: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        presets.preset(name, method)


def paper_values(dataset: str, method: str) -> tuple[dict[str, Value], dict[str, Value]]:
    """(training, options) of a method on a data set."""
    training = training_values(dataset, method)
    return training, method_options(dataset, method, training)


@pytest.mark.parametrize(
    ("dataset", "name", "option", "value", "provenance"),
    [
        ("pascal", "ll-r", "delta_rel", 0.5, "code"),
        ("coco", "ll-ct", "delta_rel", 0.2, "code"),
        ("cub", "ll-cp", "delta_rel", 0.1, "code"),
        ("openimages-v3", "ll-r", "delta_rel", 0.01, "paper"),
        ("cub", "em-apl", "alpha", 0.01, "code"),
        ("coco", "em-apl", "beta", 0.9, "code"),
        ("coco", "gr", "beta", (0, 2, -2, -2), "code"),
        ("cub", "splc", "tau", 0.6, "code"),
        ("nuswide", "em-apl", "warmup_epochs", 4, "code"),
        ("cub", "role", "expected_num_pos", 31.4, "code"),
        ("pascal", "asl", "gamma_neg", 4.0, "unknown"),
    ],
)
def test_published_values(
    dataset: str, name: str, option: str, value: float, provenance: str
) -> None:
    found = paper_values(dataset, name)[1][option]
    assert (found.value, found.provenance) == (value, provenance)


def test_the_estimator_learns_ten_times_as_fast() -> None:
    training, options = paper_values("coco", "role")
    assert options["estimator_lr"].value == 10 * training["learning_rate"].value


def test_open_images_says_what_is_not_published() -> None:
    training = training_values("openimages-v3", "ll-r")
    assert training["batch_size"].provenance == "unknown"
    assert training["epochs"].provenance == "paper"
    assert training["backbone"].value == "resnet101"


def test_the_ablation_has_seven_rows() -> None:
    assert len(set(ablation())) == 7
    assert ablation()[0] == (1, 1, "an")
    assert ablation()[-1] == (5, 5, "ll-r")


def test_flags_override_and_options_extend() -> None:
    command = "--preset coco --method em-apl --dataset d --epochs 12 --method-options beta=0.5"
    config, rows = parsed(f"{command} observed_negatives=cross-entropy")
    options = parse_options(config.method_options)
    assert options["beta"] == 0.5
    assert options["warmup_epochs"] == 5, "the preset's other options stay"
    assert options["observed_negatives"] == "cross-entropy"
    assert (config.dataset, config.optimizer.epochs) == ("d", 12)
    output = {name: (row.value, row.provenance) for name, row in rows.items()}
    assert output["optimizer.epochs"] == (12, "flag")
    assert output["method_options.beta"] == (0.5, "flag")
    assert output["method_options.total_epochs"] == (12, "default"), "the schedule follows the run"
    assert output["method_options.observed_negatives"] == ("cross-entropy", "flag")
    assert output["method_options.alpha"] == (0.1, "code")
    assert output["seed"] == (0, "default")
    assert rows["optimizer.learning_rate"].source == "ACK"


def test_without_a_preset_there_are_defaults_and_flags() -> None:
    config, rows = parsed("--dataset d --method ll-ct --method-options delta_rel=0.2")
    assert config.method_options == ("delta_rel=0.2",)
    assert {row.provenance for row in rows.values()} == {"default", "flag"}
    flags = {name for name, row in rows.items() if row.provenance == "flag"}
    assert flags == {"dataset", "method", "method_options.delta_rel"}


def test_the_runs_own_name_and_a_missing_dataset_are_shown() -> None:
    command = presets.parse(["--preset", "coco"], "Train.")
    shown = show.rows(command, complete_options(command.config))
    (name,) = (row for row in shown if row.name == "name")
    assert (name.value, name.provenance) == ("ll-r-boostlu-5-5-resnet50-seed0", "default")
    table = show.as_table(shown)
    assert re.search(r"^dataset +\(not given yet\) +default$", table, re.MULTILINE)


def test_an_option_that_is_not_there_is_told_before_training() -> None:
    with pytest.raises(InputError, match="no option deltarel"):
        parsed("--preset coco --method-options deltarel=1")
    with pytest.raises(InputError, match="needs expected_num_pos"):
        parsed("--dataset d --method epr")


def test_what_is_printed_is_what_runs() -> None:
    command = "--preset openimages-v3 --dataset d --print-config"
    assert presets.parse(command.split(), "").print_config == "table"
    parsed = presets.parse([*command.split(), "json"], "")
    config, options = parsed.config, complete_options(parsed.config)
    rows = show.rows(parsed, options)
    read = json.loads(show.print_form(parsed, options))
    assert TrainConfig.from_dict(read["config"]) == config
    (epochs,) = [row for row in read["values"] if row["name"] == "optimizer.epochs"]
    assert epochs == {
        "name": "optimizer.epochs",
        "value": 20,
        "provenance": "paper",
        "source": "LL supplement",
    }
    lines = show.as_table(rows).splitlines()
    assert sum(line[0] not in "─ " for line in lines) == len(rows) + 1
    (at,) = [at for at, line in enumerate(lines) if line.startswith("data.batch_size")]
    assert " ".join(lines[at : at + 2]).split(maxsplit=3) == [
        "data.batch_size",
        "288",
        "unknown",
        "training code not released",
    ]


@pytest.mark.parametrize(
    ("command", "storage", "name"),
    [
        ("--run demo/", "runs", "demo"),
        ("--run /a", "/", "a"),
        ("--run other/b", "other", "b"),
        ("--run s3://bucket/b/", "s3://bucket", "b"),
        ("--run exp/a", "runs", "exp/a"),  # a run of 0.1.0
        ("--storage s3://bucket --run exp/a", "s3://bucket", "exp/a"),
        ("--storage HERE/runs --run runs/b", "runs", "b"),  # as a run's config.json has it
    ],
)
def test_a_run_is_a_name_or_a_path(
    command: str, storage: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/exp/a").mkdir(parents=True)
    (tmp_path / "runs/exp/a/config.json").touch()
    config, _ = parsed(f"--dataset d {command.replace('HERE', str(tmp_path))}")
    assert (config.storage, config.name) == (storage, name)


def test_a_path_outside_the_storage_is_refused() -> None:
    with pytest.raises(InputError, match=r"--run a/b is not in --storage c\. Fix: pass --run b"):
        parsed("--dataset d --storage c --run a/b")
