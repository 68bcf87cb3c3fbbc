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
        ("timm/convnext_atto", (320, 3, 2)),
        ("timm/vit_tiny_patch16_224", (192, 6, 4)),
        ("timm/swin_tiny_patch4_window7_224", (768, 3, 2)),
    ],
)
def test_features_are_maps_and_every_parameter_is_trained(
    name: str, shape: tuple[int, ...]
) -> None:
    backbone, channels = backbones.build(name, None)
    features = backbone(IMAGES_BCHW)
    assert features.shape == (1, *shape)
    assert channels == shape[0]
    features.square().sum().backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", ["resnet18", "timm/mobilenetv3_small_050"])
def test_norms_over_all_ranks_compute_what_the_others_do(name: str) -> None:
    backbone, _ = backbones.build(name, None)
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
    backbone, _ = backbones.build("convnext_tiny", str(tmp_path / "weights.pt"))
    assert torch.equal(backbone[0][0].weight, trained.features[0][0].weight)


@pytest.mark.parametrize(
    ("name", "weights", "told"),
    [
        ("resnet19", None, "timm/<name> or one of .*resnet18"),
        ("alexnet", None, "resnet18"),
        ("timm/resnet19", None, "timm has no network"),
        ("timm/resnet18", "IMAGENET1K_V1", "pretrained"),
    ],
)
def test_what_is_not_there_is_refused(name: str, weights: str | None, told: str) -> None:
    with pytest.raises(InputError, match=told):
        backbones.build(name, weights)
