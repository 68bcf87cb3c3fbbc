"""Sharding against its peers and its limits: ratios of CPU time in one run.

* ``keep``: JPEG bytes from files into a tar with labels, index included; against webdataset's
  TarWriter, Python's tarfile and the kernel's bare copy (sendfile without any header).
* ``shrink``: JPEG to shorter side 256 into a tar; against the usual OpenCV and Pillow loops and
  against the floor of any such job, entropy decoding plus encoding. PSNR is against Pillow's full
  Lanczos resize.

Interleaved rounds, median of the per-round ratios. Photographs are crops of scikit-learn's two
sample pictures with grain, or those of ``--images DIR``.

    python benchmarks/shards.py keep --count 300 --rounds 7
    python benchmarks/shards.py shrink --count 100 --rounds 5
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
import webdataset
from photographs import photographs
from PIL import Image
from timing import interleaved, ratio

from sharding.images import Treatment, treat
from sharding.labels import LabelTable, parse_image_ids
from sharding.plan import ShardPlan
from sharding.sources import DirectorySource
from sharding.tasks import ShardTask
from sharding.ustar import IndexedTar
from sharding.writer import write_shard

SIDE, QUALITY = 256, 90
Pixels = npt.NDArray[np.uint8]


class Bench:
    """A folder of images, their labels, and an output folder."""

    def __init__(self, images: Path, ids: list[str], output: Path) -> None:
        rng = np.random.default_rng(1)
        classes = [sorted(rng.choice(5000, 10, replace=False).tolist()) for _ in ids]
        self.images, self.ids, self.output = images, ids, output
        self.paths = [str(images / f"{image_id}.jpg") for image_id in ids]
        self.labels = [
            json.dumps({"image_id": i, "positives": c[:3], "negatives": c[3:]}).encode()
            for i, c in zip(ids, classes, strict=True)
        ]
        self.table = LabelTable.from_lists(ids, [c[:3] for c in classes], [c[3:] for c in classes])

    def ours(self, treatment: Treatment) -> Callable[[], object]:
        """The shard job's own task."""
        keys = parse_image_ids(self.ids)
        task = ShardTask(
            plan=ShardPlan(split="train", number=0, image_ids_N=keys),
            labels=self.table,
            source=DirectorySource.open(self.images),
            treatment=treatment,
            output=str(self.output),
        )
        return lambda: write_shard(task)

    def ours_without_hash(self) -> None:
        """The tar and its index only."""
        source = DirectorySource.open(self.images)
        with open(self.output / "a.tar", "wb", buffering=0) as stream:
            archive = IndexedTar(stream.fileno(), hashed=False)
            with source.reader("train", self.ids) as reader:
                for image_id, label in zip(self.ids, self.labels, strict=True):
                    archive.add(image_id, (("jpg", reader.read(image_id)), ("json", label)))
            archive.finish()
        (self.output / "a.idx").write_bytes(archive.index())

    def webdataset(self) -> None:
        """webdataset's TarWriter, without index."""
        with webdataset.TarWriter(str(self.output / "b.tar"), encoder=False) as writer:
            for image_id, path, label in zip(self.ids, self.paths, self.labels, strict=True):
                writer.write({"__key__": image_id, "jpg": Path(path).read_bytes(), "json": label})

    def tarfile(self) -> None:
        """Python's tarfile, without index."""
        with tarfile.open(self.output / "c.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for image_id, path, label in zip(self.ids, self.paths, self.labels, strict=True):
                for extension, content in (("jpg", Path(path).read_bytes()), ("json", label)):
                    member = tarfile.TarInfo(f"{image_id}.{extension}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))

    def sendfile(self) -> None:
        """The kernel's copy of the images, with neither header nor label: no writer is faster."""
        with open(self.output / "d.raw", "wb", buffering=0) as stream:
            for path in self.paths:
                descriptor = os.open(path, os.O_RDONLY)
                left = os.fstat(descriptor).st_size
                while left:
                    left -= os.sendfile(stream.fileno(), descriptor, None, left)
                os.close(descriptor)

    def encoded_by(self, shrink: Callable[[bytes], bytes]) -> Callable[[], object]:
        """A loop of one's own: read, shrink, write with webdataset."""

        def run() -> None:
            with webdataset.TarWriter(str(self.output / "e.tar"), encoder=False) as writer:
                for image_id, path, label in zip(self.ids, self.paths, self.labels, strict=True):
                    content = shrink(Path(path).read_bytes())
                    writer.write({"__key__": image_id, "jpg": content, "json": label})

        return run


def size_for(height: int, width: int) -> tuple[int, int]:
    """(width, height) with the shorter side at `SIDE`."""
    scale = SIDE / min(height, width)
    return round(width * scale), round(height * scale)


def by_opencv(data: bytes) -> bytes:
    """Full decode, INTER_AREA, encode: img2dataset's core."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    small = cv2.resize(image, size_for(*image.shape[:2]), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def by_pillow(data: bytes) -> bytes:
    """Full decode, Lanczos, encode: most projects' preparation script."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    out = io.BytesIO()
    small = image.resize(size_for(image.height, image.width), Image.Resampling.LANCZOS)
    small.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def by_us(data: bytes) -> bytes:
    """What the shard job does to one image."""
    return bytes(treat(data, Treatment(shorter_side=SIDE, quality=QUALITY)).data)


def floor_of(images: list[bytes]) -> Callable[[], None]:
    """Entropy-decode the original and encode the small picture: no codec avoids these two."""
    small = [simplejpeg.decode_jpeg(by_opencv(data), "RGB") for data in images]

    def run() -> None:
        for data, pixels in zip(images, small, strict=True):
            simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1)
            simplejpeg.encode_jpeg(pixels, QUALITY, "RGB", "420")

    return run


def psnr(shrink: Callable[[bytes], bytes], images: list[bytes]) -> float:
    """Mean PSNR in dB against Pillow's full Lanczos resize, before that is encoded."""
    values = []
    for data in images:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        wanted = image.resize(size_for(image.height, image.width), Image.Resampling.LANCZOS)
        result = Image.open(io.BytesIO(shrink(data)))
        error = np.asarray(result, np.float64) - np.asarray(wanted, np.float64)
        values.append(10 * np.log10(255**2 / np.mean(error**2)))
    return float(np.mean(values))


def table(times: dict[str, list[float]], base: str, count: int, extra: dict[str, str]) -> str:
    """A Markdown table of images per CPU second, and the ratio to a base."""
    lines = [f"| variant | images per CPU second | x {base} |  |", "|---|---|---|---|"]
    for name, values in times.items():
        rate = 1000 * count / float(np.median(values))
        over = ratio(times[base], values)
        lines.append(f"| {name} | {rate:,.0f} | {over:.2f} | {extra.get(name, '')} |")
    return "\n".join(lines)


def keep(bench: Bench, rounds: int) -> None:
    """Print the table of keep-bytes sharding."""
    trusting = Treatment(check=False)
    times = interleaved(
        {
            "webdataset TarWriter": bench.webdataset,
            "tarfile": bench.tarfile,
            "ours: tar, index": bench.ours_without_hash,
            "ours: shard task (tar, index, sha256, record)": bench.ours(trusting),
            "ours: shard task with full decode check": bench.ours(Treatment()),
            "limit: sendfile, no headers": bench.sendfile,
        },
        rounds,
    )
    print(table(times, "webdataset TarWriter", len(bench.ids), {}))
    limit = ratio(times["limit: sendfile, no headers"], times["ours: tar, index"])
    print(f"\nours (tar, index) reaches {limit:.2f} of sendfile")


def shrink(bench: Bench, rounds: int) -> None:
    """Print the table of sharding to a shorter side."""
    cv2.setNumThreads(1)
    images = [Path(path).read_bytes() for path in bench.paths]
    ours = "ours: shard task (256)"
    times = interleaved(
        {
            "OpenCV area loop": bench.encoded_by(by_opencv),
            "Pillow Lanczos loop": bench.encoded_by(by_pillow),
            ours: bench.ours(Treatment(shorter_side=SIDE, quality=QUALITY)),
            "limit: entropy decode + encode": floor_of(images),
        },
        rounds,
    )
    sample = images[:40]
    quality = {
        "OpenCV area loop": f"PSNR {psnr(by_opencv, sample):.2f} dB",
        "Pillow Lanczos loop": f"PSNR {psnr(by_pillow, sample):.2f} dB",
        ours: f"PSNR {psnr(by_us, sample):.2f} dB",
    }
    print(table(times, "OpenCV area loop", len(bench.ids), quality))
    limit = ratio(times["limit: entropy decode + encode"], times[ours])
    print(f"\nours reaches {limit:.2f} of the limit")


def main() -> None:
    """Parse, make the images, measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="?", choices=list(MEASURES), help="both by default")
    parser.add_argument("--count", type=int, default=200, help="images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=Path, help="folder of <id>.jpg to use instead")
    parser.add_argument("--work", type=Path, help="where to write; a RAM disk shows the writer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        folder, output = Path(name) / "in", Path(name) / "out"
        folder.mkdir()
        output.mkdir()
        if options.images is None:
            ids = photographs(folder, options.count)
        else:
            folder = options.images
            ids = sorted(path.stem for path in folder.glob("*.jpg"))[: options.count]
        bench = Bench(folder, ids, output)
        size = sum(os.path.getsize(path) for path in bench.paths) / len(ids) / 1e3
        for what in [options.what] if options.what else list(MEASURES):
            print(f"### {what}: {len(ids)} images of {size:.0f} KB, {options.rounds} rounds\n")
            MEASURES[what](bench, options.rounds)
            print()


MEASURES: dict[str, Callable[[Bench, int], Any]] = {"keep": keep, "shrink": shrink}

if __name__ == "__main__":
    main()
