"""Render the review sheet as one HTML file that needs no server and loads nothing.

Markup, style and script are the package's `review_page.html`, `.css` and `.js`. Decisions live in
the browser (and in its local storage, so that a closed tab loses none) until they are saved as the
CSV that the reshard job reads.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt

from sharding.image_ids import Ids
from sharding.thumbnails import breakable

Facts = Sequence[tuple[str, str]]
"""(label, value) pairs, plain text."""


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Entries to review, in this order: is the class in the image?

    Attributes:
        split, labels: whose images, and the label version that the answers are laid over.
        note: what the facts mean.
        image_ids_N, classes_N: the entries.
        facts_N: what is said of each.
    """

    split: str
    labels: str
    note: str
    image_ids_N: Ids
    classes_N: npt.NDArray[np.integer]
    facts_N: Sequence[Facts]

    def __len__(self) -> int:
        return len(self.image_ids_N)

    def followed_by(self, other: Questions) -> Questions:
        """Put other questions of the same split and labels after these."""
        return Questions(
            split=self.split,
            labels=self.labels,
            note=f"{self.note} {other.note}".strip(),
            image_ids_N=np.concatenate([self.image_ids_N, other.image_ids_N]),
            classes_N=np.concatenate([self.classes_N, other.classes_N]),
            facts_N=[*self.facts_N, *other.facts_N],
        )


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """A photograph and the maps over it; pictures are data URIs.

    Attributes:
        photo: thumbnail of the photograph.
        ratio: its width over its height.
        maps: (caption, transparent picture of any size), scaled up to the photograph's.
    """

    photo: str
    ratio: float
    maps: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A question as it is shown.

    Attributes:
        image_id, mid: what the reviewer's answer is about.
        name: of the class.
        facts: what is known of the entry and its image.
        pictures: what is looked at.
    """

    image_id: str
    mid: str
    name: str
    facts: Facts
    pictures: Pictures


def percent(probability: float) -> str:
    """Write a probability; rounding would call a great many certain."""
    return "above 99.9 %" if probability > 0.999 else f"{100 * probability:.1f} %"


def page(title: str, note: str, file: str, rows: Sequence[Row], command: str) -> str:
    """Render the HTML document.

    Args:
        title: what is reviewed.
        note: what the pictures show.
        file: name of the CSV that the reviewer saves; decisions are remembered under it.
        rows: in the order of review.
        command: that takes the CSV in.
    """
    parts = {
        "<!--title-->": html.escape(title),
        "<!--note-->": html.escape(note),
        "<!--file-->": html.escape(file),
        "<!--command-->": html.escape(command),
        "<!--count-->": str(len(rows)),
        "/*style*/": _packaged("review_page.css"),
        "/*script*/": _packaged("review_page.js"),
        "<!--rows-->": "\n".join(_row(number, row) for number, row in enumerate(rows, start=1)),
    }
    text = _packaged("review_page.html")
    for marker, part in parts.items():
        text = text.replace(marker, part)
    return text


def _packaged(name: str) -> str:
    """Read a text file that is installed with this module."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _row(number: int, row: Row) -> str:
    shown = [("photograph", ""), *((c, f'<img alt="" src="{u}">') for c, u in row.pictures.maps)]
    pictures = "".join(
        f'<figure><div class="frame" role="img" aria-label="{html.escape(caption)}">'
        f'<div class="photo{" pale" if layer else ""}"></div>{layer}</div>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, layer in shown
    )
    # The photograph stands once in the file and is shown three times.
    style = f"--photo:url({row.pictures.photo});--ratio:{row.pictures.ratio:.3f}"
    facts = "".join(
        f"<dt>{html.escape(label)}</dt><dd>{breakable(value)}</dd>" for label, value in row.facts
    )
    buttons = "".join(
        f'<button type="button" value="{value}" aria-pressed="false">{text}'
        f"<kbd>{text[0]}</kbd></button>"
        for value, text in (("1", "Positive"), ("0", "Negative"), ("?", "Unsure"))
    )
    return (
        f'<article tabindex="-1" data-image="{html.escape(row.image_id)}" '
        f'data-mid="{html.escape(row.mid)}" data-class="{html.escape(row.name)}">'
        f'<div class="pictures" data-name="{html.escape(row.name)}" style="{style}">{pictures}'
        '</div><div class="about">'
        f'<p class="number">{number}</p><h2>{html.escape(row.name)}</h2><dl>{facts}</dl>'
        f'<div class="answers" role="group" aria-label="{html.escape(row.name)}">{buttons}</div>'
        "</div></article>"
    )
