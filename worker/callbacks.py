"""Takes the ledger, where callbacks may go, and secrets. Gives those who asked the news that their job has ended.

Knows nothing of Celery. Runs in threads of the upkeep child, so a slow receiver holds up neither a sweep nor a batch.
Any number of senders may: the ledger gives each callback to one of them at a time.
"""

import json
import logging
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from http import HTTPStatus

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from db import callbacks, errors, jobs, session
from db.callbacks import Claim
from pipeline import urls
from pipeline.errors import ItemUnfetchable
from worker import intake, messages, receivers, signatures

log = logging.getLogger(__name__)

#: Seconds between two looks for jobs that have ended.
EVERY_S = 1.0
#: Seconds a receiver has, from the first name that is looked up (Standard Webhooks: 15 to 30).
PATIENCE_S = 15.0
#: Seconds after which another sender takes over what was not noted down; well above `PATIENCE_S`.
LEASE_S = 60.0
#: Seconds from a failed attempt to the next (Standard Webhooks' example); behind the last one it is given up.
PAUSES_S = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)
#: Share of a pause that chance adds, so that what failed together does not come back together.
JITTER = 0.1
#: Seconds that a receiver may ask for by Retry-After at most.
MAX_RETRY_AFTER_S = 86400.0
#: Posts on their way at once: to all hosts, and to one that answers. A host that failed gets one at a time.
SENDERS, SENDERS_PER_HOST = 12, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What came of one post."""

    #: None if there was no answer.
    status: int | None
    #: Why it failed, in one sentence; None if it did not.
    error: str | None
    #: Seconds the receiver wants to be left alone.
    retry_after_s: float = 0.0
    #: No other attempt can go better.
    is_final: bool = False


class Sender:
    """Looks for jobs that have ended, and tells those who wait, until stopped."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        roots: Sequence[str],
        secrets: Sequence[bytes],
        *,
        pauses_s: Sequence[float] = PAUSES_S,
        patience_s: float = PATIENCE_S,
        every_s: float = EVERY_S,
    ) -> None:
        self._sessions = sessions
        self._roots = roots
        self._secrets = secrets
        self._pauses_s = pauses_s
        self._patience_s = patience_s
        self._every_s = every_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
        #: Host -> threads that post to it.
        self._num_posting: Counter[str] = Counter()
        self._failing: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="callbacks", daemon=True)

    def start(self) -> None:
        """Begin, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing more. What is on its way is sent again by another sender, unless it is noted in time."""
        self._stop.set()
        self._thread.join(timeout=self._every_s + 1)

    def look(self) -> None:
        """Begin to post, in threads of their own, what is due to hosts that have room."""
        with session.reading(self._sessions) as reading:
            hosts = callbacks.due_hosts(reading, most=SENDERS)
        for host in hosts:
            for _ in range(self._room(host)):
                # Daemons: a receiver that drips must not keep a worker from ending.
                threading.Thread(target=self._post_all, args=(host,), name=f"callback {host}", daemon=True).start()

    def post_next(self, host: str) -> bool:
        """Post what is due longest to a host; False if there was nothing, or if it failed."""
        with session.transaction(self._sessions) as transaction:
            claimed = callbacks.claim(transaction, host, lease_s=LEASE_S)
            job = None if claimed is None else jobs.job(transaction, claimed.job_id)
        if claimed is None or job is None:
            return False
        attempt = self._post(claimed, intake.as_status(job, job.version))
        with session.transaction(self._sessions) as transaction:
            self._note(transaction, claimed, attempt)
        return attempt.error is None

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self.look()
            except (errors.LedgerError, SQLAlchemyError) as away:
                log.warning("no look for callbacks: %s", str(away).splitlines()[0])
            except Exception:
                log.exception("no look for callbacks; trying again in %.0f s", self._every_s)

    def _room(self, host: str) -> int:
        """Take as many threads as a host may have now."""
        with self._lock:
            most = 1 if host in self._failing else SENDERS_PER_HOST
            num = max(0, min(most - self._num_posting[host], SENDERS - self._num_posting.total()))
            self._num_posting[host] += num
            return num

    def _post_all(self, host: str) -> None:
        is_well = True
        try:
            while is_well and not self._stop.is_set():
                is_well = self.post_next(host)
        except (errors.LedgerError, SQLAlchemyError) as away:
            log.warning("no callback: %s", str(away).splitlines()[0])
        except Exception:
            log.exception("no callback to %s; trying again when its lease has run out", host)
        finally:
            with self._lock:
                self._num_posting[host] -= 1

    def _post(self, claimed: Claim, status: messages.JobStatus) -> Attempt:
        body, at_s = message(status), int(time.time())
        headers = signatures.headers(self._secrets, message_id(status), at_s, body)
        headers["Content-Type"] = "application/json"
        try:
            receivers.host_of(claimed.url, self._roots)
            reply = urls.post(claimed.url, self._roots, body, headers, within_s=self._patience_s)
        except receivers.CallbackRefused as refused:
            attempt = Attempt(status=None, error=str(refused), is_final=True)
        except ItemUnfetchable as failed:
            attempt = Attempt(status=None, error=failed.message)
        else:
            attempt = attempt_of(reply)
        (self._failing.discard if attempt.error is None else self._failing.add)(claimed.host)
        return attempt

    def _note(self, transaction: Session, claimed: Claim, attempt: Attempt) -> None:
        about = (claimed.job_id, claimed.host, claimed.attempts)
        if attempt.error is None:
            assert attempt.status is not None  # noqa: S101 - for the type checker
            callbacks.sent(transaction, claimed, status=attempt.status)
            log.info("told of job %s's end: %s, attempt %s", *about)
            return
        log.warning("could not tell of job %s's end: %s, attempt %s: %s", *about, attempt.error)
        status, error = attempt.status, attempt.error
        if attempt.is_final or claimed.attempts > len(self._pauses_s):
            callbacks.give_up(transaction, claimed, status=status, error=error)
            return
        pause_s = max(self._pauses_s[claimed.attempts - 1], attempt.retry_after_s)
        pause_s *= 1 + JITTER * random.random()  # noqa: S311 - no secret
        callbacks.put_off(transaction, claimed, pause_s=pause_s, status=status, error=error)


def message_id(status: messages.JobStatus) -> str:
    """Name the news of a job's end: the same however often it is sent, another if the job goes on and ends again."""
    return f"{uuid.UUID(status.job_id).hex}_{round((status.finished_at_s or 0.0) * 1000)}"


def message(status: messages.JobStatus) -> bytes:
    """Give the body: the job's status, without anything of its images."""
    about = asdict(status)
    del about["note"]
    ended = datetime.fromtimestamp(status.finished_at_s or 0.0, UTC)
    wire = {"type": f"job.{status.state}", "timestamp": ended.isoformat().replace("+00:00", "Z"), "data": about}
    return json.dumps(wire, separators=(",", ":")).encode()


def attempt_of(reply: urls.Reply) -> Attempt:
    """Judge a receiver's answer: 2xx is the only yes, and 410 the only no for ever."""
    if HTTPStatus.OK <= reply.status < HTTPStatus.MULTIPLE_CHOICES:
        return Attempt(status=reply.status, error=None)
    asked_s = float(reply.retry_after) if reply.retry_after.isascii() and reply.retry_after.isdecimal() else 0.0
    return Attempt(
        status=reply.status,
        error=f"The receiver answered {reply.status}.",
        retry_after_s=min(asked_s, MAX_RETRY_AFTER_S),
        is_final=reply.status == HTTPStatus.GONE,
    )
