"""Run the jobs around a cluster: parse, call, print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pipeline.cli.options import parse


@dataclass(frozen=True, kw_only=True)
class _CheckOptions:
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """Cluster file of `ray up`; call this in the directory that you call `ray up` in."""


def run_check_cluster(arguments: Sequence[str], program: str | None) -> None:
    """Check a cluster file before `ray up`: a line per finding, with the fix.

    Exit status 2 says that there are some.

    $ openimages-boostlu check-cluster ray_cluster.yaml
    """
    options = parse(_CheckOptions, arguments, program, run_check_cluster)
    from pipeline.cluster import cluster_file
    from sharding.log import error

    config = cluster_file.read(options.file)
    findings = cluster_file.check(config, Path.cwd())
    for finding in findings:
        error(f"{options.file}: {finding}")
    if findings:
        raise SystemExit(2)
    print(f"{options.file}: nothing to mend: {cluster_file.describe(config)}")
