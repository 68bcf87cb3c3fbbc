"""Write the activation maps of a run as one page that needs no other file: a slider over epochs."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from sharding.thumbnails import data_uri

if TYPE_CHECKING:  # whoever adds to a page needs no torch
    from pipeline.inference.cams import Explained

_QUALITY = 80  # of the photographs: about 30 kB each at 448 pixels
_MOST_SLIDES = 20
_DATA = re.compile(rb'<script type="application/json" id="slides">(.*?)</script>', re.DOTALL)
_PAGE = Path(__file__).with_suffix(".html")


def slide(epoch: int, explained: Sequence[Explained]) -> dict[str, Any]:
    """Collect an epoch's pictures: photographs, both maps of each class, the scale they share.

    Args:
        epoch: counted from 1.
        explained: images and their maps.
    """
    from pipeline.inference import cam_figures  # whoever adds to a page needs no matplotlib

    images = []
    for each in explained:
        cams, photo = each.cams, Image.fromarray(each.cams.images_NHWC[0])
        pairs = list(zip(cams.raw_NPHW[0], cams.boosted_NPHW[0], strict=True))
        images.append(
            {
                "id": each.image_id,
                "present": list(each.present),
                "absent": list(each.absent),
                "photo": data_uri(photo, _QUALITY),
                "classes": [
                    {
                        "name": name,
                        "end": f"{cam_figures.scale_end(*pair):.2g}",
                        "maps": cam_figures.captioned_layers(*pair, cams.alpha),
                    }
                    for name, pair in zip(cams.names, pairs, strict=True)
                ],
            }
        )
    return {"epoch": epoch, "colours": list(cam_figures.COLOURS), "images": images}


def extend(page: bytes | None, title: str, new: dict[str, Any]) -> bytes:
    """Add an epoch's slide to a page, in the place of one of the same epoch.

    The page is sent anew each time: beyond `_MOST_SLIDES` it loses those nearest to others.

    Args:
        page: as made by this function; None for a new one.
        title: of the page.
        new: as of `slide`.
    """
    found = _DATA.search(page or b"")
    slides = {each["epoch"]: each for each in json.loads(found[1])} if found else {}
    slides[new["epoch"]] = new
    data = json.dumps([slides[epoch] for epoch in _kept(sorted(slides))]).replace("<", "\\u003c")
    filled = {"TITLE": html.escape(title), "DATA": data}
    return re.sub("TITLE|DATA", lambda name: filled[name[0]], _PAGE.read_text("utf-8")).encode()


def _kept(epochs: list[int]) -> list[int]:
    """Thin epochs evenly to `_MOST_SLIDES`, the first and the last among them."""
    while len(epochs) > _MOST_SLIDES:
        gaps = [after - before for before, after in zip(epochs, epochs[2:], strict=False)]
        del epochs[1 + gaps.index(min(gaps))]
    return epochs
