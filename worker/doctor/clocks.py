"""Takes clocks. Gives how far they are apart.

Knows nothing of whose they are. Leases live by the ledger's clock alone; the queue's unacknowledged messages live by
those of the workers, and answers and deadlines are compared across all.
"""

import time
from collections.abc import Callable, Iterator, Mapping

from worker import messages
from worker.doctor.findings import Finding, ok, unsafe, warning

#: seconds apart from which a clock is worth a look
NOTICED_S = 2.0


def check(clocks: Mapping[str, Callable[[], float]], here: Callable[[], float] = time.time) -> Iterator[Finding]:
    """Compare each clock with this host's; the way to it and back is taken out."""
    for name, read in clocks.items():
        began_s = here()
        told_s = read()
        skew_s = told_s - (began_s + here()) / 2
        yield _finding(name, skew_s)


def _finding(name: str, skew_s: float) -> Finding:
    subject, apart = "clocks", abs(skew_s)
    if apart < NOTICED_S:
        return ok(subject, f"The clock of {name} is {apart * 1000:.0f} ms from this host's.")
    way = "ahead of" if skew_s > 0 else "behind"
    what = f"The clock of {name} is {apart:.0f} s {way} this host's."
    mend = "let chrony or systemd-timesyncd set the clocks of all hosts"
    if apart >= messages.VISIBILITY_TIMEOUT_S / 2:
        return unsafe(subject, what, why="messages in hand are taken for lost, and given to a second worker", mend=mend)
    return warning(subject, what, why="deadlines and times in the history are off by as much", mend=mend)
