"""Training methods: one registry, one protocol, one file per family of losses."""

from pipeline.methods.binding import create_for, with_absolute_paths
from pipeline.methods.protocol import Method, Phase, WatchesHead
from pipeline.methods.registry import create, names, options_of

__all__ = [
    "Method",
    "Phase",
    "WatchesHead",
    "create",
    "create_for",
    "names",
    "options_of",
    "with_absolute_paths",
]
