"""Takes a task. Gives LitServe's answers to a path per request, with dynamic batching in one worker per core.

Clients send paths rather than bytes: the least that can be sent. Knows nothing of how the server batches.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from bench.peers import posting, processes, rounds
from bench.peers.rounds import Classified, Round, Task


@contextmanager
def litserve_server(task: Task) -> Iterator[Round]:
    """Start a server; each round posts every image."""
    options = {
        "workers": task.cores, "batch_size": 16, "batch_timeout_s": 0.05, "api_servers": 1, "fast_queue": False,
        "in_flight": 64, **task.options,
    }  # fmt: skip
    port = processes.free_port()
    with tempfile.TemporaryDirectory(prefix="im-peer-") as folder:
        told = Path(folder, "told.json")
        told.write_text(json.dumps({**asdict(task), **options}))
        command = [sys.executable, "-m", "bench.peers.litserve_app", str(told), str(port)]
        with processes.running(command, {"OMP_NUM_THREADS": "1"}) as server:
            posting.await_ready(server, f"http://127.0.0.1:{port}/health")

            def classify(images: list[str]) -> Classified:
                bodies = [{"path": image} for image in images]
                url = f"http://127.0.0.1:{port}/predict"
                answered = posting.post_all(url, bodies, in_flight=options["in_flight"])
                return Classified(answers=[answer["top_k"] for answer in answered])

            classify(task.images[: 16 * task.cores])
            yield lambda: classify(task.images)


if __name__ == "__main__":
    sys.exit(rounds.main(litserve_server))
