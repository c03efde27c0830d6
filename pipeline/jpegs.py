"""Takes the bytes of a JPEG file. Gives what its header says, without decoding anything.

Knows nothing of decoders, but must not read a size that they would not: whatever they may read another way is not an
ordinary JPEG. Source of the markers: ITU-T T.81, table B.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: start of image
SOI = b"\xff\xd8"
#: start of scan: the header ends here
SOS = 0xDA
#: application segment that holds EXIF or XMP
APP1 = 0xE1
#: end of image: what follows is another one, or none
EOI = 0xD9
#: markers without a length that may stand anywhere: restarts and TEM
ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
#: a marker among the data of a scan, where 0xFF is followed by a zero or is a restart
MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")
#: scans of a progressive image at most: encoders write 6 to 20. A scan of a few bytes goes over every block, so that a
#: megabyte of them keeps a decoder busy for a quarter of an hour.
MAX_SCANS = 100
#: starts of frame: baseline, extended, progressive. Lossless and arithmetic ones are left to the reference decoder.
FRAMES = frozenset({0xC0, 0xC1, 0xC2})
PROGRESSIVE = 0xC2
#: what else may stand before the scan: tables, restart interval, application segments, comment. Each states its length.
#: Markers without one (restart, TEM) and fill bytes are left to the reference decoder: a reader that takes what follows
#: for a length is led past the true frame to a small one made up for it.
SEGMENTS = frozenset({0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE})
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
    #: it comes in scans, each of which goes over the whole image
    is_progressive: bool

    def scale(self, least: int) -> int:
        """Give the largest of 8, 4, 2 and 1 by which the short side can be divided and keep `least` pixels."""
        room = min(self.width, self.height) // max(least, 1)
        return next((scale for scale in (8, 4, 2) if room >= scale), 1)


def has_too_many_scans(data: bytes) -> bool:
    """Say whether a progressive JPEG file has more than `MAX_SCANS` scans."""
    if data.count(bytes((0xFF, SOS))) <= MAX_SCANS:  # four times as quick, and never fewer than there are
        return False
    num_scans = position = 0
    while num_scans <= MAX_SCANS and (found := MARKER.search(data, position)):
        marker, position = found[1][0], found.end()
        if marker == EOI:
            return False
        num_scans += marker == SOS
        if marker not in ALONE and marker != SOI[1]:
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
    return num_scans > MAX_SCANS


def header(data: bytes) -> Header | None:
    """Read the header of an ordinary JPEG; None for any other file.

    Whatever a decoder could read otherwise than this does is not ordinary: a file must not get around the limits by
    showing one size here and another one there.
    """
    if data[:2] != SOI:
        return None
    size: tuple[int, int] | None = None
    may_be_turned = is_progressive = False
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == SOS:
            break
        if marker in FRAMES and size is None:
            size, is_progressive = _size(data[position + 4 : position + 2 + length]), marker == PROGRESSIVE
            if size is None:
                return None
        elif marker not in SEGMENTS or length < 2:  # the length counts its own two bytes
            return None
        may_be_turned = may_be_turned or marker == APP1
        position += 2 + length
    else:
        return None
    if size is None:
        return None
    return Header(width=size[0], height=size[1], may_be_turned=may_be_turned, is_progressive=is_progressive)


def _size(frame: bytes) -> tuple[int, int] | None:
    """Give width and height of a frame header of 8 bits with one or three components."""
    if len(frame) < 6 or frame[0] != 8 or frame[5] not in COMPONENTS:
        return None
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    return (width, height) if width and height else None
