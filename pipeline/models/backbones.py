"""Build backbones that end in feature maps: torchvision's by name, timm's as ``timm/<name>``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn

from sharding.errors import InputError

_TIMM = "timm/"
_CLASSIFIERS = ("fc", "fc_norm", "classifier", "head")
Split = Callable[[Any], tuple[nn.Module, int]]
Network = TypeVar("Network", bound=nn.Module)


def build(name: str, weights: str | None) -> tuple[nn.Module, int]:
    """Build a network from (B, 3, H, W) to features (B, D, H/stride, W/stride); return it and D.

    Args:
        name: a torchvision ResNet, ResNeXt, ConvNeXt, EfficientNet or Swin (ResNets and ConvNeXts
            have stride 32: 448 px become 14 x 14), or ``timm/<name>`` for any timm network whose
            last features have a position in the image, plain ViTs included.
        weights: a torchvision weights name, ``pretrained`` for timm, a state-dict file, or None.

    Raises:
        InputError: unknown name, or weights that are none or do not fit.
    """
    if name.startswith(_TIMM):
        return _timm(name.removeprefix(_TIMM), weights)
    import torchvision

    if name not in torchvision_names():
        raise InputError(
            f"no backbone {name!r}",
            fix=f"choose timm/<name> or one of {', '.join(torchvision_names())}",
        )
    network = torchvision.models.get_model(name, weights=_enum_weights(name, weights))
    _load_file(network, weights)
    return _split_of(name)(network)


def torchvision_names() -> list[str]:
    """List the classification networks of torchvision that `build` knows how to cut."""
    import torchvision

    listed = torchvision.models.list_models(module=torchvision.models)
    return [name for name in listed if name.startswith(tuple(_SPLITS))]


def synchronised(network: Network) -> Network:
    """Convert batch norms to norms over all ranks; timm's keep the activation that is in them."""
    if any(isinstance(module, TimmFeatures) for module in network.modules()):
        import timm.layers

        return cast(Network, timm.layers.convert_sync_batchnorm(network))
    return cast(Network, nn.SyncBatchNorm.convert_sync_batchnorm(network))


class TimmFeatures(nn.Module):
    """Give the features of a timm network as maps (B, D, h, w), also those of NHWC and ViTs.

    Args:
        network: made by `timm.create_model` without pooling and classifier.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        for name in _CLASSIFIERS:
            if hasattr(network, name):  # DDP refuses parameters that never get a gradient
                setattr(network, name, nn.Identity())

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Compute features (B, D, h, w) of images (B, 3, H, W)."""
        features = cast(Any, self.network).forward_features(images_BCHW)
        if features.dim() == 3:
            return self._grid(features, images_BCHW.shape[-2:])
        if getattr(self.network, "output_fmt", "NCHW") == "NHWC":
            features = features.permute(0, 3, 1, 2)
        return features

    def _grid(self, tokens_BND: torch.Tensor, size: torch.Size) -> torch.Tensor:
        """Put patch tokens back on their grid; drop class and register tokens."""
        network = cast(Any, self.network)
        h, w = network.patch_embed.dynamic_feat_size(tuple(size))
        patches_BND = tokens_BND[:, network.num_prefix_tokens :]
        return patches_BND.transpose(1, 2).unflatten(2, (h, w))


def _timm(name: str, weights: str | None) -> tuple[nn.Module, int]:
    try:
        import timm
    except ModuleNotFoundError:
        raise InputError("timm is not installed", fix="pip install timm") from None
    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name.partition('.')[0][:6]}*")[:5]) or "resnet50"
        raise InputError(f"timm has no network {name!r}", fix=f"try one of {close}")
    pretrained = weights == "pretrained"
    if weights and not pretrained and not Path(weights).is_file():
        raise InputError(
            f"weights {weights!r} is no file", fix="pass a state-dict file, or pretrained"
        )
    options: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0, "global_pool": ""}
    try:  # a ViT takes any image size only if told so, other networks do not know the option
        network = timm.create_model(name, dynamic_img_size=True, **options)
    except TypeError:
        network = timm.create_model(name, **options)
    _load_file(network, None if pretrained else weights)
    return TimmFeatures(network), int(cast(Any, network).num_features)


def _resnet(network: Any) -> tuple[nn.Module, int]:
    # children()[:-2] drops the pooling and the classifier.
    return nn.Sequential(*list(network.children())[:-2]), network.fc.in_features


def _features(network: Any) -> tuple[nn.Module, int]:
    return network.features, network.classifier[-1].in_features


def _swin(network: Any) -> tuple[nn.Module, int]:
    return nn.Sequential(network.features, network.norm, network.permute), network.head.in_features


_SPLITS: Mapping[str, Split] = {
    "resnet": _resnet,
    "resnext": _resnet,
    "wide_resnet": _resnet,
    "convnext": _features,
    "efficientnet": _features,
    "swin": _swin,
}


def _split_of(name: str) -> Split:
    return next(split for prefix, split in _SPLITS.items() if name.startswith(prefix))


def _enum_weights(name: str, weights: str | None) -> Any:
    import torchvision

    if not weights or Path(weights).is_file():
        return None
    enum = torchvision.models.get_model_weights(name)
    if weights not in enum.__members__:
        raise InputError(
            f"weights {weights!r} is neither a file nor a name for {name}",
            fix=f"pass a state-dict file or one of {', '.join(enum.__members__)}",
        )
    return enum[weights]


def _load_file(network: nn.Module, path: str | None) -> None:
    if not path or not Path(path).is_file():
        return
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here; all mean the same to the user
        reason = str(error).splitlines()[0]
        raise InputError(
            f"not a state dict ({reason})", file=path, fix="save one with torch.save(state_dict)"
        ) from None
    state = {name: value for name, value in state.items() if not _of_classifier(name)}
    missing, unexpected = network.load_state_dict(state, strict=False)
    wrong = [*unexpected, *(name for name in missing if not _of_classifier(name))]
    if wrong:
        raise InputError(
            f"{len(wrong)} entries do not fit the backbone, the first is {wrong[0]}",
            file=path,
            fix="pass weights of the same backbone",
        )


def _of_classifier(name: str) -> bool:
    return name.partition(".")[0] in _CLASSIFIERS
