"""A real OTLP receiver on loopback: it reads the protobuf that an OpenTelemetry collector would be sent."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A span as the collector got it."""

    name: str
    service: str
    trace_id: str
    span_id: str
    parent_id: str
    began_ns: int
    ended_ns: int
    facts: dict[str, object]
    links: tuple[tuple[str, str], ...]
    error: str


@dataclass(slots=True, kw_only=True)
class Collector:
    """What was received so far."""

    port: int
    spans: list[Received] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def of(self, trace_id: str) -> dict[str, list[Received]]:
        """One trace's spans, by name, in their order."""
        found: dict[str, list[Received]] = {}
        for span in sorted((one for one in self.spans if one.trace_id == trace_id), key=lambda one: one.began_ns):
            found.setdefault(span.name, []).append(span)
        return found


@contextmanager
def listening() -> Iterator[Collector]:
    """Receive until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/traces":
                collector.spans.extend(_read(ExportTraceServiceRequest.FromString(body)))
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(port=server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def _read(request: ExportTraceServiceRequest) -> Iterator[Received]:
    for resource in request.resource_spans:
        about = {one.key: one.value.string_value for one in resource.resource.attributes}
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            yield Received(
                name=span.name,
                service=about["service.name"],
                trace_id=span.trace_id.hex(),
                span_id=span.span_id.hex(),
                parent_id=span.parent_span_id.hex(),
                began_ns=span.start_time_unix_nano,
                ended_ns=span.end_time_unix_nano,
                facts={one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes},
                links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                error=span.status.message,
            )
