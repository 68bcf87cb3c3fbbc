"""Annotate an image as partially as Open Images V3 does, and invent its row of `images.csv`.

Open Images V3 has, per labelled training image, 2.7 positive and 3.0 negative human labels (5.7,
47% positive), and 13.3 per validation and test image, 66% positive. Training images follow that:
two thirds of what is present is verified, the rest is unobserved although present. In validation
and test everything present is verified; that is four objects on average, so that filling up to 13
labels with verified absences leaves about 30% positive instead of V3's 66%.

As in V3's `images.csv` there are a few titles with commas, HTML entities and letters beyond ASCII,
and some thumbnails are missing. Every address is of a domain that is reserved for examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sharding.labels import NEGATIVE, POSITIVE
from sharding.synthetic.vocabulary import OUTSIDE, Vocabulary

LICENCE = "https://creativecommons.org/publicdomain/zero/1.0/"

_SHARE_VERIFIED = 0.66  # of what is present in a training image
_TRAIN_NEGATIVES = 2.85  # per image, on average
_HELD_OUT_LABELS = 13  # per validation or test image
_SHARE_OUTSIDE = 0.06  # of rows with a class outside the trainable list
# V3's negatives are proposals of a model that a human refused: similar to what is present.
_SHARE_HARD = 0.8
# Crowd verification is rare, and confirms more often than it refuses.
_SHARE_CROWD = {POSITIVE: 0.06, NEGATIVE: 0.01}

_AUTHORS = ("Ada O&#x27;Pixel", "José Ruído", "Noise &amp; Field", "P. Procedural", "Zoë Gradient")
_TITLES = ("Still life", "Tabletop", "Früh am Morgen", "Things I found", "Untitled", "Desk")
_NO_THUMBNAIL, _OLD_THUMBNAIL, _UNTITLED, _COMMA = 0.02, 0.1, 0.4, 0.07


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of `annotations-human.csv`, without the image id."""

    source: str
    mid: str
    confidence: int


@dataclass(frozen=True, kw_only=True)
class Credit:
    """Six columns of a row of `images.csv`."""

    url: str
    landing_url: str
    profile_url: str
    author: str
    title: str
    thumbnail_url: str


def annotate(
    present: Sequence[int], vocabulary: Vocabulary, *, train: bool, rng: np.random.Generator
) -> list[Row]:
    """Draw the verified rows of an image; present classes without a row are unobserved.

    Args:
        present: class indices of its objects.
        vocabulary: the classes.
        train: whether it is a training image.
        rng: generator of the draws.
    """
    verified = [k for k in present if not train or rng.random() < _SHARE_VERIFIED]
    count = rng.poisson(_TRAIN_NEGATIVES) if train else _HELD_OUT_LABELS - len(verified)
    absent = _negatives(present, vocabulary, int(count), rng)
    rows = [_row(vocabulary.kinds[k].mid, POSITIVE, rng) for k in verified]
    rows += [_row(vocabulary.kinds[k].mid, NEGATIVE, rng) for k in absent]
    if rng.random() < _SHARE_OUTSIDE * len(rows):
        mid, _ = OUTSIDE[int(rng.integers(len(OUTSIDE)))]
        rows.append(_row(mid, int(rng.integers(2)), rng))
    return [rows[i] for i in rng.permutation(len(rows))]


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


def _negatives(
    present: Sequence[int], vocabulary: Vocabulary, count: int, rng: np.random.Generator
) -> list[int]:
    """Draw absent classes, mostly those that share two of three parts with a present one."""
    K = len(vocabulary.kinds)
    weights_K = vocabulary.weights_K.copy()
    weights_K[list(present)] = 0
    hard_K = weights_K * (vocabulary.shared_parts_KK[list(present)] == 2).any(0)
    if hard_K.any():
        easy_K = (1 - _SHARE_HARD) * weights_K / weights_K.sum()
        weights_K = _SHARE_HARD * hard_K / hard_K.sum() + easy_K
    count = min(count, int(np.count_nonzero(weights_K)))
    return rng.choice(K, count, replace=False, p=weights_K / weights_K.sum()).tolist()


def _row(mid: str, confidence: int, rng: np.random.Generator) -> Row:
    is_crowd = rng.random() < _SHARE_CROWD[confidence]
    source = "crowdsource-verification" if is_crowd else "verification"
    return Row(source=source, mid=mid, confidence=confidence)


def _title(number: int, rng: np.random.Generator) -> str:
    if rng.random() < _UNTITLED:
        return f"IMG_{number % 10000:04d}"
    title = _TITLES[int(rng.integers(len(_TITLES)))]
    has_comma = rng.random() < _COMMA / (1 - _UNTITLED)
    return f"{title}, no. {number % 40}" if has_comma else title
