"""Score classes by beam search over label sequences: the recurrent part of CNN-RNN.

Shapes: B images, T labels so far, H size of the state, W paths kept, X = W K continuations.
"""

from __future__ import annotations

import torch

from pipeline.models.cam_head import CamHead, RefinedHead

_LARGEST = -1e-16
"""Log of the largest probability that float64 can tell from 1."""


class Recurrence(torch.nn.Module):
    """Predict the next label's logits from the labels so far (Wang et al. 2016).

    Args:
        num_classes: K.
        embedding: size of a label's embedding.
        hidden: size of the LSTM.
    """

    def __init__(self, num_classes: int, embedding: int, hidden: int) -> None:
        super().__init__()
        # The last row stands for the start of a sequence.
        self.embed = torch.nn.Embedding(num_classes + 1, embedding)
        self.lstm = torch.nn.LSTM(embedding, hidden, batch_first=True)
        self.project = torch.nn.Linear(hidden, embedding)

    def forward(self, previous_BT: torch.Tensor, last: bool = False) -> torch.Tensor:
        """Compute fp32 (B, T + 1, K) to add to the image's logits, before and after labels.

        Args:
            previous_BT: int64 labels; entries after -1, the end of a sequence, have no meaning.
            last: compute only the step after the last label, (B, 1, K).
        """
        K = len(self.embed.weight) - 1
        start_B1 = previous_BT.new_full((len(previous_BT), 1), K)
        inputs_BT = torch.cat([start_B1, previous_BT.clamp(min=0)], 1)
        if not len(inputs_BT):
            return self.embed.weight.new_zeros(0, 1 if last else inputs_BT.shape[1], K)
        states_BTH, _ = self.lstm(self.embed(inputs_BT))
        if last:
            states_BTH = states_BTH[:, -1:]
        # Labels are scored by their own embeddings, as in the paper.
        return torch.tanh(self.project(states_BTH)) @ self.embed.weight[:-1].T


@torch.no_grad()
def search(
    recurrence: Recurrence, logits_BK: torch.Tensor, *, beam: int, steps: int
) -> torch.Tensor:
    """Search for the likeliest label sequences of each image.

    Paths are kept by the product of their labels' probabilities; a path names a label once.

    Args:
        recurrence: scores the next label.
        logits_BK: the image's part of the logits.
        beam: paths kept of each image.
        steps: labels in a path, at most K.

    Returns:
        float64 (B, K): log of the largest probability of each class at any step of a kept path.
    """
    B, K = logits_BK.shape
    best_BK = torch.full((B, K), -torch.inf, dtype=torch.float64, device=logits_BK.device)
    paths_BWT = torch.zeros(B, 1, 0, dtype=torch.int64, device=logits_BK.device)
    weights_BW = best_BK.new_zeros(B, 1)
    for _ in range(min(steps, K)):
        W = paths_BWT.shape[1]
        steps_BWK = recurrence(paths_BWT.flatten(0, 1), last=True).view(B, W, K)
        # float64: probabilities near 1 would tie.
        log_BWK = torch.log_softmax((logits_BK[:, None] + steps_BWK).double(), 2)
        log_BWK.scatter_(2, paths_BWT, -torch.inf)
        # A beam wider than there are paths is filled up with impossible ones.
        log_BWK[weights_BW == -torch.inf] = -torch.inf
        best_BK = torch.maximum(best_BK, log_BWK.amax(1))
        joint_BX = (weights_BW[:, :, None] + log_BWK).flatten(1)
        weights_BW, places_BW = joint_BX.topk(min(beam, joint_BX.shape[1]), dim=1)
        kept_BWT = paths_BWT.take_along_dim((places_BW // K)[:, :, None], 1)
        paths_BWT = torch.cat([kept_BWT, (places_BW % K)[:, :, None]], 2)
    return best_BK


class BeamHead(RefinedHead):
    """Score classes by the log-odds of their best step in a beam search.

    Args:
        head: gives the image's part of the logits.
        recurrence: gives the part of the labels so far.
        beam: paths kept of each image.
        steps: labels in a path.
    """

    def __init__(self, head: CamHead, recurrence: Recurrence, *, beam: int, steps: int) -> None:
        convolution = head.classifier
        super().__init__(
            convolution.in_channels, convolution.out_channels, head.alpha_train, head.alpha_infer
        )
        self.classifier, self.recurrence = convolution, recurrence
        self.beam, self.steps = beam, steps

    def refined(self, logits_BK: torch.Tensor) -> torch.Tensor:
        """Compute fp32 log-odds (B, K) of the largest probability at any step of any kept path."""
        log_BK = search(self.recurrence, logits_BK, beam=self.beam, steps=self.steps)
        log_BK = log_BK.clamp(max=_LARGEST)
        return (log_BK - torch.log(-torch.expm1(log_BK))).float()
