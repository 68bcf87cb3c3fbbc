"""What is accepted every decoder reads; what is broken is refused; pixels stay what they were."""

from __future__ import annotations

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from sharding.errors import InputError
from sharding.shards.transcode import ImagePolicy, transcode
from sharding.storage.retry import BadImage
from tests.support.photos import broken_images, encode, oriented, photo, whole_images

KEEP = ImagePolicy(quality=95)
SHRINK = ImagePolicy(shorter_side=64)


def dali_shape(data: bytes) -> tuple[int, ...]:
    """Decode with DALI's CPU decoder, as the loader does."""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def graph():
        encoded = fn.external_source(name="encoded")
        return fn.decoders.image(encoded, device="cpu", output_type=types.RGB)

    pipe = graph()
    pipe.build()
    pipe.feed_input("encoded", [np.frombuffer(data, np.uint8)])
    return np.asarray(pipe.run()[0].at(0)).shape


def pixels(data: bytes | memoryview) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)), np.int16)


@pytest.mark.parametrize("treatment", [KEEP, SHRINK], ids=["keep", "shrink"])
@pytest.mark.parametrize("kind", whole_images())
def test_accepted_images_are_upright_rgb_jpegs_that_dali_decodes(kind, treatment) -> None:
    data = bytes(transcode(whole_images()[kind], treatment).data)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert image.getexif().get(0x112, 1) in (0, 1, 42)
        assert dali_shape(data) == (image.height, image.width, 3)


@pytest.mark.parametrize("treatment", [KEEP, SHRINK], ids=["keep", "shrink"])
@pytest.mark.parametrize("kind", broken_images())
def test_broken_images_are_refused_on_one_line(kind, treatment) -> None:
    with pytest.raises(BadImage) as refused:
        transcode(broken_images()[kind], treatment)
    assert str(refused.value)
    assert "\n" not in str(refused.value)


def test_ordinary_jpegs_keep_their_bytes() -> None:
    for kind in ("jpeg", "progressive", "4:4:4", "restart markers", "EXIF 1", "EXIF 42"):
        treated = transcode(memoryview(whole_images()[kind]), KEEP)
        assert treated.how == "kept"
        assert bytes(treated.data) == whole_images()[kind]


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("treatment", [KEEP, SHRINK], ids=["keep", "shrink"])
def test_exif_orientation_is_applied_once(number, treatment) -> None:
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(oriented(number))))
    treated = pixels(transcode(oriented(number), treatment).data)
    height, width = treated.shape[:2]
    wanted = np.asarray(expected.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    assert np.abs(treated - wanted).mean() < 4


def test_the_dumps_rotation_turns_counter_clockwise_where_exif_is_silent() -> None:
    upright = np.asarray(photo(), np.int16)
    turned = pixels(transcode(encode(photo(), quality=95), KEEP, degrees=90).data)
    assert np.abs(turned - np.rot90(upright, 1)).mean() < 4
    # EXIF 6 and a rotation of 270 describe one and the same turn.
    both = pixels(transcode(oriented(6), KEEP, degrees=270).data)
    assert np.abs(both - np.rot90(upright, 3)).mean() < 4
    unknown = transcode(whole_images()["jpeg"], KEEP, degrees=-1)
    assert unknown.how == "kept"


@pytest.mark.parametrize("kind", ["EXIF 0", "EXIF 42", "CMYK EXIF 0", "PNG EXIF 0"])
def test_an_orientation_that_makes_no_sense_is_none(kind) -> None:
    turned = pixels(transcode(whole_images()[kind], KEEP, degrees=90).data)
    assert np.abs(turned - np.rot90(np.asarray(photo(), np.int16), 1)).mean() < 4


def test_a_broken_exif_block_says_nothing_about_the_picture(monkeypatch) -> None:
    def broken(_: Image.Image) -> Image.Exif:
        raise SyntaxError("not a TIFF header")

    monkeypatch.setattr(Image.Image, "getexif", broken)
    assert transcode(whole_images()["CMYK"], KEEP).how == "from CMYK"


def test_gray_and_cmyk_keep_their_look() -> None:
    gray = pixels(transcode(whole_images()["grayscale"], KEEP).data)
    assert np.abs(gray - np.asarray(photo().convert("L"))[:, :, None]).mean() < 3
    for kind in ("CMYK", "YCCK"):
        treated = transcode(whole_images()[kind], KEEP)
        assert treated.how == "from CMYK"
        assert np.abs(pixels(treated.data) - np.asarray(photo(), np.int16)).mean() < 4


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    treated = pixels(transcode(whole_images()["PNG 16 bit"], KEEP).data)
    assert 100 < treated.mean() < 155


@pytest.mark.parametrize("size", [(1024, 768), (768, 1024), (1024, 683), (300, 257), (2000, 300)])
@pytest.mark.parametrize("side", [64, 256])
def test_shrinking_reaches_the_shorter_side_and_keeps_the_aspect(size, side) -> None:
    treated = transcode(encode(photo(*size), quality=90), ImagePolicy(shorter_side=side))
    with Image.open(io.BytesIO(treated.data)) as image:
        assert min(image.size) == side
        assert abs(image.width / image.height - size[0] / size[1]) < 0.02 * size[0] / size[1]


@pytest.mark.parametrize("width", [1024, 700, 590, 520])
def test_shrunk_pixels_are_those_of_an_antialiased_resize(width) -> None:
    original = photo(width, width * 3 // 4)
    treated = transcode(encode(original, quality=98), ImagePolicy(shorter_side=256, quality=98))
    result = pixels(treated.data)
    wanted = original.resize((result.shape[1], result.shape[0]), Image.Resampling.LANCZOS)
    assert np.abs(result - np.asarray(wanted, np.int16)).mean() < 3


def test_small_images_are_neither_enlarged_nor_encoded_again() -> None:
    small = encode(photo(100, 60), quality=70)
    treated = transcode(small, ImagePolicy(shorter_side=64))
    assert (treated.how, bytes(treated.data)) == ("kept", small)


def test_the_pixel_cap_is_checked_before_decoding() -> None:
    for kind in ("JPEG", "PNG"):
        with pytest.raises(BadImage, match="too many pixels: 300 x 200"):
            transcode(encode(photo(), kind), ImagePolicy(max_pixels=59_999))
    assert transcode(encode(photo()), ImagePolicy(max_pixels=60_000)).how == "kept"


def test_trusted_images_are_not_looked_at() -> None:
    assert transcode(b"anything", ImagePolicy(check=False)).data == b"anything"


@pytest.mark.parametrize(
    "options", [{"shorter_side": 4}, {"quality": 0}, {"check": False, "shorter_side": 256}]
)
def test_senseless_treatments_are_refused(options) -> None:
    with pytest.raises(InputError):
        ImagePolicy(**options)


def test_real_photographs_are_kept_and_shrunk(shared) -> None:
    for path in sorted((shared / "data/openimages/images_csl_pics").glob("*.jpg")):
        data = path.read_bytes()
        assert transcode(data, KEEP).how in ("kept", "turned")
        height, width, colours, _ = simplejpeg.decode_jpeg_header(transcode(data, SHRINK).data)
        assert (min(height, width), colours) == (64, "YCbCr")
