"""The approximation of CNN-RNN, and the graph network of curriculum labelling."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import methods
from pipeline.config.sections import ModelConfig
from pipeline.config.train import TrainConfig
from pipeline.inference.beam import attach, check
from pipeline.models import beam_head, cam_net, checkpoint
from pipeline.models.beam_head import Recurrence, search
from pipeline.models.cam_head import CamHead
from pipeline.models.label_graph import LabelGraph
from sharding.errors import InputError

LABELS_BK = torch.tensor([[1, -1, 1, 0], [-1, -1, 1, -1], [-1, 0, -1, -1]], dtype=torch.int8)


def test_labels_come_most_frequent_first() -> None:
    method: Any = methods.create("cnn-rnn", 4, hidden=8, embedding=4)
    assert method._sequences(LABELS_BK).tolist() == [[0, 2], [2, -1], [-1, -1]]
    method.loss(torch.zeros(3, 4), LABELS_BK)
    method.end_epoch()
    assert method.frequency_K.tolist() == [1, 0, 2, 0]
    assert method._sequences(LABELS_BK).tolist() == [[2, 0], [2, -1], [-1, -1]]


def test_the_recurrent_part_learns_what_follows_what() -> None:
    method: Any = methods.create("cnn-rnn", 4, hidden=16, embedding=8, learning_rate=0.02)
    logits_BK = torch.zeros(3, 4, requires_grad=True)
    method.end_epoch()
    losses = [method.loss(logits_BK, LABELS_BK)[0].item() for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    p_BK = search(method.recurrence(), torch.zeros(1, 4), beam=2, steps=10).exp()
    assert p_BK[0, 2] > 0.4, "the label seen most"
    assert p_BK[0].max() <= 1
    assert p_BK[0, 1] < p_BK[0, 0]


@pytest.mark.parametrize("beam", [1, 2, 5, 100])
def test_the_search_equals_one_over_lists(beam: int) -> None:
    torch.manual_seed(beam)
    K, steps = 5, 3
    recurrence = Recurrence(K, 4, 8)
    with torch.no_grad():
        recurrence.embed.weight.mul_(4)  # so that what comes before matters
    logits_BK = torch.randn(6, K)
    found_BK = search(recurrence, logits_BK, beam=beam, steps=steps)
    for logits_K, found_K in zip(logits_BK, found_BK, strict=True):
        best, kept = [-math.inf] * K, [(0.0, ())]
        for _ in range(steps):
            grown: list[Any] = []
            for weight, path in kept:
                with torch.no_grad():
                    added_K = recurrence(torch.tensor([path], dtype=torch.int64))[0, -1]
                logs = (logits_K + added_K).double().log_softmax(0).tolist()
                for k in set(range(K)) - set(path):
                    best[k] = max(best[k], logs[k])
                    grown.append((weight + logs[k], (*path, k)))
            kept = sorted(grown, reverse=True)[:beam]
        assert found_K.tolist() == pytest.approx(best, abs=1e-6)


def test_a_checkpoint_scores_by_its_sequences(tmp_path: Path) -> None:
    config = TrainConfig(dataset="d", method="cnn-rnn", method_options=("hidden=8", "embedding=4"))
    method: Any = methods.create("cnn-rnn", 4, hidden=8, embedding=4)
    for _ in range(5):
        method.loss(torch.zeros(3, 4, requires_grad=True), LABELS_BK)
    meta = written(tmp_path, config, method)
    model, _ = checkpoint.load_model(tmp_path)
    plain: Any = copy.deepcopy(model)
    assert attach(model, meta, str(tmp_path), 0) is model
    assert not isinstance(model.head, beam_head.BeamHead)
    attach(model, meta, str(tmp_path), 2)
    features_BDHW = torch.randn(2, 512, 3, 3)
    expected_BK = search(method.recurrence(), plain.head(features_BDHW), beam=2, steps=10)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        raw_E, boosted_E = model.head.pair_scores(
            features_BDHW, torch.tensor([1]), torch.tensor([2])
        )
    assert boosted_E.sigmoid().item() == pytest.approx(expected_BK[1, 2].exp().item(), rel=1e-4)
    assert raw_E.dtype is torch.float32
    torch.testing.assert_close(model.head.cam(features_BDHW), plain.head.cam(features_BDHW))


def test_probabilities_near_1_do_not_tie() -> None:
    head = beam_head.BeamHead(CamHead(2, 3), Recurrence(3, 2, 2), beam=1, steps=1)
    torch.nn.init.zeros_(head.recurrence.embed.weight)
    scores_BK = head.refined(torch.tensor([[25.0, 0, 0], [26.0, 0, 0], [900.0, 0, 0]]))
    assert scores_BK[0, 0] < scores_BK[1, 0] < scores_BK[2, 0] < torch.inf
    assert scores_BK.isfinite().all()


def test_a_beam_for_another_method_is_refused(tmp_path: Path) -> None:
    meta = written(tmp_path, TrainConfig(dataset="d", method="an"), methods.create("an", 4))
    with pytest.raises(InputError, match="checkpoint of an"):
        check(meta, str(tmp_path), 2)
    check(meta, str(tmp_path), 0)


def written(folder: Path, config: TrainConfig, method: Any) -> checkpoint.Meta:
    """A checkpoint of a fresh network with a method's state."""
    config = dataclasses.replace(config, model=ModelConfig(backbone="resnet18"))
    meta = checkpoint.Meta(
        config=config.to_dict(),
        epoch=1,
        images_seen=2,
        world_size=1,
        classes_sha256="0" * 64,
        mids=list("abcd"),
        names=list("abcd"),
        dataset="d",
        dataset_digest="",
        labels="1",
    )
    model = cam_net.build(config.model, 4)
    state = {"method": method.state_dict()}
    checkpoint.save(folder, scored=model.state_dict(), training=state, meta=meta)
    return meta


def test_its_loss_is_the_cross_entropy_of_the_next_label() -> None:
    method: Any = methods.create("cnn-rnn", 4, hidden=8, embedding=4)
    logits_BK = torch.randn(3, 4)
    with torch.no_grad():
        loss, _ = method.loss(logits_BK, LABELS_BK)
        recur = method.recurrence()
        first = logits_BK + recur(torch.zeros(3, 0, dtype=torch.int64))[:, 0]
        second = logits_BK[0] + recur(torch.tensor([[0]]))[0, 1]
    logs = [first[0].log_softmax(0)[0], second.log_softmax(0)[2], first[1].log_softmax(0)[2]]
    torch.testing.assert_close(loss, -torch.stack(logs).mean())


def test_state_goes_on_where_it_was() -> None:
    def run(steps: int, state: Any = None) -> Any:
        method: Any = methods.create("cnn-rnn", 4, hidden=8, embedding=4)
        if state is not None:
            method.load_state_dict(state)
        logits_BK = torch.arange(12.0).view(3, 4).requires_grad_()
        losses = [method.loss(logits_BK, LABELS_BK)[0].item() for _ in range(steps)]
        return method.state_dict(), losses

    _, whole = run(4)
    state, first = run(2)
    _, second = run(2, state)
    assert whole == first + second


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(InputError):
        methods.create("cnn-rnn", 4, hidden=0)


def test_messages_are_the_mean_over_the_other_classes() -> None:
    torch.manual_seed(0)
    graph = LabelGraph(hidden=6, steps=1)
    logits_BK = torch.randn(2, 5)
    states = torch.nn.functional.pad(logits_BK[:, :, None], (0, 5))
    for b in range(2):
        for k in range(5):
            others = [torch.relu(graph.message(states[b, j])) for j in range(5) if j != k]
            message = torch.stack(others).mean(0)
            expected = graph.readout(graph.update(message[None], states[b, k][None]))[0, 0]
            torch.testing.assert_close(graph(logits_BK)[b, k], expected)
