"""README and docs name what there is: every folder, every command, every link."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGES = {
    path.name: path.read_text(encoding="utf-8")
    for path in sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])
}
README, ARCHITECTURE = PAGES["README.md"], PAGES["architecture.md"]
MAP = README.split("```")[README.split("## What is where")[0].count("```") + 1]


def folders() -> list[Path]:
    """The folders of both packages that hold modules."""
    return sorted(
        path.parent
        for package in ("sharding", "pipeline")
        for path in REPOSITORY.glob(f"{package}/*/__init__.py")
    )


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.name)
def test_every_folder_is_named_in_map_and_architecture(folder: Path) -> None:
    assert f"{folder.name}/" in MAP
    assert re.search(rf"\b{folder.name}\b", ARCHITECTURE)


def test_the_map_names_nothing_else_and_stays_short() -> None:
    named = re.findall(r"\b(\w+)/", MAP)
    top = {"sharding", "pipeline", "jobs", "tests", "hosts", "benchmarks", "docs", "deploy"}
    assert set(named) == top | {folder.name for folder in folders()}
    assert len(MAP.strip().splitlines()) <= 20


def test_every_link_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (REPOSITORY / link.partition("#")[0]).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_make_command_exists(page: str) -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (REPOSITORY / "Makefile").read_text()))
    assert set(re.findall(r"(?m)(?:^|`)make ([a-z-]+)", PAGES[page])) <= targets


@pytest.mark.parametrize("page", PAGES)
def test_no_page_holds_a_placeholder(page: str) -> None:
    assert not re.search(r"@[A-Z]+@|\bTBD\b", PAGES[page])
