"""Takes the serving pointers. Gives workers that follow them: a promoted version is loaded beside what is warm.

Knows nothing of jobs or Celery. The swap itself is one assignment in `Warm`; a sitting ends on the version it began.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session, sessionmaker

from db import registry, session
from pipeline import errors
from worker.warm import Warm

log = logging.getLogger(__name__)

#: Seconds until a version that would not load is tried again: at first, then twice as long each time, and at most.
FIRST_WAIT_S, LONGEST_WAIT_S = 2.0, 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trouble:
    """Why a version would not load, and when it is tried again: reading a large checkpoint is not free."""

    why: str
    wait_s: float
    again_s: float


class Swap:
    """Keeps warm what serves and what unfinished jobs are pinned to, and lets the rest go."""

    def __init__(self, warm: Warm, sessions: sessionmaker[Session], models: Sequence[str]) -> None:
        self._warm = warm
        self._sessions = sessions
        self._models = tuple(models)
        self._loader: threading.Thread | None = None
        self._broken: dict[int, _Trouble] = {}

    @property
    def trouble(self) -> str | None:
        """What serves by the ledger and cannot be loaded here, if anything."""
        return next((trouble.why for trouble in list(self._broken.values())), None)

    def load_serving(self) -> None:
        """Load what serves now and wait for it. A version that will not load is reported, not raised."""
        self._load(self._serving()[0])

    def follow(self) -> None:
        """Look at the pointers; load in a thread what is new, for a load may take longer than a lease lasts."""
        serving, needed = self._serving()
        # A list first, made at once: the loader may add to it meanwhile.
        self._broken = {known: why for known, why in list(self._broken.items()) if known in needed}
        missing = [version for version in serving if not self._warm.has(version.id)]
        if not missing:
            # Only now: until what is new has loaded, what it replaces is all there is, and may be promoted back.
            self._warm.retain(needed)
        due = [version for version in missing if self._is_due(version)]
        if due and (self._loader is None or not self._loader.is_alive()):
            self._loader = threading.Thread(target=self._load, args=(due,), name="loader", daemon=True)
            self._loader.start()

    def _is_due(self, version: registry.Version) -> bool:
        trouble = self._broken.get(version.id)
        return trouble is None or time.monotonic() >= trouble.again_s

    def _serving(self) -> tuple[list[registry.Version], set[int]]:
        with session.reading(self._sessions) as reading:
            pointers = [registry.serving(reading, model) for model in self._models]
            pinned = [registry.open_versions(reading, model) for model in self._models]
        serving = [pointer.version for pointer in pointers if pointer is not None]
        return serving, {version.id for version in serving}.union(*pinned)

    def _load(self, versions: Sequence[registry.Version]) -> None:
        for version in versions:
            try:
                self._warm.get(version)
                self._broken.pop(version.id, None)
            except errors.PipelineError as broken:
                before = self._broken.get(version.id)
                if before is None:
                    log.error("%s serves and cannot be loaded; what was warm stays: %s", version.name, broken)
                wait_s = min(2 * before.wait_s, LONGEST_WAIT_S) if before else FIRST_WAIT_S
                why = f"{version.name} cannot be loaded: {broken}"
                self._broken[version.id] = _Trouble(why=why, wait_s=wait_s, again_s=time.monotonic() + wait_s)
