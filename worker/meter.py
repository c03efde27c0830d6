"""Takes amounts as work goes on. Gives them, summed up, to whoever writes them down every few seconds.

Knows nothing of SQL or of Prometheus. Adding costs a microsecond, and no I/O: a process that is killed loses what it
counted since its last heartbeat.
"""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping

from worker.measures import Measure

#: A sample's name, and its labels in their order.
Key = tuple[str, tuple[tuple[str, str], ...]]

#: What comes behind a histogram's name, and the label of its columns. A column holds what lies in it alone.
COLUMN, SUM, BOUND = "_bucket", "_sum", "le"


class Meter:
    """What one process has counted and nobody has written down yet; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._amounts: dict[Key, float] = {}

    def add(self, measure: Measure, amount: float = 1.0, *labels: str) -> None:
        """Add to a counter, whose labels come in the measure's order."""
        if amount:
            self._add([(key(measure, *labels), amount)])

    def observe(self, measure: Measure, values: Iterable[float], *labels: str) -> None:
        """Put values into a histogram's columns."""
        named = tuple(zip(measure.labels, labels, strict=True))
        for value in values:
            column = (*named, (BOUND, bound(measure, value)))
            self._add([((measure.name + COLUMN, column), 1.0), ((measure.name + SUM, named), value)])

    def take(self) -> dict[Key, float]:
        """Take what was counted."""
        with self._lock:
            taken, self._amounts = self._amounts, {}
        return taken

    def put_back(self, amounts: Mapping[Key, float]) -> None:
        """Put back what could not be written down."""
        self._add(amounts.items())

    def _add(self, amounts: Iterable[tuple[Key, float]]) -> None:
        with self._lock:
            for key, amount in amounts:
                self._amounts[key] = self._amounts.get(key, 0.0) + amount


def key(measure: Measure, *labels: str) -> Key:
    """Name a counter's sum, its labels in the measure's order."""
    return measure.name, tuple(zip(measure.labels, labels, strict=True))


def bound(measure: Measure, value: float) -> str:
    """Spell the upper bound of the column that a value lies in, as Prometheus does."""
    place = bisect_left(measure.bounds, value)
    return "+Inf" if place == len(measure.bounds) else repr(float(measure.bounds[place]))
