"""Takes the settings. Gives what tells spans, or nothing where traces are off: then nothing of OpenTelemetry is loaded.

Knows nothing of how spans travel.
"""

import importlib
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from worker import traces
from worker.settings import Settings, SettingsInvalid
from worker.traces import Span, Tracer


def open_tracer(settings: Settings, role: str) -> Tracer | None:
    """Open what this process tells spans by, if traces are on. Raises `SettingsInvalid` where the extra is missing."""
    if not settings.traces_endpoint:
        return None
    try:
        otlp = importlib.import_module("worker.otlp")
    except ModuleNotFoundError as missing:
        raise SettingsInvalid(
            f"IMAGEMILL_TRACES_ENDPOINT needs the extra `traces` ({missing.name} is not installed)."
        ) from None
    name = f"{role}@{socket.gethostname()}:{os.getpid()}"
    opened: Tracer = otlp.open_tracer(settings.traces_endpoint, role=role, name=name, share=settings.traces_share)
    return opened


@contextmanager
def submitting(tracer: Tracer | None, job_id: str, caller: str | None = None) -> Iterator[str | None]:
    """Tell the submission made inside as a span; gives the traceparent to send along, which is the caller's if off."""
    trace = traces.of_job(uuid.UUID(job_id), caller)
    if tracer is None or not trace.is_kept(tracer.share):
        yield caller
        return
    began_s, span_id, error = time.time(), traces.new_span_id(), "it was not acknowledged"
    try:
        yield traces.spell(trace.trace_id, span_id, is_kept=True)
        error = ""
    finally:
        tracer.tell(
            Span(
                name="submit",
                trace_id=trace.trace_id,
                span_id=span_id,
                parent_id=trace.caller_span_id,
                began_s=began_s,
                ended_s=time.time(),
                facts={"imagemill.job": job_id},
                error=error or None,
            )
        )
