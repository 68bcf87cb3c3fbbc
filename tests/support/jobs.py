"""Run a job as the command line does, in this process, which is in the place of Ray's."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.cluster import session, tasks
from pipeline.evaluation import run as evaluation
from pipeline.inference import cam_figures, cams


def in_process(patch: pytest.MonkeyPatch) -> None:
    """Put this process in the place of a cluster."""

    def run_tasks(function: Any, items: Sequence[Any], **_: Any) -> Iterator[Any]:
        return map(function, items)

    def map_parts(
        kind: type, arguments: Mapping[str, Any], items: Sequence[Any], **_: Any
    ) -> Iterator[Any]:
        worker = kind(**arguments)
        return (worker({"item": item, "attempt": 1}) for item in items)

    patch.setattr(tasks, "run_tasks", run_tasks)
    patch.setattr(tasks, "map_parts", map_parts)
    patch.setattr(session, "connect", lambda *_, **__: None)
    patch.setattr(session, "shares", lambda *_: (1, 0, 1))
    patch.setattr(session, "check_shared", lambda directory: None)
    # More than half an evaluation's time are pictures: one image in place of four, fewer pixels.
    patch.setattr(evaluation, "explain", functools.partial(cams.explain, images=1))
    patch.setattr(cam_figures, "_DPI", 20)
    patch.setenv("RAY_ADDRESS", "nowhere")


def run(command: str) -> int:
    """Run a job by its name and options; return its exit status."""
    try:
        main.main(shlex.split(command))
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0
