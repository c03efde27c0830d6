"""Takes a job's id and a Redis client. Gives the notices that are left for those who listen for that job.

Knows nothing of Celery. The stream exists while somebody listens, so that nobody else's notices cost memory: whoever
listens also asks about the job, and intake lets the stream outlive each question by a while. A listener itself uses
only what works on streams alone, so that a producer on Redis needs no right that could take a queue away.
"""

import time
from typing import Any

from redis import Redis

from .messages import Notice, listening_key

#: Seconds that one read blocks at most: less than a command may take (`client.COMMAND_S`).
LONGEST_READ_S = 1.0


class Listening:
    """One listener; it hears what is told from now on. Several may listen for the same job."""

    def __init__(self, redis: "Redis", job_id: str) -> None:
        self._redis = redis
        self._key = listening_key(job_id)
        self._heard = self._open()

    def hear(self, within_s: float) -> Notice | None:
        """Wait for the next notice; None if there is none `within_s` seconds."""
        give_up_s = time.monotonic() + within_s
        while (left_s := give_up_s - time.monotonic()) > 0:
            block_ms = max(1, int(1000 * min(left_s, LONGEST_READ_S)))
            # A list or a dictionary of streams, as the protocol's version has it.
            read: Any = self._redis.xread({self._key: self._heard}, block=block_ms)
            streams = dict(read or ())
            for self._heard, entry in (one for entries in streams.values() for one in entries):
                if b"told" in entry:
                    return Notice.parse(entry[b"told"])
            if not streams and not self._redis.xlen(self._key):
                self._heard = self._open()  # the broker has forgotten it
        return None

    def close(self) -> None:
        """Leave nothing in the stream, which nobody else listens to."""
        self._redis.xtrim(self._key, maxlen=0, approximate=False)

    def _open(self) -> bytes:
        last: Any = self._redis.xadd(self._key, {"listens": ""})
        return bytes(last)
