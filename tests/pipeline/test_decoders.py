"""Every decoder gives the reference's pixels, or its refusal."""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import decoders, images, jpegs
from pipeline.errors import DecoderUnavailable, ImageUnreadable
from tests import builders

LIMITS = images.Limits()
NAMES = sorted(decoders.DECODERS)


def decoded(name: str, data: bytes, *, resize_size: int = 1000, limits: images.Limits = LIMITS) -> np.ndarray | str:
    """The pixels, or the kind of the refusal."""
    try:
        return decoders.choose(name).decode(data, limits, resize_size=resize_size).numpy()
    except ImageUnreadable as refused:
        return refused.kind


def reference(data: bytes, limits: images.Limits = LIMITS) -> np.ndarray | str:
    try:
        return np.asarray(images.decode(data, limits))
    except ImageUnreadable as refused:
        return refused.kind


ORDINARY = {
    "baseline": builders.jpeg_bytes(size=(64, 48)),
    "odd size": builders.jpeg_bytes(size=(63, 47)),
    "progressive": builders.jpeg_bytes(size=(64, 48), progressive=True),
    "grey": builders.jpeg_bytes(size=(64, 48), mode="L"),
    "stored as RGB": builders.jpeg_bytes(size=(64, 48), keep_rgb=True),
    "every colour of every pixel": builders.jpeg_bytes(size=(64, 48), subsampling="4:4:4"),
    "CMYK": builders.jpeg_bytes(size=(64, 48), mode="CMYK"),
    "png": builders.encoded(builders.tiny_image(), "PNG"),
    "webp": builders.encoded(builders.tiny_image(), "WEBP"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("data", ORDINARY.values(), ids=ORDINARY)
def test_pixels_are_those_of_the_reference(name: str, data: bytes) -> None:
    assert np.array_equal(decoded(name, data), reference(data))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("orientation", range(10))
def test_an_image_is_turned_upright(name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    data = builders.jpeg_bytes(size=(64, 48), exif=exif)
    assert np.array_equal(decoded(name, data), reference(data))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("resize_size", "size"), [(12, (400, 300)), (37, (400, 300)), (38, (800, 600)), (76, None)])
def test_a_large_jpeg_is_shrunk_as_far_as_twice_the_size_it_will_have(
    name: str, resize_size: int, size: tuple[int, int] | None
) -> None:
    image = builders.tiny_image(size=(1600, 1200))
    data = builders.encoded(image, "JPEG")
    pixels = decoded(name, data, resize_size=resize_size * 2)
    width, height = size or (1600, 1200)
    while size is None and min(width, height) // 2 >= 4 * resize_size:
        width, height = width // 2, height // 2
    assert pixels.shape[0] >= 2 * 2 * resize_size or pixels.shape == (1200, 1600, 3)
    assert np.array_equal(pixels, decoded("pillow", data, resize_size=resize_size * 2))
    small = image.resize(pixels.shape[1::-1], Image.Resampling.BILINEAR)
    assert np.abs(pixels.astype(float) - np.asarray(small)).mean() < 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("limits", "kind"),
    [
        (images.Limits(max_pixels=1000), "too_many_pixels"),
        (images.Limits(max_bytes=100), "too_large"),
        (images.Limits(formats=("PNG",)), "unsupported_format"),
    ],
)
def test_no_decoder_goes_around_the_limits(name: str, limits: images.Limits, kind: str) -> None:
    assert decoded(name, ORDINARY["baseline"], limits=limits) == kind


def frame_of(data: bytes) -> tuple[int, int]:
    """Where the frame header of a JPEG begins and ends."""
    start = data.index(b"\xff\xc0")
    return start, start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")


def sized(data: bytes, width: int, height: int) -> bytes:
    """A JPEG that says it has another size."""
    start, _ = frame_of(data)
    return data[: start + 5] + struct.pack(">HH", height, width) + data[start + 9 :]


def led_astray(lead: bytes) -> bytes:
    """A JPEG whose frame is passed over by who takes what follows `lead` for a length: it leads to a smaller frame."""
    data = ORDINARY["baseline"]
    start, end = frame_of(data)
    small = sized(data, 8, 8)[start:end] + b"\xff\xda\0\2"
    hidden = lead + data[start:end]
    led_to = 2 + int.from_bytes(hidden[2:4], "big") - len(hidden)
    comment = bytearray(b"\xff\xfe\xff\xff" + bytes(0xFFFD))
    comment[led_to : led_to + len(small)] = small
    return data[:start] + hidden + bytes(comment) + data[end:]


LEADS = {"TEM": b"\xff\x01", "restart": b"\xff\xd0", "fill": b"\xff"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lead", LEADS.values(), ids=LEADS)
def test_no_decoder_is_led_past_the_size_it_will_decode(name: str, lead: bytes) -> None:
    assert jpegs.header(led_astray(lead)) is None
    assert decoded(name, led_astray(lead), limits=images.Limits(max_pixels=1000)) in ("too_many_pixels", "unreadable")


def test_a_jpeg_of_two_frames_is_not_ordinary() -> None:
    data = ORDINARY["baseline"]
    start, end = frame_of(data)
    assert jpegs.header(data[:end] + sized(data, 8, 8)[start:end] + data[end:]) is None


# ---------------------------------------------------------------- bombs


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes) -> bytes:
    """A whole black PNG of one bit a pixel, with further chunks before its pixels."""
    row, packing, packed = bytes(width // 8 + 1), zlib.compressobj(9), b""
    for _ in range(height):
        packed += packing.compress(row)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = (chunk(b"IHDR", header), *extra, chunk(b"IDAT", packed + packing.flush()), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def packed_mb(megabytes: int) -> bytes:
    return zlib.compress(bytes(megabytes << 20), 9)


def wide_webp() -> bytes:
    """An animation of small frames on a canvas of 16,383 x 16,383."""
    frames = [builders.tiny_image(seed=seed) for seed in range(2)]
    data = bytearray(builders.encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    start = data.index(b"VP8X") + 12
    data[start : start + 6] = (16_382).to_bytes(3, "little") * 2
    return bytes(data)


def wide_gif(*, of: str) -> bytes:
    """A GIF whose screen, or whose first frame alone, has 65,535 x 65,535 pixels."""
    data = bytearray(builders.encoded(builders.tiny_image(), "GIF"))
    start = 6 if of == "screen" else data.index(b",", 13 + 3 * 256) + 5
    data[start : start + 4] = b"\xff" * 4
    return bytes(data)


def wide_bmp() -> bytes:
    data = bytearray(builders.encoded(builders.tiny_image(), "BMP"))
    data[18:26] = struct.pack("<ii", 60_000, 60_000)
    return bytes(data)


MANY = "too_many_pixels"
#: file -> what it is refused as
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG of 2500 megapixels": (lambda: png(50_000, 50_000), MANY),
    "PNG of 100": (lambda: png(10_000, 10_000), MANY),
    "JPEG": (lambda: sized(ORDINARY["baseline"], 65_500, 65_500), MANY),
    "progressive JPEG": (lambda: ORDINARY["progressive"].replace(b"\0\x30\0\x40", b"\xff\xdc\xff\xdc", 1), MANY),
    "WEBP": (wide_webp, MANY),
    "GIF": (lambda: wide_gif(of="screen"), MANY),
    "frame of a GIF": (lambda: wide_gif(of="frame"), MANY),
    "BMP": (wide_bmp, MANY),
    "PNG with text": (lambda: png(8, 8, chunk(b"zTXt", b"a\0\0" + packed_mb(150))), "unreadable"),
    "PNG with many texts": (lambda: png(8, 8, *[chunk(b"zTXt", b"a\0\0" + packed_mb(1))] * 200), "unreadable"),
    "PNG with UTF-8 text": (lambda: png(8, 8, chunk(b"iTXt", b"a\0\1\0\0\0" + packed_mb(150))), "unreadable"),
    "PNG with a colour profile": (lambda: png(8, 8, chunk(b"iCCP", b"a\0\0" + packed_mb(150))), "unreadable"),
}


def memory_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) / 1024


@functools.cache
def bomb(kind: str) -> bytes:
    return BOMBS[kind][0]()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_and_takes_no_memory(name: str, kind: str) -> None:
    data = bomb(kind)
    assert len(data) < 1_000_000
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew from here
    before_mb = memory_mb("VmRSS")
    assert decoded(name, data) == BOMBS[kind][1]
    assert memory_mb("VmHWM") - before_mb < 100


@pytest.mark.parametrize("format_name", ["GIF", "PNG", "WEBP"])
def test_of_many_frames_the_first_alone_is_decoded(format_name: str) -> None:
    frames = [builders.tiny_image(size=(64, 64), seed=seed) for seed in range(60)]
    data = builders.encoded(frames[0], format_name, save_all=True, append_images=frames[1:])
    for name in NAMES:
        pixels = decoded(name, data)
        assert np.abs(pixels.astype(float) - np.asarray(frames[0])).mean() < 12


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_jpeg_is_refused_or_decoded_as_by_the_reference(name: str, data: st.DataObject) -> None:
    original = bytearray(ORDINARY[data.draw(st.sampled_from(["baseline", "progressive", "grey", "CMYK"]))])
    for position in data.draw(st.lists(st.integers(0, len(original) - 1), max_size=4)):
        original[position] = data.draw(st.integers(0, 255))
    damaged = bytes(original[: data.draw(st.integers(0, len(original)))])
    ours, theirs = decoded(name, damaged), reference(damaged)
    assert (ours == theirs) if isinstance(theirs, str) or isinstance(ours, str) else np.array_equal(ours, theirs)


def test_the_fastest_is_one_of_those_that_are_installed() -> None:
    assert decoders.fastest().name in decoders.DECODERS


def test_an_unknown_decoder_is_refused_with_the_names_of_the_others() -> None:
    with pytest.raises(DecoderUnavailable, match="take auto, pillow, simplejpeg, torchcodec"):
        decoders.choose("magick")


def test_pixels_are_a_tensor_that_torch_may_write_to() -> None:
    for name in NAMES:
        pixels = decoders.choose(name).decode(ORDINARY["baseline"], LIMITS, resize_size=32)
        assert (pixels.dtype, pixels.shape) == (torch.uint8, (48, 64, 3))
        pixels.zero_()
