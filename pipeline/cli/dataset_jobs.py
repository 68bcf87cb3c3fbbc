"""Run the jobs that make, extend and check a dataset: parse, connect, call, print."""

from __future__ import annotations

import dataclasses
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.cli.options import parse, write
from sharding.commands.options import (
    RemoveOptions,
    ReshardOptions,
    ShardOptions,
    VerifyOptions,
    ViewOptions,
)
from sharding.errors import command
from sharding.importers.options import ImportOptions
from sharding.log import count
from sharding.progress import say
from sharding.synthetic.options import DumpOptions

_COLUMNS, _INDENT = 80, 15  # the width of a row's name in `sharding.commands.summary`
# Until 0.1 a label version was named by `--name`, as a run was.
_OLD_NAMES = {"--name": "--labels"}


@dataclass(frozen=True, kw_only=True)
class _DemoOptions(DumpOptions):
    output: Path
    """Directory to write; repeating the command with the same options does nothing, other options
    replace the dump that is there."""
    workers: int = os.cpu_count() or 1
    """Processes; the bytes do not depend on it."""


def _show(result: object) -> None:
    """Print a job's result; on a terminal long rows go on below their text, but no command."""
    for line in str(result).splitlines():
        if sys.stdout.isatty() and line.startswith("  ") and not line.startswith("  next "):
            line = textwrap.fill(line, _COLUMNS, subsequent_indent=" " * _INDENT)
        write(line)


def run_make_demo(arguments: Sequence[str], program: str | None) -> None:
    """Draw a demo collection: photographs, partial annotations, complete ground truth.

    $ openimages-boostlu make-demo --output demo/dump
    """
    options = parse(_DemoOptions, arguments, program, run_make_demo)
    from sharding.synthetic.dump import make_dump

    output = options.output
    shared = dataclasses.fields(DumpOptions)
    dump = DumpOptions(**{field.name: getattr(options, field.name) for field in shared})
    made = make_dump(dump, output, workers=options.workers)
    counts = ", ".join(f"{number} {split}" for split, number in dump.images.items())
    done = "made" if made else "already there"
    print(f"{done}: {counts} images of {count(dump.classes, 'class')}")
    print(f"annotations  {output}/2017_11")
    print(f"images       {output}/images")
    print(f"truth        {output}/ground_truth")
    places = ("--annotations", output, "--images", output / "images")
    dataset = ("--output", output.parent / "dataset", "--images-per-shard", "250")
    print(f"next         {command('shard', *places, *dataset)}")


def run_shard(arguments: Sequence[str], program: str | None) -> None:
    """Turn an annotation dump and its images into a dataset; repeat to continue it.

    $ openimages-boostlu shard --annotations DUMP --images JPEGS --output DATASET
    $ ray submit ray_cluster.yaml jobs/shard_openimages.py -- \\
          --annotations DUMP --images JPEGS --output s3://BUCKET/DATASET
    """
    options = parse(ShardOptions, arguments, program, run_shard, _OLD_NAMES)
    from pipeline.cluster.tasks import task_map
    from sharding.commands.prepare import prepare
    from sharding.commands.shard import shard_dump
    from sharding.commands.workspace import open_workspace

    parallel = task_map("sharding", options.workers)
    with open_workspace(options.output, options.fetch, options.scratch) as workspace:
        local = dataclasses.replace(options, output=str(workspace.directory))
        summary = shard_dump(prepare(local), parallel, workspace)
    _show(summary)


def run_import(arguments: Sequence[str], program: str | None) -> None:
    """Turn VOC, COCO, NUS-WIDE, CUB or an image,labels CSV into a dataset.

    $ openimages-boostlu import --format csv --source DIR --output DATASET
    $ openimages-boostlu import --format voc --source DIR --output DATASET \\
          --single-positive
    $ ray submit ray_cluster.yaml jobs/import_dataset.py -- \\
          --format coco --source DIR --output DATASET
    """
    options = parse(ImportOptions, arguments, program, run_import)
    from pipeline.cluster.tasks import task_map
    from sharding.commands.workspace import open_workspace
    from sharding.importers.prepare import prepare_import
    from sharding.importers.run import import_collection

    parallel = task_map("importing", options.workers)
    with open_workspace(options.output, scratch=options.scratch) as workspace:
        local = dataclasses.replace(options, output=str(workspace.directory))
        summary = import_collection(prepare_import(local), parallel, workspace)
    _show(summary)


def run_reshard(arguments: Sequence[str], program: str | None) -> None:
    """Lay a new annotation dump, or an export of ours, over a dataset.

    $ openimages-boostlu reshard --dataset DATASET --annotations DUMP
    $ openimages-boostlu reshard --dataset DATASET --known 0.1 --draw 3
    $ openimages-boostlu reshard --dataset DATASET --confidences MACHINE_LABELS
    $ ray submit ray_cluster.yaml jobs/reshard_openimages.py -- \\
          --dataset DATASET --annotations DUMP
    """
    options = parse(ReshardOptions, arguments, program, run_reshard, _OLD_NAMES)
    from pipeline.cluster.tasks import task_map
    from sharding.commands.confidences import reshard_confidences
    from sharding.commands.reshard import reshard
    from sharding.commands.workspace import open_workspace

    parallel = task_map("writing shards", options.workers)
    with open_workspace(options.dataset, options.fetch, options.scratch) as workspace:
        local = dataclasses.replace(options, dataset=str(workspace.directory))
        if options.confidences is not None:
            summary: object = reshard_confidences(local, workspace)
        else:
            summary = reshard(local, parallel, workspace)
    _show(summary)


def draw_single_positive(dataset: str, base: str, draw: int, name: str) -> None:
    """Make the label version of one positive per training image, for a study.

    Raises:
        InputError: as of `reshard`.
    """
    from pipeline.cluster.tasks import task_map
    from sharding.commands.reshard import reshard
    from sharding.commands.workspace import open_workspace

    options = ReshardOptions(dataset=dataset, single_positive=True, draw=draw, base=base, name=name)
    with open_workspace(dataset, options.fetch, options.scratch) as workspace:
        local = dataclasses.replace(options, dataset=str(workspace.directory))
        reshard(local, task_map("writing shards", None), workspace)
    say(f"labels {name}: one positive per training image of {base}")


def run_view(arguments: Sequence[str], program: str | None) -> None:
    """Write a page of a dataset's images and labels: of a shard, a class, a reason.

    $ openimages-boostlu view --dataset DATASET --class Dog --state negative
    $ openimages-boostlu view --dataset DATASET --reason missing
    """
    options = parse(ViewOptions, arguments, program, run_view)
    from sharding.commands.view import view
    from sharding.commands.workspace import open_workspace

    with open_workspace(options.dataset, options.fetch, options.scratch) as workspace:
        page = view(options, workspace)
    write(page)


def run_remove(arguments: Sequence[str], program: str | None) -> None:
    """Take images down: out of their tars, out of every label version, and for good.

    $ openimages-boostlu remove --dataset DATASET --ids 0123456789abcdef
    $ openimages-boostlu remove --dataset s3://bucket/dataset --file takedown.txt
    """
    options = parse(RemoveOptions, arguments, program, run_remove)
    from pipeline.cluster.tasks import task_map
    from sharding.commands.remove import remove
    from sharding.commands.workspace import open_workspace

    parallel = task_map("writing shards", options.workers)
    with open_workspace(options.dataset, options.fetch, options.scratch) as workspace:
        summary = remove(options, parallel, workspace)
    _show(summary)


def run_verify(arguments: Sequence[str], program: str | None) -> None:
    """Check a dataset against its manifest: hashes, indexes, labels, counts, orphans.

    Exit status 1 says that problems remain.

    $ openimages-boostlu verify --dataset DATASET_OR_URL
    $ openimages-boostlu verify --dataset DATASET --repair --images JPEGS
    """
    options = parse(VerifyOptions, arguments, program, run_verify)
    from pipeline.cluster.tasks import task_map
    from sharding.commands.verify import verify
    from sharding.commands.workspace import open_workspace

    parallel = task_map("checking shards", options.workers)
    with open_workspace(options.dataset, options.fetch, options.scratch) as workspace:
        result = verify(options, parallel, workspace)
    _show(result)
    raise SystemExit(0 if result.intact else 1)
