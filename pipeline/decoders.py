"""Takes the bytes of an image file.

Gives its upright pixels, by whichever decoder was fastest on this machine; `images.decode` is the reference they agree
with, and does what they cannot. Knows nothing of networks.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline import images, jpegs
from pipeline.errors import DecoderUnavailable

logger = logging.getLogger(__name__)

#: short side, in sizes that it is resized to, that a JPEG keeps when it is shrunk while it is decoded: with twice the
#: size the resized pixels differ from those of the whole image by 1.2 levels of 255, with once by 2.6 (DECISIONS.md)
KEPT = 2
#: size of the photo that decoders are timed on
SAMPLE_SIZE = (500, 375)
#: times it is decoded by each
NUM_TRIES = 5

#: bytes of an ordinary JPEG and the scale to shrink it by -> uint8 [H, W, 3]; None where it has no such scale
DecodeJpeg = Callable[[bytes, jpegs.Header, int], Tensor | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """One way to decode: ordinary JPEGs its own way, everything else as the reference does."""

    name: str
    #: None leaves JPEGs to the reference as well
    jpeg: DecodeJpeg | None = None

    def decode(self, data: bytes, limits: images.Limits, *, resize_size: int) -> Tensor:
        """Decode to upright RGB pixels, uint8 [H, W, 3]; raise ImageUnreadable.

        A large JPEG is shrunk while it is decoded: its short side keeps at least `KEPT * resize_size` pixels.
        """
        least = KEPT * resize_size
        decoded = self._jpeg(data, limits, least)
        if decoded is not None:
            return decoded
        return _as_pixels(images.decode(data, limits, least=least))

    def _jpeg(self, data: bytes, limits: images.Limits, least: int) -> Tensor | None:
        header = jpegs.header(data) if self.jpeg else None
        if self.jpeg is None or header is None or not _is_allowed(data, header, limits):
            return None
        try:
            decoded = self.jpeg(data, header, header.scale(least))
        except (ValueError, RuntimeError):  # damaged, or rarer than it looked: the reference has the last word
            return None
        if decoded is None or not header.may_be_turned:
            return decoded
        return _upright(decoded, images.orientation(data))


def _is_allowed(data: bytes, header: jpegs.Header, limits: images.Limits) -> bool:
    # What is not allowed is left to the reference, which says why. It takes MPO for JPEG until it has looked inside.
    return (
        len(data) <= limits.max_bytes
        and header.width * header.height <= limits.max_pixels
        and {"JPEG", "MPO"} <= set(limits.formats)
        and not (header.is_progressive and jpegs.has_too_many_scans(data))
    )


def _upright(image_HWC: Tensor, orientation: int) -> Tensor:  # noqa: N803
    if orientation not in images.UPRIGHT:
        return image_HWC
    return _as_pixels(images.upright(Image.fromarray(image_HWC.numpy()), orientation))


def _as_pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image))


# ---------------------------------------------------------------- the ways


def _open_pillow() -> Decoder:
    return Decoder(name="pillow")


def _open_simplejpeg() -> Decoder:
    decode = importlib.import_module("simplejpeg").decode_jpeg

    def jpeg(data: bytes, header: jpegs.Header, scale: int) -> Tensor:
        # The least size that the scale gives, and no finer scale: the one that Pillow's draft takes.
        height, width = -(-header.height // scale), -(-header.width // scale)
        return torch.from_numpy(decode(data, "RGB", min_height=height, min_width=width, min_factor=scale))

    return Decoder(name="simplejpeg", jpeg=jpeg)


def _open_torchcodec() -> Decoder:
    decode = importlib.import_module("torchcodec.decoders").decode_jpeg

    def jpeg(data: bytes, header: jpegs.Header, scale: int) -> Tensor | None:
        # It cannot shrink, which is worth more than it saves, and turns images by EXIF alone.
        if scale > 1 or header.may_be_turned:
            return None
        decoded: Tensor = decode(data).permute(1, 2, 0)
        return decoded

    return Decoder(name="torchcodec", jpeg=jpeg)


DECODERS: Mapping[str, Callable[[], Decoder]] = {
    "pillow": _open_pillow,
    "simplejpeg": _open_simplejpeg,
    "torchcodec": _open_torchcodec,
}


def choose(name: str) -> Decoder:
    """Give the decoder of that name; "auto" times those that are installed. Raise DecoderUnavailable."""
    if name == "auto":
        return fastest()
    try:
        return DECODERS[name]()
    except KeyError:
        raise DecoderUnavailable(f"There is no decoder {name!r}; take auto, {', '.join(DECODERS)}.") from None
    except (ImportError, OSError, RuntimeError) as missing:
        raise DecoderUnavailable(f"The decoder {name!r} cannot be used here: {missing}.") from missing


def fastest() -> Decoder:
    """Time each decoder that is installed on one photo of ordinary size, and give the fastest."""
    photo = _photo()
    taken: dict[str, float] = {}
    found = [opened for name in DECODERS if (opened := _opened(name)) is not None]
    for decoder in found:
        taken[decoder.name] = min(_decode_s(decoder, photo) for _ in range(NUM_TRIES))
    logger.info("decoders: %s", ", ".join(f"{name} {1000 * seconds:.2f} ms" for name, seconds in taken.items()))
    return min(found, key=lambda decoder: taken[decoder.name])


def _opened(name: str) -> Decoder | None:
    try:
        return choose(name)
    except DecoderUnavailable:
        return None


def _decode_s(decoder: Decoder, photo: bytes) -> float:
    started_s = time.perf_counter()
    decoder.decode(photo, images.Limits(), resize_size=SAMPLE_SIZE[1])
    return time.perf_counter() - started_s


def _photo() -> bytes:
    """Draw something with the detail of a photo: noise at several sizes, laid over each other."""
    rng = np.random.default_rng(0)
    layers = [
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).resize(SAMPLE_SIZE) for side in (4, 64)
    ]
    file = BytesIO()
    Image.blend(layers[0], layers[1], 0.3).save(file, "JPEG", quality=90)
    return file.getvalue()
