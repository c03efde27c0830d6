"""Takes labelled images (content hash and reference) and a way to fetch bytes.

Gives their pixels in order, read ahead by threads, or kept in memory for many epochs; a lost image is said, not raised.
Knows nothing of labels, networks or features.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as F

from pipeline import images
from pipeline.errors import ImageUnreadable, ItemError
from pipeline.preprocess import Preprocess

#: images that are read ahead of the one that is asked for
LOOKAHEAD = 64
#: value of every channel of the image that stands for one that was lost during training
GREY = 128

#: sha256 of the bytes that were labelled, and where they were then
Source = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """An image that can no longer be read as it was when it was labelled."""

    sha256: str
    reference: str
    #: snake_case fact
    kind: str
    #: one sentence for a user
    reason: str


def read(
    sources: Sequence[Source],
    *,
    fetch: Callable[[str], bytes],
    limits: images.Limits,
    shape: Callable[[Image.Image], Tensor],
    pool: Executor,
    on_lost: Callable[[Lost], None],
    lookahead: int = LOOKAHEAD,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (index, shaped image) in order, fetched, checked, decoded and shaped ahead by the pool's threads.

    An image that cannot be fetched or decoded, or whose bytes changed, goes to `on_lost` instead.
    """
    pending: deque[tuple[int, Future[Tensor | Lost]]] = deque()
    coming = iter(enumerate(sources))
    try:
        while True:
            while len(pending) < max(1, lookahead) and (item := next(coming, None)):
                pending.append((item[0], pool.submit(_prepare, item[1], fetch, limits, shape)))
            if not pending:
                return
            index, future = pending.popleft()
            found = future.result()
            if isinstance(found, Lost):
                on_lost(found)
            else:
                yield index, found
    finally:
        for _, future in pending:
            future.cancel()


class PixelCache:
    """Decoded images, short side resized, for many epochs: in memory up to a limit, read again beyond it."""

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        fetch: Callable[[str], bytes],
        limits: images.Limits,
        preprocess: Preprocess,
        max_bytes: int,
        on_lost: Callable[[Lost], None],
    ) -> None:
        """`on_lost` hears of every image that is lost, once; it may raise to end what reads."""
        self._sources = tuple(sources)
        self._preprocess = preprocess
        self._on_lost = on_lost
        self._shape = partial(resized, preprocess=preprocess)
        self._fetch, self._limits = fetch, limits
        self._kept: dict[int, Tensor] = {}
        self._lost: set[int] = set()
        self._free_bytes = max_bytes
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sources)

    @property
    def num_kept(self) -> int:
        """Number of images in memory."""
        return len(self._kept)

    def fill(self, pool: Executor) -> tuple[int, ...]:
        """Read every image once, keep what fits, and give the indices of those that can be read."""
        options = {"fetch": self._fetch, "limits": self._limits, "shape": self._shape}
        found = []
        for index, pixels in read(self._sources, pool=pool, on_lost=self._on_lost, **options):  # type: ignore[arg-type]
            self._keep(index, pixels)
            found.append(index)
        self._lost = set(range(len(self))) - set(found)
        return tuple(found)

    def image(self, index: int) -> Tensor:
        """Give uint8 [3, H, W], its short side `resize_size` pixels; grey in place of an image that is lost.

        Safe from any thread.
        """
        pixels = self._kept.get(index)
        if pixels is not None:
            return pixels
        found = _prepare(self._sources[index], self._fetch, self._limits, self._shape)
        if isinstance(found, Tensor):
            self._keep(index, found)
            return found
        self._say_lost(index, found)
        return torch.full((3, self._preprocess.resize_size, self._preprocess.resize_size), GREY, dtype=torch.uint8)

    def pixels(self, index: int) -> Tensor:
        """Give uint8 [3, crop_size, crop_size], exactly what `preprocess.pixels` gives of the decoded image."""
        size = self._preprocess.crop_size
        cropped: Tensor = F.center_crop(self.image(index), [size, size])
        return cropped

    def _keep(self, index: int, pixels: Tensor) -> None:
        with self._lock:
            if index not in self._kept and pixels.nbytes <= self._free_bytes:
                self._free_bytes -= pixels.nbytes
                self._kept[index] = pixels

    def _say_lost(self, index: int, lost: Lost) -> None:
        with self._lock:
            is_news = index not in self._lost
            self._lost.add(index)
        if is_news:
            self._on_lost(lost)


def resized(image: Image.Image, preprocess: Preprocess) -> Tensor:
    """Give uint8 [3, H, W] with the short side resized as `preprocess` does before it crops."""
    return torch.from_numpy(np.array(preprocess.resized(image))).permute(2, 0, 1)


def _prepare(
    source: Source, fetch: Callable[[str], bytes], limits: images.Limits, shape: Callable[[Image.Image], Tensor]
) -> Tensor | Lost:
    sha256, reference = source
    try:
        data = fetch(reference)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ImageUnreadable("changed", "The file is no longer the one that was labelled: its sha256 is another.")
        return shape(images.decode(data, limits))
    except ItemError as error:
        return Lost(sha256=sha256, reference=reference, kind=error.kind, reason=error.message)
    except MemoryError:
        reason = "There was not enough memory for the image."
        return Lost(sha256=sha256, reference=reference, kind="out_of_memory", reason=reason)
