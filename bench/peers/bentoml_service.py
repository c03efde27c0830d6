"""Takes a task. Gives BentoML's answers to a path per request, with adaptive batching in one worker per core.

Clients send paths rather than bytes: the least that can be sent. Knows nothing of how the service batches.
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
def bentoml_service(task: Task) -> Iterator[Round]:
    """Start a service; each round posts every image."""
    options = {"workers": task.cores, "batch_size": 32, "max_latency_ms": 60_000, "in_flight": 64, **task.options}
    port = processes.free_port()
    with tempfile.TemporaryDirectory(prefix="im-peer-") as folder:
        told = Path(folder, "told.json")
        told.write_text(json.dumps({**asdict(task), **options}))
        command = [
            sys.executable, "-m", "bentoml", "serve", "bench.peers.bentoml_app:Classifier",
            "--host", "127.0.0.1", "--port", str(port),
        ]  # fmt: skip
        environ = {
            "IMAGEMILL_PEER_SETUP": str(told), "OMP_NUM_THREADS": "1", "BENTOML_DO_NOT_TRACK": "True",
            "BENTOML_HOME": folder,
        }  # fmt: skip
        with processes.running(command, environ) as server:
            posting.await_ready(server, f"http://127.0.0.1:{port}/readyz")

            def classify(images: list[str]) -> Classified:
                bodies = [{"paths": [image]} for image in images]
                url = f"http://127.0.0.1:{port}/classify"
                answered = posting.post_all(url, bodies, in_flight=options["in_flight"])
                return Classified(answers=[answer for (answer,) in answered])

            # The service learns how long batches take before it batches well.
            classify(task.images[: 128 * task.cores])
            yield lambda: classify(task.images)


if __name__ == "__main__":
    sys.exit(rounds.main(bentoml_service))
