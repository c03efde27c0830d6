"""Whatever the bytes: an image within the limits, or a refusal; the same from every decoder, and never much memory."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import decoders, images, jpegs
from pipeline.errors import ImageUnreadable
from tests import builders
from tests.garbage import damaged_bytes
from tests.properties import refusal, tried

LIMITS = images.Limits(max_bytes=1 << 20, max_pixels=100_000)
#: what refusals of bytes are called
KINDS = {
    "empty", "too_large", "too_many_pixels", "not_an_image", "unsupported_format", "unreadable", "truncated",
    "out_of_memory",
}  # fmt: skip
SMALL = builders.tiny_image(size=(24, 17))
ANIMATION = [builders.tiny_image(size=(9, 7), seed=seed) for seed in range(3)]
TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06"
FILES = {
    "JPEG": (
        builders.encoded(SMALL, "JPEG"),
        builders.encoded(SMALL, "JPEG", progressive=True, exif=TURNED),
        builders.encoded(SMALL.convert("L"), "JPEG", comment=b"hello", restart_marker_blocks=1),
        builders.encoded(SMALL.convert("CMYK"), "JPEG"),
        builders.encoded(SMALL, "MPO", save_all=True, append_images=ANIMATION),
    ),
    "PNG": (
        builders.encoded(SMALL, "PNG"),
        builders.encoded(SMALL.quantize(8), "PNG", transparency=0),
        builders.encoded(SMALL.convert("I;16"), "PNG"),
        builders.encoded(ANIMATION[0], "PNG", save_all=True, append_images=ANIMATION[1:]),
    ),
    "WEBP": (
        builders.encoded(SMALL, "WEBP"),
        builders.encoded(SMALL.convert("RGBA"), "WEBP", lossless=True),
        builders.encoded(ANIMATION[0], "WEBP", save_all=True, append_images=ANIMATION[1:]),
    ),
    "GIF": (
        builders.encoded(SMALL, "GIF"),
        builders.encoded(ANIMATION[0], "GIF", save_all=True, append_images=ANIMATION[1:]),
    ),
    "BMP": (builders.encoded(SMALL, "BMP"), builders.encoded(SMALL.quantize(8), "BMP")),
}  # fmt: skip


def outcome(decoder: decoders.Decoder, data: bytes) -> np.ndarray | str:
    """Pixels, or the kind of the refusal."""
    decoded: list[np.ndarray] = []
    kinds: list[str] = []

    def decode() -> None:
        try:
            decoded.append(decoder.decode(data, LIMITS, resize_size=100).numpy())
        except ImageUnreadable as refused:
            kinds.append(refused.kind)
            raise

    if not refusal(decode, by=ImageUnreadable, most=400):
        return decoded[0]
    [kind] = kinds
    assert kind in KINDS
    return kind


@pytest.mark.filterwarnings("ignore")  # a damaged file may be warned about; what counts is what comes out
@pytest.mark.parametrize("format_name", FILES)
@tried(300)
@given(data=st.data())
def test_damage_gives_an_image_within_the_limits_or_a_refusal_alike_from_every_decoder(
    format_name: str, data: st.DataObject
) -> None:
    file = data.draw(damaged_bytes(st.sampled_from(FILES[format_name])))
    theirs = outcome(decoders.choose("pillow"), file)
    if not isinstance(theirs, str):
        height, width, channels = theirs.shape
        assert (theirs.dtype, channels) == (np.uint8, 3)
        assert 0 < height * width <= LIMITS.max_pixels
    assert 1 <= images.orientation(file) <= 65535
    others = [name for name in decoders.DECODERS if name != "pillow"] if file.startswith(jpegs.SOI) else []
    for ours in (outcome(decoders.choose(name), file) for name in others):
        assert type(ours) is type(theirs)
        assert ours == theirs if isinstance(ours, str) else np.array_equal(ours, theirs)


@tried(300)
@given(file=damaged_bytes(st.sampled_from(FILES["JPEG"])) | st.binary(max_size=60).map(lambda rest: jpegs.SOI + rest))
def test_a_header_that_is_read_says_what_the_reference_says(file: bytes) -> None:
    header = jpegs.header(file)
    assert header is None or header.width * header.height > 0
    if header is None or isinstance(pixels := outcome(decoders.choose("pillow"), file), str):
        return
    sides = (header.height, header.width)
    assert pixels.shape[:2] == sides or (header.may_be_turned and pixels.shape[1::-1] == sides)


# ---------------------------------------------------------------- bombs


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def frame(width: int, height: int) -> bytes:
    return segment(0xC0, struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\x00")


def with_a_second_face(file: bytes, *, shown: tuple[int, int]) -> bytes:
    """Give a JPEG whose size is another one for whoever takes a marker without a length for a segment."""
    start_of_scan = file.index(b"\xff\xda")
    head, scan = file[2:start_of_scan], file[start_of_scan:]
    # Behind `FF 01` there is no length: read as one, the first two bytes of the header jump far ahead.
    jump = 2 + 2 + int.from_bytes(head[:2], "big")
    before = jpegs.SOI + b"\xff\x01" + head
    filler = b"".join(segment(0xFE, bytes(200)) for _ in range((jump - len(before)) // 204 - 1))
    face = frame(*shown) + segment(0xDA, b"\x01\x01\x00\x00\x3f\x00")
    room = jump - len(before) - len(filler) - 4
    return before + filler + segment(0xFE, bytes(room) + face) + scan


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rows = (b"IDAT", zlib.compress(bytes(min(height, 64) * (min(width, 1000) + 1))))
    parts = [chunk(*one) for one in (header, *chunks, rows, (b"IEND", b""))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def gif(width: int, height: int, frame_size: tuple[int, int]) -> bytes:
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return b"GIF89a" + screen + b"," + struct.pack("<HHHHB", 0, 0, *frame_size, 0) + b"\x02\x02\x44\x01\x00;"


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHI", 60, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


def webp(width: int, height: int) -> bytes:
    canvas = (
        b"VP8X" + struct.pack("<II", 10, 0x02) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    )
    return b"RIFF" + struct.pack("<I", len(canvas) + 4) + b"WEBP" + canvas


LARGE = builders.encoded(builders.tiny_image(size=(3000, 3000), mode="L"), "JPEG", quality=10)
BOMBS = {
    "two faces": with_a_second_face(LARGE, shown=(10, 10)),
    "two frames": LARGE[:2] + frame(10, 10) + LARGE[2:],
    "a frame after a frame": LARGE[: LARGE.index(b"\xff\xda")] + frame(10, 10) + LARGE[LARGE.index(b"\xff\xda") :],
    "jpeg of 4 gigapixels": jpegs.SOI + frame(65_500, 65_500) + segment(0xDA, b"\x01\x01\x00\x00\x3f\x00"),
    "png of 4 gigapixels": png(65_000, 65_000),
    "png with a long text": png(9, 9, (b"zTXt", b"k\0\0" + zlib.compress(bytes(300_000_000), 9))),
    "png with a long profile": png(9, 9, (b"iCCP", b"k\0\0" + zlib.compress(bytes(300_000_000), 9))),
    "gif of a large screen": gif(65_000, 65_000, (1, 1)),
    "gif with a frame beyond its screen": gif(1, 1, (65_000, 65_000)),
    "bmp of 4 gigapixels": bmp(65_000, 65_000),
    "bmp with a negative height": bmp(65_000, -65_000),
    "webp of a large canvas": webp(16_384, 16_384),
}
#: decodes the files it is given, tells what became of each, and how much memory that took at most
CHILD = """
import json, resource, sys
from pathlib import Path
from pipeline import decoders, errors, images
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
made = {name: decoders.choose(name) for name in decoders.DECODERS}
made["pillow"].decode(Path(sys.argv[1]).read_bytes(), images.Limits(), resize_size=100)
before, told = peak(), {}
limits = images.Limits(max_pixels=100_000)
for file in sys.argv[2:]:
    for name, decoder in made.items():
        case = f"{Path(file).name}, {name}"
        try:
            told[case] = str(tuple(decoder.decode(Path(file).read_bytes(), limits, resize_size=9).shape))
        except errors.ImageUnreadable as refused:
            told[case] = refused.kind
print(json.dumps([told, peak() - before]))
"""


def test_a_bomb_is_refused_before_it_takes_memory_whatever_face_it_shows(tmp_path: Path) -> None:
    (tmp_path / "sound").write_bytes(builders.jpeg_bytes())
    for name, bomb in BOMBS.items():
        (tmp_path / name).write_bytes(bomb)
    files = [str(tmp_path / name) for name in ("sound", *BOMBS)]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *files], capture_output=True, text=True, check=True, timeout=120
    )
    told, grown_mib = json.loads(done.stdout)
    assert len(told) == len(BOMBS) * len(decoders.DECODERS)
    refused = {"too_many_pixels", "unreadable", "truncated", "not_an_image"}
    assert {case: what for case, what in told.items() if what not in refused} == {}
    assert grown_mib < 64


def test_a_file_with_two_faces_is_left_to_the_reference() -> None:
    assert jpegs.header(BOMBS["two faces"]) is None
    assert jpegs.header(LARGE) == jpegs.Header(width=3000, height=3000, may_be_turned=False, is_progressive=False)
