"""The network: shapes, the head's learning rate, weights from a name or a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

from pipeline.config.sections import ModelConfig
from pipeline.models import cam_net
from pipeline.models.cam_head import boostlu
from sharding.errors import InputError

IMAGES_BHWC = torch.randint(0, 255, (2, 96, 64, 3), dtype=torch.uint8)


@pytest.mark.parametrize(("backbone", "D"), [("resnet18", 512), ("resnet50", 2048)])
def test_shapes(backbone: str, D: int) -> None:
    model = cam_net.build(ModelConfig(backbone=backbone), 7).eval()
    assert model.features(IMAGES_BHWC).shape == (2, D, 3, 2)
    assert model(IMAGES_BHWC).shape == (2, 7)
    assert model.head.cam(model.features(IMAGES_BHWC)).shape == (2, 7, 3, 2)


@pytest.mark.parametrize(
    "backbone", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5", "timm/test_vit"]
)
def test_the_mean_of_a_boosted_map_is_the_logit(backbone: str) -> None:
    model = cam_net.build(ModelConfig(backbone=backbone), 3, 96).eval()
    images_BHWC = torch.randint(0, 255, (2, 96, 96, 3), dtype=torch.uint8)
    with torch.no_grad():
        cam_BKHW = model.head.cam(model.features(images_BHWC))
        boosted_BK = boostlu(cam_BKHW, model.head.alpha_infer).mean((2, 3))
        torch.testing.assert_close(model(images_BHWC), boosted_BK, rtol=1e-4, atol=1e-4)
    assert cam_BKHW.shape[-1] > 1


def test_without_boost_it_is_the_torchvision_network() -> None:
    config = ModelConfig(backbone="resnet18", alpha_train=1, alpha_infer=1)
    model = cam_net.build(config, 1000).eval()
    reference = torchvision.models.resnet18().eval()
    body = [*reference.children()][:-2]
    for ours, theirs in zip(model.backbone, body, strict=True):
        ours.load_state_dict(theirs.state_dict())
    state = {"weight": reference.fc.weight[:, :, None, None], "bias": reference.fc.bias}
    model.head.classifier.load_state_dict(state)
    images_BCHW = IMAGES_BHWC.permute(0, 3, 1, 2).float() / 255
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = reference((images_BCHW - mean) / std)
        torch.testing.assert_close(model(IMAGES_BHWC), expected, rtol=1e-4, atol=1e-4)


def test_the_head_learns_faster() -> None:
    model = cam_net.build(ModelConfig(backbone="resnet18"), 3)
    body, head = cam_net.parameter_groups(model, 1e-5, 10)
    assert (body["lr"], head["lr"]) == pytest.approx((1e-5, 1e-4))
    ours = {id(p) for group in (body, head) for p in group["params"]}
    assert ours == {id(p) for p in model.parameters()}
    assert len(head["params"]) == 2


def test_weights_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    trained = torchvision.models.resnet18(num_classes=11)
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    config = ModelConfig(backbone="resnet18", weights=str(tmp_path / "weights.pt"))
    model = cam_net.build(config, 4)
    assert torch.equal(model.backbone[0].weight, trained.conv1.weight)


@pytest.mark.parametrize("backbone", ["resnet18", "timm/test_resnet"])
def test_weights_of_a_network_of_ours_with_another_class_list(
    tmp_path: Path, backbone: str
) -> None:
    torch.manual_seed(1)
    trained = cam_net.build(ModelConfig(backbone=backbone), 11)
    trained.load_state_dict({**trained.state_dict(), "mean": trained.mean + 1})
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    config = ModelConfig(backbone=backbone, weights=str(tmp_path / "model.pt"))
    model = cam_net.build(config, 4)
    theirs, ours = trained.state_dict(), model.state_dict()
    taken = [key for key in ours if not key.startswith("head.")]
    assert [key for key in taken if not torch.equal(ours[key], theirs[key])] == []
    assert {"mean", "std"} < {*taken}
    assert model(torch.zeros(2, 64, 64, 3, dtype=torch.uint8)).shape == (2, 4)
    with pytest.raises(InputError, match="do not fit the backbone: backbone"):
        cam_net.build(ModelConfig(backbone="resnet34", weights=config.weights), 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "resnet19"}, "resnet18"),
        ({"weights": "IMAGENET1K_V9"}, "IMAGENET1K_V1"),
    ],
)
def test_unknown_names_list_those_there_are(changes: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cam_net.build(ModelConfig(**{"backbone": "resnet18", **changes}), 2)


def test_weights_are_channels_last_where_they_have_an_image_plane() -> None:
    model = cam_net.build(ModelConfig(backbone="timm/lambda_resnet26t"), 3, 64)
    dims = {weights.dim() for weights in model.backbone.parameters()}
    assert dims >= {1, 4, 5}
    for weights in model.backbone.parameters():
        if weights.dim() == 4:
            assert weights.is_contiguous(memory_format=torch.channels_last)
    assert model(torch.zeros(2, 64, 64, 3, dtype=torch.uint8)).shape == (2, 3)


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "other.pt")
    config = ModelConfig(backbone="resnet18", weights=str(tmp_path / "other.pt"))
    with pytest.raises(InputError, match="do not fit"):
        cam_net.build(config, 2)


def test_a_file_that_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    (tmp_path / "junk.pt").write_bytes(b"junk")
    config = ModelConfig(backbone="resnet18", weights=str(tmp_path / "junk.pt"))
    with pytest.raises(InputError, match="not a state dict"):
        cam_net.build(config, 2)


def test_a_networks_own_mean_is_kept_with_its_weights() -> None:
    """A checkpoint of 0.1.0 was trained with ImageNet's mean, which stays with it."""
    timm = cam_net.build(ModelConfig(backbone="timm/test_vit"), 3)
    assert timm.mean.flatten().tolist() == [127.5] * 3
    before = cam_net.build(ModelConfig(backbone="resnet18"), 3)
    timm.load_state_dict({**timm.state_dict(), "mean": before.mean, "std": before.std})
    assert torch.equal(timm.mean, before.mean)
