"""Write the review sheet: questions with photographs and activation maps, to judge by eye."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.audit import review_page
from pipeline.audit.review_page import Pictures, Questions, Row, percent
from pipeline.inference import cam_figures, pixels
from pipeline.inference.predictor import Predictor
from sharding.classes import ClassTable
from sharding.image_ids import format_image_ids
from sharding.labels import NEGATIVE, POSITIVE, LabelTable
from sharding.progress import Progress
from sharding.storage.files import replacing
from sharding.thumbnails import thumbnail

Entry = tuple[str, int]
"""(image id, class index)."""
_SHEET_BYTES = 14_000_000
"""Of all photographs and maps of a sheet: browsers scroll it smoothly, mail servers take it."""


def write_sheet(
    path: Path,
    questions: Questions,
    *,
    title: str,
    file: str,
    classes: ClassTable,
    observed: LabelTable,
    model: Predictor,
    images: Iterable[tuple[str, bytes]],
    credits: Mapping[str, str],
    command: str,
) -> None:
    """Write the sheet, a single HTML file, atomically.

    Args:
        path: where to.
        questions: what to review.
        title, file, command: see `review_page.page`.
        classes: of the dataset.
        observed: labels of the images, which are shown to the reviewer.
        model: whose activation maps are shown.
        images: (id, encoded image) of every question's image, in any order.
        credits: author and licence by image id, as far as they are known.
    """
    with Progress(len(np.unique(questions.image_ids_N)), "review sheet", "image") as progress:
        pictures = dict(_pictures(questions, model, images, progress))
    rows = list(_rows(questions, classes, observed, pictures, credits))
    note = (
        f"Maps of the checkpoint after epoch {model.meta.epoch}: "
        "orange speaks for the class, blue against it. Its probability is of the score with "
        f"BoostLU. {questions.note}"
    )
    with replacing(path) as temporary:
        temporary.write_text(review_page.page(title, note, file, rows, command), encoding="utf-8")


def _rows(
    questions: Questions,
    classes: ClassTable,
    observed: LabelTable,
    pictures: Mapping[Entry, Pictures],
    credits: Mapping[str, str],
) -> Iterator[Row]:
    """Make the page's row of each question."""
    ids = format_image_ids(questions.image_ids_N)
    entries = zip(ids, questions.classes_N.tolist(), strict=True)
    for n, (image_id, k) in enumerate(entries):
        yield Row(
            image_id=image_id,
            mid=classes.mids[k],
            name=classes.names[k],
            facts=[
                *questions.facts_N[n],
                *_observed_facts(observed, questions.image_ids_N[n : n + 1], classes),
                ("image", image_id),
                *([("by", credits[image_id])] if image_id in credits else []),
            ],
            pictures=pictures[image_id, k],
        )


def _pictures(
    questions: Questions,
    model: Predictor,
    images: Iterable[tuple[str, bytes]],
    progress: Progress,
) -> Iterator[tuple[Entry, Pictures]]:
    """Make the thumbnail of the photograph and draw its two maps for every question."""
    wanted = defaultdict(list)
    ids = format_image_ids(questions.image_ids_N)
    for image_id, k in zip(ids, questions.classes_N, strict=True):
        wanted[image_id].append(int(k))
    for image_id, content in images:
        upright_HWC = pixels.upright(content)
        photo = Image.fromarray(upright_HWC)
        small = thumbnail(photo, _SHEET_BYTES // len(questions) * 2 // 3)  # a third is for maps
        maps = _maps(model, upright_HWC, wanted[image_id])
        for k, of_class in zip(wanted[image_id], maps, strict=True):
            yield (
                (image_id, k),
                Pictures(
                    photo=small,
                    ratio=photo.width / photo.height,
                    maps=of_class,
                ),
            )
        progress.advance()


def _maps(
    model: Predictor, upright_HWC: npt.NDArray[np.uint8], classes: list[int]
) -> Iterator[list[tuple[str, str]]]:
    """Draw an image's maps of each class, with captions; none where the head has no maps."""
    if not model.model.has_maps:
        yield from ([] for _ in classes)
        return
    cams = model.cam([upright_HWC], classes)
    for maps in zip(cams.raw_NPHW[0], cams.boosted_NPHW[0], strict=True):
        raw, (caption, layer) = cam_figures.captioned_layers(*maps, cams.alpha)
        probability = percent(1 / (1 + math.exp(-maps[1].mean())))
        yield [raw, (f"{caption}, probability {probability}", layer)]


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
