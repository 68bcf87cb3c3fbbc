"""Keep what came out of every run of a study beside the page, and take it up on another machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.quality import analysis
from pipeline import storage
from pipeline.study.plan import RESULTS
from sharding.storage.files import replacing

_WORK = "{work}"
"""Stands for the directory of all studies, which is another on each machine."""
_PARTS = {"result": RESULTS, "analysis": analysis.KEPT}


def save(study: Path, file: Path) -> None:
    """Write the results of a study's runs, finished or not, one line of JSON for each.

    Args:
        study: its directory, below the one of all studies.
        file: to write; left as it is where the study has no result.
    """
    runs = sorted(path.stem for path in (study / RESULTS).glob("*.json"))
    if not runs:
        return
    file.parent.mkdir(exist_ok=True)
    work = str(study.parent.resolve())
    with replacing(file) as temporary:
        lines = [json.dumps(_moved(_read(study, run), work, _WORK)) for run in runs]
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def restore(file: Path, study: Path) -> None:
    """Write what `save` kept below a study's directory, but for what is there."""
    if not file.is_file():
        return
    for line in file.read_text(encoding="utf-8").splitlines():
        kept = _moved(json.loads(line), _WORK, str(study.parent.resolve()))
        for part, folder in _PARTS.items():
            path = study / folder / f"{kept['run']}.json"
            if part in kept and not path.is_file():
                storage.write_json(str(path), kept[part])


def _read(study: Path, run: str) -> dict[str, Any]:
    paths = {part: study / folder / f"{run}.json" for part, folder in _PARTS.items()}
    found = {part: storage.read_json(str(path)) for part, path in paths.items()}
    return {"run": run} | {part: value for part, value in found.items() if value is not None}


def _moved(value: Any, before: str, after: str) -> Any:
    """Replace a directory at the begin of every path in a JSON value."""
    if isinstance(value, dict):
        return {key: _moved(each, before, after) for key, each in value.items()}
    if isinstance(value, list):
        return [_moved(each, before, after) for each in value]
    if isinstance(value, str) and (value == before or value.startswith(f"{before}/")):
        return after + value[len(before) :]
    return value
