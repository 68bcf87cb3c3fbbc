"""Draw a demo collection: procedural photographs and a partial dump in Open Images V3's layout.

$ python jobs/make_demo_dump.py --output demo/dump
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import tyro

from sharding.errors import one_line_errors
from sharding.synthetic.options import DumpOptions


def main(
    output: Path,
    options: Annotated[DumpOptions, tyro.conf.arg(name="")],
    workers: int = os.cpu_count() or 1,
) -> None:
    """Draw a demo collection: photographs, partial annotations, complete ground truth.

    Args:
        output: directory to write; repeating the command with the same options does nothing,
            other options replace the dump that is there.
        options: sizes and seed.
        workers: processes; the bytes do not depend on it.
    """
    from sharding.synthetic.dump import make_dump

    made = make_dump(options, output, workers=workers)
    counts = ", ".join(f"{count} {split}" for split, count in options.images.items())
    print(f"{'made' if made else 'already there'}: {counts} images of {options.classes} classes")
    print(
        f"annotations  {output}/2017_11    images  {output}/images    truth  {output}/ground_truth"
    )


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main, description=__doc__)
