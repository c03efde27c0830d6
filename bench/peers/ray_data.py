"""Takes a task. Gives Ray Data's answers: a dataset of paths, mapped in batches by a pool of one actor per core.

Ray Data makes a new pool for each dataset it runs, so the seconds in which actors load and end are not counted.
Knows nothing of queues or SQL.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read where Ray is imported
import ray

from bench.peers import rounds
from bench.peers.rounds import Classified, Round, Task

#: seconds the actors may take to load
START_S = 120


class Classifier:
    """One actor: a warm network on one thread."""

    def __init__(self, arch: str, weights: str, num_classes: int, batch_size: int) -> None:
        import torch

        from bench.peers import network

        torch.set_num_threads(1)
        self.network = network.load(arch, weights, num_classes)
        self.network.warm_up(batch_size)
        self.ready_s = time.time()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, object]:
        """Answer a batch of paths; an answer is JSON, which is a plain column."""
        answers = self.network.answers([self.network.pixels(str(path)) for path in batch["path"]])
        return {
            "position": batch["position"],
            "top_k": [json.dumps(answer) for answer in answers],
            "ready_s": [self.ready_s] * len(answers),
        }


@contextmanager
def ray_data(task: Task) -> Iterator[Round]:
    """Start Ray; each round runs one dataset."""
    options = {"actors": task.cores, "batch_size": 16, "block_size": 32, **task.options}
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])  # for the actors
    with tempfile.TemporaryDirectory(prefix="im-ray-", dir="/tmp") as folder:  # a socket's name must be short
        ray.init(
            num_cpus=task.cores, include_dashboard=False, log_to_driver=False, object_store_memory=500 * 2**20,
            _temp_dir=folder,
        )  # fmt: skip
        context = ray.data.DataContext.get_current()
        context.wait_for_min_actors_s = START_S  # nothing flows before all actors are warm
        context.enable_progress_bars = False
        try:
            _classified(replace(task, images=task.images[: 128 * task.cores]), **options)  # a first dataset is slow
            yield lambda: _classified(task, **options)
        finally:
            ray.shutdown()


def _classified(task: Task, *, actors: int, batch_size: int, block_size: int) -> Classified:
    began_s = time.time()
    rows = [{"position": position, "path": path} for position, path in enumerate(task.images)]
    answered = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // block_size)).map_batches(
        Classifier,
        fn_constructor_kwargs={
            "arch": task.arch, "weights": task.weights, "num_classes": task.num_classes, "batch_size": batch_size,
        },
        batch_size=batch_size,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=1,
    )  # fmt: skip
    found: dict[int, rounds.Answer] = {}
    ready_s = last_s = began_s
    for batch in answered.iter_batches(batch_size=None, batch_format="numpy"):
        found.update(zip(batch["position"].tolist(), map(json.loads, batch["top_k"]), strict=True))
        ready_s, last_s = max(ready_s, batch["ready_s"].max()), time.time()
    answers = [found[position] for position in range(len(rows))]
    return Classified(answers=answers, uncounted_s=float(ready_s - began_s) + time.time() - last_s)


if __name__ == "__main__":
    sys.exit(rounds.main(ray_data))
