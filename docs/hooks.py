"""Add to the documentation site the pages of the root and the options of every job."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).parents[1]
# Page of the site -> file of the repository.
ROOT_PAGES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
}


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages; called by mkdocs before it reads any."""
    for page, source in ROOT_PAGES.items():
        text = (REPOSITORY / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "options.md", content=options_page()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point the links of a page, which fit the repository, at pages of the site."""
    markdown = re.sub(r"\]\((?:\.\./)?docs/", "](", markdown)
    for page, source in ROOT_PAGES.items():
        markdown = re.sub(rf"\]\((?:\.\./)?{re.escape(source)}", f"]({page}", markdown)
    return markdown


def options_page() -> str:
    """Write what `--help` of every job says, which is made from the dataclasses of its options."""
    jobs = sorted((REPOSITORY / "jobs").glob("*.py"))
    with ThreadPoolExecutor() as pool:
        texts = pool.map(help_of, jobs)
    sections = [
        f"## {job.name}\n\n```text\n{text.strip()}\n```\n"
        for job, text in zip(jobs, texts, strict=True)
    ]
    return "\n".join(["# Options of every job\n", *sections])


def help_of(job: Path) -> str:
    """Run one job with `--help` at 80 columns, without colours."""
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, str(job.relative_to(REPOSITORY)), "--help"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout
