"""Parse the space that a search samples: an interval, or a choice, for each option."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from sharding.errors import InputError

_FORM = "write name=low:high, name=low:high:log or name=first|second"


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """What a search varies.

    Attributes:
        name: option of the method or of the training; ``alpha`` is BoostLU's slope, in training and
            inference alike, of a method that has no such option.
        low, high: of an interval.
        is_log: whether the logarithm is uniform, not the value.
        is_whole: whether values are whole numbers.
        choices: instead of an interval.
    """

    name: str
    low: float = math.nan
    high: float = math.nan
    is_log: bool = False
    is_whole: bool = False
    choices: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The dimension as it is written on the command line."""
        if self.choices:
            return f"{self.name}={'|'.join(self.choices)}"
        return f"{self.name}={self.low:g}:{self.high:g}{':log' if self.is_log else ''}"


def parse_space(texts: Iterable[str], whole: Iterable[str] = ()) -> tuple[Dimension, ...]:
    """Parse ``delta_rel=0.02:2:log alpha=2:10 crop=squash|random-resized``.

    Args:
        texts: as given, one for each option.
        whole: options that are whole numbers.

    Raises:
        InputError: another form, an empty interval, or an option twice.
    """
    space = tuple(_dimension(text, set(whole)) for text in texts)
    names = [dimension.name for dimension in space]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name} is searched twice", fix="leave one of them out")
    return space


def _dimension(text: str, whole: set[str]) -> Dimension:
    name, equals, values = text.partition("=")
    if not (equals and name.isidentifier()):
        raise InputError(f"--tune {text!r}", fix=_FORM)
    if "|" in values:
        choices = tuple(values.split("|"))
        if len(set(choices)) < len(choices) or "" in choices:
            raise InputError(f"--tune {text!r} has a choice twice, or an empty one", fix=_FORM)
        return Dimension(name=name, choices=choices)
    match = re.fullmatch(r"([^:]+):([^:]+)(:log)?", values)
    try:
        low, high = (float(match[1]), float(match[2])) if match else (math.nan, math.nan)
    except ValueError:
        low = high = math.nan
    is_log = bool(match and match[3])
    if not (math.isfinite(low) and low < high < math.inf and (low > 0 or not is_log)):
        problem = "no interval" if not is_log else "no interval above 0"
        raise InputError(f"--tune {text!r} is {problem}", fix=_FORM)
    is_whole = name in whole
    if is_whole and not (low.is_integer() and high.is_integer()):
        raise InputError(f"--tune {text!r}: {name} is a whole number", fix=_FORM)
    return Dimension(name=name, low=low, high=high, is_log=is_log, is_whole=is_whole)
