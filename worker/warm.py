"""Takes versions. Gives loaded classifiers, loading each once and letting go of those that nobody needs.

Knows nothing of jobs, SQL or Celery. A load that fails leaves what is warm as it was.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection

from db import registry
from pipeline.serving.classifier import Classifier

log = logging.getLogger(__name__)


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

    def get(self, version: registry.Version) -> Classifier:
        """Give the version's classifier, loading it beside the others if it is not warm yet.

        Raises what the load raises (`CheckpointBroken`, `ArchitectureUnknown`, ...).
        """
        warm = self._find(version.id)
        if warm is not None:
            return warm
        with self._loading:
            return self._find(version.id) or self._keep(version, self._load(version))

    def retain(self, version_ids: Collection[int]) -> None:
        """Let go of every version that is not among `version_ids`."""
        with self._touching:
            for version_id in [known for known in self._classifiers if known not in version_ids]:
                name, _ = self._classifiers.pop(version_id)
                log.info("released %s", name)

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

    def _keep(self, version: registry.Version, classifier: Classifier) -> Classifier:
        with self._touching:
            self._classifiers[version.id] = (version.name, classifier)
            log.info("%s is warm on %s", version.name, classifier.device)
            while len(self._classifiers) > self._most:
                name, _ = self._classifiers.popitem(last=False)[1]
                log.info("released %s to make room", name)
        return classifier
