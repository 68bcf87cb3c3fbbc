"""FSDP is DDP cut into shards: equal weights, and checkpoints that do not tell the difference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import methods
from pipeline.cluster.checkpoints import SCORE
from pipeline.config.sections import ModelConfig, OptimizerConfig
from pipeline.data.labels import LabelJoin
from pipeline.data.loader import Batch
from pipeline.models import cam_net, checkpoint
from pipeline.training import distributed
from pipeline.training.epoch import run_epoch
from pipeline.training.step import TrainStep, moving_average
from pipeline.training.worker import Worker
from sharding.errors import InputError
from sharding.manifest import Dataset
from tests.support.distributed import run_ranks
from tests.support.models import cam_net_of
from tests.support.training import CPU, assert_same_weights, begun, worker_for

K = 8
# Ranks sum gradients and norms in another order: float32, four steps.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}


def small() -> cam_net.CamNet:
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 16, 5, 4), torch.nn.BatchNorm2d(16), torch.nn.ReLU()
    backbone = torch.nn.Sequential(*layers, torch.nn.Sequential(torch.nn.Conv2d(16, 32, 3, 2)))
    return cam_net_of(backbone, 32, K, alpha=5.0)


def cut_every_block() -> None:
    """Shard small blocks too, in this process, which is a rank's and ends with its function."""
    distributed._SMALLEST = 1


def trained(
    rank: int, squares: Path, kind: str, options: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Whole weights, and their moving average, after four steps on two ranks."""
    config = OptimizerConfig(**options)
    network = small()
    averaged: Any = moving_average(network, config.ema_decay)
    if kind == "fsdp":
        cut_every_block()
        for part in (network, *([averaged.module] if averaged else [])):
            distributed.shard(part, CPU)
    table = Dataset.open(squares).labels("train")
    join = LabelJoin(table=table, num_classes=K)
    method = methods.create("ll-ct", K, delta_rel=5.0)
    method.begin_epoch(3)
    step = TrainStep(
        model=network if kind == "fsdp" else torch.nn.parallel.DistributedDataParallel(network),
        method=method,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9),
        config=config,
        averaged=averaged,
    )
    step.model.train()
    for number in range(4):
        rows = np.arange(6) + 12 * number + 6 * rank
        images = np.random.default_rng(rows).integers(0, 255, (6, 32, 32, 3), dtype=np.uint8)
        # A share may be shorter than the other's, or empty.
        share = slice(0, 6 - 3 * number * rank if number < 2 else 6 * (1 - rank))
        images_BHWC = torch.from_numpy(images)[share]
        step(join(Batch(images_BHWC=images_BHWC, image_ids_B=table.image_ids_N[rows][share])))
    state = distributed.gather(network.state_dict())
    return state, averaged and distributed.gather(averaged.module.state_dict())


@pytest.mark.parametrize(
    "options",
    [
        {"clip_norm": 0.5, "ema_decay": 0.5},
        {"micro_batches": 2, "precision": "bf16"},
        {"precision": "fp16"},
    ],
    ids=lambda options: "-".join(options),
)
def test_shards_learn_what_whole_networks_learn(squares: Path, options: dict[str, Any]) -> None:
    ddp = run_ranks(trained, 2, squares, "ddp", options)[0]
    fsdp = run_ranks(trained, 2, squares, "fsdp", options)[0]
    for ours, theirs in zip(fsdp, ddp, strict=True):
        assert (ours is None) == (theirs is None)
        for key in theirs or {}:
            torch.testing.assert_close(ours[key], theirs[key], **TOLERANCE)


def rank_of(
    rank: int, world_size: int, squares: Path, kind: str, method: str, *options: str
) -> Worker:
    if kind == "fsdp":
        cut_every_block()
    return worker_for(
        squares,
        method,
        *options,
        rank=rank,
        world_size=world_size,
        parallel=kind,
        checkpoint_every=2,
        optimizer={"ema_decay": 0.5},
    )


def saved(rank: int, squares: Path, folder: Path) -> dict[str, float]:
    """An epoch under FSDP, validated and saved, with a checkpoint within the next."""
    worker = begun(rank_of(rank, 2, squares, "fsdp", "curriculum"))
    run_epoch(worker, 1)
    metrics = worker.validate()
    worker.save(str(folder / "whole") if rank == 0 else None, metrics)
    run_epoch(worker, 2, lambda: worker.save(str(folder / "within"), {SCORE: 0.0}))
    return metrics


def resumed(rank: int, squares: Path, folder: Path, kind: str) -> dict[str, Any]:
    """Whole weights of the end of the second epoch, begun from within it."""
    worker = rank_of(rank, 2, squares, kind, "curriculum")
    begun(worker, folder / "within")
    run_epoch(worker, 2)
    return distributed.gather(worker.state.model.state_dict())


def test_a_checkpoint_of_shards_is_like_any_other(squares: Path, tmp_path: Path) -> None:
    for name in ("whole", "within"):
        (tmp_path / name).mkdir()
    first, second = run_ranks(saved, 2, squares, tmp_path)
    assert first == second

    # One process scores it as the two did, and goes on from it without shards.
    alone = rank_of(0, 1, squares, "ddp", "curriculum")
    begun(alone, tmp_path / "whole")
    assert alone.validate() == pytest.approx(first, abs=1e-6)
    moments = alone.state.optimizer.state_dict()["state"]
    assert {float(state["step"]) for state in moments.values()} == {3.0}
    model, meta = checkpoint.load_model(tmp_path / "whole")
    assert meta.world_size == 2
    assert_same_weights(model, alone.state.scored)
    run_epoch(alone, 2)

    # Within an epoch, shards and whole networks go on to the same weights.
    fsdp = run_ranks(resumed, 2, squares, tmp_path, "fsdp")[0]
    ddp = run_ranks(resumed, 2, squares, tmp_path, "ddp")[0]
    for key in ddp:
        torch.testing.assert_close(fsdp[key], ddp[key], rtol=1e-3, atol=1e-4)


def frozen(rank: int, squares: Path) -> bool:
    """Whether an epoch with a frozen backbone leaves it alone and moves the head."""
    options = ("expected_num_pos=2.0", "linear_epochs=1")
    worker = begun(rank_of(rank, 2, squares, "fsdp", "role-li", *options))
    before = distributed.gather(worker.state.model.state_dict())
    run_epoch(worker, 1)
    after = distributed.gather(worker.state.model.state_dict())
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    return changed == {"head"}


def test_a_frozen_backbone_stays(squares: Path) -> None:
    assert all(run_ranks(frozen, 2, squares))


def parts(rank: int, backbone: str) -> tuple[float, int]:
    """This rank's share of all parameters, and the number of units."""
    network: Any = cam_net.build(ModelConfig(backbone=backbone), K)
    total = sum(parameter.numel() for parameter in network.parameters())
    cut_every_block()
    distributed.shard(network, CPU)
    units = sum(
        isinstance(module, torch.distributed.fsdp.FSDPModule) for module in network.modules()
    )
    network(torch.zeros(1, 64, 64, 3, dtype=torch.uint8)).sum().backward()
    mine = sum(distributed.local(parameter).numel() for parameter in network.parameters())
    return mine / total, units


@pytest.mark.parametrize("backbone", ["convnext_tiny", "timm/vit_tiny_patch16_224"])
def test_every_rank_holds_half(backbone: str) -> None:
    for share, units in run_ranks(parts, 2, backbone):
        assert share == pytest.approx(0.5, abs=0.02)
        assert units > 4


def test_a_method_that_reads_the_heads_weights_is_refused() -> None:
    imcl = methods.create("imcl", K)
    distributed.check("ddp", imcl)
    with pytest.raises(InputError, match="FSDP"):
        distributed.check("fsdp", imcl)
