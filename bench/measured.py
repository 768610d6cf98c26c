"""`python -m bench.measured`: a pod's worker. With BENCH_UNCOUNTED in its environment it counts no tasks for metrics.

SIGUSR1 has it send its spans, if it makes any, and then add a line to the file BENCH_SENT.
"""

from __future__ import annotations

import os
import runpy
import signal
from typing import Final

from watchbill import tracing
from watchbill.worker.counts import Counts

COUNTING: Final = ("claimed", "waited", "begin_delay", "ran", "ended", "run_ended", "show")
"""The methods of Counts that the worker calls for its tasks."""


def _send(*_: object) -> None:
    if tracing.active is not None:
        tracing.active.provider.force_flush()
    with open(os.environ["BENCH_SENT"], "a") as file:
        file.write("\n")


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _send)
    if os.environ.get("BENCH_UNCOUNTED"):
        for name in COUNTING:
            setattr(Counts, name, lambda *_, **__: None)
    runpy.run_module("watchbill.worker", run_name="__main__")
