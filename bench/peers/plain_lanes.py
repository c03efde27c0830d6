"""Takes a task. Gives a torch loop with one lane per core: a thread that decodes a batch, then classifies it alone.

The loop that wastes least where the forward pass has more threads than it can use. No queue, no SQL, no processes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from bench.peers import network, rounds
from bench.peers.rounds import Answer, Classified, Round, Task


@contextmanager
def plain_lanes(task: Task) -> Iterator[Round]:
    """Load once; each round shares the batches out to the lanes."""
    options = {"batch_size": 8, "lanes": task.cores, **task.options}
    size = options["batch_size"]
    torch.set_num_threads(1)
    ready = network.load(task.arch, task.weights, task.num_classes)
    ready.warm_up(size)

    def answers(images: list[str]) -> list[Answer]:
        return ready.answers([ready.pixels(image) for image in images])

    with ThreadPoolExecutor(options["lanes"], initializer=torch.set_num_threads, initargs=(1,)) as pool:

        def classify() -> Classified:
            batches = [task.images[first : first + size] for first in range(0, len(task.images), size)]
            return Classified(answers=[answer for batch in pool.map(answers, batches) for answer in batch])

        yield classify


if __name__ == "__main__":
    sys.exit(rounds.main(plain_lanes))
