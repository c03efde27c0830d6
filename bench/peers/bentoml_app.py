"""Takes a file that holds a task, by the environment. Gives a BentoML service: one worker per core, adaptive batches.

Knows nothing of rounds, or of who asks.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import bentoml
import torch

from bench.peers import network

#: names the file
TOLD = "IMAGEMILL_PEER_SETUP"

told = json.loads(Path(os.environ[TOLD]).read_text())


@bentoml.service(
    workers=told["workers"],
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
)
class Classifier:
    """Answers a list of paths with five labels and their probabilities each."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.network = network.load(told["arch"], told["weights"], told["num_classes"])
        self.network.warm_up(told["batch_size"])

    @bentoml.api(batchable=True, max_batch_size=told["batch_size"], max_latency_ms=told["max_latency_ms"])
    def classify(self, paths: list[str]) -> list[list[tuple[str, float]]]:
        return self.network.answers([self.network.pixels(path) for path in paths])
