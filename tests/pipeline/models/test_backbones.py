"""Backbones: features with a place in the image, every parameter trained, weights where asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

from pipeline.models import backbones
from sharding.errors import InputError

IMAGES_BCHW = torch.rand(1, 3, 96, 64)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnext50_32x4d", (2048, 3, 2)),
        ("convnext_tiny", (768, 3, 2)),
        ("efficientnet_b0", (1280, 3, 2)),
        ("swin_t", (768, 3, 2)),
        ("mobilenet_v2", (1280, 3, 2)),
        ("mobilenet_v3_small", (576, 3, 2)),
        ("regnet_y_400mf", (440, 3, 2)),
        ("densenet121", (1024, 3, 2)),
        ("mnasnet0_5", (1280, 3, 2)),
        ("shufflenet_v2_x0_5", (1024, 3, 2)),
        ("efficientnet_v2_s", (1280, 3, 2)),
        ("squeezenet1_1", (512, 5, 3)),
        ("googlenet", (1024, 3, 2)),
        ("timm/convnext_atto", (320, 3, 2)),
        ("timm/vit_tiny_patch16_224", (192, 6, 4)),
        ("timm/swin_tiny_patch4_window7_224", (768, 3, 2)),
    ],
)
def test_features_are_maps_and_every_parameter_is_trained(
    name: str, shape: tuple[int, ...]
) -> None:
    built = backbones.build(name, None)
    backbone = built.network
    features = backbone(IMAGES_BCHW)
    assert features.shape == (1, *shape)
    assert built.channels == shape[0]
    features.square().sum().backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", ["resnet18", "timm/mobilenetv3_small_050"])
def test_norms_over_all_ranks_compute_what_the_others_do(name: str) -> None:
    backbone = backbones.build(name, None).network
    expected = backbone.eval()(IMAGES_BCHW)
    converted = backbones.synchronised(backbone)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in converted.modules())
    assert torch.equal(converted(IMAGES_BCHW), expected)  # activations within norms included


def test_tokens_return_to_where_their_patch_was() -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True)
    tokens_BND = torch.zeros(1, 1 + 6 * 4, 192)
    tokens_BND[0, 1 + 5 * 4 + 3] = 1  # the last patch of a 6 x 4 grid, after the class token
    network.forward_features = lambda images: tokens_BND
    maps = backbones.TimmFeatures(network)(IMAGES_BCHW)
    assert maps[0, 0].nonzero().tolist() == [[5, 3]]


def test_weights_from_a_file_without_its_classifier(tmp_path: Path) -> None:
    trained = torchvision.models.convnext_tiny(num_classes=11)
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    built = backbones.build("convnext_tiny", str(tmp_path / "weights.pt"))
    assert torch.equal(built.network[0][0].weight, trained.features[0][0].weight)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet19", None, "mean resnet18. .*timm/NAME"),
        ("vit_b_16", None, "--list backbones names all, and timm/NAME"),
        ("timm/resnet19", None, "timm has no network"),
        ("timm/resnet10", None, "no network 'resnet10'. Fix: try one of .*resnet10t"),
        ("timm/resnet18", "IMAGENET1K_V1", "pretrained"),
    ],
)
def test_what_is_not_there_is_refused(name: str, weights: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        backbones.build(name, weights)


@pytest.mark.parametrize(("name", "size"), [("maxvit_t", 224), ("inception_v3", 112)])
def test_networks_with_a_least_size_have_maps_too(name: str, size: int) -> None:
    backbone = backbones.build(name, None, size)
    with torch.no_grad():
        features = backbone.network.eval()(torch.rand(1, 3, size, size))
    assert features.shape[:2] == (1, backbone.channels)
    assert features[0, 0].numel() > 1


def test_a_timm_network_is_built_for_the_size() -> None:
    backbone = backbones.build("timm/efficientformerv2_s0", None, 320)
    with torch.no_grad():
        features = backbone.network.eval()(torch.rand(1, 3, 320, 320))
    assert features.shape == (1, backbone.channels, 10, 10)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "ghostnet_050", "efficientnet_b0"])
def test_what_no_feature_depends_on_is_not_trained_and_keeps_its_name(name: str) -> None:
    timm = pytest.importorskip("timm")
    backbone = backbones.build(f"timm/{name}", None).network
    backbone(IMAGES_BCHW.repeat(2, 1, 1, 1)).square().sum().backward()
    assert all(p.requires_grad == (p.grad is not None) for p in backbone.parameters())
    has_head = "network.conv_head.weight" in dict(backbone.named_parameters())
    assert has_head
    assert backbone.network.conv_head.weight.requires_grad == (name == "efficientnet_b0")
    assert len(timm.create_model(name, num_classes=0).state_dict()) == len(backbone.state_dict())


def test_a_network_without_maps_is_not_blamed_on_the_size() -> None:
    with pytest.raises(InputError, match=r"levit_128s has no feature maps \(.*Fix: choose another"):
        backbones.build("timm/levit_128s", None, 96)


@pytest.mark.parametrize(("name", "size"), [("maxvit_t", 100), ("inception_v3", 40)])
def test_a_size_that_a_network_cannot_take_is_one_line(name: str, size: int) -> None:
    with pytest.raises(InputError, match=f"{name} gives no feature maps of {size} x") as refused:
        backbones.build(name, None, size)
    assert "\n" not in str(refused.value)


def test_looking_for_the_channels_changes_nothing() -> None:
    torch.manual_seed(0)
    reference = torchvision.models.resnet18()
    following = torch.rand(1)
    torch.manual_seed(0)
    network = backbones.build("resnet18", None).network
    assert torch.equal(torch.rand(1), following)
    assert network.training
    ours, theirs = network[1].state_dict(), reference.bn1.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("resnet18", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ("efficientnet_v2_l", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
        ("googlenet", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
        ("timm/vit_tiny_patch16_224", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
        ("timm/convnext_atto", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    ],
)
def test_pixels_are_scaled_as_the_weights_expect(
    name: str, mean: tuple[float, ...], std: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: torch.nn.Conv2d(3, 1, 1))
    backbone = backbones.build(name, None)
    assert (backbone.mean, backbone.std) == (mean, std)


@pytest.mark.parametrize(
    ("name", "weights"), [("resnet18", "IMAGENET1K_V1"), ("timm/resnet18", "pretrained")]
)
def test_weights_that_cannot_be_fetched_are_one_line(
    name: str, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = pytest.importorskip("timm")

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    monkeypatch.setattr(timm.models._builder, "load_pretrained", offline)
    with pytest.raises(InputError, match="cannot be had \\(no route to host\\)"):
        backbones.build(name, weights)
