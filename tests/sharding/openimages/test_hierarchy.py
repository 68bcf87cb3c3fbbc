"""The class hierarchy: kinds of kinds count, parts do not, and odd files are one error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharding.errors import InputError
from sharding.openimages.hierarchy import Relation, read_hierarchy

MIDS = ("/m/animal", "/m/cat", "/m/paw", "/m/claw", "/m/pet")


def node(mid: str, *kinds: Any, parts: tuple[Any, ...] = ()) -> dict[str, Any]:
    """A node as the file has it: empty lists are left out."""
    both = {"Subcategory": list(kinds), "Part": list(parts)}
    return {"LabelName": mid, **{key: nodes for key, nodes in both.items() if nodes}}


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def others(relation: Relation, k: int) -> set[int]:
    return set(relation.expand(np.array([k]))[1].tolist())


def test_kinds_link_over_names_that_are_no_classes_and_parts_do_not(tmp_path: Path) -> None:
    cat = node("/m/cat", parts=(node("/m/paw", node("/m/claw")),))
    # A cat is an animal by way of a mammal, which is no class, and a pet elsewhere.
    tree = node(
        "/m/entity",
        node("/m/animal", node("/m/mammal", cat)),
        node("/m/pet", node("/m/cat")),
    )
    found = read_hierarchy(written(tmp_path / "h.json", tree), MIDS)
    assert [others(found.ancestors, k) for k in range(5)] == [set(), {0, 4}, set(), {2}, set()]
    assert [others(found.descendants, k) for k in range(5)] == [{1}, set(), {3}, set(), {1}]
    positions, expanded = found.ancestors.expand(np.array([1, 0, 1, 3]))
    assert list(zip(positions.tolist(), expanded.tolist(), strict=True)) == [
        *((0, 0), (0, 4), (2, 0), (2, 4), (3, 2))
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a hierarchy"),
        ("[]", "not a hierarchy"),
        ('{"LabelName": "/m/cat", "Subcategory": [{"Label": 1}]}', "not a hierarchy.*LabelName"),
        (node("/m/0bl9f", node("/m/other")), "no class of the dataset"),
        (node("/m/cat", node("/m/paw", node("/m/cat"))), "/m/cat is a kind of itself"),
    ],
)
def test_what_is_no_hierarchy_is_one_error(tmp_path: Path, content: Any, message: str) -> None:
    path = written(tmp_path / "h.json", content)
    with pytest.raises(InputError, match=rf"h\.json: .*{message}|{message}"):
        read_hierarchy(path, MIDS)
    with pytest.raises(InputError, match="cannot be read"):
        read_hierarchy(tmp_path / "none.json", MIDS)
