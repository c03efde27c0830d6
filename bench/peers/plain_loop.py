"""Takes a task. Gives a plain torch loop over it: a pool of threads decodes a few batches ahead of the forward pass.

No queue, no SQL, no processes.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch

from bench.peers import network, rounds
from bench.peers.rounds import Classified, Round, Task


@contextmanager
def plain_loop(task: Task) -> Iterator[Round]:
    """Load once; each round is one loop."""
    options = {"batch_size": 32, "decode_threads": task.cores, "torch_threads": task.cores, "ahead": 4, **task.options}
    size, ahead = options["batch_size"], options["ahead"] * options["batch_size"]
    torch.set_num_threads(options["torch_threads"])
    ready = network.load(task.arch, task.weights, task.num_classes)
    ready.warm_up(size)

    with ThreadPoolExecutor(options["decode_threads"]) as pool:

        def classify() -> Classified:
            waiting = iter(task.images)
            decoded: deque[Future[torch.Tensor]] = deque()
            answers = []
            while len(answers) < len(task.images):
                while len(decoded) < ahead and (image := next(waiting, None)) is not None:
                    decoded.append(pool.submit(ready.pixels, image))
                batch = [decoded.popleft().result() for _ in range(min(size, len(decoded)))]
                answers += ready.answers(batch)
            return Classified(answers=answers)

        yield classify


if __name__ == "__main__":
    sys.exit(rounds.main(plain_loop))
