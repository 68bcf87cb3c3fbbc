"""Originals by URL: only what has the listed size and MD5 counts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from sharding.dataset.quarantine import Quarantine
from sharding.errors import InputError
from sharding.sources.open import open_source
from sharding.sources.originals import check_original
from sharding.storage.retry import BadImage
from tests.support import commands
from tests.support.photos import encode, image_ids, photo, tree, write_photo_dump
from tests.support.servers import FAST, Web, serving

HEADER = "ImageID,Subset,OriginalURL,License,Title,OriginalSize,OriginalMD5,Thumbnail300KURL"


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


@pytest.fixture
def placed(tmp_path: Path) -> Iterator[tuple[Path, Path, Web]]:
    """A dump whose images.csv names URLs of a server: (dump, directory of the images, server)."""
    dump, images = write_photo_dump(tmp_path / "in")
    with serving({p.stem: p.read_bytes() for p in images.rglob("*.jpg")}) as web:
        for folder in images.iterdir():
            rows = [HEADER, f'{"f" * 16},x,http://none,by,"a, b",1,,']
            for path in sorted(folder.iterdir()):
                data = path.read_bytes()
                rows.append(
                    f'{path.stem},{folder.name},{web.url}/{path.stem},by,"a, b",{len(data)},'
                    f"{md5(data)},"
                )
            target = dump / f"2017_11/{folder.name}/images.csv"
            target.write_text("\n".join(rows) + "\n")
        yield dump, images, web


shard = partial(commands.shard, fetch=FAST)


def test_originals_give_the_same_dataset_as_their_files(placed, tmp_path) -> None:
    dump, images, web = placed
    shard((dump, str(images)), tmp_path / "files")
    shard((dump, "originals"), tmp_path / "urls")
    assert tree(tmp_path / "urls") == tree(tmp_path / "files")
    assert len(web.asked) == 35


def test_a_changed_original_is_set_aside_and_retried(placed, tmp_path) -> None:
    dump, images, web = placed
    gone, changed, shorter = image_ids(images, "train")[:3]
    kept = {name: web.files[name] for name in (gone, changed, shorter)}
    del web.files[gone]
    web.files[changed] = kept[changed][:-2] + b"\0\0"
    web.files[shorter] = encode(photo(30, 20))
    shard((dump, "originals"), tmp_path / "out")
    entries = Quarantine.read(tmp_path / "out/quarantine.parquet").entries
    assert {e.image_id: e.reason for e in entries} == {
        gone: "missing",
        changed: "not the original: its MD5 is not OriginalMD5",
        shorter: f"not the original: {len(web.files[shorter])} bytes instead of "
        f"{len(kept[shorter])}",
    }
    assert {e.source for e in entries} == {f"{web.url}/{i}" for i in (gone, changed, shorter)}
    web.files.update(kept)
    assert "set aside    nothing" in str(
        shard((dump, "originals"), tmp_path / "out", retry_failed=True)
    )


def test_originals_that_are_refused_again_are_set_aside_again(placed, tmp_path) -> None:
    dump, images, web = placed
    gone = image_ids(images, "train")[:2]
    for name in gone:
        del web.files[name]
    shard((dump, "originals"), tmp_path / "out")
    web.faults = {name: [403] * 9 for name in gone}
    shard((dump, "originals"), tmp_path / "out", retry_failed=True)
    entries = Quarantine.read(tmp_path / "out/quarantine.parquet").entries
    assert [e.reason for e in entries] == ["refused: HTTP status 403"] * 2


def test_an_image_without_a_url_is_missing(placed, tmp_path) -> None:
    dump, *_ = placed
    listed = dump / "2017_11/test/images.csv"
    header, *rows = listed.read_text().splitlines()
    first = rows[1].split(",")
    first[2] = ""
    rows[1] = ",".join(first)
    listed.write_text("\n".join([header, *rows[:-1]]) + "\n")
    shard((dump, "originals"), tmp_path / "out")
    entries = Quarantine.read(tmp_path / "out/quarantine.parquet").entries
    assert [e.reason for e in entries] == ["missing: the image list has no URL"] * 2


def test_one_list_is_a_source_too(placed) -> None:
    dump, images, _ = placed
    (first, *_) = image_ids(images, "test")
    source = open_source(str(dump / "2017_11/test/images.csv"), FAST)
    from sharding.image_ids import parse_image_ids

    with source.staged(parse_image_ids([first]), dump, map) as ready:
        assert len(ready.image_ids_N) == 1
        with ready.only([first]).reader("test", [first]) as read:
            assert bytes(read(first)) == (images / f"test/{first}.jpg").read_bytes()


def test_a_dump_without_lists_is_one_line(tmp_path) -> None:
    dump, _ = write_photo_dump(tmp_path)
    with pytest.raises(InputError, match="no image list with URLs"):
        shard((dump, "originals"), tmp_path / "out")
    with pytest.raises(InputError, match="image list is missing"):
        open_source(str(tmp_path / "no.csv"))
    with pytest.raises(InputError, match="no dump here"):
        open_source("originals")


def test_size_and_digest_are_checked_where_they_are_known() -> None:
    check_original(b"abc", "3", md5(b"abc"))
    check_original(b"abc", "", "")
    for size, digest in (
        ("4", md5(b"abc")),
        ("3", md5(b"abd")),
        ("3", hashlib.md5(b"abc").hexdigest()),
    ):
        with pytest.raises(BadImage, match="not the original"):
            check_original(b"abc", size, digest)
