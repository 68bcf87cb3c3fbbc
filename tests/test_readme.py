"""The README names what there is: every file, every command, every link."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
TREE = README.split("```")[README.split("## What is where")[0].count("```") + 1]


def modules() -> list[Path]:
    return sorted(
        path
        for package in ("sharding", "pipeline", "jobs")
        for path in (REPOSITORY / package).rglob("*.py")
        if path.name != "__init__.py"
    )


def named() -> list[str]:
    return re.findall(r"\b(\w+\.py)\b", TREE)


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.name)
def test_the_tree_names_every_file(path: Path) -> None:
    assert path.name in named()


def test_the_tree_names_nothing_else() -> None:
    assert set(named()) == {path.name for path in modules()}
    assert len(named()) == len(modules())


def test_every_link_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (REPOSITORY / link).exists()] == []


def test_every_make_command_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", README)) <= targets


def test_no_page_holds_a_placeholder() -> None:
    for page in [REPOSITORY / "README.md", *REPOSITORY.glob("docs/*.md")]:
        assert not re.search(r"@[A-Z]+@|\bTBD\b", page.read_text(encoding="utf-8")), page
