"""Takes the serving pointers. Gives workers that follow them: a promoted version is loaded beside what is warm.

Knows nothing of jobs or Celery. The swap itself is one assignment in `Warm`; a sitting ends on the version it began.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy.orm import Session, sessionmaker

from db import registry, session
from pipeline import errors
from worker.warm import Warm


class Swap:
    """Keeps warm what serves and what unfinished jobs are pinned to, and lets the rest go."""

    def __init__(self, warm: Warm, sessions: sessionmaker[Session], models: Sequence[str]) -> None:
        self._warm = warm
        self._sessions = sessions
        self._models = tuple(models)
        self._loader: threading.Thread | None = None

    @property
    def trouble(self) -> str | None:
        """What serves by the ledger, or has work pinned to it, and cannot be loaded here, if anything."""
        return " ".join(self._warm.troubles()) or None

    def load_serving(self) -> None:
        """Load what serves now and wait for it. A version that will not load is reported, not raised."""
        self._load(self._serving()[0])

    def follow(self) -> None:
        """Look at the pointers; load in a thread what is new, for a load may take longer than a lease lasts."""
        serving, needed = self._serving()
        self._warm.forget_troubles(needed)
        missing = [version for version in serving if not self._warm.has(version.id)]
        if not missing:
            # Only now: until what is new has loaded, what it replaces is all there is, and may be promoted back.
            self._warm.retain(needed)
        due = [version for version in missing if self._warm.is_due(version.id)]
        if due and (self._loader is None or not self._loader.is_alive()):
            self._loader = threading.Thread(target=self._load, args=(due,), name="loader", daemon=True)
            self._loader.start()

    def _serving(self) -> tuple[list[registry.Version], set[int]]:
        with session.reading(self._sessions) as reading:
            pointers = [registry.serving(reading, model) for model in self._models]
            pinned = [registry.open_versions(reading, model) for model in self._models]
        serving = [pointer.version for pointer in pointers if pointer is not None]
        return serving, {version.id for version in serving}.union(*pinned)

    def _load(self, versions: Sequence[registry.Version]) -> None:
        for version in versions:
            with suppress(errors.PipelineError):  # which `Warm` has reported, and remembers
                self._warm.get(version)
