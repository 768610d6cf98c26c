"""The task that every peer runs: a no-op that returns a small JSON.

Runs in a peer's environment: standard library only. Each execution is one line in the ledger, a file opened for
appending, whatever process or thread it happens in: so who ran what, and how often, is known without asking the queue.
It costs every peer the same microsecond or two.
"""

from __future__ import annotations

import os
import time

_ledger = os.open(os.environ["BENCH_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def expected(number: int) -> dict[str, int]:
    """The right result of task `number`."""
    return {"number": number, "square": number * number}


def perform(number: int) -> dict[str, int]:
    """Runs task `number`: a line `number, wall clock in ns` in the ledger, and its result."""
    note(b"%d %d" % (number, time.time_ns()))
    return expected(number)


def note(line: bytes) -> None:
    """Adds a line to the ledger, whole or not at all."""
    os.write(_ledger, line + b"\n")
