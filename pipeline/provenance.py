"""A value, and why anyone should believe it.

Sources: BG = code of the BoostLU paper, LL = Large Loss Matters, COLE = Cole et al. 2021, ACK =
Zhou et al. 2022, ASL = Ridnik et al. 2021, CSL = Ben-Baruch et al. 2022, IMCL = Huynh and
Elhamifar 2020. Free of torch, as the configuration is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Provenance = Literal["paper", "code", "inferred", "unknown", "ours"]
"""Of the paper (text, supplement, tables), of the authors' code (or their issue answers), inferred
from either (or from a third-party port), unknown (chosen here because nothing is published), or
ours (a name, or the demo's: no published number depends on it)."""


@dataclass(frozen=True)
class Value:
    """One hyper-parameter and where it comes from."""

    value: Any
    provenance: Provenance
    source: str
