"""The graph over classes refines every score of the head, and is trained and kept with it."""

from __future__ import annotations

import torch

from pipeline.config.sections import ModelConfig
from pipeline.models import cam_net
from pipeline.models.cam_head import CamHead
from pipeline.models.label_graph import GraphHead, LabelGraph


def make() -> tuple[GraphHead, CamHead, torch.Tensor]:
    torch.manual_seed(0)
    head = GraphHead(8, 5, 2.0, 5.0, hidden=6)
    plain = CamHead(8, 5, 2.0, 5.0)
    plain.classifier.load_state_dict(head.classifier.state_dict())
    return head, plain, torch.randn(3, 8, 4, 4)


def test_logits_are_those_of_the_head_refined() -> None:
    head, plain, features_BDHW = make()
    torch.testing.assert_close(head(features_BDHW), head.graph(plain(features_BDHW)))
    raw_BK, boosted_BK = head.both(features_BDHW)
    torch.testing.assert_close(boosted_BK, head.eval()(features_BDHW))
    rows_E, classes_E = torch.tensor([2, 0, 1]), torch.tensor([4, 0, 0])
    raw_E, boosted_E = head.pair_scores(features_BDHW, rows_E, classes_E)
    torch.testing.assert_close(raw_E, raw_BK[rows_E, classes_E])
    torch.testing.assert_close(boosted_E, boosted_BK[rows_E, classes_E])
    torch.testing.assert_close(head.cam(features_BDHW), plain.cam(features_BDHW))


def test_scores_stay_fp32_under_autocast() -> None:
    head, _, features_BDHW = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_BK = head(features_BDHW)
    assert logits_BK.dtype is torch.float32
    assert not torch.equal(logits_BK, logits_BK.bfloat16().float())


def test_the_configuration_makes_it_and_the_optimizer_has_it() -> None:
    model = cam_net.build(ModelConfig(backbone="resnet18", label_graph=6), 5)
    assert isinstance(model.head, GraphHead)
    groups = cam_net.parameter_groups(model, 1e-3, 10.0)
    assert {id(p) for p in model.head.graph.parameters()} <= {id(p) for p in groups[1]["params"]}
    assert {id(p) for group in groups for p in group["params"]} == set(map(id, model.parameters()))
    assert not isinstance(cam_net.build(ModelConfig(backbone="resnet18"), 5).head, GraphHead)


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
