"""Run img2dataset on the same images, in a virtual environment of its own.

    python3.11 -m venv i2d && i2d/bin/pip install img2dataset "setuptools<81"
    python -m benchmarks.data.sharding shrink --img2dataset i2d/bin/python

Its pins conflict with ours. One process, four threads, images by file:// URL, shorter side by
`keep_ratio`, hashes off. Its start takes seconds, so a job of n images is subtracted from one of
4 n.
"""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

_IMAGES = 1200
"""At least: with fewer its start dominates. Images are repeated to make so many."""
_JOB = """
import sys
from img2dataset import download
urls, out, side, quality = sys.argv[1:]
download(url_list=urls, output_folder=out, input_format="txt", output_format="webdataset",
    image_size=int(side), resize_mode="keep_ratio", resize_only_if_bigger=True,
    encode_quality=int(quality), processes_count=1, thread_count=4, compute_hash=None,
    extract_exif=False, number_sample_per_shard=1_000_000, disallowed_header_directives=[])
"""


def cpu_seconds_per_image(python: Path, paths: Sequence[str], side: int, quality: int) -> float:
    """Measure the CPU seconds that img2dataset takes for an image beyond its start."""
    paths = list(paths) * -(-_IMAGES // len(paths))
    few = paths[: len(paths) // 4]
    return (_job(python, paths, side, quality) - _job(python, few, side, quality)) / (
        len(paths) - len(few)
    )


def _job(python: Path, paths: Sequence[str], side: int, quality: int) -> float:
    with tempfile.TemporaryDirectory() as name:
        urls, out = Path(name) / "urls.txt", Path(name) / "out"
        urls.write_text("".join(f"file://{os.path.abspath(path)}\n" for path in paths))
        before = _children()
        command = [str(python), "-c", _JOB, str(urls), str(out), str(side), str(quality)]
        subprocess.run(command, check=True, capture_output=True, timeout=600)
        spent = _children() - before
        tars = list(out.glob("*.tar"))
        if not tars or tars[0].stat().st_size < 1000 * len(paths):
            raise RuntimeError("img2dataset wrote too little: the figure would mean nothing")
        return spent


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
