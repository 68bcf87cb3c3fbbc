"""Write a checkpoint as safetensors, torch.export and ONNX; each is checked against it.

$ python jobs/export_model.py --checkpoint runs/NAME --output exported
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from sharding.errors import one_line_errors


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export and where to."""

    checkpoint: str
    """A run directory, a checkpoint directory, or MLflow's runs:/ID or models:/NAME@ALIAS."""
    output: Path
    """Directory for model.safetensors, model.pt2, model.onnx and model.json (how to use them)."""
    formats: tuple[Literal["safetensors", "pt2", "onnx"], ...] = ("safetensors", "pt2", "onnx")
    """Which of them."""


def main() -> None:
    """Parse, export, say how near each file's logits are to the checkpoint's."""
    with one_line_errors():
        options = tyro.cli(ExportOptions, description=__doc__)
        from pipeline.inference import export, locate

        directory = locate.checkpoint_directory(options.checkpoint)
        found = export.export(directory, options.output, options.formats)
        for name, difference in found.items():
            path = options.output / f"model.{name}"
            print(f"{path}  {path.stat().st_size / 1e6:.1f} MB, logits within {difference:.1e}")
        print(f"{options.output / 'model.json'}  image size, class list, preprocessing")


if __name__ == "__main__":
    main()
