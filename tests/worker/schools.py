"""A model that can learn, put together by hand: labelled pictures, a base version, a playbook, and no process."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from sqlalchemy.orm import Session, sessionmaker

from db import models, registry, runs, session
from pipeline import images, references
from tests import builders
from worker import labelling, retraining, versions
from worker.learning.carrying import carry_out
from worker.learning.watch import Watch
from worker.learning.workshop import Workshop
from worker.learning_messages import LabelledImage, LabelsReceipt
from worker.settings import Settings

MODEL, BASE = "pets", "base"
#: class -> the colour that its pictures are tinted with
COLOURS = {"cat": (200, 60, 60), "dog": (60, 200, 60), "hen": (60, 60, 200), "fox": (200, 200, 40)}
#: a playbook for which little is enough
QUICK = """\
base = "base:1"
[recipe]
epochs = 2
batch_size = 16
[plan]
scarce_num = 10
scarce_per_class = 2
similar = 0.3
dissimilar = 0.0
[gate]
margins = [[0, 0.5]]
"""


def picture(label: str, seed: int) -> Image.Image:
    """Give a 32x32 picture of a class: its colour over smooth noise of its own."""
    noise = builders.tiny_image(size=(32, 32), seed=seed)
    return Image.blend(noise, Image.new("RGB", noise.size, COLOURS[label]), 0.55)


@dataclass(frozen=True, slots=True, kw_only=True)
class School:
    """What a test of learning works with."""

    settings: Settings
    sessions: sessionmaker[Session]
    pool: ThreadPoolExecutor

    @property
    def workshop(self) -> Workshop:
        """What runs compute with."""
        return Workshop(
            sessions=self.sessions,
            store=self.settings.store,
            folder=self.settings.home / "runs",
            device=torch.device("cpu"),
            pool=self.pool,
            roots=references.Roots.parse(self.settings.allowed_roots),
            limits=images.Limits(),
            batch_size=16,
            pixel_cache_bytes=10_000_000,
        )

    @property
    def folder(self) -> Path:
        """Where pictures lie."""
        return Path(self.settings.allowed_roots[0])

    def teach(
        self, classes: Sequence[str], num: int, *, first: int = 0, model: str = MODEL, painted_as: str = ""
    ) -> LabelsReceipt:
        """Write and label `num` pictures of each class, or of one class under all the names."""
        rows = []
        for label in classes:
            for seed in range(first, first + num):
                file = self.folder / f"{label}-{seed:04}.png"
                picture(painted_as or label, 1000 * list(COLOURS).index(label) + seed).save(file)
                rows.append(LabelledImage(reference=file.as_uri(), label=label, who="ada", source="test"))
        return self.label(rows, model=model)

    def label(self, rows: Sequence[LabelledImage], *, model: str = MODEL) -> LabelsReceipt:
        """Record labels."""
        labeller = labelling.open_labeller(self.settings, self.sessions)
        with labeller.pool:
            return labelling.record(labeller, model, rows)

    def make_base(self) -> registry.Version:
        """Save a network with random weights as the version that runs start from."""
        network, draft = builders.tiny_network(3), builders.tiny_draft()
        return versions.register(self.sessions, self.settings.store, BASE, network, draft, source="import")

    def ask(self, **wish: object) -> runs.Run:
        """Ask for a run."""
        usual: dict[str, object] = {"model": MODEL, "asked_by": "ada", "reason": "a test"}
        return retraining.request(self.sessions, self.settings, retraining.Wish(**(usual | wish))).run

    def claim(self, run_id: int, *, owner: str = "ada", lease_s: float = 60.0) -> runs.Run | None:
        """Claim a run, as a learn child does."""
        with session.transaction(self.sessions) as transaction:
            return runs.claim(transaction, run_id, owner=owner, lease_s=lease_s)

    def watch(self, run: runs.Run, **how: object) -> Watch:
        """Watch over a claimed run; nothing waits for its device, unless `how` says so."""
        usual: dict[str, object] = {
            "lease_s": 60.0, "share": 0.5, "is_serving_busy": lambda _: False, "is_stopping": lambda: False,
        }  # fmt: skip
        return Watch(self.sessions, run, **(usual | how))

    def carry_out(self, run_id: int, *, is_stopping: Callable[[], bool] = lambda: False) -> str:
        """Claim a run and carry it as far as it goes."""
        claimed = self.claim(run_id)
        assert claimed is not None
        return carry_out(self.workshop, self.watch(claimed, is_stopping=is_stopping))

    def learn(self, **wish: object) -> runs.Run:
        """Ask for a run, carry it out, and read how it ended."""
        asked = self.ask(**wish)
        self.carry_out(asked.id)
        return self.read(asked.id)

    def read(self, run_id: int) -> runs.Run:
        """Read a run."""
        with session.reading(self.sessions) as reading:
            return runs.run(reading, run_id)

    def steps(self, run_id: int) -> dict[str, runs.StepRow]:
        """Read a run's steps."""
        with session.reading(self.sessions) as reading:
            return runs.steps(reading, run_id)

    def serving(self, model: str = MODEL) -> str | None:
        """Name the version that serves."""
        with session.reading(self.sessions) as reading:
            pointer = registry.serving(reading, model)
        return pointer and pointer.version.name

    def version(self, name: str) -> registry.Version:
        """Read a version."""
        with session.reading(self.sessions) as reading:
            return registry.version(reading, name)


@contextmanager
def open_school(home: Path, sessions: sessionmaker[Session], *, playbook: str = QUICK) -> Iterator[School]:
    """Give a school in an empty folder, with a base version."""
    pictures = home / "pictures"
    pictures.mkdir(parents=True)
    file = home / "playbook.toml"
    file.write_text(playbook)
    settings = Settings(
        home=home, models=(MODEL,), allowed_roots=(str(pictures),), playbook=str(file), decode_threads=2
    ).resolved()
    with ThreadPoolExecutor(2) as pool:
        school = School(settings=settings, sessions=sessions, pool=pool)
        school.make_base()
        with session.transaction(sessions) as transaction:
            # A salt of our own: which pictures are tested on must not change from one test run to the next.
            transaction.add(models.LabelSet(model=MODEL, salt="school"))
        yield school


class StopsAfter:
    """Says stop from the `num`-th question on: a worker that is being stopped at a moment that a test chooses."""

    def __init__(self, num: int) -> None:
        self._left = num
        self._lock = threading.Lock()

    def __call__(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left < 0
