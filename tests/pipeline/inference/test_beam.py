"""A CNN-RNN checkpoint scores images by beam search where that is asked for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import methods
from pipeline.config.train import TrainConfig
from pipeline.inference.beam import attach, check
from pipeline.models import checkpoint
from pipeline.models.beam_head import BeamHead, search
from sharding.errors import InputError
from tests.support.models import FEATURES, write_method_checkpoint

MIDS = list("abcd")


def test_a_checkpoint_scores_by_its_sequences(tmp_path: Path) -> None:
    config = TrainConfig(dataset="d", method="cnn-rnn", method_options=("hidden=8", "embedding=4"))
    labels_BK = torch.tensor([[1, -1, 1, 0], [-1, -1, 1, -1]], dtype=torch.int8)
    method: Any = methods.create("cnn-rnn", 4, hidden=8, embedding=4)
    for _ in range(5):
        method.loss(torch.zeros(2, 4, requires_grad=True), labels_BK)
    meta = write_method_checkpoint(tmp_path, method, MIDS, config)
    model, _ = checkpoint.load_model(tmp_path)
    plain: Any = copy.deepcopy(model)
    assert attach(model, meta, str(tmp_path), 0) is model
    assert not isinstance(model.head, BeamHead)
    attach(model, meta, str(tmp_path), 2)
    features_BDHW = torch.randn(2, FEATURES, 3, 3)
    expected_BK = search(method.recurrence(), plain.head(features_BDHW), beam=2, steps=10)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        raw_E, boosted_E = model.head.pair_scores(
            features_BDHW, torch.tensor([1]), torch.tensor([2])
        )
    assert boosted_E.sigmoid().item() == pytest.approx(expected_BK[1, 2].exp().item(), rel=1e-4)
    assert raw_E.dtype is torch.float32
    torch.testing.assert_close(model.head.cam(features_BDHW), plain.head.cam(features_BDHW))


def test_a_beam_for_another_method_is_refused(tmp_path: Path) -> None:
    config = TrainConfig(dataset="d", method="an")
    meta = write_method_checkpoint(tmp_path, methods.create("an", 4), MIDS, config)
    with pytest.raises(InputError, match="checkpoint of an"):
        check(meta, str(tmp_path), 2)
    check(meta, str(tmp_path), 0)
