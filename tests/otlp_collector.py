"""A collector of traces: takes OTLP over real HTTP, and keeps the spans that it is sent."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from waiting import until

KINDS = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}
ERROR = 2


@dataclass(frozen=True)
class Span:
    """A span as it came. Ids are in hex."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    links: tuple[tuple[str, str], ...]
    attributes: Mapping[str, Any]
    failed: bool
    message: str
    start: int
    end: int
    resource: Mapping[str, Any]


class Collector:
    """A context manager. While `held` is set, requests get no answer."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.raw = b""
        """All requests, as they were sent."""
        self.asked = 0
        self.status = 200
        self.free = threading.Event()
        self.free.set()
        self._lock = threading.Lock()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.asked += 1
                collector.free.wait()
                if collector.status == 200:
                    collector.take(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
                self.send_response(collector.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.free.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def variables(self, **more: str) -> dict[str, str]:
        """The environment of a process that sends its spans here, soon after their end."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "20", **more}

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            self.raw += body
            for of_resource in request.resource_spans:
                about = _values(of_resource.resource.attributes)
                for of_scope in of_resource.scope_spans:
                    self.spans += [_span(span, about) for span in of_scope.spans]

    def named(self, prefix: str, **attributes: Any) -> list[Span]:
        """The spans whose names begin so, with these attributes: `**{"watchbill.attempt": 1}`."""
        return [s for s in list(self.spans) if s.name.startswith(prefix) and attributes.items() <= s.attributes.items()]

    async def one(self, prefix: str, **attributes: Any) -> Span:
        """The only such span, once it is here."""
        await self.until(lambda: self.named(prefix, **attributes), f"span {prefix} {attributes}")
        (found,) = self.named(prefix, **attributes)
        return found

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        await until(condition, what=f"{what} among {[span.name for span in self.spans]}")


def _span(span: Any, resource: Mapping[str, Any]) -> Span:
    return Span(
        name=span.name,
        kind=KINDS[span.kind],
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        attributes=_values(span.attributes),
        failed=span.status.code == ERROR,
        message=span.status.message,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        resource=resource,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value") or "string_value") for one in attributes}
