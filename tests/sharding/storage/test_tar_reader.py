"""Tars as people have them and as they break: content equal to tarfile's, or one error."""

from __future__ import annotations

import gzip
import io
import tarfile
import time

import pytest

from benchmarks.faults import archives
from sharding.storage.tar_reader import LONGEST_EXTENSION, read_members

A, B = f"{1:016x}.jpg", f"{2:016x}.jpg"


def names_of(content: bytes) -> list[str]:
    return [member.name for member, _ in read_members(io.BytesIO(content))]


def block(
    name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", size: bytes = b""
) -> bytes:
    """A header and its content, perhaps with another size than that has."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    head = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    if size:
        head[124:136], head[148:156] = size, b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + content + bytes(-len(content) % 512)


END = bytes(1024)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("packed", [False, True])
def test_members_are_those_that_tarfile_sees(form: int, packed: bool) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, size in (("a.jpg", 0), ("d/" + "n" * 90, 513), ("b", 512), ("c", 70_000)):
            info = tarfile.TarInfo(name if form == tarfile.USTAR_FORMAT else name * 3)
            info.size = size
            archive.addfile(info, io.BytesIO(b"x" * size))
    content = out.getvalue()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        expected = [(m.name, m.offset_data, m.size, b"x" * m.size) for m in archive]
    stream = gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(content)))
    members = read_members(stream if packed else io.BytesIO(content))
    assert [(m.name, m.offset_data, m.size, data.read()) for m, data in members] == expected


def test_cuts_are_noticed() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("a")
        info.size = 3_000_000
        archive.addfile(info, io.BytesIO(bytes(range(250)) * 12_000))
    for length in (0, 100, 512, 5000, 3_000_000 + 512, 3_000_320 + 512):
        with pytest.raises(tarfile.ReadError, match=r"cut off|unexpected end"):
            list(read_members(io.BytesIO(out.getvalue()[:length])))


def test_a_long_name_goes_with_the_next_member_whatever_that_is() -> None:
    long = block("././@LongLink", tarfile.GNUTYPE_LONGNAME, f"{'d' * 200}/{A}".encode() + b"\0")
    assert names_of(long + block("link", tarfile.SYMTYPE) + block(B) + END) == [
        f"{'d' * 200}/{A}",
        B,
    ]
    assert names_of(long + block("folder", tarfile.DIRTYPE) + block(B) + END) == [B]
    assert names_of(long + block("dump", b"D", b"x") + block(B) + END) == [B]
    with pytest.raises(tarfile.ReadError, match="no member after its long name"):
        names_of(long + END)


def test_a_long_link_target_goes_with_the_next_member_alone() -> None:
    target = f"{'d' * 200}/{A}"
    long = block("././@LongLink", tarfile.GNUTYPE_LONGLINK, target.encode() + b"\0")
    stream = io.BytesIO(long + block("link", tarfile.SYMTYPE) + block("b", tarfile.SYMTYPE) + END)
    assert [(m.name, m.linkname) for m, _ in read_members(stream)] == [("link", target), ("b", "")]


def test_a_sparse_file_has_no_content_and_costs_the_next_one_nothing() -> None:
    head = bytearray(block(A, tarfile.GNUTYPE_SPARSE, b"x" * 700))
    head[482] = 1  # a block of further parts follows
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head[:512])
    content = bytes(head[:512]) + bytes(512) + bytes(head[512:]) + block(B, content=b"good") + END
    (first, nothing), (second, _) = [
        (member.name, data and data.read()) for member, data in read_members(io.BytesIO(content))
    ]
    assert (first, nothing, second) == (A, None, B)


@pytest.mark.parametrize(
    "content",
    [
        block("x", size=b"\xff" * 12),
        block("x", size=b"-0000001000\0"),
        block("p", tarfile.XHDTYPE, b"0 path=a\n") + block("x"),
        block("p", tarfile.XHDTYPE, b"9 path=ab\n") + block("x"),
        block("p", tarfile.XHDTYPE, b"999 path=a\n") + block("x"),
        block("p", tarfile.XHDTYPE, b"x path=a\n") + block("x"),
        block("p", tarfile.XHDTYPE, b"11 size=-5\n") + block("x"),
        block("p", tarfile.XHDTYPE, b"11 size=no\n") + block("x"),
        block("p", tarfile.XHDTYPE, b"32 size=" + b"9" * 23 + b"\n") + block("x"),
        block("p", tarfile.XHDTYPE, b"1" * LONGEST_EXTENSION) + block("x"),
        block("p", tarfile.XHDTYPE, b"5 a=\n" * 1000) + block("x", size=b"x" * 12),
        block("l", tarfile.GNUTYPE_LONGNAME, size=b"%011o\0" % (LONGEST_EXTENSION + 1)),
        block("l", tarfile.GNUTYPE_LONGNAME, b"n") * 2000,
    ],
)
def test_a_malformed_header_is_one_error(content: bytes) -> None:
    with pytest.raises(tarfile.ReadError, match=r"at byte [\d,]+$"):
        names_of(block(A) + content + END)


def test_headers_take_linear_time() -> None:
    records = block("p", tarfile.XHDTYPE, b"6 a=b\n" * (LONGEST_EXTENSION // 6))
    names = block("l", tarfile.GNUTYPE_LONGNAME, b"n" * LONGEST_EXTENSION)
    began = time.process_time()
    assert names_of(records + names + block(A) + END) == ["n" * LONGEST_EXTENSION]
    assert time.process_time() - began < 3.0


@pytest.mark.parametrize("junk", [b"\n", b"7 bytes", bytes(100), b"\xa5" * 512, b"x" * 2_000_000])
def test_what_lies_behind_the_end_mark_is_ignored(junk: bytes) -> None:
    content = block(A) + END
    assert names_of(content + junk) == [A]
    packed = gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(content) + junk))
    assert [member.name for member, _ in read_members(packed)] == [A]
    with pytest.raises(tarfile.ReadError, match="no tar header"):  # a hole in the middle
        names_of(content + b"\xa5" * 512 + junk + block(B) + END)


def test_a_wrong_checksum_behind_the_end_mark_is_damage() -> None:
    packed = bytearray(gzip.compress(block(A) + END))
    packed[-8] ^= 1
    with pytest.raises(gzip.BadGzipFile, match="CRC"):
        list(read_members(gzip.GzipFile(fileobj=io.BytesIO(packed))))


def test_mutated_archives_are_read_as_tarfile_reads_them_or_refused() -> None:
    """A slice of ``python -m benchmarks.faults.archives``."""
    counts = archives.run(300, seed=14)
    assert not [outcome for outcome in counts if outcome.startswith("WRONG")]
    assert counts["equal"] > 30
