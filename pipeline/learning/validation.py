"""Takes pictures that no training has seen, and their classes.

Gives what a network is worth on them, before training and after each epoch.
Knows nothing of training, or of which epoch is best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.learning import evaluation, streams
from pipeline.learning.evaluation import Metrics
from pipeline.learning.streams import Pictures
from pipeline.learning.worlds import World
from pipeline.preprocess import Preprocess


class Validation:
    """A set of pictures to measure networks on, shared out among the processes of a world."""

    def __init__(
        self,
        pictures: Pictures,
        targets: Sequence[int],
        *,
        num_classes: int,
        batch_size: int,
        preprocess: Preprocess,
        device: torch.device,
        dtype: torch.dtype,
        world: World,
        threads: Executor,
        keep_going: Callable[[], None],
    ) -> None:
        """Measure with `dtype` under autocast, `batch_size` images at a time, asking `keep_going` before each batch."""
        self.targets = torch.tensor(list(targets))
        self._pictures, self._num_classes, self._batch_size = pictures, num_classes, batch_size
        self._preprocess, self._device, self._dtype, self._world = preprocess, device, dtype, world
        self._threads, self._keep_going = threads, keep_going

    def measure(self, network: nn.Module) -> Metrics:
        """Give the metrics of a network, which is left in evaluation mode; the same in every process."""
        rows = np.arange(len(self.targets))[self._world.rank :: self._world.size]
        logits = torch.zeros(len(self.targets), self._num_classes)
        if len(rows):
            orders = streams.cut(rows, self._batch_size)
            batches = streams.watched(self._batches(orders), self._keep_going)
            logits[rows] = evaluation.forward(network, self._preprocess, batches, self._device, self._dtype)
        names = [str(number) for number in range(self._num_classes)]
        return evaluation.measure(self._world.total(logits), self.targets, names)

    def _batches(self, orders: list[list[int]]) -> Iterator[Tensor]:
        return streams.batches(
            orders,
            self._pictures.eval,
            size=self._preprocess.crop_size,
            threads=self._threads,
            is_pinned=self._device.type == "cuda",
        )
