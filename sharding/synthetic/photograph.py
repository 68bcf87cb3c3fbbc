"""Make one image of the dump: its id, scene, JPEG file and annotation rows."""

from __future__ import annotations

import base64
import hashlib
import math
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np

from sharding.synthetic.annotate import Credit, Row, annotate, credit
from sharding.synthetic.camera import background, develop, expose
from sharding.synthetic.options import SPLITS, DumpOptions
from sharding.synthetic.paint import paint
from sharding.synthetic.scene import Scene, compose
from sharding.synthetic.vocabulary import Vocabulary

_make_vocabulary = cache(Vocabulary.make)


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """An image whose file is written.

    Attributes:
        image_id: 16 hex characters.
        scene: the objects in it.
        rows: human annotations.
        credit: columns of `images.csv`.
        size: of the JPEG in bytes.
        md5: of the JPEG, 16 binary bytes in base64 as in `images.csv`.
    """

    image_id: str
    scene: Scene
    rows: tuple[Row, ...]
    credit: Credit
    size: int
    md5: str


def take_photograph(options: DumpOptions, split: str, index: int, folder: Path) -> Photograph:
    """Draw image ``index`` of a split and write it to ``folder``."""
    vocabulary = _make_vocabulary(options.classes, options.seed)
    # Only (seed, split, index) decides what is in an image, so any process can draw it.
    seeds = np.random.SeedSequence([options.seed, SPLITS.index(split), index]).spawn(4)
    for_scene, for_pixels, for_rows, for_credit = map(np.random.default_rng, seeds)
    scene = compose(vocabulary, options.side, for_scene)
    jpeg = _expose(scene, vocabulary, for_pixels)
    present = [item.class_index for item in scene.objects]
    image_id = image_id_of(options, split, index)
    (folder / f"{image_id}.jpg").write_bytes(jpeg)
    return Photograph(
        image_id=image_id,
        scene=scene,
        rows=tuple(annotate(present, vocabulary, train=split == "train", rng=for_rows)),
        credit=credit(for_credit),
        size=len(jpeg),
        md5=base64.b64encode(hashlib.md5(jpeg, usedforsecurity=False).digest()).decode(),
    )


def image_id_of(options: DumpOptions, split: str, index: int) -> str:
    """Compute the id of an image: distinct, and far denser at the low end as in the real dump.

    Splits and images are interleaved over the whole range; an even range of file order or of id
    prefixes holds very uneven numbers of images.
    """
    total = sum(options.images.values())
    before = sum(options.images[other] for other in SPLITS[: SPLITS.index(split)])
    stride = next(step for step in count(total * 5 // 8) if math.gcd(step, total) == 1)
    rank = (before + index) * stride % total
    return f"{((rank + 1) ** 3 << 62) // (total + 1) ** 3:016x}"


def _expose(scene: Scene, vocabulary: Vocabulary, rng: np.random.Generator) -> bytes:
    canvas_HWC = background(scene.width, scene.height, rng)
    light = float(rng.uniform(0, 2 * np.pi))
    for item in scene.objects:
        paint(canvas_HWC, vocabulary.kinds[item.class_index], item, light, rng)
    return develop(expose(canvas_HWC, rng), rng)
