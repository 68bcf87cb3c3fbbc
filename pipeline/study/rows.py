"""Parse a study's rows: the paper's tables by name, or methods with options and slopes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import get_args

from pipeline.config.sections import MethodName
from pipeline.study import published
from sharding.errors import InputError, unknown

_SLOPES = re.compile(r"([^/]+)/([^/]+)")
_FORM = "write method[:option=value,...][@alpha_train/alpha_infer], such as ll-r:delta_rel=0.5@5/5"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a study's table.

    Attributes:
        label: what the tables call it; unique within a study.
        method: its name.
        options: name=value, of the method or of the training.
        slopes: BoostLU's in training and in inference; None for those of the preset.
        published: of the paper: mAP in percent by name of its column.
    """

    label: str
    method: str
    options: tuple[str, ...] = ()
    slopes: tuple[float, float] | None = None
    published: Mapping[str, float] = field(default_factory=dict)


def parse(texts: Iterable[str], preset: str = "") -> tuple[Row, ...]:
    """Parse the rows of a study; the name of a table means all of its rows.

    Args:
        texts: as of `pipeline.config.study.StudyConfig.rows`.
        preset: whose data set's published numbers are shown, where a table has them.

    Raises:
        InputError: no such table or method, or another form.
    """
    rows: list[Row] = []
    for text in texts:
        rows += table(text, preset) if text in TABLES else [parse_row(text)]
    return tuple(rows)


def parse_row(text: str) -> Row:
    """Parse ``method[:option=value,...][@alpha_train/alpha_infer]``.

    A comma separates options where a name and "=" follow it; else it is part of a value.

    Raises:
        InputError: no such method, or another form.
    """
    head, at, slopes = text.partition("@")
    method, colon, options = head.partition(":")
    if method not in get_args(MethodName):
        raise unknown("method or table", method, [*TABLES, *get_args(MethodName)])
    return Row(
        label=text,
        method=method,
        options=_options(options, text) if colon else (),
        slopes=_slopes(slopes, text) if at else None,
    )


def _options(text: str, row: str) -> tuple[str, ...]:
    options = tuple(re.split(r",(?=[A-Za-z_]\w*=)", text))
    if not all(re.fullmatch(r"[A-Za-z_]\w*=.+", option) for option in options):
        raise InputError(f"row {row!r} has options that are not name=value", fix=_FORM)
    return options


def _slopes(text: str, row: str) -> tuple[float, float]:
    try:
        first, second = map(float, _SLOPES.fullmatch(text).groups())  # type: ignore[union-attr]
    except (ValueError, AttributeError):
        raise InputError(f"row {row!r} has no slopes after @", fix=_FORM) from None
    if not (first >= 1 and second >= 1):
        raise InputError(f"row {row!r}: BoostLU's slopes are 1 or more", fix=_FORM)
    return first, second


def table(name: str, preset: str) -> list[Row]:
    """List the rows of a table of the paper."""
    return [
        Row(label=label, method=method, slopes=slopes, published=published.of(name, label, preset))
        for label, method, slopes in TABLES[name]
    ]


_LARGE_LOSS = [
    (f"{label}{more}", label.lower(), (alpha, alpha))
    for label in ("LL-R", "LL-Ct", "LL-Cp")
    for more, alpha in (("", 1.0), ("+BoostLU", 5.0))
]
_OFF = (1.0, 1.0)
TABLES: Mapping[str, list[tuple[str, str, tuple[float, float]]]] = {
    "ablation": [
        (published.ablation_label(*row), row[2], (row[0], row[1])) for row in published.ablation()
    ],
    "single-positive": [
        ("Full Label", "full", _OFF),
        *(
            (name, name.lower().replace("+", "-"), _OFF)
            for name in ("AN", "LS", "ASL", "ROLE", "ROLE+LI", "EM", "EM+APL")
        ),
        *_LARGE_LOSS,
    ],
    "openimages": [
        ("CNN-RNN", "cnn-rnn", _OFF),
        ("Curriculum Labeling", "curriculum", _OFF),
        ("IMCL", "imcl", _OFF),
        ("P-ASL", "p-asl", _OFF),
        *_LARGE_LOSS,
    ],
}
"""Rows of the paper's tables by its name here: label, method, BoostLU's slopes."""
