"""What only a machine with a GPU shows; skipped elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import methods
from pipeline.config.sections import Augmentation, ModelConfig, OptimizerConfig
from pipeline.data.labels import LabelledSplit
from pipeline.data.loader import Loader
from pipeline.models import cam_net
from pipeline.training.loop import EpochHooks, StepPlan, train_epoch
from pipeline.training.step import TrainStep
from sharding.manifest import Dataset

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GPU = torch.device("cuda", 0)
LARGE_LOSS = {"delta_rel": 0.2}


def loader(dataset: Dataset, **options) -> Loader:
    return Loader.of_split(dataset, "train", batch_size=16, image_size=96, **options)


@pytest.mark.parametrize("hardware_share", [0.0, 1.0])
def test_mixed_decoding_gives_the_pictures_of_the_cpu(squares: Path, hardware_share: float) -> None:
    dataset = Dataset.open(squares)
    mixed = loader(dataset, device_id=0, hardware_share=hardware_share)
    for on_cpu, on_gpu in zip(loader(dataset).epoch(1), mixed.epoch(1), strict=True):
        assert on_gpu.images_BHWC.device == GPU
        np.testing.assert_array_equal(on_cpu.image_ids_B, on_gpu.image_ids_B)
        apart = (on_cpu.images_BHWC.float() - on_gpu.images_BHWC.cpu().float()).abs()
        assert apart.mean() < 0.5  # of 255 grey levels: two decoders, two resizers


def test_an_epoch_continues_where_it_was_left(squares: Path) -> None:
    whole = loader(Dataset.open(squares), device_id=0, train=True, seed=3)
    expected = [batch.image_ids_B for batch in whole.epoch(1)]
    begun = whole.epoch(1)
    next(begun)
    rest = whole.epoch(1, done=1, position=begun.position())
    np.testing.assert_array_equal(
        np.concatenate([batch.image_ids_B for batch in rest]), np.concatenate(expected[1:])
    )


@pytest.mark.parametrize(
    "augmentation",
    [Augmentation(crop="random-resized"), Augmentation(rand_augment=9), Augmentation(cutout=0.5)],
)
def test_every_augmentation_runs_there(squares: Path, augmentation: Augmentation) -> None:
    epoch = loader(Dataset.open(squares), device_id=0, train=True, augmentation=augmentation)
    batch = next(iter(epoch.epoch(1)))
    assert batch.images_BHWC.device == GPU
    assert batch.images_BHWC.float().std() > 1


@pytest.mark.parametrize("name", ["an", "asl", "em", "ll-r", "ll-ct", "ll-cp"])
def test_losses_equal_those_of_the_cpu(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits_BK = torch.randn(64, 500, generator=generator) * 4
    labels_BK = torch.randint(-1, 2, (64, 500), generator=generator, dtype=torch.int8)
    seen = []
    for device in ("cpu", GPU):
        method = methods.create(name, 500, **LARGE_LOSS if name.startswith("ll-") else {})
        method.begin_epoch(3)
        logits = logits_BK.to(device, copy=True).requires_grad_()
        ids_B = torch.arange(64)
        loss, modified_BK = method.loss(logits, labels_BK.to(device), ids_B)
        loss.backward()
        seen.append((loss.detach().cpu(), modified_BK.cpu(), logits.grad.cpu()))
    (loss, modified_BK, gradient_BK), (there, modified_there_BK, gradient_there_BK) = seen
    torch.testing.assert_close(there, loss, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradient_there_BK, gradient_BK, rtol=1e-4, atol=1e-9)
    assert torch.equal(modified_there_BK, modified_BK)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_brings_the_loss_down(squares: Path, precision: str) -> None:
    torch.manual_seed(0)
    dataset = Dataset.open(squares)
    K = len(dataset.classes)
    model = cam_net.build(ModelConfig(backbone="resnet18"), K).to(GPU)
    step = TrainStep(
        model=model,
        method=methods.create("ll-r", K, **LARGE_LOSS),
        optimizer=torch.optim.Adam(cam_net.parameter_groups(model, 1e-3, 10.0), fused=True),
        config=OptimizerConfig(precision=precision),
    )
    sizes = {"batch_size": 16, "image_size": 96}
    images = LabelledSplit.open(
        dataset, "train", None, torch.device("cuda", 0), train=True, **sizes
    )
    losses = []
    for epoch in range(1, 5):
        step.method.begin_epoch(epoch)
        hooks = EpochHooks(on_stats=lambda stats: losses.append(stats.loss))
        train_epoch(step, images.epoch(epoch), StepPlan(stats_every=100), hooks)
    assert losses[-1] < 0.8 * losses[0]
