"""Shards in, trained CAM + BoostLU networks and per-group mAP out.

Shape suffixes used throughout: B batch, C image channels, D feature channels, K classes,
H W space, N samples, E annotated entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.inference.predictor import load

    __version__: str

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    # Lazily: whoever imports a module of this package need not wait for torch.
    if name == "load":
        from pipeline.inference.predictor import load

        return load
    if name == "__version__":
        from importlib import metadata

        try:
            return metadata.version("openimages-boostlu")
        except metadata.PackageNotFoundError:  # Ray shipped the packages alone
            return "unknown"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
