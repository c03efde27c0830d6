"""Takes photos and a network. Gives the rate that the cores allow: decoding and the forward pass, each alone.

Both are measured on one thread. Knows nothing of queues, pools or peers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bench.peers.network import Network

#: images in a forward pass
BATCH_SIZE = 32
#: most images decoded, and classified, in one measurement: a mean needs no more
MAX_IMAGES = 320


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """Seconds of one core per image."""

    decode_s: float
    forward_s: float
    cores: int

    @property
    def images_per_s(self) -> float:
        """The most that the cores could do if nothing else were to be done."""
        return self.cores / (self.decode_s + self.forward_s)


def measure(network: Network, images: Sequence[str], *, cores: int, rounds: int = 1) -> Floor:
    """Time decoding with resizing, then the forward pass, on one thread; the median of `rounds`."""
    some = images[:MAX_IMAGES]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network.warm_up(BATCH_SIZE)
        measured = [_once(network, some) for _ in range(rounds)]
    finally:
        torch.set_num_threads(threads)
    decode_s, forward_s = (statistics.median(column) for column in zip(*measured, strict=True))
    return Floor(decode_s=decode_s, forward_s=forward_s, cores=cores)


def _once(network: Network, images: Sequence[str]) -> tuple[float, float]:
    started_s = time.perf_counter()
    pixels = [network.pixels(image) for image in images]
    decoded_s = time.perf_counter()
    for first in range(0, len(pixels), BATCH_SIZE):
        network.answers(pixels[first : first + BATCH_SIZE])
    return (decoded_s - started_s) / len(images), (time.perf_counter() - decoded_s) / len(images)
