"""Keep what came out of every run of a study beside the page, and take it up on another machine."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.quality import analysis
from pipeline.study.plan import RESULTS

_WORK = "{work}"
"""Stands for the directory of all studies, which is another on each machine."""
_PARTS = {"result": RESULTS, "analysis": analysis.KEPT}


def save(study: Path, file: Path) -> None:
    """Write the results of a study's runs, finished or not, one line of JSON for each.

    Args:
        study: its directory, below the one of all studies.
        file: to write.
    """
    lines = []
    for result in sorted((study / RESULTS).glob("*.json")):
        parts = {part: study / folder / result.name for part, folder in _PARTS.items()}
        found = {
            part: json.loads(path.read_text(encoding="utf-8"))
            for part, path in parts.items()
            if path.is_file()
        }
        lines.append(json.dumps({"run": result.stem, **found}))
    text = "".join(f"{line}\n" for line in lines)
    file.parent.mkdir(exist_ok=True)
    file.write_text(text.replace(str(study.parent.resolve()), _WORK), encoding="utf-8")


def restore(file: Path, study: Path) -> None:
    """Write what `save` kept below a study's directory, but for runs that are there."""
    if not file.is_file():
        return
    text = file.read_text(encoding="utf-8").replace(_WORK, str(study.parent.resolve()))
    for line in text.splitlines():
        run = json.loads(line)
        if (study / RESULTS / f"{run['run']}.json").is_file():
            continue
        for part, folder in _PARTS.items():
            if part in run:
                (study / folder).mkdir(parents=True, exist_ok=True)
                path = study / folder / f"{run['run']}.json"
                path.write_text(json.dumps(run[part]), encoding="utf-8")
