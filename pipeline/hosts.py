"""Takes the hosts that are asked for files, and how that went. Gives leave to ask, or the word that one is left alone.

Knows nothing of URLs or sockets. A host that answers nothing holds a thread for as long as one waits for it: after a
few times in a row nobody waits for it any more, but for one who tries now and then.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline.errors import ItemUnfetchable

#: requests in a row that a host must not answer in time, within `WINDOW_S` seconds, to be left alone for `REST_S`
NUM_TIMEOUTS, WINDOW_S, REST_S = 5, 60.0, 30.0
#: seconds that a host must have had: one that a redirect left little time is not to blame
FAIR_S = 2.5
#: hosts that are remembered; whoever names URLs may name any number
MAX_HOSTS = 1000


@dataclass(slots=True)
class _Record:
    """A host that did not answer in time of late."""

    #: moments of the last timeouts in a row
    timed_out_s: deque[float] = field(default_factory=lambda: deque(maxlen=NUM_TIMEOUTS))
    rests_until_s: float = 0.0
    is_tried: bool = False


class Hosts:
    """What this process knows of hosts; safe from any thread. One that answers in time is not remembered."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._records: OrderedDict[str, _Record] = OrderedDict()

    @contextmanager
    def asking(self, host: str) -> Iterator[None]:
        """Ask a host for something within; raise ItemUnfetchable if it is left alone for now.

        A TimeoutError, or an ItemUnfetchable that one caused, counts against it. Any other end is an answer.
        """
        self._begin(host)
        began_s = self._clock()
        has_answered = True
        try:
            yield
        except TimeoutError:
            has_answered = False
            raise
        except ItemUnfetchable as refused:
            has_answered = not isinstance(refused.__cause__, TimeoutError)
            raise
        finally:
            self._end(host, has_answered=has_answered, is_fair=self._clock() - began_s >= FAIR_S)

    def _begin(self, host: str) -> None:
        with self._lock:
            record = self._records.get(host)
            if record is None or not record.rests_until_s:
                return
            if record.is_tried or self._clock() < record.rests_until_s:
                raise ItemUnfetchable(
                    "host_timed_out",
                    f"The host answered none of the last {NUM_TIMEOUTS} requests in time and is left alone for up to "
                    f"{REST_S:.0f} seconds; retry the item later.",
                )
            record.is_tried = True

    def _end(self, host: str, *, has_answered: bool, is_fair: bool) -> None:
        with self._lock:
            if has_answered:
                self._records.pop(host, None)
                return
            record = self._records.setdefault(host, _Record())
            self._records.move_to_end(host)
            if is_fair:
                self._count(record)
            record.is_tried = False
            while len(self._records) > MAX_HOSTS:
                self._records.popitem(last=False)

    def _count(self, record: _Record) -> None:
        now_s = self._clock()
        record.timed_out_s.append(now_s)
        many = len(record.timed_out_s) == NUM_TIMEOUTS and now_s - record.timed_out_s[0] <= WINDOW_S
        if many or record.is_tried:
            record.rests_until_s = now_s + REST_S
