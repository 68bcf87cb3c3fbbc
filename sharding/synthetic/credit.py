"""Who took a photograph and what it is called: the invented columns of `images.csv`.

As in Open Images V3: a few titles with commas, HTML entities and letters beyond ASCII, some
thumbnails missing. Every address lies under a domain that is reserved for examples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LICENCE = "https://creativecommons.org/publicdomain/zero/1.0/"
_AUTHORS = ("Ada O&#x27;Pixel", "José Ruído", "Noise &amp; Field", "P. Procedural", "Zoë Gradient")
_TITLES = ("Still life", "Tabletop", "Früh am Morgen", "Things I found", "Untitled", "Desk")
_NO_THUMBNAIL, _OLD_THUMBNAIL, _COMMA = 0.02, 0.1, 0.07


@dataclass(frozen=True, kw_only=True)
class Credit:
    """Six columns of a row of `images.csv`."""

    url: str
    landing_url: str
    profile_url: str
    author: str
    title: str
    thumbnail_url: str


def credit(rng: np.random.Generator) -> Credit:
    """Invent the credit of one photograph."""
    number, author = int(rng.integers(10**9, 10**10)), int(rng.integers(len(_AUTHORS)))
    host, folder = f"https://c{int(rng.integers(1, 9))}.photos.example.com", number % 9000
    profile = f"https://www.photos.example.com/people/{author + 1}/"
    suffix = "_z.jpg?zz=1" if rng.random() < _OLD_THUMBNAIL else "_z.jpg"
    thumbnail = f"{host}/{folder}/{number}{suffix}"
    return Credit(
        url=f"{host}/{folder}/{number}_o.jpg",
        landing_url=f"{profile.replace('people', 'photos')}{number}",
        profile_url=profile,
        author=_AUTHORS[author],
        title=_title(number, rng),
        thumbnail_url="" if rng.random() < _NO_THUMBNAIL else thumbnail,
    )


def _title(number: int, rng: np.random.Generator) -> str:
    if rng.random() < 0.4:
        return f"IMG_{number % 10000:04d}"
    title = _TITLES[int(rng.integers(len(_TITLES)))]
    return f"{title}, no. {number % 40}" if rng.random() < _COMMA / 0.6 else title
