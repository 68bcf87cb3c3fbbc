"""A tar and its index belong together: what was exchanged, cut or overwritten is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.data import dali, dali_index
from pipeline.data.loader import Loader
from sharding.errors import InputError
from sharding.manifest import Dataset
from sharding.storage.locks import ScratchFull
from tests.support.rooms import little_room


def loader(dataset: Path) -> Loader:
    return Loader.of_split(Dataset.open(dataset), "train", batch_size=5, image_size=32)


def swap(dataset: Path, first: str, second: str) -> None:
    """Exchange two files of a dataset."""
    a, b = dataset / first, dataset / second
    a.rename(dataset / "aside")
    b.rename(a)
    (dataset / "aside").rename(b)


TARS = "images/train-000000.tar", "images/train-000001.tar"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / TARS[1]).unlink(), "train-000001.tar: the manifest names this file, but"),
        (lambda d: os.truncate(d / TARS[1], 20480), "train-000001.tar: 20,480 bytes, not"),
        (lambda d: swap(d, *TARS), "train-000000.tar: .* bytes, not"),
        (
            lambda d: swap(d, *(tar.replace(".tar", ".idx") for tar in TARS)),
            "train-000000.idx: its content has changed",
        ),
        (
            lambda d: (d / TARS[1]).write_bytes(bytes((d / TARS[1]).stat().st_size)),
            "train-000001.tar: .* is not where its index says",
        ),
    ],
    ids=["missing", "cut", "tars", "indexes", "other"],
)
def test_a_tar_or_index_that_is_not_the_manifests_is_refused(
    squares: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    broken = shutil.copytree(squares, tmp_path / "broken")
    damage(broken)
    with pytest.raises(InputError, match=f"{message}.*verify"):
        loader(broken)


def test_the_last_entry_is_read_and_an_index_without_any_is_refused(tmp_path: Path) -> None:
    index = tmp_path / "a.idx"
    entries = [f"jpg {512 + 1024 * n} 9 {n:016x}.jpg" for n in range(1000)]
    index.write_text("\n".join(["v1.2 1000", *entries, ""]))
    assert dali_index._last_entry(index) == entries[-1].split(" ")
    index.write_text("v1.2 0\n")
    with pytest.raises(InputError, match=r"a\.idx: the index names no image"):
        dali_index.refuse_other_tar(tmp_path / "a.tar", index)


def test_a_tar_cut_while_it_is_read_is_named(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **options: object) -> Iterator[None]:
        raise RuntimeError("of DALI, which names no file")
        yield

    monkeypatch.setattr(dali, "batches", fails)
    broken = shutil.copytree(squares, tmp_path / "broken")
    epoch = loader(broken).epoch(0)
    os.truncate(broken / TARS[1], 20480)
    with pytest.raises(InputError, match=r"train-000001.tar: 20,480 bytes, not.*verify"):
        next(epoch)


def test_a_full_disk_of_the_node_is_told_as_such(squares: Path) -> None:
    index = (squares / TARS[0]).with_suffix(".idx")
    with pytest.raises(ScratchFull, match=r"the disk of this machine is full"), little_room(10):
        dali_index.cut(index, 1, 3)
