"""Write the dump: images, Open Images V3's tree of CSVs, and the complete truth beside it."""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sharding.atomic import replacing, write_json
from sharding.progress import Progress
from sharding.synthetic.annotate import Row, annotate
from sharding.synthetic.options import DumpOptions
from sharding.synthetic.scene import Scene, compose, render
from sharding.synthetic.vocabulary import OUTSIDE, Vocabulary

RELEASE = "2017_11"
_SPLITS = ("train", "validation", "test")
_CHUNK = 50
_IMAGE_COLUMNS = (
    *("ImageID", "Subset", "OriginalURL", "OriginalLandingURL", "License", "AuthorProfileURL"),
    *("Author", "Title", "OriginalSize", "OriginalMD5", "Thumbnail300KURL"),
)
_LICENCE = "https://creativecommons.org/publicdomain/zero/1.0/"


@dataclass(frozen=True, kw_only=True)
class Made:
    """What is known of one image after it was written."""

    image_id: str
    scene: Scene
    rows: tuple[Row, ...]
    size: int
    md5: str


def make_dump(options: DumpOptions, output: Path, *, workers: int = 1) -> bool:
    """Write the dump under ``output``; return False where the very same one is already there.

    ``dump.json`` is written last: without it, or with other options in it, everything is made
    again.
    """
    stamp = {"options": dataclasses.asdict(options), "release": RELEASE}
    if _read(output / "dump.json") == stamp:
        return False
    (output / "dump.json").unlink(missing_ok=True)
    vocabulary = Vocabulary.make(options.classes, options.seed)
    _write_classes(output / RELEASE, vocabulary)
    with Progress(sum(options.images.values()), "draw", unit="image") as progress:
        for split in _SPLITS:
            made: list[Made] = []
            for part in _draw(options, split, output, workers):
                made += part
                progress.advance(len(part))
            made.sort(key=lambda image: image.image_id)
            _write_split(output, split, made, vocabulary)
    write_json(output / "dump.json", stamp)
    return True


def _draw(options: DumpOptions, split: str, output: Path, workers: int) -> Iterable[list[Made]]:
    (output / "images" / split).mkdir(parents=True, exist_ok=True)
    count = options.images[split]
    chunks = [range(begin, min(begin + _CHUNK, count)) for begin in range(0, count, _CHUNK)]
    work = partial(_draw_chunk, options, split, output)
    if workers == 1:
        yield from map(work, chunks)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(work, chunks)


def _draw_chunk(
    options: DumpOptions, split: str, output: Path, indices: Sequence[int]
) -> list[Made]:
    cv2.setNumThreads(1)  # the processes are the parallelism
    vocabulary = Vocabulary.make(options.classes, options.seed)
    return [_draw_one(options, vocabulary, split, output, index) for index in indices]


def _draw_one(
    options: DumpOptions, vocabulary: Vocabulary, split: str, output: Path, index: int
) -> Made:
    # A generator per image: its content depends on nothing but (seed, split, index).
    rng = np.random.default_rng([options.seed, _SPLITS.index(split), index])
    scene = compose(vocabulary, options.side, rng)
    image_HWC = render(scene, vocabulary, rng)
    present = [item.class_index for item in scene.objects]
    rows = annotate(present, vocabulary, train=split == "train", rng=rng)
    quality = int(rng.integers(80, 96))
    _, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    content = encoded.tobytes()
    image_id = _image_id(options, split, index)
    with replacing(output / "images" / split / f"{image_id}.jpg") as temporary:
        temporary.write_bytes(content)
    md5 = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
    return Made(image_id=image_id, scene=scene, rows=tuple(rows), size=len(content), md5=md5)


def _image_id(options: DumpOptions, split: str, index: int) -> str:
    """Distinct ids, dense at the low end as in the real dump (which breaks sharding by prefix)."""
    total = sum(options.images.values())
    before = sum(options.images[s] for s in _SPLITS[: _SPLITS.index(split)])
    # A stride coprime to the total interleaves the splits over the whole range of ids.
    stride = next(s for s in range(total // 2 + 1, 2 * total + 3) if np.gcd(s, total) == 1)
    rank = (before + index) * stride % total
    return f"{int((rank + 1) / (total + 1) * 2**20) ** 3:016x}"


def _write_classes(folder: Path, vocabulary: Vocabulary) -> None:
    mids = [kind.mid for kind in vocabulary.kinds]
    named = [(kind.mid, kind.name) for kind in vocabulary.kinds] + list(OUTSIDE)
    everything = sorted((mid for mid, _ in named), key=lambda mid: mid.replace("_", ""))
    _write_text(folder / "classes-trainable.txt", "".join(f"{mid}\n" for mid in mids))
    _write_text(folder / "classes.txt", "".join(f"{mid}\n" for mid in everything))
    text = io.StringIO()
    for number, pair in enumerate(sorted(named)):
        # The real file mixes line ends: most rows end in CRLF, a few in LF.
        ending = "\n" if number % 20 == 7 else "\r\n"
        csv.writer(text, lineterminator=ending).writerow(pair)
    _write_text(folder / "class-descriptions.csv", text.getvalue())


def _write_split(output: Path, split: str, made: Sequence[Made], vocabulary: Vocabulary) -> None:
    human = [
        (image.image_id, row.source, row.mid, row.confidence)
        for image in made
        for row in image.rows
    ]
    folder, truth = output / RELEASE / split, output / "ground_truth"
    header = ("ImageID", "Source", "LabelName", "Confidence")
    _write_csv(folder / "annotations-human.csv", header, human)
    _write_csv(folder / "images.csv", _IMAGE_COLUMNS, (_image_row(image, split) for image in made))
    boxes = [
        (image.image_id, vocabulary.kinds[item.class_index].mid, item, image.scene)
        for image in made
        for item in image.scene.objects
    ]
    _write_csv(truth / f"{split}.csv", ("ImageID", "LabelName"), (box[:2] for box in boxes))
    _write_csv(
        truth / f"{split}-boxes.csv",
        ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax"),
        (
            (image_id, mid, *(f"{edge:.4f}" for edge in item.box(scene.width, scene.height)))
            for image_id, mid, item, scene in boxes
        ),
    )


def _image_row(image: Made, split: str) -> tuple[Any, ...]:
    page = f"https://images.example.com/{image.image_id}"
    title = f"Procedural scene, {len(image.scene.objects)} objects"
    author = "https://images.example.com/about"
    url = f"{page}.jpg"
    return (
        *(image.image_id, split, url, page, _LICENCE, author, "demo generator", title),
        *(image.size, image.md5, ""),
    )


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    _write_text(path, text.getvalue())


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode())


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None
