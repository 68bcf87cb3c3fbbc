"""What the words in an annotation row mean: sources, MIDs and confidences, each decided once.

Rows repeat a few thousand distinct words millions of times. pyarrow hands them over as codes into
a dictionary, so a word is looked at once per block and everything else is integer arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sharding.openimages.conflicts import MACHINE_RANK

# Rank of a source, most trusted first; the ties of `human` (V2's only source) do not matter. The
# first and the last two but machine are our own exports: reviewed candidates, and LL-Cp's
# corrections and unreviewed candidates, which no human has seen and which yield to every human.
SOURCES = {
    "reviewed": 0,
    "verification": 1,
    "human": 1,
    "crowdsource-verification": 2,
    "ll-cp-correction": 6,
    "large-loss": 6,
    "machine": MACHINE_RANK,
}

UNKNOWN_MID = -1
NOT_A_MID = -2

_MID = re.compile(rb"/[mg]/[0-9a-z_]+")
_DECIMAL = re.compile(rb"[0-9]{0,20}\.?[0-9]{0,20}(?:[eE][-+]?[0-9]{1,2})?")


def is_mid(text: bytes) -> bool:
    """Whether the text is a Freebase or Knowledge Graph id, known to us or not."""
    return _MID.fullmatch(text) is not None


def parse_confidence(text: bytes) -> float:
    """The value of a plain decimal (`1`, `1.0`, `0.7`), NaN for anything else.

    Exact at the ends: only what is 0 or 1 as a decimal comes out as 0.0 or 1.0.
    """
    if not _DECIMAL.fullmatch(text):
        return float("nan")
    try:
        exact = Decimal(text.decode())
    except InvalidOperation:
        return float("nan")
    value = float(exact)
    return value if Decimal(value) == exact or value not in (0.0, 1.0) else float("nan")


class Vocabulary:
    """Decides each distinct word once and remembers it over the blocks of a file."""

    def __init__(self, mids: Sequence[str]) -> None:
        self._classes = {mid.encode(): index for index, mid in enumerate(mids)}
        self._ranks = {name.encode(): rank for name, rank in SOURCES.items()}
        self._confidences: dict[bytes, float] = {}

    def classes(self, column: pa.DictionaryArray) -> npt.NDArray[np.int32]:
        """Class index of each row; `UNKNOWN_MID` or `NOT_A_MID` where it has none."""
        return self._look_up(column, [self._class(word) for word in _words(column)], np.int32)

    def ranks(self, column: pa.DictionaryArray) -> npt.NDArray[np.int8]:
        """Rank of each row's source, -1 where the source is not in `SOURCES`."""
        return self._look_up(column, [self._ranks.get(w, -1) for w in _words(column)], np.int8)

    def confidences(self, column: pa.DictionaryArray) -> npt.NDArray[np.float64]:
        """Confidence of each row, NaN where it is not a plain decimal."""
        return self._look_up(column, [self._confidence(w) for w in _words(column)], np.float64)

    def _class(self, word: bytes) -> int:
        known = self._classes.get(word)
        if known is None:
            known = self._classes[word] = UNKNOWN_MID if is_mid(word) else NOT_A_MID
        return known

    def _confidence(self, word: bytes) -> float:
        known = self._confidences.get(word)
        if known is None:
            known = self._confidences[word] = parse_confidence(word)
        return known

    @staticmethod
    def _look_up(column: pa.DictionaryArray, meanings: list, dtype: type) -> npt.NDArray:
        return np.array(meanings, dtype)[column.indices.to_numpy()]


def _words(column: pa.DictionaryArray) -> list[bytes]:
    return column.dictionary.to_pylist()


def count_words(column: pa.DictionaryArray) -> dict[bytes, int]:
    """How many rows hold each word that occurs."""
    counts = np.bincount(column.indices.to_numpy(), minlength=len(column.dictionary))
    words = _words(column)
    return {words[index]: int(counts[index]) for index in np.flatnonzero(counts).tolist()}
