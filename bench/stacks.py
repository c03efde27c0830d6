"""Takes a network. Gives a running stack of real processes that serves it, in a folder of its own.

Knows nothing of what is measured.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from bench.peers import families
from db import migrate, registry, session
from pipeline import backbones, checkpoints, devices
from pipeline.serving.classifier import Classifier
from worker import runtime, versions
from worker.cli import output, stack
from worker.client import Client
from worker.settings import Settings
from worker.stack import Stack

#: The model's name, and that of another one where there are two.
MODEL, OTHER = "bench", "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A running stack, and a client of it."""

    stack: Stack
    client: Client
    version: registry.Version

    @property
    def logs(self) -> list[Path]:
        """Where the classify workers write a line for each sitting."""
        return sorted(self.stack.logs.glob("classify*.log"))

    def open_classifier(self) -> Classifier:
        """Open what the stack serves in this process."""
        version, batch_size = self.version, devices.BATCH_ON_CPU
        return Classifier.open(
            version.reference, sha256=version.sha256, device="cpu", precision="auto", batch_size=batch_size
        )

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop every process of the stack in its tracks, so that none burns what others are measured with."""
        everyone = [one for part in self.stack.parts for one in families.of(part.process.pid)]
        families.signal_all(everyone, signal.SIGSTOP)
        try:
            yield
        finally:
            families.signal_all(everyone, signal.SIGCONT)


@contextmanager
def running(
    arch: str, network: nn.Module, num_classes: int, *, models: tuple[str, ...] = (MODEL,), **changes: object
) -> Iterator[Bench]:
    """Start a stack that serves the network, as each of the models; its classes are named by their numbers."""
    with tempfile.TemporaryDirectory(prefix="im-bench-") as folder:
        settings = Settings(home=Path(folder), models=models, allowed_roots=("/",), **changes).resolved()
        version, *_ = [_register(settings, model, arch, network, num_classes) for model in models]
        with stack.running(settings, say=output.errors().print) as started, Client(settings.broker_url) as client:
            yield Bench(stack=started, client=client, version=version)


def _register(settings: Settings, model: str, arch: str, network: nn.Module, num_classes: int) -> registry.Version:
    migrate.upgrade(settings.database_url)
    draft = checkpoints.Draft(
        arch=arch,
        classes=tuple(str(number) for number in range(num_classes)),
        preprocess=backbones.preprocess_for(arch),
    )
    with runtime.ledger(settings) as sessions:
        version = versions.register(sessions, settings.store, model, network, draft, source="demo")
        versions.promote(sessions, version.name, reason="benchmark")
        with session.reading(sessions) as reading:
            return registry.version(reading, version.name)
