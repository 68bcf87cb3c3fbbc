"""A release is named alike in pyproject, citation and changelog; its notebook shows results."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[1]
VERSION = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]


def test_the_version_is_the_same_everywhere() -> None:
    """`pipeline.__version__` is the installed distribution's: tests/test_wheel.py."""
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    unreleased, latest = re.findall("^## (.*)$", changelog, re.MULTILINE)[:2]
    assert unreleased == "Unreleased"
    assert re.fullmatch(rf"{VERSION} - \d{{4}}-\d\d-\d\d", latest)
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == VERSION
    pages = [*REPOSITORY.glob("deploy/**/*"), *REPOSITORY.glob("docs/*.md")]
    texts = [page.read_text(encoding="utf-8") for page in pages if page.is_file()]
    tags = re.findall(r"openimages-boostlu:(\d+\.\d+\.\d+)", "\n".join(texts))
    assert set(tags) == {VERSION}, "tags of the container"


def test_the_notebook_shows_what_its_cells_gave() -> None:
    path = REPOSITORY / "docs/tour.ipynb"
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    assert [n for n, cell in enumerate(cells) if not cell["outputs"]] == [0], "imports alone"
    shown = {mime for c in cells for out in c["outputs"] for mime in out.get("data", ())}
    assert {"text/html", "image/png", "text/markdown"} <= shown
    assert path.stat().st_size < 300_000
    assert "/tmp/" not in path.read_text()
