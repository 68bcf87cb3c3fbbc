"""A method of a run knows its dataset: sizes are checked at once, priors are found by MID."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import methods, storage
from pipeline.config.sections import ModelConfig, OptimizerConfig
from pipeline.config.train import TrainConfig
from pipeline.methods import registry
from pipeline.methods.parts import class_prior
from sharding.errors import InputError
from tests.support.models import write_method_checkpoint

MIDS = ["/m/a", "/m/b", "/m/c"]
OPEN_IMAGES = 1_743_042


def made(method: str, *options: str, num_images: int = 100, classes: int = 3, **more: Any) -> Any:
    config = TrainConfig(dataset="d", method=method, method_options=options, **more)
    mids = MIDS if classes == 3 else [f"/m/{k}" for k in range(classes)]
    return methods.create_for(config, mids=mids, num_images=num_images)


@pytest.mark.parametrize(
    ("method", "options", "arithmetic"),
    [
        ("role", ("expected_num_pos=6.0",), r"1,743,042 images x 5,000 classes x 12 bytes = 97"),
        ("role-li", ("expected_num_pos=6.0",), r"x 12 bytes = 97"),
        ("em-apl", (), r"1,743,042 images x 5,000 classes x 5 bytes = 40.6 GiB, .* 4 GiB"),
        ("curriculum", ("relabel_every=2", "strategy=top"), r"x 5 bytes = 40.6 GiB"),
    ],
)
def test_open_images_is_refused_before_the_first_step(
    method: str, options: tuple[str, ...], arithmetic: str
) -> None:
    with pytest.raises(InputError, match=arithmetic):
        made(method, *options, num_images=OPEN_IMAGES, classes=5000)
    made(method, *options, num_images=5_717, classes=20)  # VOC


def test_a_schedule_is_as_long_as_the_run_unless_it_is_set() -> None:
    run = {"optimizer": OptimizerConfig(epochs=7)}
    assert made("em-apl", **run).total_epochs == 7
    assert made("em-apl", "total_epochs=6", **run).total_epochs == 6
    with pytest.raises(InputError, match=r"warmup_epochs 7 of 7.*--epochs"):
        made("em-apl", "warmup_epochs=7", **run)


def test_a_methods_own_draws_follow_the_seed_of_the_run() -> None:
    seeds = [
        registry.options_for(TrainConfig(dataset="d", method=method, seed=3, method_options=given))
        for method, given in (("role", ()), ("cnn-rnn", ("seed=5",)), ("an", ()))
    ]
    assert [options.get("seed") for options in seeds] == [3, 5, None]


def test_a_prolonged_run_keeps_the_schedule_it_began_with() -> None:
    begun, prolonged = (
        made("em-apl", optimizer=OptimizerConfig(epochs=epochs)) for epochs in (7, 9)
    )
    prolonged.load_state_dict(begun.state_dict())
    assert prolonged.total_epochs == 7


def test_thresholds_alone_need_no_matrix() -> None:
    options = ("relabel_every=2", "strategy=score")
    made("curriculum", *options, num_images=OPEN_IMAGES, classes=5000)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_prior_comes_from_a_file_by_mid(tmp_path: Path, scheme: str) -> None:
    path = tmp_path / "prior.parquet"
    class_prior.write(path, MIDS[::-1], torch.tensor([0.3, 0.2, 0.1]))
    method = made("p-asl", f"prior={scheme}{path}")
    torch.testing.assert_close(method.prior(), torch.tensor([0.1, 0.2, 0.3]).double())


def test_a_prior_comes_from_an_earlier_run_by_mid(tmp_path: Path) -> None:
    first = made("p-asl", "mode=ignore")
    first.begin_epoch(1)
    logits_BK = torch.tensor([[0.0, 2.0, -2.0], [0.0, 4.0, -4.0]])
    first.loss(logits_BK, torch.full((2, 3), -1, dtype=torch.int8))
    first.end_epoch()
    ignores = TrainConfig(dataset="d", method="p-asl", method_options=("mode=ignore",))
    write_method_checkpoint(tmp_path / "run", first, ["/m/c", "/m/a", "/m/b"], ignores)
    run = f"file://{tmp_path / 'run'}"
    second = made("p-asl", f"prior={run}", "prior_threshold=0.6", "likelihood_topk=0")
    expected_K = logits_BK.sigmoid().double().mean(0)[[1, 2, 0]]
    torch.testing.assert_close(second.prior(), expected_K)
    _, mask_BK = second.loss(logits_BK, torch.full((2, 3), -1, dtype=torch.int8))
    assert mask_BK.tolist() == [[True, False, False]] * 2

    write_method_checkpoint(tmp_path / "other", methods.create("an", 3), MIDS)
    # 0.2.0 added predictions up in every mode.
    selects = dataclasses.replace(ignores, method_options=())
    write_method_checkpoint(tmp_path / "selective", first, MIDS, selects)
    for name in ("other", "selective"):
        with pytest.raises(InputError, match="without priors predicted in mode ignore"):
            made("p-asl", f"prior={tmp_path / name}")


def test_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    absolute = storage.absolute_in(("mode=selective", "prior=p.parquet", "clip=0.1"))
    assert absolute == ("mode=selective", f"prior={tmp_path}/p.parquet", "clip=0.1")


def test_what_the_model_cannot_serve_is_refused() -> None:
    options = ("relabel_every=1", "strategy=uncertainty")
    with pytest.raises(InputError, match="--dropout"):
        made("curriculum", *options)
    made("curriculum", *options, model=ModelConfig(dropout=0.5))
    with pytest.raises(InputError, match="--micro-batches 1"):
        made("imcl", optimizer=OptimizerConfig(micro_batches=2))


def test_a_method_that_uses_confidences_needs_some() -> None:
    for method, options in (("vlpl", ()), ("gr", ("confidence_weight=0.5",))):
        with pytest.raises(InputError, match="pass --confidences VERSION"):
            made(method, *options)
        assert made(method, *options, confidences="machine").uses_confidences
    assert not made("gr").uses_confidences
