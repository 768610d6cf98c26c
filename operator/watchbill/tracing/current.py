"""The span of an attempt while it is the current one, at a third of what a span of the SDK costs.

Most attempts end with nothing in their spans but what the worker itself knows. Where the agent, or a library that it
uses, adds something, or looks into the span, one of the SDK's takes its place, with the same ids.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from watchbill.errors import needed

with needed("Tracing", "otel"):
    from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind

_lock: Final = threading.RLock()
"""An agent's thread may add something while the attempt ends. One lock is enough: few ever wait for it."""


@dataclass(frozen=True, slots=True)
class Record:
    """A span as it begins."""

    name: str
    context: SpanContext
    parent: SpanContext | None
    kind: SpanKind
    attributes: dict[str, Any]
    links: Sequence[Link]
    start: int
    """In ns since 1970."""


def _of_sdk(name: str) -> Callable[..., Any]:
    def call(self: Current, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.made(), name)(*args, **kwargs)

    return call


class Current(Span):
    """Has what the SDK's span has, made at the first use."""

    def __init__(self, record: Record, make: Callable[[Record], Span], send: Callable[[Record, int], None]) -> None:
        """`make` begins the span of the SDK; `send` sends the one that ends at this time, without it."""
        self._record = record
        self._make = make
        self._send = send
        self._made: Span | None = None

    def made(self) -> Span:
        """Returns the span of the SDK."""
        with _lock:
            if self._made is None:
                self._made = self._make(self._record)
            return self._made

    def ended(self, outcome: str) -> bool:
        """Ends it, unless it is one of the SDK's. Returns whether it has done so."""
        with _lock:
            if self._made is not None:
                return False
            self._made = NonRecordingSpan(self._record.context)  # which takes what is added too late
        self._record.attributes["watchbill.outcome"] = outcome
        self._send(self._record, time.time_ns())  # noqa: TID251 - the clock of all spans
        return True

    def get_span_context(self) -> SpanContext:
        """Returns its ids."""
        return self._record.context

    def is_recording(self) -> bool:
        """Returns whether it has not ended."""
        return self._made is None or self._made.is_recording()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.made(), name)

    end = _of_sdk("end")
    set_attributes = _of_sdk("set_attributes")
    set_attribute = _of_sdk("set_attribute")
    add_event = _of_sdk("add_event")
    add_link = _of_sdk("add_link")
    update_name = _of_sdk("update_name")
    set_status = _of_sdk("set_status")
    record_exception = _of_sdk("record_exception")
