"""Draw small pictures, encode them in every format, whole and broken; write a dump of some."""

from __future__ import annotations

import functools
import hashlib
import io
import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.dumpmaking import MIDS, write_classes, write_labels

SPLIT_SIZES = {"train": 24, "validation": 6, "test": 5}


def photo(width: int = 300, height: int = 200, seed: int = 0) -> Image.Image:
    """Draw smooth colour gradients with some texture."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    grain = rng.integers(-6, 6, smooth.shape)
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def oriented(orientation: int, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """Encode a picture with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x112] = orientation
    return encode(photo().convert(mode), kind, exif=exif, quality=90)


def ycck() -> bytes:
    """Encode a YCCK JPEG (Adobe's transform 2), inverted as CMYK is."""
    ycc = Image.fromarray(255 - np.asarray(photo())).convert("YCbCr")
    planes = [Image.fromarray(255 - np.asarray(plane)) for plane in ycc.split()]
    data = encode(Image.merge("CMYK", [*planes, Image.new("L", ycc.size)]), quality=95)
    return _patched(data, data.find(b"Adobe") + 11, b"\2")


@functools.cache
def whole_images() -> Mapping[str, bytes]:
    """Encode images that must be accepted, by kind."""
    deep = np.random.default_rng(1).integers(0, 65535, (40, 60), dtype=np.uint16)
    return {
        "jpeg": encode(photo(), quality=90),
        "progressive": encode(photo(), progressive=True),
        "4:4:4": encode(photo(), subsampling=0),
        "restart markers": encode(photo(), restart_marker_blocks=2),
        "trailing bytes": encode(photo()) + b"junk" * 50,
        "RGB components": encode(photo(), keep_rgb=True),
        "grayscale": encode(photo().convert("L")),
        "CMYK": encode(photo().convert("CMYK")),
        "YCCK": ycck(),
        "one pixel": encode(photo().resize((1, 1))),
        "thin": encode(photo().resize((2000, 1))),
        **{f"EXIF {number}": oriented(number) for number in (0, 1, 3, 6, 8, 42)},
        "CMYK EXIF 0": oriented(0, mode="CMYK"),
        "PNG EXIF 0": oriented(0, "PNG"),
        "PNG": encode(photo(), "PNG"),
        "PNG palette": encode(photo().convert("P"), "PNG"),
        "PNG alpha": encode(photo().convert("RGBA"), "PNG"),
        "PNG 16 bit": encode(Image.fromarray(deep), "PNG"),
        "GIF": encode(photo().convert("P"), "GIF"),
        "WebP": encode(photo(), "WEBP"),
        "BMP": encode(photo(), "BMP"),
        "TIFF": encode(photo(), "TIFF"),
        "JPEG 2000": encode(photo(), "JPEG2000"),
    }


@functools.cache
def broken_images() -> Mapping[str, bytes]:
    """Encode images that must be rejected, by what is wrong with them."""
    good = encode(photo(), quality=90)
    scan, frame = good.find(b"\xff\xda"), good.find(b"\xff\xc0")
    middle = (scan + len(good)) // 2
    tables = good.find(b"\xff\xc4")
    return {
        "empty": b"",
        "zeros": bytes(5000),
        "noise": random.Random(0).randbytes(5000),
        "web page": b"<!DOCTYPE html><title>Photo unavailable</title>",
        "XML error": b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>',
        "three bytes": good[:3],
        "header only": good[:300],
        "half": good[: len(good) // 2],
        "last 20 bytes gone": good[:-20],
        "end marker gone": good[:-2],
        "last byte gone": good[:-1],
        "bytes before the first segment": good[:2] + b"\0\1" + good[2:],
        "end marker amid the scan": _patched(good, middle, b"\xff\xd9"),
        "restart marker amid the scan": _patched(good, middle, b"\xff\xd3"),
        "segment amid the scan": _patched(good, middle, b"\xff\xe0"),
        "impossible Huffman table": _patched(good, tables + 5, b"\xff" * 16),
        "no pixels": _patched(good, frame + 5, bytes(4)),
        "too many pixels": _patched(good, frame + 5, b"\xff\xdc\xff\xdc"),
        "lossless coding": _patched(good, frame + 1, b"\xc3"),
        "12 bits": _patched(good, frame + 4, b"\x0c"),
        "longer than a JPEG can be": encode(Image.new("L", (70_000, 50)), "PNG"),
        "PNG cut off": encode(photo(), "PNG")[:2000],
        "GIF cut off": encode(photo().convert("P"), "GIF")[:500],
        "CMYK cut off": encode(photo().convert("CMYK"))[:-500],
    }


def write_photo_dump(
    root: Path, sizes: Mapping[str, int] = SPLIT_SIZES, *, side: int = 96
) -> tuple[Path, Path]:
    """Write a V3 dump of small photographs below ``root``; return (annotations, images)."""
    rng = random.Random(3)
    rows: dict[str, list[str]] = {}
    images = root / "jpegs"
    for position, (split, size) in enumerate(sizes.items()):
        rows[split] = []
        (images / split).mkdir(parents=True)
        for number in range(size):
            image_id = hashlib.sha256(f"{split} {number}".encode()).hexdigest()[:16]
            content = encode(photo(side + 8 * position, side, seed=number), quality=80)
            (images / split / f"{image_id}.jpg").write_bytes(content)
            for mid in rng.sample(MIDS, 2):
                rows[split].append(f"{image_id},verification,{mid},{rng.randrange(2)}")
    dump = write_classes(write_labels(root / "dump", rows))
    return dump, images


def image_ids(images: Path, split: str) -> list[str]:
    return sorted(path.stem for path in (images / split).glob("*.jpg"))


def tree(directory: Path) -> dict[str, str]:
    """Hash every file below a directory: SHA-256 by relative path."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def _patched(data: bytes, position: int, patch: bytes) -> bytes:
    return data[:position] + patch + data[position + len(patch) :]
