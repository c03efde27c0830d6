"""Takes references. Gives images/s of the same network, decoder and batches in one process: no queue, no SQL."""

import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import torch

from db import registry, session
from pipeline import devices, images, references
from pipeline.serving.classifier import Classifier
from worker import runtime
from worker.settings import NUM_CORES, Settings


def images_per_s(settings: Settings, model: str, named: Sequence[str]) -> float:
    """Classify every reference in a well-written plain loop: a thread pool decodes one batch ahead of the forward."""
    classifier = _open(settings, model)
    roots = references.Roots.parse(settings.allowed_roots)
    limits = images.Limits()

    def pixels(reference: str) -> torch.Tensor:
        data = references.fetch(reference, roots, max_bytes=limits.max_bytes)
        return classifier.preprocess.pixels(images.decode(data, limits))

    torch.set_num_threads(settings.torch_threads or NUM_CORES)
    started_s = time.perf_counter()
    labels: list[str] = []
    with ThreadPoolExecutor(settings.decode_threads) as pool:
        decoded = pool.map(pixels, named)
        while batch := list(islice(decoded, devices.BATCH_ON_CPU)):
            stacked = torch.stack(batch)
            labels += [prediction.label for prediction in classifier.predict(stacked, top_k=5)]
    assert len(labels) == len(named)
    return len(named) / (time.perf_counter() - started_s)


def client_import_s(rounds: int) -> list[float]:
    """Time `import worker.client` in fresh interpreters, in seconds; the first may have to write bytecode."""
    code = "import time; t = time.perf_counter(); import worker.client; print(time.perf_counter() - t)"
    ran = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True) for _ in range(rounds + 1)]
    return [float(one.stdout) for one in ran[1:]]


def _open(settings: Settings, model: str) -> Classifier:
    with runtime.ledger(settings) as sessions, session.reading(sessions) as reading:
        version = registry.version(reading, model)
    return Classifier.open(
        version.reference,
        sha256=version.sha256,
        device=devices.choose_device(settings.device),
        precision=settings.precision,
        batch_size=devices.BATCH_ON_CPU,
    )
