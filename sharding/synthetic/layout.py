"""Write the tables of a demo dump: Open Images V3's, and the complete ground truth.

2017_11/classes.txt, classes-trainable.txt, class-descriptions.csv
2017_11/SPLIT/annotations-human.csv, images.csv
ground_truth/SPLIT.csv, SPLIT-boxes.csv
images/SPLIT/ID.jpg
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from sharding.storage.files import replacing
from sharding.synthetic.annotate import LICENCE
from sharding.synthetic.photograph import Photograph
from sharding.synthetic.vocabulary import OUTSIDE, Vocabulary, collated

RELEASE = "2017_11"
GROUND_TRUTH = "ground_truth"
IMAGES = "images"

_HUMAN_HEADER = "ImageID,Source,LabelName,Confidence"
_IMAGES_HEADER = (
    "ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,"
    "Author,Title,OriginalSize,OriginalMD5,Thumbnail300KURL"
)
# One description in so many ends in LF, all others in CRLF: the real file mixes them.
_LF_EVERY = 20


def write_classes(output: Path, vocabulary: Vocabulary) -> None:
    """Write the class lists, in the order of the real ones, and the names."""
    folder = output / RELEASE
    names = {kind.mid: kind.name for kind in vocabulary.kinds} | dict(OUTSIDE)
    _write_lines(folder / "classes-trainable.txt", [kind.mid for kind in vocabulary.kinds])
    _write_lines(folder / "classes.txt", sorted(names, key=collated))
    text = io.StringIO()
    for number, pair in enumerate(sorted(names.items())):
        ending = "\n" if number % _LF_EVERY == _LF_EVERY - 1 else "\r\n"
        csv.writer(text, lineterminator=ending).writerow(pair)
    _write(folder / "class-descriptions.csv", text.getvalue())


def write_split(
    output: Path, split: str, photographs: Sequence[Photograph], vocabulary: Vocabulary
) -> dict[str, int]:
    """Write the tables of a split, rows in the order of ``photographs``; return their counts."""
    folder, truth = output / RELEASE / split, output / GROUND_TRUTH
    rows = [(photo.image_id, row) for photo in photographs for row in photo.rows]
    human = (f"{id_},{row.source},{row.mid},{row.confidence}" for id_, row in rows)
    _write_lines(folder / "annotations-human.csv", [_HUMAN_HEADER, *human])
    images = (_image_line(photo, split) for photo in photographs)
    _write_lines(folder / "images.csv", [_IMAGES_HEADER, *images])
    boxes = [
        (
            photo.image_id,
            vocabulary.kinds[item.class_index].mid,
            *item.box(scene.width, scene.height),
        )
        for photo in photographs
        for scene in [photo.scene]
        for item in scene.objects
    ]
    _write_lines(truth / f"{split}.csv", ["ImageID,LabelName", *(",".join(b[:2]) for b in boxes)])
    edges = ("{},{},{:.4f},{:.4f},{:.4f},{:.4f}".format(*box) for box in boxes)
    _write_lines(truth / f"{split}-boxes.csv", ["ImageID,LabelName,XMin,XMax,YMin,YMax", *edges])
    return {
        "images": len(photographs),
        "objects": len(boxes),
        "rows": len(rows),
        "positive_rows": sum(row.confidence for _, row in rows),
    }


def _image_line(photo: Photograph, split: str) -> str:
    """Format a row of `images.csv`; the real file quotes author and title and nothing else."""
    credit = photo.credit
    urls = f"{credit.url},{credit.landing_url},{LICENCE},{credit.profile_url}"
    texts = f'"{credit.author}","{credit.title}",{photo.size},{photo.md5},{credit.thumbnail_url}'
    return f"{photo.image_id},{split},{urls},{texts}"


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    _write(path, "".join(f"{line}\n" for line in lines))


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode())
