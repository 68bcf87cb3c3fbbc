"""LL-Cp's corrections of a checkpoint as an annotation CSV, to be laid over the labels."""

from __future__ import annotations

import numpy as np

from pipeline import checkpoint
from pipeline.methods.overlay import Overlay
from sharding.classes import ClassTable
from sharding.errors import InputError
from sharding.labels import format_image_ids

METHOD = "ll-cp"
# Of the rows; `sharding` knows it and lets such labels yield to any human's.
SOURCE = "ll-cp-correction"


def to_csv(directory: str, classes: ClassTable) -> tuple[str, int]:
    """(rows as of a V3 dump that call every corrected entry present, how many they are).

    Args:
        directory: a local checkpoint.
        classes: of the dataset.

    Raises:
        InputError: the checkpoint is of another method or class list.
    """
    meta = checkpoint.read_meta(directory)
    meta.check_classes(classes, directory)
    if meta.train_config.method != METHOD:
        raise InputError(
            f"method {meta.train_config.method} corrects nothing for good",
            file=directory,
            fix=f"pass a run of {METHOD}, or leave out --corrections to export candidates",
        )
    overlay = Overlay()
    overlay.load_state_dict(checkpoint.load_training(directory)["method"])
    ids_M, classes_M = (column.numpy() for column in overlay.entries())
    ids = format_image_ids(ids_M.view(np.uint64))
    lines = (f"{i},{SOURCE},{classes.mids[k]},1\n" for i, k in zip(ids, classes_M, strict=True))
    return "".join(["ImageID,Source,LabelName,Confidence\n", *lines]), len(ids)
