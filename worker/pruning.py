"""Takes an age. Gives a ledger and a store without what is older and that nothing needs, and tells what went.

Rows first, then files that no row names any more: whatever ends this in between, nothing that is named is missing, and
the next one goes on. Kept however old: what a label, a snapshot or a version rests on, jobs that replay for a live
check, outcomes that the watch over a promotion or over drift has still to look at. Knows nothing of Celery.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from db import registry, retention, session, windows
from db.errors import LedgerError
from pipeline import strays
from pipeline.errors import PipelineError
from worker import playbook
from worker.settings import Settings

log = logging.getLogger(__name__)

DAY_S = 86_400.0
#: Seconds for which a file that was written or held is left alone, and a silent worker is remembered.
GRACE_S = DAY_S
#: Jobs looked up at a time, and inline images held against the ledger at a time.
JOBS, FILES = 200, 200_000
#: Seconds between two transactions, for each second that one took: others write, too.
REST = 1.0


@dataclass(slots=True, kw_only=True)
class Pruned:
    """What went, or would go."""

    num_jobs: int = 0
    num_outcomes: int = 0
    num_shards: int = 0
    num_workers: int = 0
    num_images: int = 0
    #: bytes of these images
    num_bytes: int = 0
    is_dry_run: bool = False

    def __str__(self) -> str:
        return (
            f"{self.num_jobs:,} jobs with {self.num_outcomes:,} outcomes and {self.num_shards:,} shards, "
            f"{self.num_workers:,} silent workers, {self.num_images:,} inline images of {self.num_bytes:,} bytes"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Removable:
    """A version that never served, and that nothing rests on; its checkpoint is only listed."""

    version: str
    reference: str
    num_bytes: int


def prune(
    sessions: sessionmaker[Session],
    settings: Settings,
    *,
    older_than_s: float,
    is_dry_run: bool = False,
    show: Callable[[Pruned], None] = lambda _: None,
    rest: float = REST,
) -> Pruned:
    """Remove what ended more than so many seconds ago. Raises `LedgerError`, `StoreUnreachable`.

    Any number may run at once; each row and file goes once.
    """
    pruned = Pruned(is_dry_run=is_dry_run)
    before_s = _before_s(sessions, older_than_s)
    if is_dry_run:
        _count(sessions, settings, before_s, pruned)
        return pruned
    for taken_s in _removals(sessions, settings, before_s, pruned):
        show(pruned)
        time.sleep(rest * taken_s)
    with session.transaction(sessions) as transaction:
        pruned.num_workers = retention.remove_dead_workers(transaction, session.clock(transaction) - GRACE_S)
    _remove_images(sessions, settings, pruned)
    return pruned


class Chore:
    """Prunes in a thread of its own: whoever asks has other chores that must not wait."""

    def __init__(self, sessions: sessionmaker[Session], settings: Settings) -> None:
        self._sessions = sessions
        self._settings = settings
        self._thread: threading.Thread | None = None

    def start(self) -> bool:
        """Begin, unless everything is kept or it is at it; killed at any moment, the next goes on."""
        if not self._settings.keep_days or (self._thread and self._thread.is_alive()):
            return False
        self._thread = threading.Thread(target=self._run, name="prune", daemon=True)
        self._thread.start()
        return True

    def join(self, timeout_s: float) -> None:
        """Wait for it to end."""
        if self._thread:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            pruned = prune(self._sessions, self._settings, older_than_s=self._settings.keep_days * DAY_S)
        except (LedgerError, SQLAlchemyError, PipelineError) as away:
            log.warning("pruning goes on within the hour: %s", str(away).splitlines()[0])
        else:
            log.info("pruned: %s", pruned)


def removable_versions(sessions: sessionmaker[Session], *, older_than_s: float) -> list[Removable]:
    """List old versions that never served, and what their checkpoints take."""
    with session.reading(sessions) as reading:
        found = retention.never_promoted(reading, session.clock(reading) - older_than_s)
    return [
        Removable(version=name, reference=reference, num_bytes=sum(one.num_bytes for one in strays.files(reference)))
        for name, reference in found
    ]


def needed(reading: Session, unwatched: Collection[str]) -> dict[int, float]:
    """Give the versions whose outcomes are still to be looked at, and from when on.

    Drift of the `unwatched` models is not looked at; of a model that is not among them, one that is new say, it may be.
    """
    return _unseen(reading, unwatched) | retention.watched(reading)


def _unseen(reading: Session, unwatched: Collection[str]) -> dict[int, float]:
    """What serves and learnt here is watched for drift: its outcomes are needed until a window has seen them."""
    found = {}
    for model in registry.models(reading):
        serving = registry.serving(reading, model)
        if serving is not None and serving.version.source == "run" and model not in unwatched:
            seen = windows.recent(reading, model, limit=1, version_id=serving.version.id)
            found[serving.version.id] = seen[0].until_s if seen else 0.0
    return found


def _unwatched(sessions: sessionmaker[Session], settings: Settings) -> frozenset[str]:
    with session.reading(sessions) as reading:
        known = registry.models(reading)
    return frozenset(model for model in known if not _watches_drift(settings, model))


def _watches_drift(settings: Settings, model: str) -> bool:
    try:
        return playbook.read(settings.playbook, model).trigger.drift
    except PipelineError:
        return True


def _removals(sessions: sessionmaker[Session], settings: Settings, before_s: float, pruned: Pruned) -> Iterator[float]:
    """Remove old jobs, those first whose removal somebody began; gives the seconds of each transaction."""
    with session.reading(sessions) as reading:
        begun = retention.going(reading)
    for job_id in begun:
        yield from _remove(sessions, job_id, pruned)
    # Read from a file, and not while others wait to write.
    unwatched = _unwatched(sessions, settings)
    while True:
        with session.reading(sessions) as reading:
            wanted = needed(reading, unwatched)
            old = retention.old_jobs(reading, before_s, wanted, limit=JOBS)
        num_begun = 0
        for one in old:
            with session.transaction(sessions) as transaction:
                # Asked again: a promotion since then may want these outcomes.
                is_begun = retention.begin(transaction, one.id, before_s, needed(transaction, unwatched))
            if is_begun:
                num_begun += 1
                yield from _remove(sessions, one.id, pruned)
        if not num_begun:
            return


def _remove(sessions: sessionmaker[Session], job_id: uuid.UUID, pruned: Pruned) -> Iterator[float]:
    is_over = False
    while not is_over:
        started_s = time.monotonic()
        with session.transaction(sessions) as transaction:
            gone = retention.remove_some(transaction, job_id)
        pruned.num_shards += gone.num_shards
        pruned.num_outcomes += gone.num_outcomes
        pruned.num_jobs += gone.is_over
        is_over = gone.is_over
        yield time.monotonic() - started_s


def _remove_images(sessions: sessionmaker[Session], settings: Settings, pruned: Pruned) -> None:
    young_s = time.time() - GRACE_S
    for images in _candidates(settings, young_s):
        for name in retention.unnamed(sessions, images):
            if strays.remove(images[name].address, before_s=young_s):
                pruned.num_images += 1
                pruned.num_bytes += images[name].num_bytes


def _candidates(settings: Settings, young_s: float) -> Iterator[dict[str, strays.Stored]]:
    """Give the inline images that are not young, by name, so many at a time."""
    images: dict[str, strays.Stored] = {}
    for stored in strays.files(settings.inline_store):
        if stored.at_s < young_s:
            images[stored.name] = stored
        if len(images) >= FILES:
            yield images
            images = {}
    if images:
        yield images


def _count(sessions: sessionmaker[Session], settings: Settings, before_s: float, pruned: Pruned) -> None:
    unwatched = _unwatched(sessions, settings)
    with session.reading(sessions) as reading:
        old = retention.old_jobs(reading, before_s, needed(reading, unwatched), limit=None)
        pruned.num_workers = retention.num_dead_workers(reading, session.clock(reading) - GRACE_S)
        pruned.num_shards = retention.num_shards(reading, [one.id for one in old])
    pruned.num_jobs, pruned.num_outcomes = len(old), sum(one.num_outcomes for one in old)
    for images in _candidates(settings, time.time() - GRACE_S):
        unnamed = retention.unnamed(sessions, images, but_of=[one.id for one in old])
        pruned.num_images += len(unnamed)
        pruned.num_bytes += sum(images[name].num_bytes for name in unnamed)


def _before_s(sessions: sessionmaker[Session], older_than_s: float) -> float:
    with session.reading(sessions) as reading:
        return session.clock(reading) - older_than_s
