"""Takes an upright RGB image and a source of chance.

Gives the view of it that one epoch trains on, uint8 pixels of the network's size; the same chance gives the same view.
Knows nothing of networks, labels or files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from pipeline.learning.recipes import Settled
from pipeline.preprocess import Preprocess

#: share of the image's area that a crop keeps: half at least, as small data cannot spare more (science.md 2.3)
AREA = (0.5, 1.0)
#: width over height of a crop, before it is squeezed into the square (torchvision's RandomResizedCrop)
ASPECT = (3 / 4, 4 / 3)
#: crops that are tried before the whole image is taken
NUM_TRIES = 10
#: strengths of TrivialAugment: none and 30 more (Mueller & Hutter 2021, wide space)
NUM_STRENGTHS = 31
#: colour that a moved image leaves behind
GREY = (128, 128, 128)
#: preprocessing's names of Pillow's filters
FILTERS: Mapping[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

#: an image, a strength in -1..1
Change = Callable[[Image.Image, float], Image.Image]


def view(image: Image.Image, preprocess: Preprocess, settled: Settled, rng: np.random.Generator) -> Tensor:
    """Give what training sees of an image, uint8 [3, crop_size, crop_size]; "none" is what serving sees."""
    if settled.augmentation == "none":
        return preprocess.pixels(image)
    cropped = resized_crop(image, preprocess, rng)
    if settled.horizontal_flip and rng.random() < 0.5:
        cropped = ImageOps.mirror(cropped)
    if settled.augmentation == "trivial":
        cropped = trivial(cropped, rng)
    # In Pillow's HWC order, as preprocess.pixels leaves it.
    return torch.from_numpy(np.array(cropped)).permute(2, 0, 1)


def resized_crop(image: Image.Image, preprocess: Preprocess, rng: np.random.Generator) -> Image.Image:
    """Cut a random box out of the image and resize it to the square of the network (Szegedy et al. 2015)."""
    size = (preprocess.crop_size, preprocess.crop_size)
    return image.resize(size, FILTERS[preprocess.interpolation], box=crop_box(image.size, rng))


def crop_box(size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw (left, top, right, bottom) within `size` (width, height), of random area and aspect ratio."""
    width, height = size
    for _ in range(NUM_TRIES):
        area = width * height * rng.uniform(*AREA)
        aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1))
            return left, top, left + wide, top + high
    # A strip holds no such box: as much of its middle as the aspect ratio allows.
    wide, high = min(width, round(height * ASPECT[1])), min(height, round(width / ASPECT[0]))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + max(1, wide), top + max(1, high)


def trivial(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Change the image in one way of CHANGES, at a random strength and sign (Mueller & Hutter 2021)."""
    change = tuple(CHANGES.values())[int(rng.integers(len(CHANGES)))]
    strength = int(rng.integers(NUM_STRENGTHS)) / (NUM_STRENGTHS - 1)
    return change(image, strength if rng.random() < 0.5 else -strength)


# ---------------------------------------------------------------- the ways


def _moved(image: Image.Image, *row: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, row, Image.Resampling.BILINEAR, fillcolor=GREY)


def _shear_x(image: Image.Image, strength: float) -> Image.Image:
    slope = 0.99 * strength
    return _moved(image, 1, slope, -slope * image.height / 2, 0, 1, 0)


def _shear_y(image: Image.Image, strength: float) -> Image.Image:
    slope = 0.99 * strength
    return _moved(image, 1, 0, 0, slope, 1, -slope * image.width / 2)


def _shift_x(image: Image.Image, strength: float) -> Image.Image:
    # The paper's 32 pixels are of images of 224.
    return _moved(image, 1, 0, strength * image.width / 7, 0, 1, 0)


def _shift_y(image: Image.Image, strength: float) -> Image.Image:
    return _moved(image, 1, 0, 0, 0, 1, strength * image.height / 7)


def _rotated(image: Image.Image, strength: float) -> Image.Image:
    return image.rotate(135 * strength, Image.Resampling.BILINEAR, fillcolor=GREY)


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Change:
    return lambda image, strength: kind(image).enhance(1 + 0.99 * strength)


def _posterized(image: Image.Image, strength: float) -> Image.Image:
    return ImageOps.posterize(image, 8 - round(6 * abs(strength)))


def _solarized(image: Image.Image, strength: float) -> Image.Image:
    return ImageOps.solarize(image, round(256 * (1 - abs(strength))))


#: the ways in which TrivialAugment changes an image
CHANGES: Mapping[str, Change] = {
    "identity": lambda image, _: image,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "shift_x": _shift_x,
    "shift_y": _shift_y,
    "rotate": _rotated,
    "brightness": _enhanced(ImageEnhance.Brightness),
    "color": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "posterize": _posterized,
    "solarize": _solarized,
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
}
