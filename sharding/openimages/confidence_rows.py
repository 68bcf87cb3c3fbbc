"""Decide what each row of a table of confidences becomes, and count it.

Shapes: N rows of a block, E confidences of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sharding.errors import InputError
from sharding.image_ids import Ids
from sharding.openimages.csv_reader import HEADER
from sharding.openimages.row_status import SOURCES, is_mid

HUMAN, UNKNOWN_MID = "human_label", "unknown_mid"
BAD_CONFIDENCE, BAD_MID, BAD_ID, BAD_COLUMNS = (
    *("bad_confidence", "bad_mid", "bad_id"),
    "bad_columns",
)
_OUTCOMES = ("", HUMAN, UNKNOWN_MID, BAD_CONFIDENCE, BAD_MID, BAD_ID)
"""Keys of the report; of several reasons against a row the last one counts."""
_BLANK = -1
_FIXES = {
    BAD_CONFIDENCE: "write a number from 0 to 1",
    BAD_MID: "write a MID such as /m/01yrx, not a name or an index",
    BAD_ID: "write the 16 hex characters of the id, as text",
    BAD_COLUMNS: f"give the row four columns: {','.join(HEADER)}",
}
HUMAN_SOURCES = SOURCES.keys() - {"machine", "ll-cp-correction", "large-loss"}
"""Sources of labels that a human has seen: their place is in labels."""
Place = Callable[[int], tuple[str, int]]
"""Finds the file and the row in it of a row of a block."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of confidences that are well-formed and of known classes.

    Attributes:
        image_ids_E: uint64.
        classes_E: int32 indices.
        values_E: float32 in [0, 1].
    """

    image_ids_E: Ids
    classes_E: npt.NDArray[np.int32]
    values_E: npt.NDArray[np.float32]


class RowCounter:
    """Keeps the confidences among rows, and counts the others by reason.

    Args:
        mids: of the classes, in their order.
        strict: whether the first malformed row is an error.

    Attributes:
        counts: rows by what became of them; those that are kept are in ``rows`` alone.
        first_bad: the first malformed row.
    """

    def __init__(self, mids: Sequence[str], *, strict: bool) -> None:
        self.counts: Counter[str] = Counter()
        self.first_bad: InputError | None = None
        self._index_of = {mid.encode(): index for index, mid in enumerate(mids)}
        self._strict = strict

    def keep(
        self,
        image_ids_N: Ids,
        is_id_N: npt.NDArray[np.bool_],
        mids_N: pa.DictionaryArray,
        values_N: npt.NDArray[np.float64],
        *,
        place: Place,
        words_N: pa.DictionaryArray | None = None,
        human_N: npt.NDArray[np.bool_] | None = None,
        blank_N: npt.NDArray[np.bool_] | None = None,
    ) -> Block:
        """Keep what is a confidence.

        Args:
            image_ids_N, is_id_N: as `sharding.image_ids.parse_id_column` gives them.
            mids_N: of classes, as bytes.
            values_N: confidences; NaN where there is no number.
            place: where a row stands.
            words_N: confidences as they were written.
            human_N, blank_N: which rows have a human source, or nothing at all.

        Raises:
            InputError: a row is malformed, if strict.
        """
        classes_N = each(mids_N, self._class_of, np.int32)
        outcomes_N = np.zeros(len(values_N), np.int8)
        if human_N is not None:
            outcomes_N[human_N] = _OUTCOMES.index(HUMAN)
        outcomes_N[classes_N == -1] = _OUTCOMES.index(UNKNOWN_MID)
        outcomes_N[~((values_N >= 0) & (values_N <= 1))] = _OUTCOMES.index(BAD_CONFIDENCE)
        outcomes_N[classes_N == -2] = _OUTCOMES.index(BAD_MID)
        outcomes_N[~is_id_N] = _OUTCOMES.index(BAD_ID)
        if blank_N is not None:
            outcomes_N[blank_N] = _BLANK
        counts = np.bincount(outcomes_N[outcomes_N > _BLANK], minlength=len(_OUTCOMES)).tolist()
        self.counts["rows"] += sum(counts)
        self.counts.update({name: n for name, n in zip(_OUTCOMES, counts, strict=True) if name})
        bad = np.flatnonzero(outcomes_N >= _OUTCOMES.index(BAD_CONFIDENCE))
        if len(bad):
            n = int(bad[0])
            outcome = _OUTCOMES[outcomes_N[n]]
            word = mids_N if outcome == BAD_MID else words_N
            cell = f"{values_N[n]:g}" if word is None else _text(word[n])
            self._reject(outcome, "" if outcome == BAD_ID else repr(cell), *place(n))
        kept = np.flatnonzero(outcomes_N == 0)
        return Block(
            image_ids_E=image_ids_N[kept],
            classes_E=classes_N[kept],
            values_E=values_N[kept].astype(np.float32),
        )

    def reject_lines(self, number: int, text: str, file: str, row: int) -> None:
        """Count lines of other than four columns, of which the first is given.

        Raises:
            InputError: if strict.
        """
        self.counts["rows"] += number
        self.counts[BAD_COLUMNS] += number
        self._reject(BAD_COLUMNS, repr(text[:64]), file, row)

    def _reject(self, outcome: str, cell: str, file: str, row: int) -> None:
        problem = ": ".join(filter(None, (outcome, cell)))
        error = InputError(problem, file=file, row=row, fix=_FIXES[outcome])
        if self._strict:
            raise error
        self.first_bad = self.first_bad or error

    def _class_of(self, word: bytes) -> int:
        index = self._index_of.get(word)
        if index is not None:
            return index
        return -1 if is_mid(word) else -2


def each(column: pa.DictionaryArray, parse: Callable[[bytes], Any], dtype: type) -> npt.NDArray:
    """Parse each distinct word once; return the value of each row, of no word where it is null."""
    words = column.dictionary.to_pylist()
    indices = column.indices.fill_null(len(words)).to_numpy()
    return np.array([*map(parse, words), parse(b"")], dtype)[indices]


def _text(word: pa.Scalar) -> str:
    return (word.as_py() or b"")[:64].decode(errors="replace")
