"""Takes the bytes of a JPEG file. Gives what its header says, without decoding anything.

Knows nothing of decoders. Source of the markers: ITU-T T.81, table B.1.
"""

from __future__ import annotations

from dataclasses import dataclass

#: start of image
SOI = b"\xff\xd8"
#: start of scan: the header ends here
SOS = 0xDA
#: application segment that holds EXIF or XMP
APP1 = 0xE1
#: starts of frame: baseline, extended, progressive. Lossless and arithmetic ones are left to the reference decoder.
FRAMES = frozenset({0xC0, 0xC1, 0xC2})
#: the segments an ordinary header is made of, beside its frame: tables, application data, a restart interval, comments
SEGMENTS = frozenset({0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})
#: components of grey and of YCbCr images
COMPONENTS = frozenset({1, 3})


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """An ordinary JPEG: grey or YCbCr, Huffman coded, 8 bits."""

    #: pixels, as stored
    width: int
    height: int
    #: it has an EXIF or XMP segment, which may say that the image is to be turned
    may_be_turned: bool

    def scale(self, least: int) -> int:
        """Give the largest of 8, 4, 2 and 1 by which the short side can be divided and keep `least` pixels."""
        room = min(self.width, self.height) // max(least, 1)
        return next((scale for scale in (8, 4, 2) if room >= scale), 1)


def header(data: bytes) -> Header | None:
    """Read the header of an ordinary JPEG; None for any other file.

    Whatever a decoder could read otherwise than this does is not ordinary: a file must not get around the limits by
    showing one size here and another one there.
    """
    if data[:2] != SOI:
        return None
    size: tuple[int, int] | None = None
    may_be_turned = False
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == SOS:
            break
        if marker in FRAMES and size is None:
            size = _size(data[position + 4 : position + 2 + length])
            if size is None:
                return None
        elif marker not in SEGMENTS or length < 2:
            return None
        may_be_turned = may_be_turned or marker == APP1
        position += 2 + length
    else:
        return None
    return None if size is None else Header(width=size[0], height=size[1], may_be_turned=may_be_turned)


def _size(frame: bytes) -> tuple[int, int] | None:
    """Give width and height of a frame header of 8 bits with one or three components."""
    if len(frame) < 6 or frame[0] != 8 or frame[5] not in COMPONENTS:
        return None
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    return (width, height) if width and height else None
