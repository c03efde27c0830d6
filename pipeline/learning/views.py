"""Takes decoded images that are kept for many epochs, and their preprocessing.

Gives the pictures that training draws from: an augmented view for each epoch, serving's own view for validation.
Knows nothing of labels, networks or where images come from.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

from pipeline.learning import augmentation
from pipeline.learning.pixels import PixelCache
from pipeline.learning.recipes import Settled
from pipeline.preprocess import Preprocess


class Views:
    """Pictures (streams.Pictures) over a pixel cache; position i of `indices` is image indices[i] of the cache."""

    def __init__(self, cache: PixelCache, indices: tuple[int, ...], preprocess: Preprocess, settled: Settled) -> None:
        self._cache, self._indices, self._preprocess, self._settled = cache, indices, preprocess, settled

    def __len__(self) -> int:
        return len(self._indices)

    def train(self, index: int, rng: np.random.Generator) -> Tensor:
        """Give the image as one epoch sees it, uint8 [3, S, S]."""
        if self._settled.augmentation == "none":
            return self.eval(index)
        pixels = self._cache.image(self._indices[index])
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        return augmentation.view(image, self._preprocess, self._settled, rng)

    def eval(self, index: int) -> Tensor:
        """Give the image as serving sees it, uint8 [3, S, S]."""
        return self._cache.pixels(self._indices[index])
