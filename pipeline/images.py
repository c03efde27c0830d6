"""Takes the bytes of an image file.

Gives an upright RGB image, or the one sentence that says why not.
Knows nothing of where the bytes came from, or of networks.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from pipeline import jpegs
from pipeline.errors import ImageUnreadable

#: what Pillow's decoders raise on bad input, beside UnidentifiedImageError: from its sources and fuzzing.
#: Warning: only where the user's filters turn warnings (corrupt EXIF, malformed MPO) into errors.
DECODER_ERRORS = (
    OSError, EOFError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    AssertionError, ArithmeticError, RuntimeError, struct.error, zlib.error, ImageCms.PyCMSError, Warning,
)  # fmt: skip
#: pixels are checked against `Limits` before they are loaded, so Pillow's module-global bound is left alone:
#: to set it or to filter its warning is not safe in threads. It warns at 89 megapixels and refuses at 179.
BOMB_ERRORS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
#: EXIF orientation -> what makes it upright. ImageOps.exif_transpose would also rewrite the EXIF block,
#: and fail on damaged ones whose orientation is readable.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: EXIF tag of the orientation
ORIENTATION = 0x0112
#: first bytes (offset, bytes) -> format name, to tell "not allowed" from "not an image"
SIGNATURES = (
    (0, b"\xff\xd8\xff", "JPEG"), (0, b"\x89PNG\r\n\x1a\n", "PNG"), (8, b"WEBP", "WEBP"), (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"), (0, b"II*\0", "TIFF"), (0, b"MM\0*", "TIFF"), (0, b"8BPS", "PSD"), (0, b"%!PS", "EPS"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"), (0, b"%PDF", "PDF"), (4, b"ftypheic", "HEIC"), (4, b"ftypheix", "HEIC"),
    (4, b"ftypmif1", "HEIC"), (4, b"ftypavif", "AVIF"), (4, b"jP  ", "JPEG 2000"), (0, b"\0\0\1\0", "ICO"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"), (0, b"SIMPLE  =", "FITS"), (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL ", "JPEG XL"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an image file may be."""

    #: bytes of the file
    max_bytes: int = 20 * 1024 * 1024
    #: width times height
    max_pixels: int = 50_000_000
    #: Pillow's names of the formats that are tried; MPO is the JPEG of stereo and some phone cameras
    formats: tuple[str, ...] = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP")


def thumbnail(data: bytes, limits: Limits, side: int, *, quality: int = 85, least: int | None = None) -> bytes:
    """Make a JPEG of at most `side` pixels either way; `least` as in `decode`. Raise ImageUnreadable."""
    image = decode(data, limits, least=least)
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    written = BytesIO()
    image.save(written, "JPEG", quality=quality)
    return written.getvalue()


def decode(data: bytes, limits: Limits, *, least: int | None = None) -> Image.Image:
    """Decode to an upright image of mode RGB; the first frame of an animation. Raise ImageUnreadable.

    A JPEG is shrunk by 2, 4 or 8 while it is decoded, as long as its short side keeps `least` pixels.
    """
    if not data:
        raise ImageUnreadable("empty", "The file is empty.")
    if len(data) > limits.max_bytes:
        raise ImageUnreadable("too_large", f"The file is larger than the limit of {limits.max_bytes} bytes.")
    try:
        return _decode(data, limits, least)
    except BOMB_ERRORS as error:
        raise _too_many_pixels(limits) from error
    except UnidentifiedImageError as error:
        raise _unidentified(data, limits) from error
    except MemoryError as error:
        raise ImageUnreadable("out_of_memory", "Decoding the image took more memory than there is.") from error
    except DECODER_ERRORS as error:
        raise _undecodable(error) from error


def orientation(data: bytes) -> int:
    """Read how a JPEG file is to be turned, 1 to 8 as in EXIF; 1 where nothing says so."""
    try:
        with Image.open(BytesIO(data), formats=["JPEG"]) as image:
            return _orientation(image)
    except (*BOMB_ERRORS, *DECODER_ERRORS):
        return 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn an image upright."""
    method = UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def _decode(data: bytes, limits: Limits, least: int | None) -> Image.Image:
    # Given formats, Image.open does not load the plugins it lacks (WEBP) and trips over those without an
    # opener (MPO, which the JPEG plugin opens). Free after the first call.
    Image.init()
    openers = [name for name in limits.formats if name in Image.OPEN]
    with Image.open(BytesIO(data), formats=openers) as image:
        width, height = image.size
        if width * height > limits.max_pixels:
            raise _too_many_pixels(limits, width, height)
        if image.info.get("progressive") and jpegs.has_too_many_scans(data):  # JPEG and MPO alone say so
            raise ImageUnreadable("too_many_scans", f"The JPEG has more than {jpegs.MAX_SCANS} scans; save it again.")
        if least is not None:
            image.draft(None, (least, least))
        image.load()
        return upright(_rgb(image), _orientation(image))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except DECODER_ERRORS:  # a damaged EXIF block is no reason to refuse good pixels
        return 1


# ---------------------------------------------------------------- any mode -> RGB


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bit(image).convert("RGB")
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB") or image
    if image.has_transparency_data:
        return _on_white(image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    # White is where such pictures are seen. Dropping alpha instead would show whatever colour hides under it.
    background = Image.new("RGB", image.size, (255, 255, 255))
    background.paste(image, mask=image.getchannel("A"))
    return background


def _eight_bit(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255 and turns 16-bit photos white. Floats are 0..1 or 0..255 by custom.
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    if image.mode != "F":
        values /= 257
    elif values.max(initial=0) <= 1:
        values *= 255
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


# ---------------------------------------------------------------- sentences


def _sniff(data: bytes) -> str | None:
    if b"<svg" in data[:1024].lower():
        return "SVG"
    return next((name for offset, magic, name in SIGNATURES if data[offset:].startswith(magic)), None)


def _unidentified(data: bytes, limits: Limits) -> ImageUnreadable:
    name = _sniff(data)
    if name is None:
        return ImageUnreadable("not_an_image", "The file is not an image of a known format.")
    if name not in limits.formats:
        allowed = ", ".join(limits.formats)
        return ImageUnreadable("unsupported_format", f"{name} files are not read here; convert it to one of {allowed}.")
    return ImageUnreadable("unreadable", f"The file starts like a {name} image, but its header is damaged or cut off.")


def _undecodable(error: Exception) -> ImageUnreadable:
    reason = str(error) or type(error).__name__
    if isinstance(error, EOFError) or "truncated" in reason.lower():
        return ImageUnreadable("truncated", "The image file is cut off before its end.")
    return ImageUnreadable("unreadable", f"The image file is damaged: {reason.splitlines()[0][:200]}.")


def _too_many_pixels(limits: Limits, *size: int) -> ImageUnreadable:
    shape = f" ({size[0]} x {size[1]})" if size else ""
    return ImageUnreadable("too_many_pixels", f"The image{shape} has more than {limits.max_pixels} pixels.")
