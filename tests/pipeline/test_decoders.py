"""Every decoder gives the reference's pixels, or its refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import decoders, images, jpegs
from pipeline.errors import DecoderUnavailable, ImageUnreadable
from tests import bombs, builders

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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lead", bombs.LEADS.values(), ids=bombs.LEADS)
def test_no_decoder_is_led_past_the_size_it_will_decode(name: str, lead: bytes) -> None:
    assert jpegs.header(bombs.led_astray(lead)) is None
    assert decoded(name, bombs.led_astray(lead), limits=images.Limits(max_pixels=1000)) in (
        "too_many_pixels",
        "unreadable",
    )


def test_a_jpeg_of_two_frames_is_not_ordinary() -> None:
    data = ORDINARY["baseline"]
    start, end = bombs.frame_of(data)
    assert jpegs.header(data[:end] + bombs.sized(data, 8, 8)[start:end] + data[end:]) is None


def memory_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) / 1024


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", bombs.BOMBS)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_and_takes_no_memory(name: str, kind: str) -> None:
    data = bombs.make(kind)
    assert len(data) < 1_000_000
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew from here
    before_mb = memory_mb("VmRSS")
    assert decoded(name, data) == bombs.BOMBS[kind][1]
    assert memory_mb("VmHWM") - before_mb < 100


@pytest.mark.parametrize("name", NAMES)
def test_scans_are_counted_where_there_are_some_and_nowhere_else(name: str) -> None:
    few = bombs.many_scans(20)
    assert not isinstance(decoded(name, few, resize_size=100), str)
    # A thumbnail's, and whatever comes after the end (a film, in some phones' photos), are no scans of the image.
    comment = b"\xff\xfe" + (40_002).to_bytes(2, "big") + b"\xff\xda" * 20_000
    data = ORDINARY["progressive"]
    assert np.array_equal(decoded(name, data[:2] + comment + data[2:] + b"\xff\xda" * 20_000), reference(data))


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
