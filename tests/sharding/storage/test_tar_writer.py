"""Archives equal Python's own ustar byte for byte, and indexes equal DALI's."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.storage.tar_writer import IndexedTar, header

SAMPLES = st.lists(st.tuples(st.binary(max_size=3000), st.binary(max_size=600)), max_size=12)


def write(path: Path, samples: list[tuple[bytes, bytes]]) -> IndexedTar:
    with open(path, "wb", buffering=0) as stream:
        archive = IndexedTar(stream.fileno())
        for number, (image, label) in enumerate(samples):
            archive.add(f"{number:016x}", (("jpg", image), ("json", memoryview(label))))
        archive.finish()
    return archive


def by_tarfile(samples: list[tuple[bytes, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for number, sample in enumerate(samples):
            for extension, content in zip(("jpg", "json"), sample, strict=True):
                member = tarfile.TarInfo(f"{number:016x}.{extension}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


@settings(max_examples=50, deadline=None)
@given(SAMPLES)
def test_bytes_equal_those_of_tarfile(tmp_path_factory: pytest.TempPathFactory, samples) -> None:
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    archive = write(path, samples)
    content = path.read_bytes()
    assert content == by_tarfile(samples)
    assert archive.size == len(content)
    assert archive.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("count", [1, 3, 200])
def test_the_index_equals_wds2idx(tmp_path: Path, count: int) -> None:
    samples = [(bytes(7 * number + 1), b"{}" * number) for number in range(count)]
    archive = write(tmp_path / "a.tar", samples)
    indexer = Path(sys.executable).with_name("wds2idx")
    command = [str(indexer), str(tmp_path / "a.tar"), str(tmp_path / "dali.idx")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert archive.index() == (tmp_path / "dali.idx").read_bytes()


def test_what_does_not_fit_a_header_is_refused() -> None:
    for name, size in ((b"n" * 101, 1), (b"n", 8**11)):
        with pytest.raises(ValueError, match="does not fit"):
            header(name, size)


def test_a_write_cut_short_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr(os, "writev", lambda descriptor, parts: os.write(descriptor, parts[0][:5]))
    samples = [(b"a" * 1000, b"b" * 700)]
    write(tmp_path / "a.tar", samples)
    assert (tmp_path / "a.tar").read_bytes() == by_tarfile(samples)
