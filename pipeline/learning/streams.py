"""Takes pictures, the order they are wanted in, and threads.

Gives batches of uint8 images in that order, some of them made ahead while the network computes.
Knows nothing of networks, files or what is drawn from the pictures.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: batches that are made ahead of the one in use
LOOKAHEAD = 2


class Pictures(Protocol):
    """Labelled images that a network trains or is measured on; both verbs are called from several threads."""

    def __len__(self) -> int: ...

    def train(self, index: int, rng: np.random.Generator) -> Tensor:
        """Give the image as training sees it, uint8 [3, S, S], with no chance in it but what `rng` gives."""
        ...

    def eval(self, index: int) -> Tensor:
        """Give the image as serving sees it, uint8 [3, S, S]."""
        ...


def cut(order: NDArray[np.int64], size: int) -> list[list[int]]:
    """Cut into batches of nearly equal size, at most `size`: a rest of one image would be a noisy step."""
    return [rows.tolist() for rows in np.array_split(order, max(1, -(-len(order) // size)))]


def watched(made: Iterator[Tensor], keep_going: Callable[[], None]) -> Iterator[Tensor]:
    """Yield what is made, asking before each whether to go on; what `keep_going` raises is raised here."""
    for batch in made:
        keep_going()
        yield batch


def batches(
    orders: Iterable[Sequence[int]],
    draw: Callable[[int], Tensor],
    *,
    size: int,
    threads: Executor,
    is_pinned: bool = False,
) -> Iterator[Tensor]:
    """Yield one uint8 batch [n, 3, size, size] in channels_last memory per order, made ahead by `threads`.

    `draw` turns an index into uint8 [3, size, size]; what it raises is raised here.
    """
    waiting: deque[_Forming] = deque()
    source = iter(orders)
    try:
        for order in source:
            waiting.append(_Forming(order, draw, size, threads, is_pinned))
            if len(waiting) > LOOKAHEAD:
                yield waiting.popleft().take()
        while waiting:
            yield waiting.popleft().take()
    finally:
        for forming in waiting:
            forming.cancel()


class _Forming:
    """A batch whose images are being drawn."""

    def __init__(
        self, order: Sequence[int], draw: Callable[[int], Tensor], size: int, threads: Executor, is_pinned: bool
    ) -> None:
        self.images_NHWC = torch.empty(len(order), size, size, 3, dtype=torch.uint8, pin_memory=is_pinned)
        rows = self.images_NHWC.numpy()
        self.drawn: list[Future[None]] = [
            threads.submit(_fill, rows, row, draw, index) for row, index in enumerate(order)
        ]

    def take(self) -> Tensor:
        for future in self.drawn:
            future.result()
        return self.images_NHWC.permute(0, 3, 1, 2)

    def cancel(self) -> None:
        for future in self.drawn:
            future.cancel()
        wait(self.drawn)


def _fill(rows: NDArray[np.uint8], row: int, draw: Callable[[int], Tensor], index: int) -> None:
    # By numpy: a torch copy of this size would start a pool of its own in every thread.
    rows[row] = draw(index).permute(1, 2, 0).numpy()
