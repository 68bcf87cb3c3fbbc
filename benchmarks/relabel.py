"""Re-labelling: what a new annotation dump costs an existing dataset.

Two measurements, each printed as a Markdown table:

* ``size``: a dump of V3's size (3.66 M images, 20.9 M rows) is simulated; then, in a process of
  its own, the new labels are read, compared with the old table, brought into shard order and
  written. Wall time, peak memory, bytes written. The images stay untouched, whatever their size.
* ``ratio``: CPU time of the same steps on a small set against reading its tars and writing them
  again with webdataset, in interleaved rounds; median of the per-round ratios.

    python benchmarks/relabel.py size --images 3660000 --rows-per-image 5.7
    python benchmarks/relabel.py ratio --images 2000 --rounds 7
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sharding.annotations import read_split
from sharding.diff import diff_tables
from sharding.ids import format_id_column, format_image_ids
from sharding.labels import LabelTable
from sharding.releases import Dump

CLASSES, OUTSIDE, CHUNK = 5_000, 1_500, 200_000
POSITIVE_SHARE = 0.467  # of V3's human rows
ROWS_FILE = "2017_11/train/annotations-human.csv"


def class_list() -> list[str]:
    """As many MIDs as V3's trainable list has."""
    return [f"/m/0{index:05x}" for index in range(CLASSES)]


def simulate_dump(
    folder: Path, ids_N: npt.NDArray[np.uint64], rows_per_image: float, rng: np.random.Generator
) -> None:
    """Write V3-like train rows: ids in order, geometric rows per image, long-tailed classes."""
    words = pa.array([*class_list(), *(f"/m/0zz{index:03x}" for index in range(OUTSIDE))])
    chances = 1 / np.arange(20, 20 + len(words))
    order = rng.permutation(len(words))
    ends = pa.array([",0\n", ",1\n"])
    path = folder / ROWS_FILE
    path.parent.mkdir(parents=True)
    with open(path, "wb") as out:
        out.write(b"ImageID,Source,LabelName,Confidence\n")
        for begin in range(0, len(ids_N), CHUNK):
            ids = ids_N[begin : begin + CHUNK]
            owners = np.repeat(np.arange(len(ids)), rng.geometric(1 / rows_per_image, len(ids)))
            picked = order[rng.choice(len(words), len(owners), p=chances / chances.sum())]
            # No pair twice: V3's heads hold neither duplicates nor conflicts.
            owners, picked = np.divmod(np.unique(owners * len(words) + picked), len(words))
            positive = (rng.random(len(owners)) < POSITIVE_SHARE).astype(np.int64)
            lines = pc.binary_join_element_wise(
                format_id_column(ids).take(pa.array(owners)),
                pa.scalar(",verification,"),
                words.take(pa.array(picked)),
                ends.take(pa.array(positive)),
                "",
            )
            out.write("".join(lines.to_pylist()).encode())


def old_table(folder: Path, images_per_shard: int, rng: np.random.Generator) -> LabelTable:
    """What the dataset holds before: 5% of the labels flipped or missing, rows in shard order."""
    table = read_split(Dump.open(folder), "train", class_list()).table
    changed = rng.random(len(table.states_E)) < 0.05
    flipped = LabelTable(
        **{**vars(table), "states_E": np.where(changed, 1 - table.states_E, table.states_E)}
    )
    order = np.argsort(table.image_ids_N * np.uint64(0x9E3779B97F4A7C15))  # placed by hash
    shards = [f"images/train-{row // images_per_shard:06d}.tar" for row in range(len(table))]
    return flipped.select(order[: int(0.99 * len(order))], shards[: int(0.99 * len(order))])


def relabel(dump: Path, old_path: Path, new_path: Path) -> dict[str, float]:
    """Read the new labels, compare, bring into shard order, write; seconds of each step."""
    seconds = {}

    @contextmanager
    def step(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start

    with step("read the new dump"):
        new = read_split(Dump.open(dump), "train", class_list())
    reading_bytes = peak_bytes()
    with step("read the old table"):
        old = LabelTable.read(old_path)
    with step("compare"):
        diff = diff_tables(old, new.table, CLASSES)
    with step("join and write"):
        rows = new.table.rows_of(np.concatenate([old.image_ids_N, diff.images_new]))
        shards = [*old.shards, *[""] * len(diff.images_new)]
        new.table.select(rows, shards).write(new_path)
    return {
        **seconds,
        "rows": new.report["rows"],
        "images": len(rows),
        "reading_bytes": reading_bytes,
    }


def measure_size(folder: Path, arguments: argparse.Namespace) -> None:
    """Simulate, then run `relabel` in a fresh process and print its bill."""
    rng = np.random.default_rng(arguments.seed)
    ids_N = np.unique(rng.integers(0, 2**64 - 1, arguments.images, np.uint64, endpoint=True))
    simulate_dump(folder, ids_N, arguments.rows_per_image, rng)
    old_table(folder, 4_000, rng).write(folder / "old.parquet")
    command = [sys.executable, __file__, "measured", "--directory", str(folder)]
    bill = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    written = (folder / "new.parquet").stat().st_size
    print(f"\n{bill.pop('images'):,} images, {bill.pop('rows'):,} rows, ", end="")
    print(f"{(folder / ROWS_FILE).stat().st_size / 1e6:,.0f} MB of CSV\n")
    print("| step | |\n|---|---|")
    peak, reading = bill.pop("peak_bytes"), bill.pop("reading_bytes")
    cpu = bill.pop("cpu_seconds")
    for name, value in bill.items():
        print(f"| {name} | {value:.1f} s |")
    print(f"| **all, wall / CPU** | **{sum(bill.values()):.1f} s / {cpu:.1f} s** |")
    print(f"| peak memory while reading / at all | {reading / 1e9:.2f} / {peak / 1e9:.2f} GB |")
    print(f"| written (image bytes: 0) | {written / 1e6:.0f} MB |")


def run_measured(folder: Path) -> None:
    """The measured process of ``size``: prints its bill as JSON."""
    bill = relabel(folder, folder / "old.parquet", folder / "new.parquet")
    usage = resource.getrusage(resource.RUSAGE_SELF)
    bill["peak_bytes"] = peak_bytes()
    bill["cpu_seconds"] = usage.ru_utime + usage.ru_stime
    print(json.dumps(bill))


def measure_ratio(folder: Path, arguments: argparse.Namespace) -> None:
    """Interleave `relabel` with a rewrite of the tars and print the median ratio."""
    rng = np.random.default_rng(arguments.seed)
    ids_N = np.unique(rng.integers(0, 2**64 - 1, arguments.images, np.uint64, endpoint=True))
    simulate_dump(folder, ids_N, arguments.rows_per_image, rng)
    table = old_table(folder, 4_000, rng)
    table.write(folder / "old.parquet")
    write_tar(folder / "old.tar", table, rng, arguments.image_bytes)
    ours, theirs = [], []
    for _ in range(arguments.rounds):
        theirs.append(cpu_time(lambda: rewrite_tar(folder / "old.tar", folder / "new.tar")))
        ours.append(
            cpu_time(lambda: relabel(folder, folder / "old.parquet", folder / "new.parquet"))
        )
    ratios = [theirs / ours for theirs, ours in zip(theirs, ours, strict=True)]
    print(f"\n{len(table):,} images of {arguments.image_bytes / 1e3:.0f} KB\n")
    print("| way | CPU, median | bytes written |\n|---|---|---|")
    for name, times, path in (
        ("webdataset: read tar, write tar", theirs, "new.tar"),
        ("new label table", ours, "new.parquet"),
    ):
        size = (folder / path).stat().st_size
        print(f"| {name} | {1e3 * statistics.median(times):.0f} ms | {size / 1e6:.2f} MB |")
    print(f"\nmedian of {arguments.rounds} per-round ratios: {statistics.median(ratios):.0f}x")


def write_tar(path: Path, table: LabelTable, rng: np.random.Generator, image_bytes: int) -> None:
    """One tar of incompressible bytes standing for JPEGs; nothing here decodes them."""
    import webdataset

    with webdataset.TarWriter(str(path)) as sink:
        for key in format_image_ids(table.image_ids_N):
            sink.write({"__key__": key, "jpg": rng.bytes(image_bytes), "json": {"positive": []}})


def rewrite_tar(source: Path, target: Path) -> None:
    """The usual way: read every sample, replace its labels, write every sample."""
    import webdataset

    with webdataset.TarWriter(str(target)) as sink:
        for sample in webdataset.WebDataset(str(source), shardshuffle=False):
            sample["json"] = b'{"positive": []}'
            sink.write(sample)


def peak_bytes() -> int:
    """The most memory this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cpu_time(action: Callable[[], object]) -> float:
    """CPU seconds of this process, all threads."""
    start = time.process_time()
    action()
    return time.process_time() - start


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
