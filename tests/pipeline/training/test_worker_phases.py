"""Methods that change how an epoch is trained, or the model, as the trainer runs them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.commands import EvaluateConfig
from pipeline.evaluation.run import evaluate_part
from pipeline.evaluation.scores import Scores
from pipeline.training.epoch import run_epoch
from pipeline.training.worker import Worker
from tests.support.distributed import run_ranks
from tests.support.models import cam_net_of
from tests.support.training import begun, worker_for


def ready(squares: Path, method: str, *options: str, **changes: Any) -> Worker:
    optimizer = {"epochs": 2, "head_multiplier": 1.0}
    return begun(worker_for(squares, method, *options, optimizer=optimizer, **changes))


def weights_of(worker: Worker) -> dict[str, torch.Tensor]:
    return copy.deepcopy(worker.state.model.state_dict())


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Parts of the network, head or backbone, that are not what they were."""
    return {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}


def test_linear_init_trains_the_head_alone_and_then_everything(squares: Path) -> None:
    worker = ready(squares, "role-li", "expected_num_pos=2.0", "linear_epochs=1", "linear_rate=2.0")
    start = weights_of(worker)
    run_epoch(worker, 1)
    linear = weights_of(worker)
    assert changed(start, linear) == {"head"}, "batch norm's statistics included"
    assert worker.state.optimizer.param_groups[1]["lr"] == pytest.approx(
        2 * worker.config.optimizer.learning_rate * worker.config.optimizer.head_multiplier
    )
    run_epoch(worker, 2)
    assert changed(linear, weights_of(worker)) == {"head", "backbone"}
    steps = {int(state["step"]) for state in worker.state.optimizer.state.values()}
    assert steps == {worker.images.loader.plan.steps}, "Adam starts anew"


def test_linear_init_begins_its_second_phase_once(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left within that phase's first epoch, which other workers begin again."""
    options = ("expected_num_pos=2.0", "linear_epochs=1")

    def made() -> Worker:
        return ready(squares, "role-li", *options, checkpoint_every=2)

    def leave() -> None:
        first.save(str(tmp_path), {})
        raise KeyboardInterrupt

    first = made()
    run_epoch(first, 1)
    with pytest.raises(KeyboardInterrupt):
        run_epoch(first, 2, save=leave)
    meta = json.loads((tmp_path / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "world_size": 3}))

    second = made()
    begun(second, tmp_path)
    handed: list[int] = []
    monkeypatch.setattr(second.method.estimator, "hand_over", lambda: handed.append(1))
    run_epoch(second, 2)
    assert not handed
    steps = {int(state["step"]) for state in second.state.optimizer.state.values()}
    assert steps == {2 + second.images.loader.plan.steps}, "Adam goes on"


def test_cnn_rnn_is_evaluated_by_its_sequences(squares: Path, tmp_path: Path) -> None:
    worker = ready(squares, "cnn-rnn", "hidden=8")
    run_epoch(worker, 1)
    worker.save(str(tmp_path), {})

    def scored(beam: int) -> Scores:
        config = EvaluateConfig(
            checkpoint=str(tmp_path), dataset=str(squares), split="validation", beam=beam
        )
        return evaluate_part(config, str(tmp_path), None, 1, 1, 0).scores

    alone, searched = scored(0), scored(2)
    assert len(alone.raw_E) == len(searched.raw_E) > 0
    assert not np.allclose(alone.boosted_E, searched.boosted_E)
    assert np.isfinite(searched.boosted_E).all()


def test_ml_decoder_trains_and_is_evaluated_without_maps(squares: Path, tmp_path: Path) -> None:
    network = {"head": "ml-decoder", "alpha_train": 1.0, "alpha_infer": 1.0}
    worker = ready(squares, "gr", network=network)
    before = weights_of(worker)
    run_epoch(worker, 1)
    assert changed(before, weights_of(worker)) == {"head", "backbone"}
    assert 0 <= worker.validate()["val/mAP/all"] <= 1
    worker.save(str(tmp_path), {})
    config = EvaluateConfig(checkpoint=str(tmp_path), dataset=str(squares), split="validation")
    part = evaluate_part(config, str(tmp_path), None, 1, 1, 0)
    assert (part.maps, part.explained) == (None, ())
    np.testing.assert_array_equal(part.scores.raw_E, part.scores.boosted_E)


def test_curriculum_with_its_graph_trains_and_relabels(squares: Path) -> None:
    options = ("relabel_every=1", "positive_threshold=0.0", "negative_threshold=0.0")
    worker = ready(squares, "curriculum", *options, network={"label_graph": 16})
    before = weights_of(worker)
    run_epoch(worker, 1)
    moved = {
        key for key, value in weights_of(worker).items() if not torch.equal(before[key], value)
    }
    assert "head.graph.message.weight" in moved
    assert len(worker.method.overlay) > 0
    metrics = worker.validate()
    assert 0 <= metrics["val/mAP/all"] <= 1


def test_dropout_is_on_in_the_passes_that_compare_predictions(
    squares: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("relabel_every=1", "strategy=uncertainty", "passes=2", "variance=1e9")
    worker = ready(squares, "curriculum", *options, network={"dropout": 0.5})
    passes: list[torch.Tensor] = []
    observe = worker.method.observe

    def remembering(logits_BK: torch.Tensor, *more: torch.Tensor) -> None:
        passes.append(logits_BK.clone())
        observe(logits_BK, *more)

    monkeypatch.setattr(worker.method, "observe", remembering)
    run_epoch(worker, 1)
    half = len(passes) // 2
    assert not torch.equal(torch.cat(passes[:half]), torch.cat(passes[half:]))
    assert not worker.state.model.backbone.training, "all else as in inference"
    assert len(worker.method.overlay) > 0


def frozen_step(rank: int) -> tuple[float, float]:
    """Largest gradients (backbone, head) of a second step under DDP."""
    torch.manual_seed(0)
    network = cam_net_of(torch.nn.Conv2d(3, 4, 3), 4, 3)
    network.freeze_backbone(True)
    model = torch.nn.parallel.DistributedDataParallel(network)
    for _ in range(2):  # DDP complains of parameters without gradient in the second
        model.zero_grad()
        model(torch.randint(0, 255, (2, 8, 8, 3), dtype=torch.uint8)).sum().backward()
    parts = (network.backbone, network.head)
    backbone, head = (max(float(p.grad.abs().max()) for p in m.parameters()) for m in parts)
    return backbone, head


def test_a_frozen_backbone_leaves_no_rank_waiting() -> None:
    for backbone, head in run_ranks(frozen_step, 2):
        assert backbone == 0
        assert head > 0
