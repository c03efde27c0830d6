"""Takes a file that holds a task, and a port. Gives a LitServe server: one worker per core, dynamic batches.

Knows nothing of rounds, or of who asks.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import litserve
import torch

from bench.peers import network
from bench.peers.rounds import Answer


class Classifier(litserve.LitAPI):
    """Answers {"path": ...} with five labels and their probabilities."""

    def __init__(self, arch: str, weights: str, num_classes: int, **options: Any) -> None:
        super().__init__(**options)
        self.asked = (arch, weights, num_classes)

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's own signature
        torch.set_num_threads(1)
        self.network = network.load(*self.asked)
        self.network.warm_up(self.max_batch_size)

    # LitServe takes an annotation of these two for the type of a request, so they have none.
    def decode_request(self, request):
        return self.network.pixels(request["path"])

    def batch(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        return inputs

    def predict(self, pixels: list[torch.Tensor]) -> list[Answer]:
        return self.network.answers(pixels)

    def unbatch(self, output: list[Answer]) -> list[Answer]:
        return output

    def encode_response(self, output):
        return {"top_k": output}


def main() -> None:
    """Serve until stopped."""
    told = json.loads(Path(sys.argv[1]).read_text())
    api = Classifier(
        told["arch"], told["weights"], told["num_classes"],
        max_batch_size=told["batch_size"], batch_timeout=told["batch_timeout_s"],
    )  # fmt: skip
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=told["workers"], timeout=60, fast_queue=told["fast_queue"]
    )
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=told["api_servers"], log_level="warning",
        generate_client_file=False,
    )  # fmt: skip


if __name__ == "__main__":
    main()
