"""Takes what happens in a sitting, as it happens. Gives a span for each shard in its job's trace, and for its stages.

Knows nothing of images. Stages that several shards share have the same times in each of their traces.
"""

import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from db import leases
from worker import traces
from worker.sittings import Tally
from worker.traces import Facts, Span, Trace, Tracer

#: Shards that a sitting's own span names at most.
MAX_LINKS = 128


@dataclass(slots=True, kw_only=True)
class _Marks:
    """When what happened to one shard; seconds of this process's clock that only rises."""

    claim: leases.Claim
    trace: Trace
    span_id: int
    began_s: float
    claimed_s: float
    #: Of the first and the last batch that held an image of it.
    forward_began_s: float | None = None
    forward_ended_s: float = 0.0
    num_batches: int = 0


class Trail:
    """What one sitting will tell of itself."""

    def __init__(self, tracer: Tracer, version: str, owner: str) -> None:
        self._tracer = tracer
        self._version = version
        self._owner = owner
        self._began_s = time.monotonic()
        #: From this process's clock that only rises to epoch seconds.
        self._epoch_s = time.time() - time.monotonic()
        self._marks: dict[int, _Marks] = {}
        self._links: list[tuple[int, int]] = []
        #: The sitting is a trace of its own, for it may serve many jobs.
        self._trace_id, self._span_id = uuid.uuid4().int, traces.new_span_id()

    def claimed(self, claims: Iterable[leases.Claim], began_s: float) -> None:
        """Note claims that were begun at `began_s` and hold now."""
        now_s = time.monotonic()
        for claim in claims:
            trace = traces.of_job(claim.job_id, claim.traceparent)
            if trace.is_kept(self._tracer.share):
                self._marks[claim.shard_id] = _Marks(
                    claim=claim, trace=trace, span_id=traces.new_span_id(), began_s=began_s, claimed_s=now_s
                )

    def passed(self, shard_ids: Iterable[int], began_s: float, ended_s: float) -> None:
        """Note that a batch with images of these shards went through the network."""
        for shard_id in shard_ids:
            marks = self._marks.get(shard_id)
            if marks is not None:
                marks.forward_began_s = began_s if marks.forward_began_s is None else marks.forward_began_s
                marks.forward_ended_s = ended_s
                marks.num_batches += 1

    def recorded(self, shard_ids: Iterable[int], began_s: float, *, error: str | None = None) -> None:
        """Tell what became of shards whose outcomes were recorded, from `began_s` until now, or why they were not."""
        now_s = time.monotonic()
        for shard_id in shard_ids:
            marks = self._marks.pop(shard_id, None)
            if marks is not None:
                self._tell_shard(marks, began_s, now_s, error)

    def ended(self, jobs: Iterable[leases.Ended]) -> None:
        """Tell the whole of jobs whose last outcome was recorded."""
        for job in jobs:
            trace = traces.of_job(job.id, job.traceparent)
            if trace.is_kept(self._tracer.share) and job.finished_at_s is not None:
                facts: Facts = {
                    "imagemill.job": str(job.id),
                    "imagemill.model": job.model,
                    "imagemill.priority": job.priority,
                    "imagemill.state": job.state,
                    "imagemill.items": job.num_items,
                    "imagemill.failed": job.num_failed,
                }
                self._tracer.tell(
                    Span(
                        name="job",
                        trace_id=trace.trace_id,
                        span_id=trace.job_span_id,
                        parent_id=trace.caller_span_id,
                        began_s=job.created_at_s,
                        ended_s=job.finished_at_s,
                        facts=facts,
                    )
                )

    def close(self, tally: Tally) -> None:
        """Tell the sitting itself."""
        if not self._links:
            return
        facts: Facts = {
            "imagemill.version": self._version,
            "imagemill.worker": self._owner,
            "imagemill.shards": tally.num_shards,
            "imagemill.items": tally.num_items,
            "imagemill.batches": tally.num_batches,
            "imagemill.fetch_s": tally.fetch_s,
            "imagemill.decode_s": tally.decode_s,
            "imagemill.forward_s": tally.forward_s,
        }
        self._tracer.tell(
            Span(
                name="sitting",
                trace_id=self._trace_id,
                span_id=self._span_id,
                parent_id=None,
                began_s=self._began_s + self._epoch_s,
                ended_s=time.monotonic() + self._epoch_s,
                facts=facts,
                links=tuple(self._links[:MAX_LINKS]),
            )
        )

    def _tell_shard(self, marks: _Marks, record_s: float, now_s: float, error: str | None) -> None:
        claim, trace = marks.claim, marks.trace
        facts: Facts = {
            "imagemill.job": str(claim.job_id),
            "imagemill.shard": claim.shard_id,
            "imagemill.items": len(claim.items),
            "imagemill.attempts": claim.attempts,
            "imagemill.version": self._version,
            "imagemill.worker": self._owner,
            "imagemill.waited_s": claim.waited_s,
        }
        self._links.append((trace.trace_id, marks.span_id))
        self._tell(
            trace, "classify", marks.span_id, trace.job_span_id, (marks.began_s, now_s), facts,
            links=((self._trace_id, self._span_id),), error=error,
        )  # fmt: skip
        seen_s = record_s if marks.forward_began_s is None else marks.forward_began_s
        stages = [("claim", marks.began_s, marks.claimed_s), ("fetch and decode", marks.claimed_s, seen_s)]
        if marks.forward_began_s is not None:
            stages.append(("forward", marks.forward_began_s, marks.forward_ended_s))
        if error is None:
            stages.append(("record", record_s, now_s))
        for name, began_s, ended_s in stages:
            counted: Facts = {"imagemill.batches": marks.num_batches} if name == "forward" else {}
            self._tell(trace, name, traces.new_span_id(), marks.span_id, (began_s, max(began_s, ended_s)), counted)

    def _tell(
        self,
        trace: Trace,
        name: str,
        span_id: int,
        parent_id: int,
        times_s: tuple[float, float],
        facts: Facts,
        *,
        links: tuple[tuple[int, int], ...] = (),
        error: str | None = None,
    ) -> None:
        self._tracer.tell(
            Span(
                name=name,
                trace_id=trace.trace_id,
                span_id=span_id,
                parent_id=parent_id,
                began_s=times_s[0] + self._epoch_s,
                ended_s=times_s[1] + self._epoch_s,
                facts=facts,
                links=links,
                error=error,
            )
        )
