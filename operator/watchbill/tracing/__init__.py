"""Traces: which trace a task belongs to, and the spans of tasks, runs and tools where tracing is on.

Imports nothing of OpenTelemetry, so that a process without it pays nothing: `exporting` does, which `switch` imports
where a collector is set. A program that submits work may use OpenTelemetry by itself: then it is loaded.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

from pydantic_core import from_json

from watchbill.loggers import Logger
from watchbill.names import STEP_SEPARATOR
from watchbill.tasks import METADATA_MAX_ENTRIES

logger = Logger("watchbill.tracing")

T = TypeVar("T")

FIELD: Final = "traceparent"
"""The entry of a task's metadata that names the span in which it was submitted (W3C Trace Context)."""
SYSTEM: Final = "watchbill"
"""The messaging system, and the scope of the spans."""

_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
_carried: Final[ContextVar[str]] = ContextVar("watchbill_traceparent")


class Message(Protocol):
    """A claimed task, as far as its span tells of it."""

    id: str
    agent: str
    attempt: int
    taken_over: bool
    previous_holder: str

    @property
    def queued_ms(self) -> int: ...

    @property
    def run_id(self) -> str | None: ...

    @property
    def step(self) -> str | None: ...


class Span(Protocol):
    """The span of one attempt of a task."""

    trace_id: str | None
    """The trace, in hex; None if it is not sampled."""

    def enter(self) -> None:
        """Makes it the current span of this asyncio task, and of what that starts."""
        ...

    def end(self, outcome: str, error: str, status: int | None = None) -> None:
        """Ends it. `error`: `ValueError: what it says`; empty if there is none. `status`: the HTTP status of an
        answer."""
        ...


class Traces(Protocol):
    """The spans of this process, while tracing is on."""

    provider: Any
    """The TracerProvider, for libraries that make spans by themselves."""
    content: bool
    """Spans may have prompts, answers, and arguments and results of tools."""

    def leaves_out(self, crew: str, work: str) -> bool:
        """Returns whether the trace of this task or run is surely not recorded, if it has no submitter's."""
        ...

    def rest(self) -> None:
        """Has what the current asyncio task does, and what that starts, belong to no recorded trace."""
        ...

    def process(self, crew: str, task: Message, traceparent: object, now: Callable[[], datetime]) -> Span:
        """Begins the span of an attempt. `now` is the time by the store's clock."""
        ...

    def run_ended(self, crew: str, run_id: str, outcome: str, seconds: float, traceparent: object) -> None:
        """Makes the span of a run that ends now, so many seconds after its submission."""
        ...

    def heartbeat(self, crew: str, work: str) -> str:
        """Returns the `traceparent` of the span in which a heartbeat makes this task or run."""
        ...

    def fired(self, traceparent: str, crew: str, name: str, attributes: Mapping[str, Any], seconds: float) -> None:
        """Makes the span of this `traceparent`, which ends now and took so many seconds, if it is sampled."""
        ...

    def deliver(
        self, crew: str, work: str, name: str, traceparent: object, attributes: Mapping[str, Any], *, is_run: bool
    ) -> Span:
        """Begins the span of an attempt to deliver the result of this task or run."""
        ...

    def call_tool(self, name: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Calls a tool within a span of its own."""
        ...

    def carrier(self) -> dict[str, str]:
        """Returns the `traceparent` of the current span, and its `tracestate` if it has one."""
        ...

    def forwarded(self, span: str) -> None:
        """Sends a span that an agent has made in a process of its own."""
        ...

    def close(self, seconds: float) -> None:
        """Sends the spans that are left, for so long at most."""
        ...


active: Traces | None = None
"""None while tracing is off. `switch` sets it."""


def parsed(traceparent: object) -> tuple[str, str, str] | None:
    """Returns trace id, span id and flags of a `traceparent`, in hex; None if it is none."""
    found = _TRACEPARENT.fullmatch(traceparent) if isinstance(traceparent, str) else None
    return (found[1], found[2], found[3]) if found else None


def trace_id(traceparent: object) -> str | None:
    """Returns the trace id of a `traceparent`; None if it is none."""
    found = parsed(traceparent)
    return found[0] if found else None


def recorded(span: Span | None, metadata: Mapping[str, Any]) -> str | None:
    """Returns the id of the trace that an attempt belongs to, if that is recorded: here, or by its submitter."""
    if span is not None:
        return span.trace_id
    found = parsed(metadata.get(FIELD)) if metadata else None
    return found[0] if found and int(found[2], 16) & 1 else None


def begin(crew: str, task: Message, metadata: Mapping[str, Any], now: Callable[[], datetime]) -> Span | None:
    """Begins the span of an attempt; None while tracing is off, and for most attempts that are not recorded. `now` is
    the time by the store's clock."""
    if active is None:
        return None
    try:
        traceparent = metadata.get(FIELD) if metadata else None
        if traceparent is None and active.leaves_out(crew, task.id.partition(STEP_SEPARATOR)[0]):
            return None
        return active.process(crew, task, traceparent, now)
    except Exception as error:
        give_up(error)
        return None


def rest() -> None:
    """Has what the current asyncio task does, and what that starts, belong to no recorded trace until it enters one. A
    worker does so once: most attempts then have nothing to enter."""
    if active is not None:
        try:
            active.rest()
        except Exception as error:
            give_up(error)


def enter(span: Span | None, metadata: Mapping[str, Any]) -> None:
    """Has what the current asyncio task does, and the work that it submits, belong to the task's trace."""
    if span is not None:
        span.enter()
    if metadata:
        carry(metadata)


def carry(metadata: Mapping[str, Any]) -> None:
    """Has work that is submitted from here on carry the `traceparent` of these metadata; none if they have none."""
    traceparent = metadata.get(FIELD)
    _carried.set(traceparent if isinstance(traceparent, str) and parsed(traceparent) else "")


def handed_over(span: Span | None) -> dict[str, Any] | None:
    """Returns what another process needs to make spans below that of an attempt, which is the current one; None if that
    is not recorded."""
    if active is None or span is None or span.trace_id is None:
        return None
    try:
        return {"carrier": active.carrier(), "content": active.content}
    except Exception as error:
        give_up(error)
        return None


def forwarded(span: str) -> None:
    """Sends a span that an agent has made in a process of its own. It comes as `forwarding` writes it."""
    if active is not None:
        try:
            active.forwarded(span)
        except Exception as error:  # the agent's fault, which costs no other span
            logger.warning("a span of an agent in a process of its own is lost: %s", type(error).__name__)


def end(span: Span | None, outcome: str, error: str = "", status: int | None = None) -> None:
    """Ends the span of an attempt. `status`: the HTTP status of what answered it."""
    if span is not None and span.trace_id is not None:
        try:
            span.end(outcome, error, status)
        except Exception as error:
            give_up(error)


def run_ended(crew: str, run_id: str, outcome: str, seconds: float, payload: str) -> None:
    """Makes the span of a run. `payload`: the AgentTask of one of its steps, as JSON; empty: not known."""
    if active is None:
        return
    found: Any = None
    if f'"{FIELD}":' in payload:  # within a text, the quotes would be escaped
        found = from_json(payload).get("metadata")
    try:
        active.run_ended(crew, run_id, outcome, seconds, found.get(FIELD) if isinstance(found, dict) else None)
    except Exception as error:
        give_up(error)


def heartbeat(crew: str, work: str, metadata: Mapping[str, Any]) -> str:
    """Returns the `traceparent` that the work of a heartbeat gets; empty for none: while tracing is off, and where the
    heartbeat's own metadata have one. Each process that may fire the slot has the same."""
    if active is None or FIELD in metadata or len(metadata) >= METADATA_MAX_ENTRIES:
        return ""
    try:
        return active.heartbeat(crew, work)
    except Exception as error:
        give_up(error)
        return ""


def fired(traceparent: str, crew: str, name: str, work: str, slot: str, seconds: float) -> None:
    """Makes the span in which this process has fired a heartbeat. `traceparent`: what `heartbeat` returned."""
    if active is None or not traceparent:
        return
    attributes = operation("submit", "send", crew) | {
        "messaging.message.id": work,
        "watchbill.heartbeat": name,
        "watchbill.slot": slot,
    }
    try:
        active.fired(traceparent, crew, name, attributes, seconds)
    except Exception as error:
        give_up(error)


def deliver(
    crew: str, work: str, name: str, metadata: Mapping[str, Any], attributes: Mapping[str, Any], *, is_run: bool
) -> Span | None:
    """Begins the span of an attempt to deliver a result to the destination of this name; None while tracing is off.
    `metadata`: those of the task or run `work`. Requests that the current asyncio task makes from here on belong to
    its trace (`carried`)."""
    carry(metadata)
    if active is None:
        return None
    try:
        span = active.deliver(crew, work, name, metadata.get(FIELD), attributes, is_run=is_run)
        span.enter()
    except Exception as error:
        give_up(error)
        return None
    if span.trace_id is not None:
        _carried.set(_header(_opentelemetry().get_current_span()))
    return span


def carried() -> str:
    """Returns the `traceparent` of what the current asyncio task sends; empty for none."""
    found = parsed(_carried.get(""))
    return "00-{}-{}-{}".format(*found) if found else ""


def give_up(error: Exception) -> None:
    """Turns tracing off: no fault of it costs a task, and the first one is enough."""
    global active
    active = None
    logger.error("tracing is off from now on, because a span could not be made", exc_info=error)


@contextmanager
def submitting(
    crew: str, metadata: Mapping[str, Any], task_id: str = "", *, count: int | None = None
) -> Iterator[Mapping[str, Any]]:
    """Yields the metadata of work that is submitted within, with the `traceparent` of a span that is current meanwhile;
    where OpenTelemetry is not loaded, with that of the task that submits. A `traceparent` that is there stays. `count`:
    so many tasks at once."""
    if FIELD in metadata or len(metadata) >= METADATA_MAX_ENTRIES:
        yield metadata
        return
    carried = _carried.get("")
    provider = _provider()
    if provider is None:
        if otel := sys.modules.get("opentelemetry.trace"):  # the program may carry another's span all the same
            carried = _header(otel.get_current_span()) or carried
        yield {**metadata, FIELD: carried} if carried else metadata
        return
    attributes: dict[str, Any] = operation("submit", "send", crew)
    if task_id:
        attributes["messaging.message.id"] = task_id
    if count is not None:
        attributes["messaging.batch.message_count"] = count
    kind = sys.modules["opentelemetry.trace"].SpanKind.PRODUCER
    with erring(f"submit {crew}", kind=kind, attributes=attributes) as span:
        carried = _header(span) or carried
        yield {**metadata, FIELD: carried} if carried else metadata


def operation(name: str, kind: str, crew: str) -> dict[str, Any]:
    """Returns the attributes of a span of the queue."""
    return {
        "messaging.system": SYSTEM,
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
        "messaging.destination.name": crew,
    }


@contextmanager
def erring(name: str, **options: Any) -> Iterator[Any]:
    """Makes a span current, and marks it with the type of an error that leaves the block; never with its message. Only
    where there is a provider."""
    # an error's message may be content, and OpenTelemetry would record it
    quiet = {"record_exception": False, "set_status_on_exception": False}
    with _tracer(_provider()).start_as_current_span(name, **quiet, **options) as span:
        try:
            yield span
        except Exception as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(sys.modules["opentelemetry.trace"].StatusCode.ERROR)
            raise


def _header(span: Any) -> str:
    """Returns the `traceparent` of a span; empty for none."""
    context = span.get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _provider() -> Any:
    """Returns the TracerProvider of this program; None where it makes no spans, though OpenTelemetry may be loaded:
    redis-py does that where it is installed."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    otel = _opentelemetry()
    provider = otel.get_tracer_provider()
    return None if isinstance(provider, otel.ProxyTracerProvider) else provider


@functools.lru_cache(4)
def _tracer(provider: Any) -> Any:
    return provider.get_tracer(SYSTEM)


@functools.cache
def _opentelemetry() -> Any:
    """Returns the loaded `opentelemetry.trace`; waits where another thread still imports it."""
    return importlib.import_module("opentelemetry.trace")
