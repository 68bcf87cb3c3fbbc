"""Decide what ``--precision auto`` means, once for a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pipeline.config.sections import Precision
from pipeline.config.train import TrainConfig

_CPU_INFO = Path("/proc/cpuinfo")


def settled(config: TrainConfig, stored: TrainConfig | None) -> TrainConfig:
    """Replace auto by the run's precision, in a new run by what suits this machine's processor.

    Args:
        config: of the command.
        stored: of the run; None if it begins.
    """
    if config.optimizer.precision != "auto":
        return config
    suits: Precision = "bf16" if multiplies_bf16(_CPU_INFO) else "fp32"
    chosen = stored.optimizer.precision if stored else suits
    optimizer = dataclasses.replace(config.optimizer, precision=chosen)
    return dataclasses.replace(config, optimizer=optimizer)


def multiplies_bf16(cpu_info: Path) -> bool:
    """Tell whether a processor multiplies matrices of bf16 (AMX); others are faster in fp32.

    So are those that have AVX-512's instructions for bf16 alone (docs/training.md).
    """
    try:
        return "amx_bf16" in cpu_info.read_text(encoding="utf-8").split()
    except OSError:
        return False
