"""Takes bells and what rings one. Gives those that rang.

Knows nothing of Redis. What a bell says is in the ledger, so one that is lost has failed nothing: a sweep rings again.
"""

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

log = logging.getLogger(__name__)

#: What is rung for: a shard by its bell, a run by its number.
Waiting = TypeVar("Waiting")


class BellLost(OSError):
    """Redis did not take a bell: it is away, or full."""


def ring_all(ring: Callable[[Waiting], None], waiting: Iterable[Waiting]) -> list[Waiting]:
    """Ring for each, up to the first bell that is lost: those after it would only be waited for as long."""
    rung = []
    try:
        for one in waiting:
            ring(one)
            rung.append(one)
    except BellLost as lost:
        log.warning("%s, the sweep rings again: %s", lost, lost.__cause__)
    return rung
