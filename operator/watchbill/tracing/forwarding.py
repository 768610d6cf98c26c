"""Spans of an agent in a process of its own: they go to its worker as JSON, which exports them as it does its own.

Each goes when it ends, so that a process that dies has lost only those that had not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from watchbill.errors import needed

with needed("Tracing", "otel"):
    from opentelemetry import context as contexts
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

SPANS_MAX: Final = 1_000
"""The most spans of one task that go to its worker, which keeps twice as many of all its tasks."""
ALL_MAX_BYTES: Final = 4 * 1024 * 1024
"""The most bytes of JSON that they are together."""

_BYTES: Final = "\0bytes"
"""The one name of an object that stands for bytes, in hex."""

CARRIER: Final = TraceContextTextMapPropagator()
"""Writes and reads the names of a span by W3C Trace Context."""


class Forwarding(SpanProcessor):
    """Hands spans over to the worker while a task runs whose trace is recorded."""

    def __init__(self) -> None:
        self._tell: Callable[[str], None] | None = None
        self._left = self._room = self._dropped = 0

    def begin(self, carrier: Mapping[str, str], tell: Callable[[str], None]) -> None:
        """Makes the span that `carrier` names the current one. Those that end from now on are told."""
        contexts.attach(CARRIER.extract(carrier))
        self._left, self._room, self._dropped = SPANS_MAX, ALL_MAX_BYTES, 0
        self._tell = tell

    def end(self) -> int:
        """Tells no more. Returns how many were not told: too many, too large, or with what JSON can't tell."""
        self._tell = None
        dropped, self._dropped = self._dropped, 0
        return dropped

    def on_end(self, span: ReadableSpan) -> None:
        if (tell := self._tell) is None:
            return
        text = ""
        with suppress(Exception):  # it may have anything in it, and costs no task: this is called by who ends it
            text = written(span) if self._left > 0 else ""
        if not 0 < len(text) <= self._room:
            self._dropped += 1
            return
        self._left -= 1
        self._room -= len(text)
        tell(text)


def written(span: ReadableSpan) -> str:
    """Returns a span as JSON; without its resource, which is the worker's."""
    scope = span.instrumentation_scope
    told = {
        "name": span.name,
        "context": _names(span.get_span_context()),
        "parent": _names(span.parent),
        "kind": span.kind.value,
        "attributes": dict(span.attributes or {}),
        "events": [(event.name, dict(event.attributes or {}), event.timestamp) for event in span.events],
        "links": [(_names(link.context), dict(link.attributes or {})) for link in span.links],
        "status": (span.status.status_code.value, span.status.description),
        "times": (span.start_time, span.end_time),
        "scope": scope and (scope.name, scope.version, scope.schema_url, dict(scope.attributes or {})),
    }
    return json.dumps(told, default=lambda value: {_BYTES: value.hex()} if isinstance(value, bytes) else str(value))


def read(text: str, resource: Resource) -> ReadableSpan:
    """Returns the span that was written, as one of this resource."""
    told = json.loads(text, object_hook=lambda found: bytes.fromhex(found[_BYTES]) if _BYTES in found else found)
    code, description = told["status"]
    start, end = told["times"]
    return ReadableSpan(
        told["name"],
        _context(told["context"]),
        _context(told["parent"]),
        resource,
        told["attributes"],
        [Event(*event) for event in told["events"]],
        [Link(context, about) for names, about in told["links"] if (context := _context(names))],
        SpanKind(told["kind"]),
        status=Status(StatusCode(code), description),
        start_time=start,
        end_time=end,
        instrumentation_scope=InstrumentationScope(*told["scope"]) if told["scope"] else None,
    )


def _names(context: SpanContext | None) -> tuple[Any, ...] | None:
    if context is None:
        return None
    state = list(context.trace_state.items())
    return context.trace_id, context.span_id, context.is_remote, context.trace_flags, state


def _context(names: Any) -> SpanContext | None:
    if names is None:
        return None
    trace_id, span_id, is_remote, flags, state = names
    return SpanContext(trace_id, span_id, is_remote, TraceFlags(flags), TraceState(state))
