"""Datasets and checkpoints that release 0.1.0 wrote, for tests of what later code makes of them."""

from __future__ import annotations

import tarfile
from pathlib import Path

DATA = Path(__file__).parents[1] / "data"


def unpack(name: str, folder: Path) -> Path:
    """Unpack an archive of `tests/data` into a folder; return the folder."""
    with tarfile.open(DATA / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder
