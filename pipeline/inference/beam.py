"""Predict with CNN-RNN by beam search over label sequences.

Training scores an image by the network's logits alone, as with every method; the recurrent part is
state of the method. `attach` joins both from a checkpoint.
"""

from __future__ import annotations

from pipeline.methods.cnn_rnn import CnnRnn
from pipeline.methods.registry import create_for
from pipeline.models.beam_head import BeamHead
from pipeline.models.cam_head import CamHead
from pipeline.models.cam_net import CamNet
from pipeline.models.checkpoint import Meta, load_training
from sharding.errors import InputError

METHOD = "cnn-rnn"


def check(meta: Meta, directory: str, beam: int) -> None:
    """Refuse a beam search for a checkpoint of another method.

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
    """Replace the head of a checkpoint's network by one that scores by beam search.

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
    assert isinstance(model.head, CamHead)
    method.load_state_dict(load_training(directory)["method"])
    model.head = BeamHead(model.head, method.recurrence(), beam=beam, steps=method.max_labels)
    return model.eval()
