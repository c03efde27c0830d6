"""Takes spans that are over. Gives them to a collector, by OTLP over HTTP, some at a time and in a thread of its own.

Knows nothing of jobs. Imported only where traces are turned on; what the collector does not take in time is dropped.
"""

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from worker.traces import Span, Tracer

#: Where a collector takes traces, behind its address.
PATH = "/v1/traces"
#: Spans that wait at most, and in one message; seconds between two messages, and for one.
MAX_WAITING, MAX_SENT, EVERY_S, PATIENCE_S = 8192, 512, 2.0, 5.0
_SCOPE = InstrumentationScope("imagemill")
_KEPT = TraceFlags(TraceFlags.SAMPLED)


def open_tracer(endpoint: str, *, role: str, name: str, share: float) -> Tracer:
    """Tell spans to the collector at this address; `name` is this process's."""
    processor = BatchSpanProcessor(
        OTLPSpanExporter(endpoint=endpoint.rstrip("/").removesuffix(PATH) + PATH, timeout=PATIENCE_S),
        max_queue_size=MAX_WAITING,
        max_export_batch_size=MAX_SENT,
        schedule_delay_millis=EVERY_S * 1000,
    )
    resource = Resource.create({"service.name": f"imagemill-{role}", "service.instance.id": name})
    return Tracer(tell=lambda span: processor.on_end(_read(span, resource)), share=share, close=processor.shutdown)


def _read(span: Span, resource: Resource) -> ReadableSpan:
    parent = None if span.parent_id is None else _context(span.trace_id, span.parent_id)
    return ReadableSpan(
        span.name,
        context=_context(span.trace_id, span.span_id),
        parent=parent,
        resource=resource,
        attributes=dict(span.facts),
        links=[Link(_context(trace_id, span_id)) for trace_id, span_id in span.links],
        kind=SpanKind.CONSUMER if span.name in ("intake", "classify") else SpanKind.INTERNAL,
        status=Status(StatusCode.UNSET) if span.error is None else Status(StatusCode.ERROR, span.error),
        start_time=int(span.began_s * 1e9),
        end_time=int(span.ended_s * 1e9),
        instrumentation_scope=_SCOPE,
    )


def _context(trace_id: int, span_id: int) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=_KEPT)
