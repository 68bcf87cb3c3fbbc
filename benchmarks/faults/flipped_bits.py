"""Flip one bit in every file of a dataset, again and again; count what training then does.

Each time the dataset is opened as training opens it, and its training and validation splits are
read once. A flip is *found* where that ends in an error or leaves the image out; *harmless* where
classes, ids, labels and pixels are as before; *pixels* where an image decodes to other pixels,
which the hashes that `verify` compares find and nothing that training could afford to read; and
*silent* where anything else differs, which must not happen.

    python -m benchmarks.faults.flipped_bits --dataset demo/dataset --flips 20
"""

from __future__ import annotations

import hashlib
import random
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from pipeline.data.labels import LabelledSplit
from pipeline.data.staging import open_dataset
from pipeline.data.unreadable import LeftOut
from sharding.errors import InputError

SPLITS = ("train", "validation")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to damage, and how often."""

    dataset: Path
    """Dataset directory; a small one."""
    flips: int = 20
    """Of each file."""
    seed: int = 0
    """Of the bits' places."""


def read(dataset: Path, left_out: LeftOut) -> tuple[str, str]:
    """Read all that training reads; return a hash of everything but the pixels, and of these."""
    opened = open_dataset(str(dataset))
    classes, known, pixels = opened.classes, hashlib.sha256(), hashlib.sha256()
    known.update(repr((classes.mids, classes.names, classes.groups_K.tolist())).encode())
    for split in SPLITS:
        images = LabelledSplit.open(
            opened,
            split,
            None,
            torch.device("cpu"),
            batch_size=16,
            image_size=32,
            left_out=left_out,
        )
        for batch in images.epoch(0):
            for array in (batch.image_ids_B, batch.dense().numpy()):
                known.update(np.ascontiguousarray(array).tobytes())
            pixels.update(batch.images_BHWC.numpy().tobytes())
    return known.hexdigest(), pixels.hexdigest()


def outcome(dataset: Path, undamaged: tuple[str, str]) -> str:
    """Read a damaged dataset and say what became of it."""
    left_out = LeftOut()
    try:
        known, pixels = read(dataset, left_out)
    except (InputError, RuntimeError) as error:
        return "found" if isinstance(error, InputError) else "found, by a traceback"
    if left_out:
        return "found"
    if known != undamaged[0]:
        return "silent"
    return "harmless" if pixels == undamaged[1] else "pixels"


def flip(path: Path, draws: random.Random) -> int:
    """Flip one bit of a file; return which."""
    content = bytearray(path.read_bytes())
    bit = draws.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return bit


def main(options: Options) -> Counter[tuple[str, str]]:
    """Damage file after file; print and return how often what happened to which kind of file."""
    draws, counts = random.Random(options.seed), Counter[tuple[str, str]]()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(options.dataset, Path(folder) / "dataset"))
        undamaged = read(copy, LeftOut())
        for path in sorted(path for path in copy.rglob("*") if path.is_file()):
            original = path.read_bytes()
            for _ in range(options.flips if original else 0):
                bit = flip(path, draws)
                what = outcome(copy, undamaged)
                counts[path.name if path.suffix == ".json" else path.suffix, what] += 1
                if what not in ("found", "harmless", "pixels"):
                    print(f"{what}: bit {bit} of {path.relative_to(copy)}")
                path.write_bytes(original)
    for (kind, what), count in sorted(counts.items()):
        print(f"{kind:15} {what:10} {count:5}")
    return counts


if __name__ == "__main__":
    main(tyro.cli(Options))
