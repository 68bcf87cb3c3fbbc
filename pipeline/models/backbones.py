"""Build backbones that end in feature maps: torchvision's by name, timm's as ``timm/<name>``."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.func import functional_call

from pipeline.models import weights_file
from sharding.errors import InputError, command, unknown
from sharding.log import first_line

_TIMM = "timm/"
_CLASSIFIERS = ("fc", "fc_norm", "classifier", "head")
Network = TypeVar("Network", bound=nn.Module)
_AFTER_FEATURES = {*_CLASSIFIERS, "avgpool", "dropout", "flatten", "aux1", "aux2", "AuxLogits"}
"""Children of torchvision's networks that come after the last features, or beside them."""
_NO_PLACE = "vit_"
"""Of torchvision the networks whose features are tokens; timm has the same ones with a grid."""
_OWN_SCALE = ("googlenet", "inception_v3")
"""Their pretrained weights expect -1..1, whatever torchvision's transforms say: it scales again."""


class _NoMaps(InputError):
    """A network gives no feature maps of images of a size, for a reason of its own."""

    def __init__(self, name: str, size: int, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"{name} gives no feature maps of {size} x {size} pixels ({reason})",
            fix="pass another --image-size, such as 224, or another --backbone",
        )


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A network without its classifier.

    Attributes:
        network: maps images (B, 3, H, W) to features (B, D, h, w).
        channels: D.
        mean, std: of each channel, in 0..255; what its weights were trained with.
    """

    network: nn.Module
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def build(name: str, weights: str | None, image_size: int = 224) -> Backbone:
    """Build a network that ends in feature maps.

    Args:
        name: a torchvision classification network, or ``timm/<name>``; its last features must have
            a position in the image (plain ViTs: timm's).
        weights: a torchvision weights name, ``pretrained`` for timm, a state-dict file, or None.
        image_size: side in pixels that it has to take; some networks are built for one.

    Raises:
        InputError: unknown name, weights that are none, cannot be fetched or do not fit, or an
            image size that the network cannot take.
    """
    if name.startswith(_TIMM):
        return _timm(name.removeprefix(_TIMM), weights, image_size)
    if name not in torchvision_names():
        listed = f"{command('--list', 'backbones')} names all, and timm/NAME is any of timm's"
        raise unknown("backbone", name, torchvision_names(), listed=listed)
    return _torchvision(name, weights, image_size)


def torchvision_names() -> list[str]:
    """List the classification networks of torchvision that `build` knows how to cut."""
    import torchvision

    listed = torchvision.models.list_models(module=torchvision.models)
    return [name for name in listed if not name.startswith(_NO_PLACE)]


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


def _timm(name: str, weights: str | None, image_size: int) -> Backbone:
    import timm  # which takes a second

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5) or ["resnet50"]
        close = ", ".join(near)
        raise InputError(f"timm has no network {name!r}", fix=f"try one of {close}")
    pretrained = weights == "pretrained"
    if weights and not pretrained and not Path(weights).is_file():
        raise InputError(
            f"weights {weights!r} is no file", fix="pass a state-dict file, or pretrained"
        )

    def make(**options: Any) -> nn.Module:
        with _fetching(f"{_TIMM}{name}", pretrained):
            network = timm.create_model(
                name, pretrained=pretrained, num_classes=0, global_pool="", **options
            )
        if weights and not pretrained:
            weights_file.load(network, weights, _CLASSIFIERS)
        return TimmFeatures(network)

    full_name = f"{_TIMM}{name}"
    about = timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    try:
        network, channels = _fitted(make, full_name, image_size)
    except _NoMaps as refused:
        raise _with_size_that_works(refused, make, full_name, about.input_size[-1]) from None
    _freeze_unused(network, image_size)
    return Backbone(
        network=network, channels=channels, mean=_in_bytes(about.mean), std=_in_bytes(about.std)
    )


def _fitted(make: Callable[..., nn.Module], name: str, image_size: int) -> tuple[nn.Module, int]:
    """Build a timm network for a size; returns its channels too, raises as `_channels` does."""
    with _fitting(name, image_size):
        try:  # a ViT takes any image size only if told so, others do not know the option
            network = make(dynamic_img_size=True)
        except TypeError:
            network = make()
        try:
            return network, _channels(name, network, image_size)
        except _NoMaps as refused:
            sized = _for_size(make, image_size)
            if sized is None:
                raise refused from None
            return sized, _channels(name, sized, image_size)


def _with_size_that_works(
    refused: _NoMaps, make: Callable[..., nn.Module], name: str, own_size: int
) -> InputError:
    """Word the error of a timm network that takes a size of its own, or has maps of none."""
    try:
        _fitted(make, name, own_size)
    except _NoMaps as always:
        problem = f"{name} has no feature maps ({always.reason})"
        return InputError(problem, fix="choose another --backbone")
    fix = f"pass another --image-size, such as {own_size}, or another --backbone"
    return InputError(refused.problem, fix=fix)


def _freeze_unused(network: nn.Module, image_size: int) -> None:
    """Stop the training of parameters that the features do not need: DDP waits for each gradient.

    Some of timm's networks keep layers of their classifier, others use layers of the same name.
    """
    named = {key: p for key, p in network.named_parameters() if p.requires_grad}
    network.eval()
    with torch.enable_grad():
        tensors, features = _try(network, image_size)
        inputs = [tensors[key] for key in named]
        gradients = torch.autograd.grad(features.sum(), inputs, allow_unused=True)
    network.train()
    for parameter, gradient in zip(named.values(), gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def _for_size(make: Callable[..., nn.Module], image_size: int) -> nn.Module | None:
    """Build a timm network for a size other than its own; None where it is built for one only."""
    try:
        return make(img_size=image_size)
    except InputError:
        raise
    except Exception:  # it does not know the option, or not this size
        return None


def _torchvision(name: str, weights: str | None, image_size: int) -> Backbone:
    import torchvision

    enum = torchvision.models.get_model_weights(name)
    named = None if not weights or Path(weights).is_file() else weights
    if named and named not in enum.__members__:
        raise InputError(
            f"weights {weights!r} is neither a file nor a name for {name}",
            fix=f"pass a state-dict file or one of {', '.join(enum.__members__)}",
        )
    options: dict[str, Any] = {}
    if name in _OWN_SCALE:
        options["init_weights"] = not weights  # said, it is no longer warned about
    if name.startswith("maxvit"):
        options["input_size"] = image_size, image_size
    with _fitting(name, image_size), _fetching(name, named is not None):
        network = torchvision.models.get_model(name, weights=named and enum[named], **options)
    if weights and not named:
        weights_file.load(network, weights, tuple(_AFTER_FEATURES))
    parts = _features(network)
    if name.startswith("densenet"):
        parts.append(nn.ReLU())  # a function in its forward
    features = parts[0] if len(parts) == 1 else nn.Sequential(*parts)
    own = (0.5,) * 3 if name in _OWN_SCALE else None
    about = enum[named or "DEFAULT"].transforms()
    return Backbone(
        network=features,
        channels=_channels(name, features, image_size),
        mean=_in_bytes(own or about.mean),
        std=_in_bytes(own or about.std),
    )


def _features(network: nn.Module) -> list[nn.Module]:
    """List a network's modules up to its last features, in the order it calls them."""
    parts: list[nn.Module] = []
    for name, child in network.named_children():
        if name not in _AFTER_FEATURES:
            parts += child if isinstance(child, nn.ModuleList) else [child]
    return parts


def _channels(name: str, network: nn.Module, image_size: int) -> int:
    """Compute how many channels the features have of images (1, 3, S, S).

    Raises:
        InputError: the network takes no images of that size.
    """
    training = network.training
    network.eval()
    try:
        with torch.no_grad(), _fitting(name, image_size):
            return _try(network, image_size)[1].shape[1]
    finally:
        network.train(training)


def _try(network: nn.Module, image_size: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Compute features of an image, without values where that goes; returns the weights, too."""
    images = torch.zeros(1, 3, image_size, image_size)
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    nothing = {
        key: tensor.detach().to("meta").requires_grad_(tensor.requires_grad)
        for key, tensor in tensors.items()
    }
    try:  # shapes alone
        return nothing, functional_call(network, nothing, (images.to("meta"),))
    except Exception:  # too large or too small; or an operation that needs values
        return tensors, network(images)


@contextlib.contextmanager
def _fitting(name: str, image_size: int) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # each network has a kind of its own for sizes that it cannot take
        raise _NoMaps(name, image_size, first_line(error)) from None


@contextlib.contextmanager
def _fetching(name: str, fetched: bool) -> Iterator[None]:
    """Turn what goes wrong while weights are fetched into one line."""
    try:
        yield
    except Exception as error:  # of the connection, of the hub, of a cut file
        of_options = isinstance(error, (TypeError, ValueError)) and not isinstance(error, OSError)
        if not fetched or of_options:
            raise
        raise InputError(
            f"the pretrained weights of {name} cannot be had ({first_line(error)})",
            fix="check the network; or fetch them elsewhere and pass the file as --weights",
        ) from None


def _in_bytes(statistics: Any) -> tuple[float, ...]:
    return tuple(round(255 * value, 4) for value in statistics)
