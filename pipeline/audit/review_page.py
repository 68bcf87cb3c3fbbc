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


@dataclass(frozen=True, kw_only=True)
class Row:
    """A candidate as it is shown.

    Attributes:
        image_id, mid: what the reviewer's answer is about.
        name: of the class.
        facts: (label, value) pairs, plain text.
        pictures: (caption, data URI).
    """

    image_id: str
    mid: str
    name: str
    facts: Sequence[tuple[str, str]]
    pictures: Sequence[tuple[str, str]]


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
    pictures = "".join(
        f'<figure><img alt="{html.escape(caption)}" src="{uri}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, uri in row.pictures
    )
    facts = "".join(
        f"<dt>{html.escape(label)}</dt><dd>{html.escape(value)}</dd>" for label, value in row.facts
    )
    buttons = "".join(
        f'<button type="button" value="{value}" aria-pressed="false">{text}'
        f"<kbd>{text[0]}</kbd></button>"
        for value, text in (("1", "Positive"), ("0", "Negative"), ("?", "Unsure"))
    )
    return (
        f'<article data-image="{html.escape(row.image_id)}" data-mid="{html.escape(row.mid)}">'
        f'<div class="pictures">{pictures}</div><div class="about">'
        f'<p class="number">{number}</p><h2>{html.escape(row.name)}</h2><dl>{facts}</dl>'
        f'<div class="answers" role="group" aria-label="{html.escape(row.name)}">{buttons}</div>'
        "</div></article>"
    )
