"""Class activation maps of a few images: what the network looked at, raw beside boosted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipeline.head import boostlu
from pipeline.labeljoin import LabelJoin
from pipeline.loader import Loader
from pipeline.model import CamNet
from sharding.labels import POSITIVE, format_image_ids


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
    loader: Loader,
    join: LabelJoin,
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
    for batch in loader.epoch(0):
        entries = join.observed(batch.image_ids_B)
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
