"""A whole running stack for the tests: real Redis, real ledger, real worker processes, a tiny real model.

Takes a folder. Gives a `Mill`: its settings, its processes, a client and sessions. Knows nothing of what is tested.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from db import migrate, models, registry, session
from tests import builders
from worker import runtime, versions
from worker.cli import stack as stacks
from worker.client import Client
from worker.settings import Settings
from worker.stack import Part, Stack

#: Seconds that anything the tests wait for may take on a busy two-core machine.
PATIENCE_S = 90.0


#: Models of the tests learn when they are asked to, and in little time.
PLAYBOOK = """\
[recipe]
epochs = 15
[trigger]
is_on = false
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mill:
    """A stack that runs, and the means to talk to it."""

    settings: Settings
    stack: Stack
    client: Client
    sessions: sessionmaker[Session]

    @property
    def images(self) -> Path:
        """The folder that references may lie under."""
        return Path(self.settings.allowed_roots[0])

    def write_images(self, num_images: int, *, prefix: str) -> list[str]:
        """Write PNG files and give their references."""
        files = [self.images / f"{prefix}-{number:05}.png" for number in range(num_images)]
        for seed, file in enumerate(files):
            file.write_bytes(builders.png_bytes(size=(32, 32), seed=seed))
        return [file.as_uri() for file in files]

    def part(self, name: str) -> Part:
        """One process of the stack."""
        return next(part for part in self.stack.parts if part.name == name)

    def child_pid(self, role: str) -> int:
        """The child of the worker of that role, which holds the model."""
        with session.reading(self.sessions) as reading:
            return reading.scalars(
                select(models.Worker.pid)
                .where(models.Worker.role == role)
                .order_by(models.Worker.heartbeat_at_s.desc())
            ).first()

    def part_of(self, owner: str) -> Part:
        """The worker whose child that is, by the name under which it holds leases."""
        child = owner.rpartition(":")[2]
        parent = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
        return next(part for part in self.stack.parts if part.process.pid == parent)

    def positions(self, job_id: str) -> Counter[int]:
        """Count the recorded outcomes of a job per position, straight from SQL."""
        from uuid import UUID

        with session.reading(self.sessions) as reading:
            counted = select(models.Outcome.position, func.count()).where(models.Outcome.job_id == UUID(job_id))
            return Counter(dict(reading.execute(counted.group_by(models.Outcome.position)).all()))

    def make_version(self, model: str, *, seed: int, serve: bool = True) -> registry.Version:
        """Save a tiny network as a version of `model`, and promote it."""
        return make_version(self.sessions, self.settings, model, seed=seed, serve=serve)


def make_version(
    sessions: sessionmaker[Session],
    settings: Settings,
    model: str,
    *,
    seed: int,
    classes: Sequence[str] = builders.TINY_CLASSES,
    serve: bool = True,
) -> registry.Version:
    """Save a tiny network with weights from `seed` as a version of `model`, and promote it."""
    network = builders.tiny_network(len(classes), seed=seed)
    draft = builders.tiny_draft(tuple(classes))
    version = versions.register(sessions, settings.store, model, network, draft, source="import")
    if serve:
        versions.promote(sessions, version.name, reason="test")
    return version


def tiny_settings(home: Path, **changes: object) -> Settings:
    """Give settings for a quick stack in `home`, which has an images folder as its only root."""
    images = home / "images"
    images.mkdir(parents=True, exist_ok=True)
    playbook = home / "playbook.toml"
    playbook.write_text(PLAYBOOK)
    usual = Settings(
        home=home,
        allowed_roots=(str(images),),
        models=("tiny", "swap", "pets"),
        processes=1,
        shard_size=64,
        lease_s=4.0,
        run_lease_s=4.0,
        learn_share=1.0,
        playbook=str(playbook),
        sweep_s=1.0,
        max_image_pixels=1_000_000,
        max_image_bytes=1_000_000,
    )
    return replace(usual, **changes).resolved()


@contextmanager
def open_mill(home: Path, **changes: object) -> Iterator[Mill]:
    """Run a stack whose models `tiny`, `swap` and `pets`, which learns, serve from the start."""
    settings = tiny_settings(home, **changes)
    migrate.upgrade(settings.database_url)
    sessions = runtime.open_ledger(settings)
    for model in settings.models:
        make_version(sessions, settings, model, seed=1)
    with stacks.running(settings, say=lambda _: None) as running, Client(settings.broker_url) as client:
        yield Mill(settings=settings, stack=running, client=client, sessions=sessions)
    session.engine_of(sessions).dispose()


def await_until(fact: Callable[[], bool], what: str, *, patience_s: float = PATIENCE_S) -> None:
    """Wait until a fact holds; fail with what was waited for."""
    give_up_s = time.monotonic() + patience_s
    while not fact():
        assert time.monotonic() < give_up_s, f"waited {patience_s:.0f} s in vain until {what}"
        time.sleep(0.05)
