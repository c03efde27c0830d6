"""Takes architectures. Gives a running stack of real processes that serves them, in a folder of its own.

Knows nothing of what is measured. Weights are random, from a fixed seed: they cost what trained ones cost.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from db import migrate
from pipeline import backbones, checkpoints, digits
from worker import runtime, versions
from worker.cli import output, stack
from worker.client import Client
from worker.settings import Settings
from worker.stack import Stack

#: Classes of the networks that are not `digits`.
NUM_CLASSES = 1000


@contextmanager
def running(models: Mapping[str, str], **options: object) -> Iterator[tuple[Stack, Client]]:
    """Start a stack that serves `models`, names of models with their architectures; options are settings."""
    with tempfile.TemporaryDirectory(prefix="im-bench-") as folder:
        known = replace(Settings(home=Path(folder), models=tuple(models), allowed_roots=("/",)), **options)
        settings = known.resolved()
        migrate.upgrade(settings.database_url)
        for model, arch in models.items():
            _register(settings, model, arch)
        with stack.running(settings, say=output.errors().print) as started, Client(settings.broker_url) as client:
            yield started, client


def network(arch: str) -> torch.nn.Module:
    """Build an architecture with random weights, the same each time."""
    torch.manual_seed(0)
    if arch == digits.ARCH:
        return digits.small_network(10).eval()
    return backbones.build(arch, num_classes=NUM_CLASSES).eval()


def _register(settings: Settings, model: str, arch: str) -> None:
    num_classes = 10 if arch == digits.ARCH else NUM_CLASSES
    draft = checkpoints.Draft(
        arch=arch,
        classes=tuple(f"class {number}" for number in range(num_classes)),
        preprocess=backbones.preprocess_for(arch),
    )
    with runtime.ledger(settings) as sessions:
        version = versions.register(sessions, settings.store, model, network(arch), draft, source="demo")
        versions.promote(sessions, version.name, reason="benchmark")
