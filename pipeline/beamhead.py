"""CNN-RNN's own prediction: a head that scores classes by beam search over label sequences.

Training scores an image by its own part of the logits, as with every method; the recurrent part
is state of the method. `attach` brings both together from a checkpoint, to score with.
"""

from __future__ import annotations

import torch

from pipeline.checkpoint import Meta, load_training
from pipeline.head import CamHead
from pipeline.methods.binding import create_for
from pipeline.methods.cnn_rnn import CnnRnn
from pipeline.methods.recurrence import Recurrence, search
from pipeline.model import CamNet
from pipeline.refinedhead import RefinedHead
from sharding.errors import InputError

METHOD = "cnn-rnn"
_LARGEST = -1e-16  # log of the largest probability below 1 that a float64 tells from it


class BeamHead(RefinedHead):
    """A trained head and a recurrence; logits are log-odds of each class's best step.

    Args:
        head: gives the image's part of the logits.
        recurrence: what the labels so far add.
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
        """fp32 log-odds (B, K) of the largest probability at any step of any path kept."""
        log_BK = search(self.recurrence, logits_BK, beam=self.beam, steps=self.steps)
        log_BK = log_BK.clamp(max=_LARGEST)
        return (log_BK - torch.log(-torch.expm1(log_BK))).float()


def check(meta: Meta, directory: str, beam: int) -> None:
    """Refuse a beam search that there is nothing for.

    Raises:
        InputError: the checkpoint is of another method, or the beam below 0.
    """
    method = meta.train_config.method
    if beam < 0 or (beam and method != METHOD):
        raise InputError(
            f"beam {beam} for a checkpoint of {method}",
            file=directory,
            fix=f"pass 1 or more for a run of {METHOD}, and leave it out for others",
        )


def attach(model: CamNet, meta: Meta, directory: str, beam: int) -> CamNet:
    """Have a checkpoint's network score by beam search.

    Args:
        model: of the checkpoint; its head is replaced.
        meta: of the checkpoint.
        directory: the checkpoint, local or a URL.
        beam: paths kept of each image; 0 leaves the network as it is.

    Raises:
        InputError: as of `check`.
    """
    check(meta, directory, beam)
    if not beam:
        return model
    method = create_for(meta.train_config, mids=meta.mids, num_images=0)
    assert isinstance(method, CnnRnn)
    method.load_state_dict(load_training(directory)["method"])
    model.head = BeamHead(model.head, method.recurrence(), beam=beam, steps=method.max_labels)
    return model.eval()
