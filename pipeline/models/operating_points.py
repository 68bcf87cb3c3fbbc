"""Keep the operating points of a model with its weights: a threshold per class, temperatures.

`thresholds.json` of a checkpoint is written by an evaluation of validation images
(`pipeline.inference.choose_points`) and used by every prediction.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import storage
from sharding.errors import InputError

FILE = "thresholds.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class OperatingPoints:
    """Decide from a class's logit whether it is present, and how probable it is.

    Attributes:
        criterion: what was chosen for: "maximal F1" or "precision 0.9".
        source: the verified entries that they were chosen on, for people.
        classes_sha256: the class list.
        thresholds: logit per class, in the order of the list; at or above it a class is present.
        temperatures: per class, those of its group: ``sigmoid(logit / temperature)`` is calibrated.
        columns: support and quality of each class, by name.
    """

    criterion: str
    source: str
    classes_sha256: str
    thresholds: Sequence[float]
    temperatures: Sequence[float]
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        both = np.array([self.thresholds, self.temperatures], np.float64)
        if not (np.isfinite(both).all() and (both[1] > 0).all()):
            raise ValueError("a threshold that is no number, or a temperature not above 0")

    @functools.cached_property
    def thresholds_K(self) -> npt.NDArray[np.float64]:
        """The thresholds as an array."""
        return np.array(self.thresholds, np.float64)

    @functools.cached_property
    def temperatures_K(self) -> npt.NDArray[np.float64]:
        """The temperatures as an array."""
        return np.array(self.temperatures, np.float64)

    def __str__(self) -> str:
        return f"a threshold per class for {self.criterion} on {self.source}"

    def to_json(self) -> str:
        """Write as `read` takes it."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1) + "\n"


def path_in(checkpoint_directory: str) -> str:
    """Path of the file in a checkpoint, or its URL."""
    return storage.join(checkpoint_directory, FILE)


def read(checkpoint_directory: str, classes_sha256: str) -> OperatingPoints | None:
    """Read the operating points of a checkpoint; None where it has none.

    Raises:
        InputError: the file is damaged, or of another class list.
    """
    path = path_in(checkpoint_directory)
    fix = "remove the file, or evaluate the validation split with --thresholds again"
    if not storage.exists(path):
        return None
    try:
        raw = json.loads(storage.read_bytes(path))
        if raw.pop("format") != FORMAT:
            raise ValueError(f"not of format {FORMAT}")
        points = OperatingPoints(**raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"thresholds are damaged ({error})", file=path, fix=fix) from None
    if points.classes_sha256 != classes_sha256:
        raise InputError("thresholds of another class list", file=path, fix=fix)
    return points
