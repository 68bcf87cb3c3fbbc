"""Write the activation maps of a run as one page that needs no other file: a slider over epochs."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # whoever adds to a page needs no torch
    from pipeline.inference.cams import Cams

_WIDTH, _QUALITY = 900, 80  # of the pictures: about 40 kB each
_MOST_SLIDES = 20
_DATA = re.compile(rb'<script type="application/json" id="slides">(.*?)</script>', re.DOTALL)
_PAGE = Path(__file__).with_suffix(".html")


def slide(
    epoch: int, explained: Sequence[tuple[str, Cams]], pngs: Sequence[bytes]
) -> dict[str, Any]:
    """Collect an epoch's pictures.

    Args:
        epoch: counted from 1.
        explained: image ids and their maps.
        pngs: the drawn maps, one for each.
    """
    images = [
        {"id": image_id, "classes": list(cams.names), "picture": _embedded(png)}
        for (image_id, cams), png in zip(explained, pngs, strict=True)
    ]
    return {"epoch": epoch, "images": images}


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


def _embedded(png: bytes) -> str:
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.thumbnail((_WIDTH, 100 * _WIDTH))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
