"""Measure what a new annotation dump costs an existing dataset.

Two measurements, each printed as a Markdown table:

* ``size``: a dump of V3's size (3.66 M images, 20.9 M rows) is simulated; then, in a new process,
  the new labels are read, compared with the old ones, brought into shard order and
  written. Wall time, peak memory, bytes written. The images stay untouched, whatever their size.
  The last line is the cost when the 1% of images without pixels get them: then the old labels are
  brought into the new order, too.
* ``ratio``: CPU time of the same steps on a small set against reading its tars and writing them
  again with webdataset, in interleaved rounds; median of the per-round ratios.

    python -m benchmarks.data.relabel size --images 3660000 --rows-per-image 5.7
    python -m benchmarks.data.relabel ratio --images 2000 --rounds 7
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.common.timing import interleaved, ratio
from benchmarks.data.simulated import (
    CLASSES,
    ROWS_FILE,
    class_list,
    shard,
    simulate_dataset,
    simulate_dump,
)
from sharding.dataset.label_versions import (
    NewLabels,
    all_labels,
    labels_without_pixels,
    rearranged,
    write_version,
)
from sharding.dataset.members import members_in
from sharding.image_ids import format_image_ids
from sharding.labels import LabelTable
from sharding.maintenance.diff import diff_tables
from sharding.manifest import Dataset
from sharding.openimages.annotations import read_split
from sharding.openimages.dump import Dump

PIXELS_COME = "the old tables over more shards, once there are pixels"


def relabel(dataset: Dataset, *, pixels_come: bool = False) -> dict[str, float]:
    """Read the new labels, compare, bring into shard order, write; time each step."""
    seconds = {}

    @contextmanager
    def step(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start

    with step("read the new dump"):
        new = read_split(Dump.open(dataset.directory), "train", class_list())
    reading_bytes = peak_memory()
    with step("read the old tables"):
        old = all_labels(dataset, "train", "old")
        members = members_in(dataset)
    with step("compare"):
        diff_tables(old, new.table, CLASSES)
    with step("join and write"):
        labels = NewLabels(name="new", release="v3", policy={}, splits={"train": new})
        write_version(dataset.directory, labels, members)
    written = sum(path.stat().st_size for path in dataset.directory.glob("labels/new/*"))
    cpu_seconds = time.process_time()
    if pixels_come:
        late_N = labels_without_pixels(dataset, "train", "old").image_ids_N
        with step(PIXELS_COME):
            rearranged(dataset, "old", [*members, shard(len(members), late_N)])
    return {
        **seconds,
        "rows": new.report["rows"],
        "images": len(new.table),
        "reading_bytes": reading_bytes,
        "written_bytes": written,
        "cpu_seconds": cpu_seconds,
    }


def measure_size(folder: Path, arguments: argparse.Namespace) -> None:
    """Simulate, then run `relabel` in a fresh process and print its costs."""
    rng = np.random.default_rng(arguments.seed)
    ids_N = np.unique(rng.integers(0, 2**64 - 1, arguments.images, np.uint64, endpoint=True))
    simulate_dump(folder, ids_N, arguments.rows_per_image, rng)
    simulate_dataset(folder, 4_000, rng)
    module = "benchmarks.data.relabel"
    command = [sys.executable, "-m", module, "measured", "--directory", str(folder)]
    costs = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    print(f"\n{costs.pop('images'):,} images, {costs.pop('rows'):,} rows, ", end="")
    print(f"{(folder / ROWS_FILE).stat().st_size / 1e6:,.0f} MB of CSV\n")
    print("| step | |\n|---|---|")
    peak, reading = costs.pop("peak_bytes"), costs.pop("reading_bytes")
    cpu, written = costs.pop("cpu_seconds"), costs.pop("written_bytes")
    late = costs.pop(PIXELS_COME)
    for name, value in costs.items():
        print(f"| {name} | {value:.1f} s |")
    print(f"| **all, wall / CPU** | **{sum(costs.values()):.1f} s / {cpu:.1f} s** |")
    print(f"| peak memory while reading / at all | {reading / 1e9:.2f} / {peak / 1e9:.2f} GB |")
    print(f"| written (image bytes: 0) | {written / 1e6:.0f} MB |")
    print(f"| {PIXELS_COME} | {late:.1f} s |")


def run_measured(folder: Path) -> None:
    """Run the measured process of ``size``: prints its costs as JSON."""
    costs = relabel(Dataset.open(folder), pixels_come=True)
    costs["peak_bytes"] = peak_memory()
    print(json.dumps(costs))


def measure_ratio(folder: Path, arguments: argparse.Namespace) -> None:
    """Interleave `relabel` with a rewrite of the tars and print the median ratio."""
    rng = np.random.default_rng(arguments.seed)
    ids_N = np.unique(rng.integers(0, 2**64 - 1, arguments.images, np.uint64, endpoint=True))
    simulate_dump(folder, ids_N, arguments.rows_per_image, rng)
    dataset = simulate_dataset(folder, 4_000, rng)
    table = dataset.labels("train")
    write_tar(folder / "old.tar", table, rng, arguments.image_bytes)
    rewrite, relabelled = "webdataset: read tar, write tar", "new label version"
    times = interleaved(
        {
            rewrite: lambda: rewrite_tar(folder / "old.tar", folder / "new.tar"),
            relabelled: lambda: relabel(dataset),
        },
        arguments.rounds,
    )
    print(f"\n{len(table):,} images of {arguments.image_bytes / 1e3:.0f} KB\n")
    print("| way | CPU, median | bytes written |\n|---|---|---|")
    for name, pattern in ((rewrite, "new.tar"), (relabelled, "labels/new/*")):
        size = sum(path.stat().st_size for path in folder.glob(pattern))
        print(f"| {name} | {statistics.median(times[name]):.0f} ms | {size / 1e6:.2f} MB |")
    over = ratio(times[rewrite], times[relabelled])
    print(f"\nmedian of {arguments.rounds} per-round ratios: {over:.0f}x")


def write_tar(path: Path, table: LabelTable, rng: np.random.Generator, image_bytes: int) -> None:
    """Write one tar of incompressible bytes in place of JPEGs, which nothing decodes."""
    import webdataset

    with webdataset.TarWriter(str(path)) as sink:
        for key in format_image_ids(table.image_ids_N):
            sink.write({"__key__": key, "jpg": rng.bytes(image_bytes), "json": {"positive": []}})


def rewrite_tar(source: Path, target: Path) -> None:
    """Rewrite with webdataset: read every sample, replace its labels, write it."""
    import webdataset

    with webdataset.TarWriter(str(target)) as sink:
        for sample in webdataset.WebDataset(str(source), shardshuffle=False):
            sample["json"] = b'{"positive": []}'
            sink.write(sample)


def peak_memory() -> int:
    """Read the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Parse the command line and run one measurement in a directory that is removed after it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["size", "ratio", "measured"])
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--rows-per-image", type=float, default=5.7)
    parser.add_argument("--image-bytes", type=int, default=273_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", type=Path, help="where to put the temporary files")
    arguments = parser.parse_args()
    if arguments.what == "measured":
        run_measured(arguments.directory)
        return
    measure = measure_size if arguments.what == "size" else measure_ratio
    with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
        measure(Path(folder), arguments)


if __name__ == "__main__":
    main()
