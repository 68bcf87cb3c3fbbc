"""The documentation site builds: no broken link or anchor, no page left out of the navigation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    pages = {path.relative_to(site).parent.as_posix() for path in site.rglob("index.html")}
    documents = {path.stem for path in REPOSITORY.glob("docs/*.md")}
    assert pages == {".", "options", "contributing", "changelog", "security"} | documents
    options = (site / "options/index.html").read_text(encoding="utf-8")
    assert all(f'id="{job.stem}py"' in options for job in REPOSITORY.glob("jobs/*.py"))
