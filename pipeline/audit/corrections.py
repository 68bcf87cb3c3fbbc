"""Write LL-Cp's corrections: as a table in every checkpoint, and as a CSV of annotations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline.audit.candidates import annotation_csv
from pipeline.methods.parts.label_overlay import LabelOverlay
from pipeline.models import checkpoint
from sharding.classes import ClassTable
from sharding.errors import InputError
from sharding.image_ids import format_image_ids

METHOD = "ll-cp"
SOURCE = "ll-cp-correction"
"""Of the rows of a CSV; labels of this source yield to any human's."""
FILE = "corrections.parquet"


def write(directory: str, entries: tuple[torch.Tensor, torch.Tensor], classes: ClassTable) -> None:
    """Write `FILE` into a checkpoint, for anything that reads Parquet.

    Args:
        directory: of the checkpoint.
        entries: (image ids int64, classes int64), as of `LargeLossCorrectPermanent.corrections`.
        classes: of the dataset.
    """
    ids_M, classes_M = (column.numpy() for column in entries)
    columns = {
        "image_id": pa.array(format_image_ids(ids_M.view(np.uint64)), pa.string()),
        "class": pa.array(classes_M.astype(np.uint16)),
        "mid": pa.array([classes.mids[k] for k in classes_M], pa.string()),
    }
    pq.write_table(pa.table(columns), Path(directory) / FILE)


def to_csv(directory: str, classes: ClassTable) -> tuple[str, int]:
    """Write annotations that call every corrected entry present; return them and their number.

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
    overlay = LabelOverlay()
    overlay.load_state_dict(checkpoint.load_training(directory)["method"])
    ids_M, classes_M = (column.numpy() for column in overlay.entries())
    return annotation_csv(ids_M.view(np.uint64), classes_M, SOURCE, classes), len(ids_M)
