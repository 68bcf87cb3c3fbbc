"""The group decoder: shapes, its arithmetic against torch's own layer, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import methods
from pipeline.config.sections import ModelConfig
from pipeline.config.train import TrainConfig
from pipeline.inference.cams import explain
from pipeline.inference.predictor import Predictor
from pipeline.models import cam_net, checkpoint
from pipeline.models.ml_decoder import MlDecoder
from sharding.errors import InputError
from tests.support.models import SIZE, write_checkpoint

OFF = {"head": "ml-decoder", "alpha_train": 1.0, "alpha_infer": 1.0}
FEATURES_BDHW = torch.randn(2, 12, 3, 4, generator=torch.Generator().manual_seed(0))


def small(num_classes: int = 7, groups: int = 3) -> MlDecoder:
    torch.manual_seed(1)
    return MlDecoder(12, num_classes, groups=groups, width=16, attention_heads=2).eval()


def torchs_layer(head: MlDecoder) -> nn.TransformerDecoderLayer:
    """A layer of torch with the weights of a head, its self-attention giving the query itself."""
    layer = nn.TransformerDecoderLayer(16, 2, batch_first=True)
    attention, linears = layer.multihead_attn, (head.query, head.key, head.value)
    attention.in_proj_weight.data = torch.cat([linear.weight for linear in linears])
    attention.in_proj_bias.data = torch.cat([linear.bias for linear in linears])
    attention.out_proj, layer.linear1, layer.linear2 = (
        head.merge,
        head.feed_forward[0],
        head.feed_forward[3],
    )
    layer.norm1, layer.norm2, layer.norm3 = head.norms
    layer._sa_block = lambda x, *_, **__: x
    return layer.eval()


@torch.no_grad()
def test_logits_are_torchs_layer_and_a_linear_layer_per_group() -> None:
    head = small()
    torch.nn.init.normal_(head.bias_K)
    memory_BSM = torch.relu(head.embed(FEATURES_BDHW.flatten(2).transpose(1, 2)))
    queries_BGM = head.queries_GM.expand(2, -1, -1)
    torch.set_grad_enabled(True)  # torch's fast path would skip the replaced self-attention
    decoded_BGM = torchs_layer(head)(queries_BGM, memory_BSM)
    logits_BK = head(FEATURES_BDHW)
    for k in range(7):  # three classes a group
        expected_B = decoded_BGM[:, k // 3] @ head.weight_GMC[k // 3, :, k % 3] + head.bias_K[k]
        torch.testing.assert_close(logits_BK[:, k], expected_B)


def test_thousands_of_classes_cost_a_hundred_groups() -> None:
    head = MlDecoder(8, 5_000)
    assert head.queries_GM.shape == (100, 768)
    assert "queries_GM" not in dict(head.named_parameters()), "queries are fixed"
    assert sum(p.numel() for p in head.parameters()) < 10e6  # a CAM head of ResNet-50 has 10.2
    assert head(torch.randn(1, 8, 2, 2)).shape == (1, 5_000)


def test_pairs_are_entries_of_the_logits_and_every_weight_learns() -> None:
    head = small().train()
    torch.manual_seed(2)
    logits_BK = head(FEATURES_BDHW)
    logits_BK.sum().backward()
    # A key's bias moves all scores of a query alike; the last group has no third class.
    still = {name for name, p in head.named_parameters() if not p.grad.abs().sum() > 1e-4}
    assert still == {"key.bias"}
    head.eval()
    rows_E, classes_E = torch.tensor([1, 0, 1]), torch.tensor([6, 2, 0])
    raw_E, same_E = head.pair_scores(FEATURES_BDHW, rows_E, classes_E)
    assert torch.equal(raw_E, same_E)
    torch.testing.assert_close(raw_E, head(FEATURES_BDHW)[rows_E, classes_E])


@pytest.mark.parametrize("wrong", [{"alpha_train": 5.0}, {"alpha_infer": 5.0}, {"label_graph": 4}])
def test_boostlu_and_the_label_graph_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"no activation maps.*--alpha-infer 1"):
        ModelConfig(**{**OFF, **wrong})


def test_methods_that_need_a_cam_head_are_refused() -> None:
    config = TrainConfig(dataset="d", method="imcl", model=ModelConfig(**OFF))
    with pytest.raises(InputError, match="--head cam"):
        methods.create_for(config, mids=["/m/a"], num_images=1)
    assert "ml-decoder" in config.run_name


def test_a_checkpoint_predicts_and_has_no_maps(squares: Path, tmp_path: Path) -> None:
    saved = write_checkpoint(tmp_path / "checkpoint", squares, **OFF)
    model, meta = checkpoint.load_model(saved)
    assert isinstance(model.head, MlDecoder)
    pixels_HWC = np.zeros((SIZE, SIZE, 3), np.uint8)
    predictor = Predictor(model, meta)
    assert len(predictor.predict([pixels_HWC])[0].scores_K) == len(meta.mids)
    with pytest.raises(InputError, match="without class activation maps"):
        predictor.cam([pixels_HWC], [0])
    with pytest.raises(InputError, match=f"{saved}: ML-Decoder scores without"):
        meta.check_maps(saved)
    no_split: Any = None
    assert list(explain(model, no_split, no_split)) == []
    built = cam_net.build(meta.train_config.model, len(meta.mids))
    assert built.state_dict().keys() == model.state_dict().keys()
