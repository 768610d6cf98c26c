"""Makes spans with OpenTelemetry's SDK, and sends them to a collector by OTLP over HTTP.

The SDK reads the standard variables (OTEL_...) itself. Names follow the semantic conventions for messaging, version
1.44.0, and those for generative AI, version 1.37.0, or for runs 1.41.0. A span has content only if that is asked for.

The ids of a trace without a submitter's span, and of a run's span, are made of the ids of the work: any worker knows
them, so that nothing of it needs to be stored.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import cached_property
from hashlib import blake2b
from typing import Any, Final, TypeVar, cast
from zlib import crc32

from watchbill import __version__, logs, tracing
from watchbill.errors import needed
from watchbill.tracing.current import Current, Record
from watchbill.tracing.forwarding import CARRIER, read
from watchbill.tracing.outspoken import Outspoken

with needed("Tracing", "otel"):
    from opentelemetry import context as contexts
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import INVALID_SPAN, Link, NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags

T = TypeVar("T")

_NOWHERE: Final = Context()
_CURRENT: Final = next(iter(trace.set_span_in_context(INVALID_SPAN, _NOWHERE)))
"""The key of the current span in a context."""
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_FAILED: Final = frozenset({"failed", "dead", "retry", "partial"})
"""Outcomes of attempts and runs that are errors."""
_SPREADING: Final = 0x9E3779B1  # a factor by which the checksums of similar ids are spread
_ERROR: Final = re.compile(r"([A-Za-z_]\w*)(?:[:,]|$)")
_chosen: Final[ContextVar[tuple[int, int | None] | None]] = ContextVar("watchbill_span_ids", default=None)


class _Ids(RandomIdGenerator):
    """Random ids, but for a span whose ids are known before it begins."""

    def generate_trace_id(self) -> int:
        chosen = _chosen.get()
        return chosen[0] if chosen else super().generate_trace_id()

    def generate_span_id(self) -> int:
        chosen = _chosen.get()
        return chosen[1] if chosen and chosen[1] else super().generate_span_id()


class _Resource(Resource):
    """The attributes of this process. The SDK takes their hash for each span, and would write them as JSON for it."""

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return super().__hash__()


class Exporting:
    """The spans of this process. One of them makes the process's TracerProvider, unless another was there before."""

    def __init__(
        self, service: str, namespace: str = "", *, content: bool = False, processor: SpanProcessor | None = None
    ) -> None:
        """`processor`: takes the spans in place of a collector."""
        self.content = content
        sampler = os.environ.get("OTEL_TRACES_SAMPLER") or "parentbased_always_on"
        self._follows_parent = sampler.startswith("parentbased_")
        share = {"always_on": 1.0, "always_off": 0.0}.get(sampler.removeprefix("parentbased_"))
        share = float(os.environ.get("OTEL_TRACES_SAMPLER_ARG") or 1.0) if share is None else share
        self._bound = TraceIdRatioBased.get_bound_for_rate(share)
        self._most = self._bound >> 32
        """The greatest number that `_drawn` returns for a trace that may be recorded."""
        self._begun: dict[str, int] = {}  # the checksum of `crew/`, by crew
        resource = _Resource(Resource.create(_unless_named(service, namespace)).attributes)
        if not logging.getLogger("watchbill").isEnabledFor(logging.DEBUG):  # several lines for each lost batch
            logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._ids = _Ids()
        self.provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._batches = processor or BatchSpanProcessor(Outspoken(OTLPSpanExporter()))
        self.provider.add_span_processor(self._batches)
        self._tracer = self.provider.get_tracer(tracing.SYSTEM, __version__)
        self._scope = InstrumentationScope(tracing.SYSTEM, __version__)
        trace.set_tracer_provider(self.provider)

    def process(
        self, crew: str, task: tracing.Message, traceparent: object, now: Callable[[], datetime]
    ) -> tracing.Span:
        """Begins the span of an attempt, and makes that of its wait."""
        run_id = task.run_id
        created = _remote(traceparent)
        trace_id = created.trace_id if created else _trace_of(crew, run_id or task.id)
        if not self._samples(created, trace_id):
            return _UNSAMPLED
        waited = 0.0 if task.taken_over else now().timestamp() - task.queued_ms / 1000
        above = _of_run(trace_id, crew, run_id) if run_id is not None else created
        flags = TraceFlags(above.trace_flags | TraceFlags.SAMPLED) if above else _SAMPLED
        attributes = _about(task)
        begins = time.time_ns()  # noqa: TID251 - the clock of all spans

        def record(name: str, kind: SpanKind, told: dict[str, Any], start: int, created: SpanContext | None) -> Record:
            context = SpanContext(trace_id, self._ids.generate_span_id(), is_remote=False, trace_flags=flags)
            links = [Link(created)] if created else ()
            return Record(f"{name} {crew}", context, above, kind, told, links, start)

        if waited > 0:
            self._send(record("wait", SpanKind.INTERNAL, attributes, begins - int(waited * 1e9), None), begins)
        told = tracing.operation("process", "process", crew) | attributes
        current = Current(record("process", SpanKind.CONSUMER, told, begins, created), self._start, self._send)
        return Span(current, content=self.content)

    def leaves_out(self, crew: str, work: str) -> bool:
        """Returns whether the trace of this task or run is surely not recorded, if it has no submitter's. What this
        takes is all that tracing costs most tasks, so it does by itself what `_drawn` does."""
        begun = self._begun.get(crew) or self._begun.setdefault(crew, crc32(f"{crew}/".encode()))
        return crc32(work.encode(), begun) * _SPREADING & 0xFFFFFFFF > self._most

    def rest(self) -> None:
        """Has what the current asyncio task does, and what that starts, belong to no recorded trace."""
        _UNSAMPLED.enter()

    def _start(self, record: Record) -> trace.Span:
        """Begins a span of the SDK."""
        with _choosing(record.context.trace_id, record.context.span_id):
            return self._tracer.start_span(
                record.name, _below(record.parent), record.kind, record.attributes, record.links, record.start
            )

    def _send(self, record: Record, end: int) -> None:
        """Sends a span that ends then: to have the SDK begin and end it would take four times as long."""
        self._batches.on_end(
            ReadableSpan(
                record.name,
                record.context,
                record.parent,
                self.provider.resource,
                record.attributes,
                (),
                record.links,
                record.kind,
                start_time=record.start,
                end_time=end,
                instrumentation_scope=self._scope,
            )
        )

    def run_ended(self, crew: str, run_id: str, outcome: str, seconds: float, traceparent: object) -> None:
        """Makes the span of a run that ends now. Its steps' spans are below it."""
        above = _below(_remote(traceparent))
        now = time.time_ns()  # noqa: TID251 - the clock of all spans
        name = crew.rpartition("/")[2]
        attributes = {
            "gen_ai.operation.name": "invoke_workflow",
            "gen_ai.workflow.name": name,
            "messaging.destination.name": crew,
            "watchbill.run": run_id,
            "watchbill.outcome": outcome,
        }
        with _choosing(_trace_of(crew, run_id), _id_of_run(crew, run_id)):
            span = self._tracer.start_span(
                f"invoke_workflow {name}", above, attributes=attributes, start_time=now - int(seconds * 1e9)
            )
        if outcome in _FAILED:
            span.set_attribute("error.type", outcome)
            span.set_status(StatusCode.ERROR)
        span.end(now)

    def heartbeat(self, crew: str, work: str) -> str:
        """Returns the `traceparent` of the span in which a heartbeat makes this task or run."""
        trace_id = _trace_of(crew, work)
        return f"00-{trace_id:032x}-{_hashed(f'heartbeat/{crew}/{work}', 8):016x}-{self._samples(None, trace_id):02x}"

    def fired(self, traceparent: str, crew: str, name: str, attributes: Mapping[str, Any], seconds: float) -> None:
        """Makes the span of this `traceparent`, which ends now and took so many seconds, if it is sampled."""
        found = _remote(traceparent)
        if found is None or not found.trace_flags.sampled:
            return
        now = time.time_ns()  # noqa: TID251 - the clock of all spans
        with _choosing(found.trace_id, found.span_id):
            span = self._tracer.start_span(
                f"heartbeat {name}", _NOWHERE, SpanKind.PRODUCER, dict(attributes), (), now - int(seconds * 1e9)
            )
        span.end(now)

    def deliver(
        self, crew: str, work: str, name: str, traceparent: object, attributes: Mapping[str, Any], *, is_run: bool
    ) -> tracing.Span:
        """Begins the span of an attempt to deliver the result of this task or run."""
        created = _remote(traceparent)
        trace_id = created.trace_id if created else _trace_of(crew, work)
        if not self._samples(created, trace_id):
            return _UNSAMPLED
        above = _below(_of_run(trace_id, crew, work) if is_run else created)
        with _choosing(trace_id):
            span = self._tracer.start_span(f"deliver {name}", above, SpanKind.CLIENT, dict(attributes))
        return Span(span, content=self.content)

    def call_tool(self, name: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Calls a tool within a span of its own; of an async one, the span ends with what it returns."""
        if inspect.iscoroutinefunction(function):
            return cast(T, _awaited(name, function, args, kwargs))
        with _tool(name):
            return function(*args, **kwargs)

    def carrier(self) -> dict[str, str]:
        """Returns the `traceparent` of the current span, and its `tracestate` if it has one."""
        found: dict[str, str] = {}
        CARRIER.inject(found)
        return found

    def forwarded(self, span: str) -> None:
        """Sends a span that an agent has made in a process of its own."""
        self._batches.on_end(read(span, self.provider.resource))

    def close(self, seconds: float) -> None:
        """Sends the spans that are left, for so long at most."""
        ending = threading.Thread(target=self.provider.shutdown, name="watchbill-traces", daemon=True)
        ending.start()
        for _ in range(10):  # while the machine gives this process no time, nothing is sent
            ending.join(seconds / 10)

    def _samples(self, created: SpanContext | None, trace_id: int) -> bool:
        """Decides as the SDK's sampler does, in a tenth of the time: most tasks have nothing else of tracing."""
        if created is not None and self._follows_parent:
            return created.trace_flags.sampled
        return trace_id & TraceIdRatioBased.TRACE_ID_LIMIT < self._bound


class Unsampled(NonRecordingSpan):
    """The span of all attempts whose traces are not recorded. What is below it knows that by it."""

    trace_id: str | None = None

    def __init__(self) -> None:
        self._here = Context({_CURRENT: self})

    def get_span_context(self) -> SpanContext:
        """Returns the ids of the attempt that asks, which are made only then."""
        if found := tracing.parsed(tracing.carried()):
            return SpanContext(int(found[0], 16), int(found[1], 16), is_remote=False)
        about = logs.bound()
        trace_id = _trace_of(about.get("crew", ""), about.get("run") or about.get("task", ""))
        return SpanContext(trace_id, trace_id & TraceIdRatioBased.TRACE_ID_LIMIT or 1, is_remote=False)

    def enter(self) -> None:
        """Makes it the current span of this asyncio task, and of what that starts."""
        contexts.attach(self._here)

    def end(self, *_: Any) -> None:
        """Does nothing."""


_UNSAMPLED: Final = Unsampled()


class Span:
    """The span of one attempt, which is recorded."""

    __slots__ = ("_content", "_span", "trace_id")

    def __init__(self, span: trace.Span, *, content: bool) -> None:
        self._span = span
        self._content = content
        self.trace_id: str | None = f"{span.get_span_context().trace_id:032x}"

    def enter(self) -> None:
        """Makes it the current span of this asyncio task, and of what that starts."""
        contexts.attach(trace.set_span_in_context(self._span))

    def end(self, outcome: str, error: str, status: int | None = None) -> None:
        """Ends it. May be called again."""
        if not self._span.is_recording():
            return
        if outcome not in _FAILED and isinstance(self._span, Current) and self._span.ended(outcome):
            return
        if status is not None:
            self._span.set_attribute("http.response.status_code", status)
        self._span.set_attribute("watchbill.outcome", outcome)
        if outcome in _FAILED:
            found = _ERROR.match(error)
            kind = "timeout" if error.startswith("timed out") else found[1] if found else "_OTHER"
            self._span.set_attribute("error.type", kind)
            self._span.set_status(StatusCode.ERROR, error if self._content else None)
        self._span.end()


def _unless_named(service: str, namespace: str) -> dict[str, str]:
    """Returns what this process calls itself, but for what the environment says of it."""
    given = {pair.partition("=")[0].strip() for pair in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")}
    if os.environ.get("OTEL_SERVICE_NAME"):
        given.add("service.name")
    found = {"service.version": __version__, "service.instance.id": f"{socket.gethostname()}-{os.getpid()}"}
    if "service.name" not in given:
        found |= {"service.name": service} | ({"service.namespace": namespace} if namespace else {})
    return {name: value for name, value in found.items() if name not in given}


def _about(task: tracing.Message) -> dict[str, Any]:
    """Returns the attributes of an attempt, and of its wait."""
    found: dict[str, Any] = {
        "messaging.message.id": task.id,
        "gen_ai.agent.name": task.agent,
        "watchbill.attempt": task.attempt,
    }
    if task.run_id is not None:
        found |= {
            "messaging.message.conversation_id": task.run_id,
            "watchbill.run": task.run_id,
            "watchbill.step": task.step,
        }
    if task.taken_over:
        found["watchbill.taken_over_from"] = task.previous_holder
    return found


def _remote(traceparent: object) -> SpanContext | None:
    """Returns the span of a `traceparent`; None if it is none."""
    found = tracing.parsed(traceparent)
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found)
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))


def _hashed(text: str, size: int) -> int:
    """Returns an id of so many bytes, which is not 0."""
    return int.from_bytes(blake2b(text.encode(), digest_size=size).digest(), "big") or 1


def _drawn(work: str) -> int:
    """Returns a number below 2**32 that decides whether the trace of `crew/work` is recorded: each worker draws the
    same, in a third of the time that its id takes."""
    return crc32(work.encode()) * _SPREADING & 0xFFFFFFFF


def _trace_of(crew: str, work: str) -> int:
    """Returns the id of the trace of a task or run that has no submitter's. A sampler looks at its lower 64 bits, whose
    higher half is drawn."""
    known = f"{crew}/{work}"
    return _hashed(known, 16) & ~(0xFFFFFFFF << 32) | _drawn(known) << 32


def _of_run(trace_id: int, crew: str, run_id: str) -> SpanContext:
    """Returns the span of a run, which is made when that ends."""
    return SpanContext(trace_id, _id_of_run(crew, run_id), is_remote=True, trace_flags=_SAMPLED)


def _below(parent: SpanContext | None) -> Context:
    """Returns the context of spans that have this parent."""
    return trace.set_span_in_context(NonRecordingSpan(parent), _NOWHERE) if parent else _NOWHERE


def _id_of_run(crew: str, run_id: str) -> int:
    return _hashed(f"run/{crew}/{run_id}", 8)


@contextmanager
def _choosing(trace_id: int, span_id: int | None = None) -> Iterator[None]:
    """Gives the ids to a span that begins within, unless a parent gives it the trace."""
    token = _chosen.set((trace_id, span_id))
    try:
        yield
    finally:
        _chosen.reset(token)


@contextmanager
def _tool(name: str) -> Iterator[None]:
    attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
    with tracing.erring(f"execute_tool {name}", attributes=attributes):
        yield


async def _awaited(name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    with _tool(name):
        return await function(*args, **kwargs)
