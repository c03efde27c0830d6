"""Takes what became of jobs. Gives notices in Redis to those who listen for them, if anybody does.

Knows nothing of SQL. Told after the commit that makes it true; a notice that is lost costs its listeners time alone.
"""

import json
import logging
import queue
import threading
from collections.abc import Iterable
from dataclasses import replace

from celery import Celery
from redis.exceptions import RedisError

from worker.messages import MAX_TOLD_BYTES, Notice, listening_key

log = logging.getLogger(__name__)

#: Seconds that a stream outlives the last question of those who listen: they ask every few seconds.
KEPT_S = 60
#: Recordings whose notices wait for Redis at most; those beyond are lost.
MAX_WAITING = 1000


def tell(app: Celery, notices: Iterable[Notice], *, asked: Iterable[str] = ()) -> None:
    """Leave each notice in its job's stream, which exists while somebody listens.

    `asked` are the jobs whose listeners have just shown that they live: their streams are kept for a while.
    """
    try:
        with app.backend.client.pipeline(transaction=False) as pipe:
            for notice in notices:
                pipe.xadd(listening_key(notice.job_id), {"told": _written(notice)}, nomkstream=True)
            for job_id in asked:
                pipe.expire(listening_key(job_id), KEPT_S)
            pipe.execute()
    except (RedisError, OSError) as away:
        log.warning("notices are lost: %s", away)


class Crier:
    """Tells in a thread of its own: who classifies never waits for a Redis that is away."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._waiting: queue.Queue[Iterable[Notice]] = queue.Queue(MAX_WAITING)
        threading.Thread(target=self._run, name="crier", daemon=True).start()

    def tell(self, notices: Iterable[Notice]) -> None:
        """Tell soon."""
        try:
            self._waiting.put_nowait(notices)
        except queue.Full:
            log.warning("notices are lost: Redis has been away for long")

    def _run(self) -> None:
        while True:
            tell(self._app, self._waiting.get())


def _written(notice: Notice) -> str:
    written = json.dumps(notice.as_json(), separators=(",", ":"))
    if len(written) > MAX_TOLD_BYTES and notice.results:
        return _written(replace(notice, results=None))
    return written
