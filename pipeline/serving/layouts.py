"""Takes a classifier and the cores there are. Gives the lanes, threads and batches with which it is quickest here.

Knows nothing of jobs. Lanes are threads that each classify a batch; which split of the cores wins depends on the
network and the machine, so it is measured when a worker starts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch

from pipeline import devices
from pipeline.serving.classifier import Classifier

logger = logging.getLogger(__name__)

#: images that a lane classifies at once while layouts are compared, at the most
NUM_IMAGES = 16
#: seconds after which a layout has been tried enough, and rounds at most
ENOUGH_S, MAX_ROUNDS = 0.5, 5
#: seconds that one forward pass should take, and images it holds for that at most. With a network of 24 thousand
#: parameters 2,666 images/s were measured in batches of 16, and 3,611 in batches of 64.
ENOUGH_BATCH_S, LARGEST_BATCH = 0.005, 64
#: what a layout of fewer lanes must gain to be taken: more lanes wait less for each other in ways a short look misses
GAIN = 1.05


@dataclass(frozen=True, slots=True)
class Layout:
    """How cores are shared out."""

    num_lanes: int
    #: of one forward pass
    num_threads: int
    #: images in one forward pass
    batch_size: int

    def open_pool(self) -> ThreadPoolExecutor:
        """Start the lanes."""
        # The number of threads is each calling thread's own; new threads take what was set last.
        return ThreadPoolExecutor(
            self.num_lanes, "lane", initializer=torch.set_num_threads, initargs=(self.num_threads,)
        )


#: One lane enqueues the next batch while another waits for the last one's results.
ON_CUDA = Layout(num_lanes=2, num_threads=1, batch_size=devices.BATCH_ON_GPU)


def every(num_cores: int) -> Iterator[Layout]:
    """Give the layouts that use all cores: from a lane for each core to one lane for all."""
    num_threads = 1
    while num_threads < num_cores:
        yield of(num_threads, num_cores)
        num_threads *= 2
    yield of(num_cores, num_cores)


def of(num_threads: int, num_cores: int) -> Layout:
    """Give as many lanes of so many threads as there are cores for."""
    return Layout(max(1, num_cores // num_threads), num_threads, devices.BATCH_ON_CPU)


def fastest(classifier: Classifier | None, num_cores: int) -> Layout:
    """Try each layout on the CPU for half a second; without a classifier to try, give each core its lane.

    Batches of a quick network are larger, up to `LARGEST_BATCH`: between two, the interpreter changes hands.
    """
    candidates = list(every(num_cores))
    if classifier is None:
        return candidates[0]
    images_NCHW = _sample(classifier)  # noqa: N806
    rates = {layout: _images_per_s(classifier, images_NCHW, layout) for layout in candidates}
    shown = ", ".join(f"{layout.num_lanes} x {layout.num_threads} {rate:.0f}" for layout, rate in rates.items())
    logger.info("images/s with lanes x threads: %s", shown)
    best = candidates[0]
    for layout in candidates[1:]:
        best = layout if rates[layout] > GAIN * rates[best] else best
    return _with_batches(best, best.num_lanes / rates[best])


def _with_batches(layout: Layout, image_s: float) -> Layout:
    """Double the batch until a forward pass takes `ENOUGH_BATCH_S`; `image_s` is what a lane takes for an image."""
    batch_size = layout.batch_size
    while batch_size < LARGEST_BATCH and batch_size * image_s < ENOUGH_BATCH_S:
        batch_size *= 2
    return replace(layout, batch_size=batch_size)


def _sample(classifier: Classifier) -> torch.Tensor:
    """Give as many images as take a thread `ENOUGH_S`: a large network must not hold up the start of its worker."""
    size = classifier.preprocess.crop_size
    images_NCHW = torch.zeros(NUM_IMAGES, 3, size, size, dtype=torch.uint8)  # noqa: N806
    started_s = time.perf_counter()
    classifier.predict(images_NCHW[:1], top_k=1)
    image_s = time.perf_counter() - started_s
    return images_NCHW[: max(1, int(ENOUGH_S / image_s))]


def _images_per_s(classifier: Classifier, images_NCHW: torch.Tensor, layout: Layout) -> float:  # noqa: N803
    with layout.open_pool() as pool:
        _round(classifier, images_NCHW, layout, pool)
        took_s: list[float] = []
        while sum(took_s) < ENOUGH_S and len(took_s) < MAX_ROUNDS:
            started_s = time.perf_counter()
            _round(classifier, images_NCHW, layout, pool)
            took_s.append(time.perf_counter() - started_s)
    return layout.num_lanes * len(images_NCHW) / min(took_s)


def _round(classifier: Classifier, images_NCHW: torch.Tensor, layout: Layout, pool: Executor) -> None:  # noqa: N803
    begun = [pool.submit(classifier.predict, images_NCHW, top_k=1) for _ in range(layout.num_lanes)]
    for one in begun:
        one.result()
