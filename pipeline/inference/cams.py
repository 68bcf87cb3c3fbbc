"""Compute class activation maps: as arrays, PNG and npz, and of a split's verified positives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.labels import LabelledBatch
from pipeline.models.cam_head import boostlu
from pipeline.models.cam_net import CamNet
from sharding.classes import ClassTable
from sharding.image_ids import format_image_ids
from sharding.labels import NEGATIVE, POSITIVE
from sharding.log import count


@dataclass(frozen=True, kw_only=True, repr=False)
class Cams:
    """Maps of N images for P classes.

    Attributes:
        images_NHWC: uint8 RGB as the network saw them.
        mids, names: of the P classes.
        raw_NPHW: fp32 attribution scores at the feature map's size; their spatial mean is the
            logit without BoostLU.
        boosted_NPHW: the same after BoostLU; their mean is the logit the model predicts with.
        alpha: slope of BoostLU.
    """

    images_NHWC: npt.NDArray[np.uint8]
    mids: Sequence[str]
    names: Sequence[str]
    raw_NPHW: npt.NDArray[np.float32]
    boosted_NPHW: npt.NDArray[np.float32]
    alpha: float

    def png(self, image: int, class_: int | None = None, about: str = "") -> bytes:
        """Draw an image, its raw and its boosted map; a row for each class, or for one.

        Args:
            image: its place among the images.
            class_: place of the one class; all by default.
            about: line above the picture.
        """
        from pipeline.inference import cam_figures  # matplotlib takes a second to import

        chosen = range(len(self.mids)) if class_ is None else [class_]
        maps = [
            (self.names[p], self.raw_NPHW[image, p], self.boosted_NPHW[image, p]) for p in chosen
        ]
        return cam_figures.png(
            cam_figures.cam_overlay(self.images_NHWC[image], maps, alpha=self.alpha), about
        )

    def __repr__(self) -> str:
        return f"Cams({count(len(self.images_NHWC), 'image')}; {', '.join(self.names)})"

    def _repr_png_(self) -> bytes:
        """Show the first image in a notebook."""
        return self.png(0)

    def save(self, directory: str | Path) -> list[Path]:
        """Write ``cams.npz`` and one ``<image>-<MID>.png`` per pair; return their paths."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = folder / "cams.npz"
        np.savez_compressed(
            arrays,
            images=self.images_NHWC,
            mids=np.array(self.mids),
            names=np.array(self.names),
            raw=self.raw_NPHW,
            boosted=self.boosted_NPHW,
            alpha=np.float32(self.alpha),
        )
        written = [arrays]
        for image in range(len(self.images_NHWC)):
            for class_, mid in enumerate(self.mids):
                # A MID reads /m/0abc: its slashes would be directories.
                path = folder / f"{image:04d}-{mid.strip('/').replace('/', '_')}.png"
                path.write_bytes(self.png(image, class_))
                written.append(path)
        return written


@dataclass(frozen=True, kw_only=True)
class Explained:
    """Maps of one image of a split, and what people saw in it.

    Attributes:
        image_id: of the image.
        cams: its maps.
        present, absent: names of all classes that were verified so.
    """

    image_id: str
    cams: Cams
    present: Sequence[str]
    absent: Sequence[str]


def positive_maps(
    model: CamNet, batch: LabelledBatch
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the maps of a batch's verified positives before the boost.

    Args:
        model: in evaluation mode.
        batch: one image or more.

    Returns:
        int64 rows_P in the batch and classes_P, on the host; fp32 maps_PHW on the device.
    """
    positive_E = batch.observed.states_E == POSITIVE
    rows_P = torch.from_numpy(batch.observed.rows_E[positive_E])
    classes_P = torch.from_numpy(batch.observed.classes_E[positive_E])
    cam_BKHW = model.head.cam(model.features(batch.images_BHWC))
    return rows_P, classes_P, cam_BKHW[rows_P, classes_P].float()


@torch.inference_mode()
def explain(
    model: CamNet,
    batches: Iterable[LabelledBatch],
    classes: ClassTable,
    *,
    images: int = 4,
    classes_per_image: int = 2,
) -> Iterator[Explained]:
    """Compute maps of the first images that have a verified positive.

    The order of a split is fixed, and classes are not chosen by the model: every epoch and every
    run over it explains the same classes of the same images.

    Args:
        model: whose maps.
        batches: of the split, from its start.
        classes: of the model and the labels.
        images: how many.
        classes_per_image: of an image's verified positives the rarest, by training positives.

    Yields:
        The maps of one image after another; nothing of a head without maps.
    """
    if not model.has_maps:
        return
    model.eval()
    shown = 0
    for batch in batches:
        if not len(batch):
            continue
        rows_P, classes_P, maps_PHW = positive_maps(model, batch)
        ids = format_image_ids(batch.image_ids_B)
        for row in rows_P.unique().tolist():
            of_image = torch.nonzero(rows_P == row)[:, 0]
            positives_P = classes.positives_K[classes_P[of_image].numpy()]
            rarest = of_image[np.argsort(positives_P, kind="stable")[:classes_per_image]]
            chosen, raw_PHW = classes_P[rarest].tolist(), maps_PHW[rarest].cpu()
            yield Explained(
                image_id=ids[row],
                present=_names(batch, row, POSITIVE, classes),
                absent=_names(batch, row, NEGATIVE, classes),
                cams=Cams(
                    images_NHWC=batch.images_BHWC[row : row + 1].cpu().numpy(),
                    mids=[classes.mids[k] for k in chosen],
                    names=[classes.names[k] for k in chosen],
                    raw_NPHW=raw_PHW[None].numpy(),
                    boosted_NPHW=boostlu(raw_PHW, model.head.alpha_infer)[None].numpy(),
                    alpha=model.head.alpha_infer,
                ),
            )
            shown += 1
            if shown == images:
                return


def _names(batch: LabelledBatch, row: int, state: int, classes: ClassTable) -> list[str]:
    """List the classes of one image of a batch that have a state."""
    observed = batch.observed
    is_meant_E = (observed.rows_E == row) & (observed.states_E == state)
    return [classes.names[k] for k in observed.classes_E[is_meant_E].tolist()]
