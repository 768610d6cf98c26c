"""An agent of the tests of traces that imports nothing of a store: redis-py would import OpenTelemetry."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


class TracesApart:
    """Calls a tool in a process of its own, and then does what its prompt says: `die`, `make 3` spans, or one of `size
    900`. Returns what is known there of OpenTelemetry and of the trace."""

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
        if what == "size":
            tracer.start_span("large", attributes={"large": "x" * int(number)}).end()
        if what == "make":
            for _ in range(int(number)):
                tracer.start_span("mine").end()
        return {**found, "trace": f"{trace.get_current_span().get_span_context().trace_id:032x}"}
