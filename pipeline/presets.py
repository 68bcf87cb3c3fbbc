"""Named configurations.

Presets are functions, not files: `ray submit` uploads the job script alone, so everything it
needs must travel inside the package. Flags override a preset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipeline.config import DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from sharding.errors import InputError


def paper_openimages_v3(dataset: str = "") -> TrainConfig:
    """Open Images V3 as in the paper (CVPR 2023, section 4; Large Loss supplement).

    ray submit ray_cluster.yaml jobs/train_openimages.py -- --preset openimages-v3 --dataset DIR

    ResNet-101, 20 epochs, learning rate 2e-5, head x10, LL-R with delta_rel 0.01 % (grid of the
    supplement: 0.005, 0.01); batch 288 and 224 px are inferred, not published.
    """
    return TrainConfig(
        dataset=dataset,
        method="ll-r",
        method_options=("delta_rel=0.01",),
        workers="4",
        model=ModelConfig(backbone="resnet101", weights="IMAGENET1K_V1"),
        data=DataConfig(image_size=224, batch_size=288),
        optimizer=OptimizerConfig(learning_rate=2e-5, epochs=20),
    )


def demo(dataset: str = "demo/dataset") -> TrainConfig:
    """A laptop without GPU: ResNet-18 from scratch on the procedural demo data, two workers.

    make demo   (about ten minutes on two cores)
    """
    return TrainConfig(
        dataset=dataset,
        experiment="demo",
        method="ll-r",
        method_options=("delta_rel=0.2",),
        workers="2",
        model=ModelConfig(backbone="resnet18"),
        data=DataConfig(image_size=96, batch_size=32),
        optimizer=OptimizerConfig(learning_rate=1e-3, head_multiplier=1.0, epochs=10),
    )


PRESETS: Mapping[str, Callable[[], TrainConfig]] = {
    "openimages-v3": paper_openimages_v3,
    "demo": demo,
}


def preset(name: str) -> TrainConfig:
    """The preset of that name.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    if name not in PRESETS:
        raise InputError(f"no preset {name!r}", fix=f"choose one of {', '.join(sorted(PRESETS))}")
    return PRESETS[name]()
