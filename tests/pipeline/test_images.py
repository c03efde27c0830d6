"""Every file is either an upright RGB image or a refusal with a reason, never another error."""

from __future__ import annotations

import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageFile

from pipeline.errors import ImageUnreadable
from pipeline.images import Limits, decode
from tests import builders

LIMITS = Limits()
TIFF = Limits(formats=("TIFF",))


def kind_of(data: bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(ImageUnreadable) as caught:
        decode(data, limits)
    assert caught.value.stage == "decode"
    assert caught.value.message.endswith(".")
    return caught.value.kind


def distance(image: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(image, dtype=float) - np.asarray(other, dtype=float)).mean())


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be huge and holds next to nothing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = b"IDAT" + zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_every_allowed_format_decodes_to_rgb(format_name: str) -> None:
    image = builders.tiny_image()
    decoded = decode(builders.encoded(image, format_name), LIMITS)
    assert (decoded.mode, decoded.size) == ("RGB", image.size)
    assert distance(decoded, image) < 12


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "RGBA", "LA", "I;16", "I;16B", "I", "F", "LAB", "PA"])
def test_every_mode_becomes_rgb_of_the_same_brightness(mode: str) -> None:
    grey = Image.new("L", (20, 10), 128)
    if mode == "F":
        source = Image.fromarray(np.full((10, 20), 128.0, dtype=np.float32))
    elif mode.startswith("I"):
        raw = np.full((10, 20), 128 * 257, dtype={"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode])
        source = Image.frombytes(mode, (20, 10), raw.tobytes())
    elif mode == "LAB":
        source = Image.new("LAB", (20, 10), (137, 128, 128))
    elif mode == "1":
        source = Image.new("1", (20, 10), 1)
    elif mode in ("PA", "P"):
        source = grey.convert("P") if mode == "P" else grey.convert("LA").convert("PA")
    else:
        source = grey.convert("RGB").convert(mode) if mode == "YCbCr" else grey.convert(mode)
    suffix = "PNG" if mode in ("P", "RGBA", "LA", "1", "I;16") else "JPEG" if mode == "CMYK" else "TIFF"
    if mode == "PA":
        suffix = "PNG"
        source = source.convert("RGBA").quantize()
    decoded = decode(builders.encoded(source, suffix), Limits(formats=("PNG", "JPEG", "TIFF")))
    assert (decoded.mode, decoded.size) == ("RGB", (20, 10))
    expected = 255 if mode == "1" else 128
    assert np.abs(np.asarray(decoded, dtype=int) - expected).max() <= 3


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    ramp = Image.fromarray(np.linspace(0, 65535, 256).astype(np.uint16).reshape(1, 256))
    decoded = np.asarray(decode(builders.encoded(ramp, "PNG"), LIMITS))[0, :, 0]
    assert np.array_equal(decoded, np.arange(256))


def test_inverted_cmyk_of_adobe_files_keeps_its_colours() -> None:
    image = builders.tiny_image()
    decoded = decode(builders.encoded(image.convert("CMYK"), "JPEG", quality=95), LIMITS)
    assert distance(decoded, image) < 12


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_transparent_pixels_become_white_whatever_colour_hides_there(mode: str) -> None:
    if mode in ("RGBA", "LA"):
        data = builders.encoded(Image.new(mode, (4, 4), (9, 0) if mode == "LA" else (9, 9, 9, 0)), "PNG")
    else:
        transparent = (9, 9, 9) if mode == "RGB" else 9
        image = Image.new("RGB", (4, 4), (9, 9, 9)).quantize() if mode == "P" else Image.new(mode, (4, 4), transparent)
        data = builders.encoded(image, "PNG", transparency=0 if mode == "P" else transparent)
    assert decode(data, LIMITS).getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_every_exif_orientation_gives_the_upright_image(format_name: str, orientation: int) -> None:
    upright = builders.tiny_image(size=(64, 32))
    backwards = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Transpose that undoes each orientation
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(backwards[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(builders.encoded(stored, format_name, exif=exif, quality=95), LIMITS)
    assert decoded.size == upright.size
    assert distance(decoded, upright) < 8


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_image() -> None:
    data = builders.jpeg_bytes(exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\xff\xff\xff")
    assert decode(data, LIMITS).size == (40, 30)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = builders.encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data, LIMITS).getpixel((4, 4)) == (255, 0, 0)


def test_a_multi_picture_jpeg_gives_its_first_picture() -> None:
    first = builders.tiny_image()
    data = builders.encoded(first, "MPO", save_all=True, append_images=[Image.new("RGB", first.size)])
    assert distance(decode(data, LIMITS), first) < 12


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty"),
        (b"hello, I am a text file", "not_an_image"),
        (b"\0" * 5000, "not_an_image"),
        (b"<html><body>404</body></html>", "not_an_image"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported_format"),
        (b"%PDF-1.7\n", "unsupported_format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "unsupported_format"),
        (b"8BPS" + b"\0" * 40, "unsupported_format"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, "unsupported_format"),
        (builders.encoded(builders.tiny_image(), "TIFF"), "unsupported_format"),
        (builders.jpeg_bytes()[:60], "truncated"),
        (builders.jpeg_bytes(size=(400, 300))[:-2000], "truncated"),
        (builders.png_bytes(size=(400, 300))[:-2000], "truncated"),
        (builders.encoded(builders.tiny_image(size=(400, 300)), "WEBP")[:-500], "unreadable"),
        (png_header(50_000, 50_000), "too_many_pixels"),
        (png_header(10_000, 10_000), "too_many_pixels"),
        (png_header(8_000, 8_000), "too_many_pixels"),
        (b"x" * (LIMITS.max_bytes + 1), "too_large"),
    ],
    ids=[
        "nothing", "text", "zeros", "html", "svg", "pdf", "eps", "psd", "heic", "tiff", "jpeg header",
        "jpeg cut", "png cut", "webp cut", "bomb of 2500 megapixels", "bomb of 100", "bomb of 64", "too many bytes",
    ],
)  # fmt: skip
def test_a_file_that_is_no_good_is_refused_with_its_kind(data: bytes, kind: str) -> None:
    assert kind_of(data) == kind


@pytest.mark.parametrize("name", ["AVIF", "DDS", "EPS", "ICO", "JPEG2000", "PCX", "PDF", "PPM", "SGI", "TGA", "TIFF"])
def test_no_format_is_read_but_those_that_are_allowed(name: str) -> None:
    data = builders.encoded(builders.tiny_image(size=(64, 64)), name)
    assert kind_of(data) in ("unsupported_format", "not_an_image")
    assert kind_of(b"SIMPLE  =                    T" + b" " * 3000) == "unsupported_format", "FITS cannot be written"


@pytest.mark.parametrize("shown", ["ignore", "error"])
def test_the_pixel_limit_holds_whatever_is_done_with_warnings(shown: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter(shown)
        assert kind_of(png_header(10_000, 10_000)) == "too_many_pixels"


def test_a_cut_off_image_is_never_filled_up() -> None:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    assert kind_of(builders.png_bytes(size=(400, 300))[:-2000]) == "truncated"


def test_the_refusal_names_the_format_and_what_to_do() -> None:
    with pytest.raises(ImageUnreadable, match="TIFF files are not read here; convert it to one of JPEG"):
        decode(builders.encoded(builders.tiny_image(), "TIFF"), LIMITS)


def test_the_pixel_limit_is_inclusive() -> None:
    limits = Limits(max_pixels=1200)
    assert decode(builders.png_bytes(size=(40, 30)), limits).size == (40, 30)
    assert kind_of(builders.png_bytes(size=(41, 30)), limits) == "too_many_pixels"


def test_no_memory_is_a_reason_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Image.Image) -> None:
        raise MemoryError

    # A mock, because a real shortage of memory would hit the test runner as well.
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fails)
    assert kind_of(builders.png_bytes()) == "out_of_memory"


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_damage_anywhere_gives_an_image_or_a_refusal(format_name: str) -> None:
    whole = builders.encoded(builders.tiny_image(), format_name)
    random = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole[: random.integers(1, len(whole) + 1)])
        for position in random.integers(0, len(data), size=random.integers(0, 6)):
            data[position] = random.integers(0, 256)
        with suppress(ImageUnreadable):
            assert decode(bytes(data), LIMITS).mode == "RGB"


def test_threads_decode_the_same_as_one_does() -> None:
    files = [builders.jpeg_bytes(seed=seed) for seed in range(64)]
    alone = [decode(data, LIMITS).tobytes() for data in files]
    with ThreadPoolExecutor(8) as pool:
        assert [image.tobytes() for image in pool.map(lambda data: decode(data, LIMITS), files)] == alone


def test_the_image_outlives_its_bytes() -> None:
    image = decode(BytesIO(builders.png_bytes()).getvalue(), LIMITS)
    assert image.resize((3, 3)).getpixel((0, 0)) is not None
