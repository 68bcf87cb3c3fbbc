"""Write a checkpoint as safetensors, torch.export and ONNX; each is checked against it.

$ python jobs/export_model.py --checkpoint runs/NAME --output exported
"""

from __future__ import annotations

import tyro

from pipeline.config.commands import ExportOptions
from sharding.errors import one_line_errors


def main() -> None:
    """Parse, export, say how near each file's logits are to the checkpoint's."""
    with one_line_errors():
        options = tyro.cli(ExportOptions, description=__doc__)
        from pipeline.inference import export, locate

        directory = locate.checkpoint_directory(options.checkpoint)
        differences = export.export(directory, options.output, options.formats)
        for name, difference in differences.items():
            path = options.output / f"model.{name}"
            print(f"{path}  {path.stat().st_size / 1e6:.1f} MB, logits within {difference:.1e}")
        print(f"{options.output / 'model.json'}  image size, class list, preprocessing")


if __name__ == "__main__":
    main()
