"""Takes versions. Gives loaded classifiers, loading each once and letting go of those that nobody needs.

Knows nothing of jobs, SQL or Celery. A load that fails leaves what is warm as it was.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass

from db import registry
from pipeline import errors
from pipeline.serving.classifier import Classifier
from worker import troubles

log = logging.getLogger(__name__)

#: Seconds until a version that would not load is tried again: at first, then twice as long each time, and at most.
FIRST_WAIT_S, LONGEST_WAIT_S = 2.0, 120.0
#: What says nothing against a checkpoint, and is over when it is over.
PASSING = (errors.StoreUnreachable, errors.DeviceUnavailable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why a version would not load, and when it is tried again: reading a large checkpoint is not free."""

    #: A sentence that begins with the version's name.
    why: str
    error: errors.PipelineError
    wait_s: float
    again_s: float

    @property
    def is_due(self) -> bool:
        """Whether the wait is over."""
        return time.monotonic() >= self.again_s


class Warm:
    """The classifiers this child keeps loaded, the least recently used going first.

    A caller that holds a classifier goes on with it to the end of its sitting, so a swap mixes nothing.
    """

    def __init__(self, load: Callable[[registry.Version], Classifier], *, most: int) -> None:
        self._load = load
        self._most = most
        # Two locks: one load at a time may take long, and must not hold up whoever wants what is warm already.
        self._loading = threading.Lock()
        self._touching = threading.Lock()
        self._classifiers: OrderedDict[int, tuple[str, Classifier]] = OrderedDict()
        self._troubles: dict[int, Trouble] = {}

    def get(self, version: registry.Version) -> Classifier:
        """Give the version's classifier, loading it beside the others if it is not warm yet.

        Raises what the load raises (`CheckpointBroken`, `ArchitectureUnknown`, ...); a checkpoint that was found broken
        is not read again until a while has passed.
        """
        warm = self._find(version.id)
        if warm is not None:
            return warm
        with self._loading:
            return self._find(version.id) or self._keep(version, self._tried(version))

    def retain(self, version_ids: Collection[int]) -> None:
        """Let go of every version that is not among `version_ids`."""
        with self._touching:
            for version_id in [known for known in self._classifiers if known not in version_ids]:
                name, _ = self._classifiers.pop(version_id)
                log.info("released %s", name)

    def is_due(self, version_id: int) -> bool:
        """Whether a version may be loaded now: it never failed to, or its wait is over."""
        trouble = self._troubles.get(version_id)
        return trouble is None or trouble.is_due

    def troubles(self) -> tuple[str, ...]:
        """Say of each version that would not load why, in a sentence."""
        return tuple(trouble.why for trouble in list(self._troubles.values()))

    def forget_troubles(self, version_ids: Collection[int]) -> None:
        """Forget why versions would not load that are not among `version_ids`."""
        for known in list(self._troubles):
            if known not in version_ids:
                self._troubles.pop(known, None)

    def has(self, version_id: int) -> bool:
        """Whether the version is loaded."""
        return version_id in self._classifiers

    def names(self) -> tuple[str, ...]:
        """Name the loaded versions, the most recently used last."""
        with self._touching:
            return tuple(name for name, _ in self._classifiers.values())

    def any(self) -> Classifier | None:
        """Give the classifier used last, if one is loaded."""
        with self._touching:
            return next((classifier for _, classifier in reversed(self._classifiers.values())), None)

    def _find(self, version_id: int) -> Classifier | None:
        with self._touching:
            if version_id not in self._classifiers:
                return None
            self._classifiers.move_to_end(version_id)
            return self._classifiers[version_id][1]

    def _tried(self, version: registry.Version) -> Classifier:
        before = self._troubles.get(version.id)
        if before is not None and not before.is_due and not isinstance(before.error, PASSING):
            raise before.error.with_traceback(None)  # or each raise would lengthen it
        try:
            classifier = self._load(version)
        except errors.PipelineError as broken:
            if before is None:
                log.error("%s cannot be loaded; what was warm stays: %s", version.name, broken)
            wait_s = min(2 * before.wait_s, LONGEST_WAIT_S) if before else FIRST_WAIT_S
            self._troubles[version.id] = Trouble(
                why=troubles.tell(version.name, broken, passes=isinstance(broken, PASSING)),
                error=broken,
                wait_s=wait_s,
                again_s=time.monotonic() + wait_s,
            )
            raise
        self._troubles.pop(version.id, None)
        return classifier

    def _keep(self, version: registry.Version, classifier: Classifier) -> Classifier:
        with self._touching:
            self._classifiers[version.id] = (version.name, classifier)
            log.info("%s is warm on %s", version.name, classifier.device)
            while len(self._classifiers) > self._most:
                name, _ = self._classifiers.popitem(last=False)[1]
                log.info("released %s to make room", name)
        return classifier
