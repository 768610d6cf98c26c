"""An agent of the tests of traces that imports nothing of a store: redis-py would import OpenTelemetry."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from typing import Any

from watchbill.worker.execution.child_line import Line


class TracesApart:
    """Calls a tool in a process of its own, and then does what its prompt says: `die`, make `odd` spans, `fork` two
    that make a span, `make 3` spans, or one of `size 900`. Returns what is known there of OpenTelemetry and traces."""

    runs_in = "process"

    def run(self, context: Any) -> dict[str, Any]:
        context.tools["calculator"]("1234 * 5678")
        found: dict[str, Any] = {"pid": os.getpid(), "loaded": any("opentelemetry" in name for name in sys.modules)}
        what, _, number = context.prompt.partition(" ")
        if what == "quiet":
            return found
        from opentelemetry import trace

        tracer = trace.get_tracer("mine")
        if what == "die":
            with tracer.start_as_current_span("ends never"):
                os.kill(os.getpid(), signal.SIGKILL)
        if what == "odd":
            _odd(tracer)
        if what == "fork":
            found["codes"] = _forks(tracer)
        if what == "size":
            tracer.start_span("large", attributes={"large": "x" * int(number)}).end()
        if what == "make":
            for _ in range(int(number)):
                tracer.start_span("mine").end()
        return {**found, "trace": f"{trace.get_current_span().get_span_context().trace_id:032x}"}


def _odd(tracer: Any) -> None:
    """Makes spans that JSON, or OTLP, can't tell; and one that they can."""
    deep: Any = 1
    for _ in range(400):
        deep = {"in": deep}
    tracer.start_span("deep", attributes={"deep": deep}).end()
    tracer.start_span("large", attributes={"large": 10**5000}).end()
    sys.set_int_max_str_digits(0)
    tracer.start_span("large", attributes={"large": 10**5000}).end()
    tracer.start_span("\ud800").end()
    tracer.start_span("time").end("now")
    tracer.start_span("kind", kind="client").end()
    tracer.start_span("fine").end()


def _forks(tracer: Any) -> list[int]:
    """Returns how processes end that this one forks, which make a span and count: one of them is forked while another
    thread tells the worker something."""
    from watchbill import metrics

    line = next(found for found in gc.get_objects() if isinstance(found, Line))
    codes = []
    for lock in (threading.Lock(), line._sending):
        holds, ends = threading.Event(), threading.Event()

        def hold(lock: Any = lock, holds: threading.Event = holds, ends: threading.Event = ends) -> None:
            with lock:
                holds.set()
                ends.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        holds.wait()
        if (pid := os.fork()) == 0:
            code = 1
            try:
                signal.alarm(10)  # it would wait for ever for a thread that it doesn't have
                tracer.start_span("forked").end()
                metrics.MODEL_REQUESTS.labels("a", "b").inc()
                code = 0
            finally:
                os._exit(code)
        ends.set()
        thread.join()
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    return codes
