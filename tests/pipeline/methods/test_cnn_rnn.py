"""CNN-RNN: the order of labels, the loss of the next label, the state."""

from __future__ import annotations

from typing import Any

import torch

from pipeline import methods
from pipeline.models.beam_head import search

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
