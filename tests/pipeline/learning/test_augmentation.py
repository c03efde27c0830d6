"""Training sees another view of an image each time, always the same for the same chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.learning import augmentation
from pipeline.preprocess import Preprocess
from tests import builders
from tests.pipeline.learning import trainees

PREPROCESS = Preprocess(resize_size=40, crop_size=32)
IMAGE = builders.tiny_image(size=(60, 40), seed=3)


def view(seed: int, **recipe: object) -> torch.Tensor:
    return augmentation.view(IMAGE, PREPROCESS, trainees.settled(**recipe), np.random.default_rng(seed))


@pytest.mark.parametrize("name", ["none", "crop_flip", "trivial"])
def test_a_view_is_pixels_of_the_networks_size(name: str) -> None:
    pixels = view(0, augmentation=name)
    assert (pixels.shape, pixels.dtype) == ((3, 32, 32), torch.uint8)
    assert torch.equal(pixels, view(0, augmentation=name))


def test_without_augmentation_training_sees_what_serving_sees() -> None:
    assert torch.equal(view(1, augmentation="none"), PREPROCESS.pixels(IMAGE))


@pytest.mark.parametrize("name", ["crop_flip", "trivial"])
def test_another_chance_gives_another_view(name: str) -> None:
    views = [view(seed, augmentation=name) for seed in range(8)]
    assert all(not torch.equal(views[0], other) for other in views[1:])


def test_images_are_mirrored_only_where_a_mirrored_image_is_of_the_same_class() -> None:
    wide = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (256, 1, 3)))

    def rising(seed: int, *, flips: bool) -> bool:
        recipe = trainees.settled(augmentation="crop_flip", horizontal_flip=flips)
        pixels = augmentation.view(wide, PREPROCESS, recipe, np.random.default_rng(seed)).float()
        return bool(pixels[..., -1].mean() > pixels[..., 0].mean())

    assert all(rising(seed, flips=False) for seed in range(40))
    assert 10 < sum(rising(seed, flips=True) for seed in range(40)) < 30


@pytest.mark.parametrize("size", [(60, 40), (32, 32), (640, 40), (40, 640), (1, 1), (3, 200)], ids=str)
def test_a_crop_lies_in_the_image_and_keeps_half_of_it(size: tuple[int, int]) -> None:
    for seed in range(200):
        left, top, right, bottom = augmentation.crop_box(size, np.random.default_rng(seed))
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        if max(size) < 2 * min(size) > 30:
            assert (right - left) * (bottom - top) >= 0.48 * size[0] * size[1]  # by whole pixels
            assert 0.7 < (right - left) / (bottom - top) < 1.43


@pytest.mark.parametrize("name", augmentation.CHANGES)
@pytest.mark.parametrize("strength", [-1.0, -0.5, 0.0, 0.5, 1.0])
def test_every_change_keeps_size_and_mode(name: str, strength: float) -> None:
    changed = augmentation.CHANGES[name](IMAGE, strength)
    assert (changed.size, changed.mode) == (IMAGE.size, "RGB")


@pytest.mark.parametrize("name", sorted(set(augmentation.CHANGES) - {"autocontrast", "equalize", "posterize"}))
def test_a_change_without_strength_changes_nothing(name: str) -> None:
    same = np.asarray(augmentation.CHANGES[name](IMAGE, 0.0)).astype(int)
    assert np.abs(same - np.asarray(IMAGE).astype(int)).max() <= 1
