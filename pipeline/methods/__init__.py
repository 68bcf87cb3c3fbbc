"""Training methods: one registry, one protocol, one file per family of losses."""

from pipeline.methods.protocol import Method, Phase, WatchesHead
from pipeline.methods.registry import (
    check_options,
    create,
    create_for,
    names,
    options_for,
    options_of,
    with_absolute_paths,
)

__all__ = [
    "Method",
    "Phase",
    "WatchesHead",
    "check_options",
    "create",
    "create_for",
    "names",
    "options_for",
    "options_of",
    "with_absolute_paths",
]
