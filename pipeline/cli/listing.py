"""List what can be chosen: methods, backbones, presets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from pipeline.config import presets
from pipeline.config.presets import Listed
from pipeline.tables import Table


def methods() -> str:
    """List every training method with what it does and its options."""
    from pipeline.methods import registry

    rows = []
    for name in registry.names():
        does = (inspect.getdoc(registry.class_of(name)) or "").splitlines()[0].rstrip(".")
        rows.append([name, does])
    return Table(
        headers=("method", "what it does with labels that nobody checked"),
        sections=[rows],
        text_columns=2,
    ).terminal()


def backbones() -> str:
    """List torchvision's networks; timm's are too many."""
    from pipeline.models.backbones import torchvision_names

    return "\n".join(
        [*torchvision_names(), "timm/<name>  of timm.list_models(), those with feature maps"]
    )


def preset_values() -> str:
    """List every preset with the values that weigh most."""
    rows = []
    for name in presets.PRESETS:
        config = presets.preset(name).config
        data, optimizer = config.data, config.optimizer
        numbers = (data.image_size, data.batch_size, optimizer.epochs, optimizer.learning_rate)
        rows.append([name, config.method, config.model.backbone, *(f"{n:g}" for n in numbers)])
    headers = ("preset", "method", "backbone", "pixels", "batch", "epochs", "rate")
    return Table(headers=headers, sections=[rows], text_columns=3).terminal()


LISTS: Mapping[Listed, Callable[[], str]] = {
    "methods": methods,
    "backbones": backbones,
    "presets": preset_values,
}
