"""Pixels equal torchvision's own pipeline, exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from pipeline.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from tests import builders

STANDARD = Preprocess(resize_size=256, crop_size=224)


def torchvision_of(preprocess: Preprocess) -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.Resize(preprocess.resize_size, InterpolationMode(preprocess.interpolation)),
            transforms.CenterCrop(preprocess.crop_size),
            transforms.ToTensor(),
            transforms.Normalize(preprocess.mean, preprocess.std),
        ]
    )


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (224, 224), (257, 1001), (31, 17), (1, 9), (3000, 200)])
@pytest.mark.parametrize(
    "preprocess",
    [
        STANDARD,
        Preprocess(resize_size=232, crop_size=224, interpolation="bicubic"),
        Preprocess(resize_size=100, crop_size=224),
        Preprocess(resize_size=32, crop_size=32, interpolation="nearest", mean=(0.5, 0.5, 0.5), std=(1, 2, 3)),
    ],
    ids=["standard", "bicubic", "padded", "small"],
)
def test_pixels_and_normalize_equal_torchvision(preprocess: Preprocess, size: tuple[int, int]) -> None:
    image = builders.tiny_image(size=size)
    pixels = preprocess.pixels(image)
    assert pixels.dtype == torch.uint8
    ours = preprocess.normalize(pixels[None], torch.float32)[0]
    torch.testing.assert_close(ours, torchvision_of(preprocess)(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos"])
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (224, 224), (257, 1001), (31, 17), (1, 9), (3000, 200)])
def test_quick_pixels_are_within_two_levels_of_the_exact_ones(interpolation: str, size: tuple[int, int]) -> None:
    preprocess = Preprocess(resize_size=256, crop_size=224, interpolation=interpolation)
    image = builders.tiny_image(size=size)
    quick = preprocess.quick_pixels(torch.from_numpy(np.array(image)))
    assert (quick.dtype, quick.shape, quick.is_contiguous()) == (torch.uint8, (224, 224, 3), True)
    apart = (quick.permute(2, 0, 1).int() - preprocess.pixels(image).int()).abs()
    assert int(apart.max()) <= 2
    assert float(apart.float().mean()) < 0.1


def test_quick_pixels_of_an_image_that_has_its_size_are_the_image() -> None:
    small = Preprocess(resize_size=32, crop_size=32)
    image = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert small.quick_pixels(image) is image


@pytest.mark.parametrize("size", [(1, 65_535), (65_535, 1), (2, 40_000)])
def test_a_thin_strip_costs_no_memory(size: tuple[int, int]) -> None:
    assert STANDARD.pixels(builders.tiny_image(size=size)).shape == (3, 224, 224)


def test_normalize_leaves_the_pixels_alone() -> None:
    pixels = STANDARD.pixels(builders.tiny_image())[None]
    before = pixels.clone()
    assert STANDARD.normalize(pixels, torch.bfloat16).dtype == torch.bfloat16
    assert torch.equal(pixels, before)


def test_the_dictionary_gives_the_same_value_and_digest_back() -> None:
    other = Preprocess(resize_size=232, crop_size=224, interpolation="bicubic", mean=(0.1, 0.2, 0.3))
    assert Preprocess.from_dict(other.as_dict()) == other
    assert Preprocess.from_dict(other.as_dict()).digest() == other.digest() != STANDARD.digest()


@pytest.mark.parametrize(
    "change",
    [
        {"resize_size": 0}, {"resize_size": "256"}, {"resize_size": None}, {"crop_size": 10**6},
        {"crop_size": 2.5}, {"interpolation": "area"}, {"mean": [0.5]}, {"mean": "abc"}, {"mean": ["a", "b", "c"]},
        {"std": [1, 1, 0]},
    ],
    ids=str,
)  # fmt: skip
def test_a_dictionary_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any sentence will do
        Preprocess.from_dict({**STANDARD.as_dict(), **change})


def test_a_dictionary_that_lacks_a_field_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks 'mean'"):
        Preprocess.from_dict({key: value for key, value in STANDARD.as_dict().items() if key != "mean"})


def test_the_defaults_are_those_of_imagenet() -> None:
    assert (STANDARD.mean, STANDARD.std) == (IMAGENET_MEAN, IMAGENET_STD)
