"""Training methods: one registry, one protocol, one file per family of losses."""

from pipeline.methods.protocol import Method
from pipeline.methods.registry import create, names, options_of

__all__ = ["Method", "create", "names", "options_of"]
