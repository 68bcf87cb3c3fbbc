"""Write the review sheet: candidates with photographs and activation maps, to judge by eye."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from pipeline.audit import review_page
from pipeline.audit.candidates import Candidates
from pipeline.audit.review_page import Row
from pipeline.inference import cam_figures
from pipeline.inference.predictor import Predictor
from sharding.classes import ClassTable
from sharding.image_ids import format_image_ids
from sharding.labels import NEGATIVE, POSITIVE, LabelTable
from sharding.storage.files import replacing

Entry = tuple[str, int]
"""(image id, class index)."""
Pictures = list[tuple[str, str]]
"""(caption, data URI) of each."""
_SIDE = 320
"""Pixels of the longer side of a picture: about 10 kB each."""
_QUALITY = 85


def write_sheet(
    path: Path,
    chosen: Candidates,
    *,
    title: str,
    file: str,
    classes: ClassTable,
    observed: LabelTable,
    model: Predictor,
    images: Iterable[tuple[str, bytes]],
    command: str,
) -> None:
    """Write the sheet, a single HTML file, atomically.

    Args:
        path: where to.
        chosen: what to review, in this order.
        title, file, command: see `review_page.page`.
        classes: of the dataset.
        observed: labels trained on, which are shown to the reviewer.
        model: whose activation maps are shown.
        images: (id, encoded image) of every candidate's image, in any order.
    """
    pictures = dict(_pictures(chosen, model, images))
    rows = list(_rows(chosen, classes, observed, pictures))
    note = (
        f"Maps of the checkpoint after epoch {model.meta.epoch}: "
        "orange speaks for the class, blue against it."
    )
    with replacing(path) as temporary:
        temporary.write_text(review_page.page(title, note, file, rows, command), encoding="utf-8")


def _rows(
    chosen: Candidates,
    classes: ClassTable,
    observed: LabelTable,
    pictures: Mapping[Entry, Pictures],
) -> Iterator[Row]:
    """Make the page's row of each candidate."""
    entries = zip(format_image_ids(chosen.image_ids_N), chosen.classes_N.tolist(), strict=True)
    for n, (image_id, k) in enumerate(entries):
        yield Row(
            image_id=image_id,
            mid=classes.mids[k],
            name=classes.names[k],
            facts=[
                ("probability", _percent(chosen.probabilities_N[n])),
                ("loss", f"{chosen.losses_N[n]:.2f}"),
                (
                    "training",
                    f"{chosen.decisions_N[n]} ({chosen.method}, epoch {chosen.epoch})",
                ),
                *_observed_facts(observed, chosen.image_ids_N[n : n + 1], classes),
                ("image", image_id),
            ],
            pictures=pictures[image_id, k],
        )


def _pictures(
    chosen: Candidates, model: Predictor, images: Iterable[tuple[str, bytes]]
) -> Iterator[tuple[Entry, Pictures]]:
    """Draw the photograph and its two maps for every candidate."""
    wanted = defaultdict(list)
    for image_id, k in zip(format_image_ids(chosen.image_ids_N), chosen.classes_N, strict=True):
        wanted[image_id].append(int(k))
    for image_id, content in images:
        photo = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
        photo.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        image_HWC = np.asarray(photo)
        cams = model.cam([content], wanted[image_id])
        for p, k in enumerate(wanted[image_id]):
            maps = cams.raw_NPHW[0, p], cams.boosted_NPHW[0, p]
            raw_HWC, boosted_HWC = cam_figures.cam_pictures(image_HWC, *maps)
            raw, boosted = (f"{m.mean():+.2f}".replace("-", "−") for m in maps)
            yield (
                (image_id, k),
                [
                    ("photograph", _uri(image_HWC)),
                    (f"raw map, score {raw}", _uri(raw_HWC)),
                    (f"BoostLU (α = {cams.alpha:g}), score {boosted}", _uri(boosted_HWC)),
                ],
            )


def _percent(probability: float) -> str:
    # Rounding would call a great many certain.
    return "above 99.9 %" if probability > 0.999 else f"{100 * probability:.1f} %"


def _observed_facts(
    observed: LabelTable, image_ids_1: npt.NDArray[np.uint64], classes: ClassTable
) -> list[tuple[str, str]]:
    """List the image's observed classes by state."""
    entries = observed.observed(observed.rows_of(image_ids_1))
    facts = []
    for label, state in (("humans saw", POSITIVE), ("ruled out", NEGATIVE)):
        names = [classes.names[int(k)] for k in entries.classes_E[entries.states_E == state]]
        if names:
            facts.append((label, ", ".join(names)))
    return facts


def _uri(image_HWC: npt.NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
