"""Measure sharding against its peers and its limits: ratios of CPU time in one run.

* ``keep``: JPEG bytes from files into a tar with labels, index included; against webdataset's
  TarWriter, Python's tarfile and the kernel's bare copy (sendfile without any header).
* ``shrink``: JPEG to shorter side 256 into a tar; against the usual OpenCV and Pillow loops and
  against the limit of any such job, entropy decoding plus encoding. PSNR is against Pillow's full
  Lanczos resize.

Interleaved rounds, median of the per-round ratios. Photographs are crops of scikit-learn's two
sample pictures with grain, or those of ``--images DIR``.

    python -m benchmarks.data.sharding keep --count 300 --rounds 7 --work /dev/shm
    python -m benchmarks.data.sharding shrink --count 100 --rounds 5 --img2dataset i2d/bin/python
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import webdataset

from benchmarks.common.photographs import photographs
from benchmarks.common.timing import interleaved, ratio
from benchmarks.data.peer_img2dataset import cpu_seconds_per_image
from benchmarks.data.shrinking import (
    QUALITY,
    SIDE,
    by_opencv,
    by_pillow,
    by_shard_job,
    codec_limit,
    psnr,
)
from sharding.image_ids import parse_image_ids
from sharding.labels import LabelTable
from sharding.shards.plan import ShardPlan
from sharding.shards.task import ShardTask
from sharding.shards.transcode import ImagePolicy
from sharding.shards.writer import write_shard
from sharding.sources.directory import DirectorySource
from sharding.storage.tar_writer import IndexedTar


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

    def ours(self, treatment: ImagePolicy) -> Callable[[], object]:
        """Make a call of the shard job's own task."""
        keys = parse_image_ids(self.ids)
        task = ShardTask(
            plan=ShardPlan(split="train", number=0, image_ids_N=keys),
            labels=self.table,
            source=DirectorySource.open(self.images),
            policy=treatment,
            output=str(self.output),
        )
        return lambda: write_shard(task)

    def ours_without_hash(self) -> None:
        """Write the tar and its index only."""
        source = DirectorySource.open(self.images)
        with open(self.output / "a.tar", "wb", buffering=0) as stream:
            archive = IndexedTar(stream.fileno(), hashed=False)
            with source.reader("train", self.ids) as read:
                for image_id, label in zip(self.ids, self.labels, strict=True):
                    archive.add(image_id, (("jpg", read(image_id)), ("json", label)))
            archive.finish()
        (self.output / "a.idx").write_bytes(archive.index())

    def webdataset(self) -> None:
        """Write with webdataset's TarWriter, without index."""
        with webdataset.TarWriter(str(self.output / "b.tar"), encoder=False) as writer:
            for image_id, path, label in zip(self.ids, self.paths, self.labels, strict=True):
                writer.write({"__key__": image_id, "jpg": Path(path).read_bytes(), "json": label})

    def tarfile(self) -> None:
        """Write with Python's tarfile, without index."""
        with tarfile.open(self.output / "c.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for image_id, path, label in zip(self.ids, self.paths, self.labels, strict=True):
                for extension, content in (("jpg", Path(path).read_bytes()), ("json", label)):
                    member = tarfile.TarInfo(f"{image_id}.{extension}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))

    def sendfile(self) -> None:
        """Copy the images in the kernel, without headers or labels: no writer is faster."""
        with open(self.output / "d.raw", "wb", buffering=0) as stream:
            for path in self.paths:
                descriptor = os.open(path, os.O_RDONLY)
                remaining = os.fstat(descriptor).st_size
                while remaining:
                    remaining -= os.sendfile(stream.fileno(), descriptor, None, remaining)
                os.close(descriptor)

    def encoded_by(self, shrink: Callable[[bytes], bytes]) -> Callable[[], object]:
        """Make a call that reads, shrinks and writes with webdataset."""

        def run() -> None:
            with webdataset.TarWriter(str(self.output / "e.tar"), encoder=False) as writer:
                for image_id, path, label in zip(self.ids, self.paths, self.labels, strict=True):
                    content = shrink(Path(path).read_bytes())
                    writer.write({"__key__": image_id, "jpg": content, "json": label})

        return run


def table(times: dict[str, list[float]], base: str, count: int, extra: dict[str, str]) -> str:
    """Format a Markdown table of images per CPU second, and the ratio to a base."""
    lines = [f"| variant | images per CPU second | x {base} |  |", "|---|---|---|---|"]
    for name, values in times.items():
        rate = 1000 * count / float(np.median(values))
        over = ratio(times[base], values)
        lines.append(f"| {name} | {rate:,.0f} | {over:.2f} | {extra.get(name, '')} |")
    return "\n".join(lines)


def keep(bench: Bench, options: argparse.Namespace) -> None:
    """Print the table of keep-bytes sharding."""
    trusting = ImagePolicy(check=False)
    times = interleaved(
        {
            "webdataset TarWriter": bench.webdataset,
            "tarfile": bench.tarfile,
            "ours: tar, index": bench.ours_without_hash,
            "ours: shard task (tar, index, sha256, record)": bench.ours(trusting),
            "ours: shard task with full decode check": bench.ours(ImagePolicy()),
            "limit: sendfile, no headers": bench.sendfile,
        },
        options.rounds,
    )
    print(table(times, "webdataset TarWriter", len(bench.ids), {}))
    limit = ratio(times["limit: sendfile, no headers"], times["ours: tar, index"])
    print(f"\nours (tar, index) reaches {limit:.2f} of sendfile")


def shrink(bench: Bench, options: argparse.Namespace) -> None:
    """Print the table of sharding to a shorter side."""
    cv2.setNumThreads(1)
    images = [Path(path).read_bytes() for path in bench.paths]
    ours = "ours: shard task (256)"
    times = interleaved(
        {
            "OpenCV area loop": bench.encoded_by(by_opencv),
            "Pillow Lanczos loop": bench.encoded_by(by_pillow),
            ours: bench.ours(ImagePolicy(shorter_side=SIDE, quality=QUALITY)),
            "limit: entropy decode + encode": codec_limit(images),
        },
        options.rounds,
    )
    sample = images[:40]
    quality = {
        "OpenCV area loop": f"PSNR {psnr(by_opencv, sample):.2f} dB",
        "Pillow Lanczos loop": f"PSNR {psnr(by_pillow, sample):.2f} dB",
        ours: f"PSNR {psnr(by_shard_job, sample):.2f} dB",
    }
    print(table(times, "OpenCV area loop", len(bench.ids), quality))
    limit = ratio(times["limit: entropy decode + encode"], times[ours])
    print(f"\nours reaches {limit:.2f} of the limit")
    if options.img2dataset is not None:
        against_img2dataset(bench, options)


def against_img2dataset(bench: Bench, options: argparse.Namespace) -> None:
    """Print the ratio to img2dataset, in the interpreter that has it."""
    task = bench.ours(ImagePolicy(shorter_side=SIDE, quality=QUALITY))
    ratios, rates = [], []
    for _ in range(options.rounds):
        start = time.process_time()
        task()
        ours = (time.process_time() - start) / len(bench.ids)
        theirs = cpu_seconds_per_image(options.img2dataset, bench.paths, SIDE, QUALITY)
        ratios.append(theirs / ours)
        rates.append(1 / theirs)
    print(
        f"img2dataset: {np.median(rates):.0f} images per CPU second beyond its start; "
        f"ours is {np.median(ratios):.2f} times that"
    )


MEASURES: dict[str, Callable[[Bench, argparse.Namespace], None]] = {"keep": keep, "shrink": shrink}


def main() -> None:
    """Parse, make the images, measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="?", choices=list(MEASURES), help="both by default")
    parser.add_argument("--count", type=int, default=200, help="images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=Path, help="folder of <id>.jpg to use instead")
    parser.add_argument("--img2dataset", type=Path, help="a Python that has img2dataset")
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
            MEASURES[what](bench, options)
            print()


if __name__ == "__main__":
    main()
