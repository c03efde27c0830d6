"""The same picture saved another way keeps its fingerprint; another picture does not share it."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pipeline import digits, fingerprints, images
from pipeline.errors import ImageUnreadable
from tests import builders

LIMITS = images.Limits()
#: bits within which two hashes are the same picture's (science 3.3)
NEAR = 4
#: stretched thumbnails of one picture differ by less on average (measured, see DECISIONS.md)
ALIKE = 0.05


def photo(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Give a scene: soft background, hard-edged things, sensor noise."""
    rng = random.Random(seed)
    scene = builders.tiny_image(size=size, seed=seed)
    for _ in range(6):
        left, top = rng.randrange(size[0] - 40), rng.randrange(size[1] - 40)
        colour = tuple(rng.randrange(256) for _ in range(3))
        scene.paste(colour, (left, top, left + rng.randrange(20, 120), top + rng.randrange(20, 120)))
    noise = Image.frombytes("RGB", size, rng.randbytes(3 * size[0] * size[1]))
    return Image.blend(scene, noise, 0.05)


def rotated_by_exif(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return builders.encoded(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=90, exif=exif)


def resized(image: Image.Image, scale: float) -> bytes:
    size = round(image.width * scale), round(image.height * scale)
    return builders.encoded(image.resize(size, Image.Resampling.BICUBIC), "JPEG", quality=90)


SAVED_AGAIN: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG at 60": lambda image: builders.encoded(image, "JPEG", quality=60),
    "JPEG at 95": lambda image: builders.encoded(image, "JPEG", quality=95),
    "WEBP": lambda image: builders.encoded(image, "WEBP", quality=80),
    "resized by 0.9": lambda image: resized(image, 0.9),
    "resized by 0.5": lambda image: resized(image, 0.5),
    "turned by EXIF": rotated_by_exif,
}


def fingerprint(data: bytes) -> fingerprints.Fingerprint:
    return fingerprints.fingerprint(data, LIMITS)


def stretched(found: fingerprints.Fingerprint) -> np.ndarray:
    values = np.frombuffer(found.thumbnail, np.uint8).astype(np.float64)
    return (values - values.mean()) / values.std()


def difference(a: fingerprints.Fingerprint, b: fingerprints.Fingerprint) -> float:
    return float(np.abs(stretched(a) - stretched(b)).mean())


@pytest.mark.parametrize("save", SAVED_AGAIN.values(), ids=SAVED_AGAIN)
def test_a_picture_saved_again_has_nearly_the_same_hash_and_thumbnail(save: Callable[[Image.Image], bytes]) -> None:
    for seed in range(10):
        image = photo(seed)
        before, after = fingerprint(builders.encoded(image, "PNG")), fingerprint(save(image))
        assert before.sha256 != after.sha256
        assert fingerprints.distance(before.dhash, after.dhash) <= NEAR
        assert difference(before, after) < ALIKE


def test_different_pictures_differ() -> None:
    found = [fingerprint(builders.encoded(photo(seed), "PNG")) for seed in range(25)]
    pairs = [(a, b) for index, a in enumerate(found) for b in found[:index]]
    assert min(fingerprints.distance(a.dhash, b.dhash) for a, b in pairs) > NEAR
    assert min(difference(a, b) for a, b in pairs) > 4 * ALIKE


def test_drawings_that_hash_alike_have_thumbnails_that_do_not(tmp_path_factory: pytest.TempPathFactory) -> None:
    written = digits.write_images(tmp_path_factory.mktemp("digits"))[:200]
    found = [fingerprint(digit.file.read_bytes()) for digit in written]
    pairs = [(a, b) for index, a in enumerate(found) for b in found[:index]]
    alike = [pair for pair in pairs if fingerprints.distance(pair[0].dhash, pair[1].dhash) <= NEAR]
    # By the hash alone they would chain into one group, and the group into one split.
    assert len(alike) == 777
    assert min(difference(*pair) for pair in alike) > ALIKE


def test_the_bits_run_from_the_top_left() -> None:
    image = Image.new("L", fingerprints.HASH_SIZE)
    image.putpixel((0, 0), 200)
    image.putpixel((7, 7), 200)
    assert fingerprints.dhash(image) == 1 << 63 | 1


def test_a_step_of_one_level_is_no_difference() -> None:
    image = Image.new("L", fingerprints.HASH_SIZE, 100)
    image.putpixel((3, 3), 101)
    assert fingerprints.dhash(image) == 0
    image.putpixel((3, 3), 102)
    assert fingerprints.dhash(image).bit_count() == 1


def test_a_flat_picture_has_no_bits_and_a_thumbnail_of_its_grey() -> None:
    found = fingerprint(builders.encoded(Image.new("RGB", (50, 40), (128, 128, 128)), "PNG"))
    assert (found.dhash, found.thumbnail) == (0, bytes([128]) * 256)


def test_the_hash_fits_sixty_four_bits_and_the_thumbnail_is_what_it_is_of() -> None:
    image = photo(1).filter(ImageFilter.GaussianBlur(9))
    found = fingerprint(builders.encoded(image, "PNG"))
    assert 0 <= found.dhash < 1 << 64
    grey = image.convert("L").resize((16, 16), Image.Resampling.BILINEAR)
    assert found.thumbnail == grey.tobytes()


@pytest.mark.parametrize(("a", "b", "num"), [(0, 0, 0), (0, (1 << 64) - 1, 64), (0b1011, 0b0010, 2)])
def test_the_distance_counts_bits(a: int, b: int, num: int) -> None:
    assert fingerprints.distance(a, b) == num


def test_a_file_that_is_no_image_has_no_fingerprint() -> None:
    with pytest.raises(ImageUnreadable):
        fingerprint(b"not an image")
