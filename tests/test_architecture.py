"""docs/architecture.md says what is there: its tests, its files, its functions."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
NOW = re.sub(r"<details>.*?</details>", "", PAGE, flags=re.DOTALL)
"""Without the ways of 0.1.0, whose files are gone."""


def names_in(path: Path) -> set[str]:
    """Functions, classes and `Class.method` of a file."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{m.name}" for m in node.body if isinstance(m, ast.FunctionDef)}
    return names


@pytest.mark.parametrize(
    ("file", "test"), re.findall(r"`((?:sharding|pipeline)/[\w/]+\.py)::(\w+)`", PAGE)
)
def test_an_invariant_names_a_test(file: str, test: str) -> None:
    assert test in names_in(REPOSITORY / "tests" / file)


@pytest.mark.parametrize("file", re.findall(r"`((?:sharding|pipeline)/[\w/]+\.py)`", NOW))
def test_a_file_of_the_reading_order_exists(file: str) -> None:
    assert (REPOSITORY / file).is_file()


@pytest.mark.parametrize(
    ("file", "function"),
    re.findall(r"`((?:sharding|pipeline)/[\w/]+\.py):([\w.]+)`", NOW),
)
def test_a_way_goes_through_what_exists(file: str, function: str) -> None:
    assert function in names_in(REPOSITORY / file)
