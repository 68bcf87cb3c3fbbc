"""Class activation maps of images x classes, as arrays, PNG and npz."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt


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
        from pipeline import figures  # matplotlib takes a second to import

        chosen = range(len(self.mids)) if class_ is None else [class_]
        maps = [
            (self.names[p], self.raw_NPHW[image, p], self.boosted_NPHW[image, p]) for p in chosen
        ]
        return figures.png(figures.cam_overlay(self.images_NHWC[image], maps, alpha=self.alpha))

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
