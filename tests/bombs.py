"""Image files made to harm whoever decodes them: a few kilobytes that would become gigabytes, or that lie about it.

Takes sizes. Gives bytes. Knows nothing of decoders.
"""

import functools
import struct
import zlib
from collections.abc import Callable

from PIL import Image

from tests import builders

#: What leads a reader that takes the next two bytes for a length past the frame of a JPEG: markers without one.
LEADS = {"TEM": b"\xff\x01", "restart": b"\xff\xd0", "fill": b"\xff"}


def frame_of(data: bytes) -> tuple[int, int]:
    """Tell where the frame header of a JPEG begins and ends."""
    start = next(at for at in (data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) if at > 0)
    return start, start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")


def sized(data: bytes, width: int, height: int) -> bytes:
    """Give a JPEG that says it has another size."""
    start, _ = frame_of(data)
    return data[: start + 5] + struct.pack(">HH", height, width) + data[start + 9 :]


def led_astray(lead: bytes) -> bytes:
    """Give a JPEG whose frame is passed over by who takes what follows `lead` for a length, to a smaller one."""
    data = builders.jpeg_bytes(size=(64, 48))
    start, end = frame_of(data)
    small = sized(data, 8, 8)[start:end] + b"\xff\xda\0\2"
    hidden = lead + data[start:end]
    led_to = 2 + int.from_bytes(hidden[2:4], "big") - len(hidden)
    comment = bytearray(b"\xff\xfe\xff\xff" + bytes(0xFFFD))
    comment[led_to : led_to + len(small)] = small
    return data[:start] + hidden + bytes(comment) + data[end:]


def many_scans(num: int) -> bytes:
    """Give a progressive JPEG with so many scans more, each of which goes over every block of it again."""
    data = builders.encoded(Image.new("L", (900, 900), 128), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * num + data[-2:]


def chunk(kind: bytes, data: bytes) -> bytes:
    """Give a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes) -> bytes:
    """Give a whole black PNG of one bit a pixel, with further chunks before its pixels."""
    row, packing, packed = bytes(width // 8 + 1), zlib.compressobj(9), b""
    for _ in range(height):
        packed += packing.compress(row)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = (chunk(b"IHDR", header), *extra, chunk(b"IDAT", packed + packing.flush()), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def packed_mb(megabytes: int) -> bytes:
    """Give so many zeros, packed."""
    return zlib.compress(bytes(megabytes << 20), 9)


def wide_webp() -> bytes:
    """Give an animation of small frames on a canvas of 16,383 x 16,383."""
    frames = [builders.tiny_image(seed=seed) for seed in range(2)]
    data = bytearray(builders.encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    start = data.index(b"VP8X") + 12
    data[start : start + 6] = (16_382).to_bytes(3, "little") * 2
    return bytes(data)


def wide_gif(*, of: str) -> bytes:
    """Give a GIF whose screen, or whose first frame alone, has 65,535 x 65,535 pixels."""
    data = bytearray(builders.encoded(builders.tiny_image(), "GIF"))
    start = 6 if of == "screen" else data.index(b",", 13 + 3 * 256) + 5
    data[start : start + 4] = b"\xff" * 4
    return bytes(data)


def wide_bmp() -> bytes:
    """Give a BMP that says it has 60,000 x 60,000 pixels."""
    data = bytearray(builders.encoded(builders.tiny_image(), "BMP"))
    data[18:26] = struct.pack("<ii", 60_000, 60_000)
    return bytes(data)


MANY = "too_many_pixels"
#: Name -> how it is made, and the kind that it is refused as.
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG of 2500 megapixels": (lambda: png(50_000, 50_000), MANY),
    "PNG of 100": (lambda: png(10_000, 10_000), MANY),
    "JPEG": (lambda: sized(builders.jpeg_bytes(), 65_500, 65_500), MANY),
    "progressive JPEG": (lambda: sized(builders.jpeg_bytes(progressive=True), 65_500, 65_500), MANY),
    "JPEG of many scans": (lambda: many_scans(20_000), "too_many_scans"),
    "WEBP": (wide_webp, MANY),
    "GIF": (lambda: wide_gif(of="screen"), MANY),
    "frame of a GIF": (lambda: wide_gif(of="frame"), MANY),
    "BMP": (wide_bmp, MANY),
    "PNG with text": (lambda: png(8, 8, chunk(b"zTXt", b"a\0\0" + packed_mb(150))), "unreadable"),
    "PNG with many texts": (lambda: png(8, 8, *[chunk(b"zTXt", b"a\0\0" + packed_mb(1))] * 200), "unreadable"),
    "PNG with UTF-8 text": (lambda: png(8, 8, chunk(b"iTXt", b"a\0\1\0\0\0" + packed_mb(150))), "unreadable"),
    "PNG with a colour profile": (lambda: png(8, 8, chunk(b"iCCP", b"a\0\0" + packed_mb(150))), "unreadable"),
}


@functools.cache
def make(name: str) -> bytes:
    """Give one of them."""
    return BOMBS[name][0]()
