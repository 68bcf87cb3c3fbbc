"""Class activation maps of images x classes, as arrays, PNG and npz.

Class activation maps of a few images: what the network looked at, raw beside boosted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.labels import LabelledSplit
from pipeline.models.cam_head import boostlu
from pipeline.models.cam_net import CamNet
from sharding.image_ids import format_image_ids
from sharding.labels import POSITIVE


@dataclass(frozen=True, kw_only=True)
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

    def png(self, image: int, class_: int | None = None) -> bytes:
        """The image, the raw map over it and the boosted one; a row for each class, or for one."""
        from pipeline.inference import cam_figures  # matplotlib takes a second to import

        chosen = range(len(self.mids)) if class_ is None else [class_]
        maps = [
            (self.names[p], self.raw_NPHW[image, p], self.boosted_NPHW[image, p]) for p in chosen
        ]
        return cam_figures.png(
            cam_figures.cam_overlay(self.images_NHWC[image], maps, alpha=self.alpha)
        )

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
class Explanation:
    """The maps of one class in one image.

    Attributes:
        class_index: the class.
        raw_HW: its class activation map, fp32, at the feature map's size.
        boosted_HW: the map after BoostLU at the model's inference slope.
    """

    class_index: int
    raw_HW: npt.NDArray[np.float32]
    boosted_HW: npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ExplainedImage:
    """An image as the network saw it (uint8 RGB, H W 3) and its classes' maps."""

    image_id: str
    image_HWC: npt.NDArray[np.uint8]
    explanations: tuple[Explanation, ...]


@torch.inference_mode()
def explain(
    model: CamNet,
    split: LabelledSplit,
    *,
    images: int = 4,
    classes_per_image: int = 2,
) -> Iterator[ExplainedImage]:
    """The first images of a split that have a verified positive, with those classes' maps.

    The split's order is fixed, so every epoch and every run over it explains the same images.
    Of an image's verified positives the highest-scored are taken.
    """
    model.eval()
    shown = 0
    for batch in split.epoch(0):
        entries = batch.observed
        positive_E = entries.states_E == POSITIVE
        cam_BKHW = model.head.cam(model.features(batch.images_BHWC))
        for row, image_id in enumerate(format_image_ids(batch.image_ids_B)):
            classes = entries.classes_E[positive_E & (entries.rows_E == row)]
            if not len(classes):
                continue
            cam_PHW = cam_BKHW[row, torch.from_numpy(classes).to(cam_BKHW.device)].float()
            best = cam_PHW.mean((1, 2)).argsort(descending=True)[:classes_per_image].tolist()
            boosted_PHW = boostlu(cam_PHW, model.head.alpha_infer)
            yield ExplainedImage(
                image_id=image_id,
                image_HWC=batch.images_BHWC[row].cpu().numpy(),
                explanations=tuple(
                    Explanation(
                        class_index=int(classes[i]),
                        raw_HW=cam_PHW[i].cpu().numpy(),
                        boosted_HW=boosted_PHW[i].cpu().numpy(),
                    )
                    for i in best
                ),
            )
            shown += 1
            if shown == images:
                return
