"""Read the class hierarchy of Open Images: which classes are kinds of which others.

The file is a tree of ``LabelName``, ``Subcategory`` and ``Part``, as
`bbox_labels_600_hierarchy.json`. A part is no kind of the whole: only subcategories count. A class
may stand at several places; names outside the class list link what is above and below them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sharding.errors import InputError

Classes = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Relation:
    """Map each of K classes to other classes (compressed sparse rows).

    Attributes:
        offsets_K1: int64, K + 1 entries.
        others: int64 classes; those of class k are ``others[offsets[k]:offsets[k + 1]]``.
    """

    offsets_K1: npt.NDArray[np.int64]
    others: Classes

    @classmethod
    def of(cls, others: Sequence[set[int]]) -> Relation:
        """Build from one set of classes per class."""
        listed = [np.array(sorted(each), np.int64) for each in others]
        offsets_K1 = np.concatenate([[0], np.cumsum([len(each) for each in listed])])
        return cls(
            offsets_K1=offsets_K1.astype(np.int64),
            others=np.concatenate([np.empty(0, np.int64), *listed]),
        )

    def expand(self, classes_E: Classes) -> tuple[npt.NDArray[np.int64], Classes]:
        """List (position in ``classes_E``, other class) for every other class of each."""
        counts_E = self.offsets_K1[classes_E + 1] - self.offsets_K1[classes_E]
        positions = np.repeat(np.arange(len(classes_E)), counts_E)
        within = np.arange(len(positions)) - np.repeat(np.cumsum(counts_E) - counts_E, counts_E)
        return positions, self.others[self.offsets_K1[classes_E[positions]] + within]


@dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """The ancestors and the descendants of each class, itself left out."""

    ancestors: Relation
    descendants: Relation


def read_hierarchy(path: Path, mids: Sequence[str]) -> Hierarchy:
    """Read the hierarchy file, in indices of a class list.

    Args:
        path: JSON file.
        mids: of the dataset's classes, in their order.

    Raises:
        InputError: the file is missing, is no hierarchy, is circular, or links none of the classes.
    """
    children = _children(path)
    index = {mid: k for k, mid in enumerate(mids)}
    ancestors: list[set[int]] = [set() for _ in mids]
    descendants: list[set[int]] = [set() for _ in mids]
    for mid, k in index.items():
        below = _below(mid, children)
        if mid in below:
            raise InputError(f"{mid} is a kind of itself", file=path, fix="cut the circle")
        descendants[k] = {index[other] for other in below if other in index}
        for other in descendants[k]:
            ancestors[other].add(k)
    if not any(ancestors):
        raise InputError(
            "no class of the dataset is a kind of another there",
            file=path,
            fix="pass the hierarchy of these classes' MIDs, such as bbox_labels_600_hierarchy.json",
        )
    return Hierarchy(ancestors=Relation.of(ancestors), descendants=Relation.of(descendants))


def _children(path: Path) -> dict[str, set[str]]:
    """Read the subcategories of every name.

    Raises:
        InputError: the file is missing or is no hierarchy.
    """
    children: defaultdict[str, set[str]] = defaultdict(set)
    try:
        for parent, child in _links(json.loads(path.read_text(encoding="utf-8"))):
            children[parent].add(child)
    except OSError as error:
        problem = f"the hierarchy cannot be read ({error.strerror})"
        raise InputError(problem, file=path, fix="check the path") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"not a hierarchy of LabelName and Subcategory ({error or type(error).__name__})",
            file=path,
            fix="pass Open Images' JSON, such as bbox_labels_600_hierarchy.json",
        ) from None
    return children


def _links(root: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """List (name, name of a subcategory); a part has subcategories of its own."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        name, kinds = str(node["LabelName"]), list(node.get("Subcategory", ()))
        yield from ((name, str(kind["LabelName"])) for kind in kinds)
        waiting += [*kinds, *node.get("Part", ())]


def _below(mid: str, children: Mapping[str, set[str]]) -> set[str]:
    """Collect the names below one, on any way; itself too where they are circular."""
    below: set[str] = set()
    waiting = list(children.get(mid, ()))
    while waiting:
        name = waiting.pop()
        if name not in below:
            below.add(name)
            waiting += children.get(name, ())
    return below
