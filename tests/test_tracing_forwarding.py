"""Spans on their way from an agent's process to its worker."""

from __future__ import annotations

from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState

from watchbill.tracing.forwarding import CARRIER, read, written

OTHER = SpanContext(5, 6, is_remote=True, trace_flags=TraceFlags(1), trace_state=TraceState([("a", "1"), ("b", "2")]))


def test_a_span_that_was_handed_over_is_sent_as_it_was() -> None:
    ended: list[ReadableSpan] = []

    class Kept(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            ended.append(span)

    resource = Resource({"service.name": "worker"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(Kept())
    tracer = provider.get_tracer("scope", "1.2", "https://example.com/schema", {"of": "scope"})
    above = CARRIER.extract({"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "x=1,y=2"})
    tracer.start_span("plain").end()
    span = tracer.start_span("full", above, SpanKind.CLIENT, links=[Link(OTHER, {"of": "link"})])
    values: list[Any] = [
        "words \U0001f6a2",
        True,
        2**60,
        -0.5,
        ("a", "b"),
        [1, 2],
        [True, False],
        b"\xff",
        {"in": [b"", None]},
    ]
    for number, value in enumerate(values):
        span.set_attribute(f"a{number}", value)
    span.add_event("seen", {"at": "sea"})
    span.record_exception(ValueError("wrong"))
    span.set_status(StatusCode.ERROR, "it says why")
    span.end()

    came = [read(written(span), resource) for span in ended]
    assert len(came) == 2
    assert encode_spans(came) == encode_spans(ended)
