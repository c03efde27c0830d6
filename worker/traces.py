"""Takes a job's id, and the caller's span where it sent one. Gives the trace that all work on the job belongs to.

Knows nothing of OpenTelemetry. A job's id is 128 random bits, as a trace's is: without a caller's trace it is the
trace, and whoever works on the job knows it without being told.
"""

import hashlib
import secrets
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from worker.messages import TRACEPARENT

#: What is said of a span.
Facts = Mapping[str, str | int | float]
#: The bits of an id that are random in every trace, and in every job: by these a share is drawn.
RANDOM = 2**56


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Where the spans of one job belong."""

    trace_id: int
    #: Of the span from the job's first part to its last outcome; told by whoever records that, known to all.
    job_span_id: int
    #: Of the caller's span, in this trace.
    caller_span_id: int | None
    #: The caller wants it kept; None leaves that to us.
    is_wanted: bool | None

    @property
    def root_id(self) -> int:
        """Under which intake's span lies."""
        return self.caller_span_id or self.job_span_id

    def is_kept(self, share: float) -> bool:
        """Whether spans are told at all, alike in every process."""
        if self.is_wanted is not None:
            return self.is_wanted
        return self.trace_id % RANDOM < share * RANDOM


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of work that is over; times are epoch seconds."""

    name: str
    trace_id: int
    span_id: int
    parent_id: int | None
    began_s: float
    ended_s: float
    facts: Facts = field(default_factory=lambda: MappingProxyType({}))
    #: Other spans it has to do with, as (trace, span).
    links: tuple[tuple[int, int], ...] = ()
    #: What went wrong.
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracer:
    """Tells spans to whoever collects them."""

    tell: Callable[[Span], None]
    #: Of the traces that no caller began.
    share: float = 1.0
    close: Callable[[], None] = lambda: None


def of_job(job_id: uuid.UUID, traceparent: str | None) -> Trace:
    """Give a job's trace: its caller's, or the one that the job's id is."""
    job_span_id = int.from_bytes(hashlib.sha256(job_id.bytes).digest()[:8]) or 1
    if traceparent is None or not TRACEPARENT.fullmatch(traceparent):
        return Trace(trace_id=job_id.int, job_span_id=job_span_id, caller_span_id=None, is_wanted=None)
    _, trace, span, flags = traceparent.split("-")
    return Trace(
        trace_id=int(trace, 16),
        job_span_id=job_span_id,
        caller_span_id=int(span, 16),
        is_wanted=bool(int(flags, 16) & 1),
    )


def new_span_id() -> int:
    """Draw an id."""
    return secrets.randbits(64) or 1


def spell(trace_id: int, span_id: int, *, is_kept: bool) -> str:
    """Write a span as a traceparent."""
    return f"00-{trace_id:032x}-{span_id:016x}-{is_kept:02x}"
