"""Pictures are read alike everywhere: what decodes in full is, what costs too much is not."""

from __future__ import annotations

import io
import resource
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from pipeline.inference import pixels
from sharding import decode, jpeg
from sharding.errors import MachineError
from sharding.shards.transcode import ImagePolicy, transcode
from sharding.storage.retry import BadImage
from tests.sharding.shards.test_transcode import dali_shape
from tests.support.photos import encode, oriented, photo, whole_images

GOOD = encode(photo(64, 48), quality=90)
SCAN = GOOD.find(b"\xff\xda")
SCAN_END = SCAN + 2 + int.from_bytes(GOOD[SCAN + 2 : SCAN + 4], "big")


def after_start(segment: bytes) -> bytes:
    return GOOD[:2] + segment + GOOD[2:]


def coarse(data: bytes) -> np.ndarray:
    """Read a picture as 8 x 8 pixels: a JPEG mixes the colours of neighbours."""
    return np.asarray(Image.fromarray(decode.read(data)).resize((8, 8), Image.Resampling.BOX), int)


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


HARMLESS = {
    "end of spectrum 0": GOOD[: SCAN_END - 2] + b"\0" + GOOD[SCAN_END - 1 :],
    "zeros before the end": GOOD[:-2] + bytes(20) + b"\xff\xd9",
    "part of a colour profile": after_start(segment(0xE2, b"ICC_PROFILE\0\x01\x02abcd")),
    "segment of length 0": after_start(b"\xff\xe5\0\0"),
    "segment of length 1": after_start(b"\xff\xe5\0\1"),
    "restart marker in the header": after_start(b"\xff\xd1"),
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_draws_a_warning_and_loses_no_pixel_is_kept_without_it(kind: str) -> None:
    treated = transcode(HARMLESS[kind], ImagePolicy())
    assert treated.how == "mended"
    assert dali_shape(bytes(treated.data)) == (48, 64, 3)
    for data in (treated.data, HARMLESS[kind]):
        assert np.array_equal(decode.read(data), decode.read(GOOD))
    assert transcode(treated.data, ImagePolicy()).how == "kept"


def test_a_flipped_bit_is_not_harmless() -> None:
    middle = (SCAN + len(GOOD)) // 2
    for bit in range(8):
        flipped = GOOD[:middle] + bytes([GOOD[middle] ^ 1 << bit]) + GOOD[middle + 1 :]
        assert jpeg.mended(flipped) is None


@pytest.mark.parametrize("kind", whole_images())
def test_prediction_reads_what_is_put_into_a_shard(kind: str) -> None:
    data = whole_images()[kind]
    sharded = bytes(transcode(data, ImagePolicy(quality=100)).data)
    assert np.abs(coarse(data) - coarse(sharded)).max() < 8


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", [3, 5, 6])
def test_orientation_is_applied_in_every_format(kind: str, orientation: int) -> None:
    data = oriented(orientation, kind)
    sharded = bytes(transcode(data, ImagePolicy(quality=100)).data)
    assert np.abs(coarse(data) - coarse(sharded)).max() < 8
    assert decode.read(data).shape[:2] == ((200, 300) if orientation == 3 else (300, 200))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("PNG", lambda grey: grey.astype(np.uint16) * 257),
        ("TIFF", lambda grey: grey.astype(np.uint16) * 257),
        ("TIFF", lambda grey: grey.astype(np.int32) * 257),
        ("TIFF", lambda grey: grey.astype(np.int32) * (1 << 23)),
        ("TIFF", lambda grey: grey.astype(np.float32) / 255),
        ("TIFF", lambda grey: np.where(grey == 7, np.nan, grey).astype(np.float32)),
    ],
)
def test_grey_of_more_bits_looks_as_of_eight(kind: str, values: object) -> None:
    grey_HW = np.tile(np.arange(256, dtype=np.uint8), (300, 1))
    found = decode.read(encode(Image.fromarray(values(grey_HW)), kind))  # type: ignore[operator]
    keep = grey_HW != 7
    assert np.abs(found[..., 0].astype(int) - grey_HW)[keep].max() <= 1


def test_grey_of_more_bits_costs_little_memory() -> None:
    data = encode(Image.fromarray(np.full((2000, 2000), 1 << 20, np.int32)), "TIFF")
    tracemalloc.start()
    decode.read(data)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10 * 4_000_000  # float64 of the whole picture would be 8 bytes a pixel more


def test_transparent_parts_lie_on_white() -> None:
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture.putpixel((4, 4), (30, 60, 90, 255))
    picture.putpixel((5, 5), (0, 0, 0, 128))
    palette = Image.new("P", (8, 8))
    palette.putpalette([0, 0, 0, 30, 60, 90])
    palette.putpixel((4, 4), 1)
    for data in (
        encode(picture, "PNG"),
        encode(picture, "WEBP", lossless=True),
        encode(palette, "PNG", transparency=0),
        encode(Image.merge("LA", [Image.new("L", (8, 8))] * 2), "PNG"),
    ):
        assert decode.read(data)[0, 0].tolist() == [255, 255, 255]
    found = decode.read(encode(picture, "PNG"))
    assert found[4, 4].tolist() == [30, 60, 90]
    assert found[5, 5].tolist() == pytest.approx([127] * 3, abs=1)


def test_avif_is_read() -> None:
    found = decode.read(encode(photo(), "AVIF", quality=90)).astype(int)
    assert np.abs(found - np.asarray(photo())).mean() < 6


def test_formats_that_run_programs_or_read_other_files_are_not_opened() -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF"
    for data in (postscript, encode(photo(), "ICO"), encode(photo(), "PDF")):
        with pytest.raises(BadImage, match="not an image"):
            decode.read(data)


def test_what_costs_too_much_is_refused_before_it_is_decoded() -> None:
    begun = time.thread_time()  # other processes may be busy
    many_scans = encode(Image.new("L", (8, 8)), progressive=True)
    frame, scan = many_scans.find(b"\xff\xc2"), many_scans.find(b"\xff\xda")
    large = many_scans[: frame + 5] + struct.pack(">HH", 8000, 8000) + many_scans[frame + 9 :]
    bomb = large[:scan] + large[scan:-2] * 40 + b"\xff\xd9"
    plain_ppm = b"P3 4000 4000 255\n" + b"1 " * 48
    segments = GOOD[:2] + b"\xff\xe5\0\2" * 10_000_000 + GOOD[2:]
    for data in (bomb, plain_ppm):
        with pytest.raises(BadImage, match="too many"):
            decode.read(data)
    for data in (segments, GOOD[:2] + b"\xff" * 40_000_000, GOOD[:20] + bytes(40_000_000)):
        with pytest.raises(BadImage, match="damaged JPEG header"):
            decode.read(data)
    with pytest.raises(BadImage, match="too many pixels"):
        decode.read(GOOD, max_pixels=100)
    assert time.thread_time() - begun < 2


def test_a_pillow_image_is_read_as_its_file() -> None:
    data = oriented(6)
    assert np.array_equal(decode.read_pillow(Image.open(io.BytesIO(data))), decode.read(data))


@pytest.mark.parametrize(
    "content",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>\xa8\xff tiff:Orientation="6"</x:xmpmeta>',
    ],
    ids=["EXIF without a header", "EXIF without a directory", "XMP that is no UTF-8"],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_metadata_that_others_fail_on_costs_no_picture(mode: str, content: bytes) -> None:
    plain = encode(photo(64, 48).convert(mode), quality=90)
    odd = plain[:2] + segment(0xE1, content) + plain[2:]
    assert np.array_equal(decode.read(odd), decode.read(plain))


@contextmanager
def little_memory(spare: int = 20_000_000) -> Iterator[None]:
    """Let this process take no more than so many bytes beyond what it has."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    present = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (present + spare, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def fail(error: Exception) -> Callable:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


@pytest.fixture(scope="module")
def fresh() -> Iterator[Executor]:
    """Start a process of its own: what this one has freed before would be memory enough."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        yield process


READERS: dict[str, Callable] = {
    "read": decode.read,
    "shard": lambda data: transcode(data, ImagePolicy()),
    "predict": lambda data: pixels.attempt(data, 32),
}


def read_in_little_memory(kind: str, reader: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 3000)).save(buffer, kind.rpartition(" ")[2])
    READERS[reader](buffer.getvalue())
    with pytest.MonkeyPatch.context() as patch, little_memory():
        if kind == "JPEG":
            patch.setattr(simplejpeg, "decode_jpeg", fail(MemoryError("Unable to allocate")))
        elif kind == "progressive JPEG":
            refusal = ValueError("Insufficient memory (case 4)")  # as libjpeg words it
            patch.setattr(simplejpeg, "decode_jpeg", fail(refusal))
        READERS[reader](buffer.getvalue())


@pytest.mark.parametrize("kind", ["JPEG", "progressive JPEG", "PNG"])
@pytest.mark.parametrize("reader", list(READERS))
def test_no_image_is_to_blame_where_memory_is_short(
    kind: str, reader: str, fresh: Executor
) -> None:
    with pytest.raises(MachineError, match=r"memory is too short.*repeat"):
        fresh.submit(read_in_little_memory, kind, reader).result()


def blame_in_little_memory() -> None:
    with little_memory():
        jpeg.refuse_to_blame(MemoryError())


def test_a_file_that_asks_for_any_amount_of_memory_is_bad(fresh: Executor) -> None:
    jpeg.refuse_to_blame(MemoryError())
    with pytest.raises(MachineError):
        fresh.submit(blame_in_little_memory).result()


def test_a_blank_picture_is_of_the_size_and_kind_of_the_other() -> None:
    for kind, size in ((True, (40, 30)), (False, (30, 40))):
        buffer = io.BytesIO()
        Image.new("RGB", size).save(buffer, "JPEG", progressive=kind)
        for most, expected in ((10**6, size), (400, (20, 20))):
            with Image.open(io.BytesIO(jpeg.blank_like(buffer.getvalue(), most))) as blank:
                assert (blank.size, "progressive" in blank.info) == (expected, kind)
    with Image.open(io.BytesIO(jpeg.blank_like(bytes(100), 10**7))) as blank:
        assert blank.size == (1024, 1024)
