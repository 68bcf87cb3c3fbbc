"""The same input gives the same bytes as release 0.1.0: shards, indexes, tables.

`tests/data/README.md` says how the datasets to compare with were made.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sharding.commands.options import ReshardOptions, ShardOptions
from sharding.commands.prepare import prepare
from sharding.commands.reshard import reshard
from sharding.commands.shard import shard_dump
from sharding.importers.options import ImportOptions
from sharding.importers.prepare import prepare_import
from sharding.importers.run import import_collection
from sharding.layout import DESCRIPTIONS, LABELS_CARD_FILE
from tests.support.release import unpack

COMPARED_BY_CONTENT = ("dataset.json", "quarantine.parquet", "README.md")


def make(output: str, **more: Any) -> None:
    options = {"annotations": Path("first"), "images": "images", "images_per_shard": 6, "ranks": 1}
    shard_dump(prepare(ShardOptions(output=output, **options, **more)), map)


def relabel(output: str, **more: Any) -> None:
    shutil.copytree("old/keep", output)
    reshard(ReshardOptions(dataset=output, annotations=Path("second"), **more), map)


def import_table(output: str, **more: Any) -> None:
    source = {"source": Path("images"), "table": Path("table.csv")}
    options = ImportOptions(format="csv", output=output, **source, **more)
    import_collection(prepare_import(options), map)


CASES: dict[str, tuple[Callable[..., None], dict[str, Any]]] = {
    "keep": (make, {}),
    "small": (make, {"shorter_side": 24}),
    "relabelled": (relabel, {}),
    "extended": (relabel, {"images": "images", "make_default": True}),
    "rewritten": (relabel, {"rewrite": True}),
    "imported": (import_table, {"images_per_shard": 6}),
    "single": (import_table, {"single_positive": True, "shorter_side": 24}),
}


@pytest.fixture(scope="module", params=CASES)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """One dataset as release 0.1.0 wrote it, and as it is written today."""
    folder = tmp_path_factory.mktemp("release")
    old = unpack("datasets_0_1_0", folder / "old")
    for name in ("images", "first", "second", "table.csv"):
        (old / name).rename(folder / name)
    function, more = CASES[request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        function(request.param, **more)
    return old / request.param, folder / request.param


def files(dataset: Path) -> set[str]:
    """Names below a dataset, but for records of shards and the files that 0.1.0 did not write."""
    names = {p.relative_to(dataset).as_posix() for p in dataset.rglob("*") if p.is_file()}
    names -= {*DESCRIPTIONS, LABELS_CARD_FILE}
    return {name for name in names if not (name.startswith("images/") and name.endswith(".json"))}


def test_shards_and_tables_are_the_same_bytes(pair: tuple[Path, Path]) -> None:
    old, new = pair
    assert files(new) == files(old)
    for name in files(old) - set(COMPARED_BY_CONTENT):
        if name.endswith(".parquet") and _writer(old / name) != _writer(new / name):
            assert pq.read_table(new / name).equals(pq.read_table(old / name)), name
        else:
            assert (new / name).read_bytes() == (old / name).read_bytes(), name


def test_the_manifest_says_what_it_said(pair: tuple[Path, Path]) -> None:
    old, new = (json.loads((dataset / "dataset.json").read_text()) for dataset in pair)
    for manifest in (old, new):  # the table of rejected rows names the folder of the dump
        manifest["created_by"].pop("quarantine_file_sha256", None)
    created_by = old.pop("created_by")
    assert {key: new["created_by"].get(key) for key in created_by} == created_by
    assert {key: new.get(key) for key in old} == old


def test_the_same_images_and_rows_are_set_aside(pair: tuple[Path, Path]) -> None:
    old, new = (_quarantine(dataset) for dataset in pair)
    assert new == old


def _writer(path: Path) -> str:
    """The version of Arrow that wrote a Parquet file; another one may lay it out differently."""
    return str(pq.read_metadata(path).created_by)


def _quarantine(dataset: Path) -> list[dict[str, str]]:
    rows = pq.read_table(dataset / "quarantine.parquet").to_pylist()
    return [{**row, "source": Path(row["source"]).name} for row in rows]
