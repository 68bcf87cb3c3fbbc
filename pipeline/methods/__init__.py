"""Training methods: one registry, one protocol, one file per family of losses."""

from pipeline.methods.protocol import Method, WatchesHead
from pipeline.methods.registry import create, names, options_of

__all__ = ["Method", "WatchesHead", "create", "names", "options_of"]
