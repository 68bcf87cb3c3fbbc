"""Training methods: a registry, a protocol, and a file per family of losses."""

from pipeline.methods.protocol import Method, Phase, WatchesHead
from pipeline.methods.registry import (
    complete_options,
    create,
    create_for,
    names,
    options_for,
    options_of,
)

__all__ = [
    "Method",
    "Phase",
    "WatchesHead",
    "complete_options",
    "create",
    "create_for",
    "names",
    "options_for",
    "options_of",
]
