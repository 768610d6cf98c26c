"""The measures of a limiter, for ours and for the peer's alike. Knows nothing of either."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Ask = Callable[[int, float, str], Callable[[], bool]]
"""(rate, period in seconds, key) → a call that says whether it is allowed."""
PLENTY = 1_000_000
HOUR = 3600


def measure(ask: Ask, client: Any, seconds: float, rate: int, period: float) -> dict[str, Any]:
    """Decisions a second, allowed and denied; and when calls were allowed to one who asks all the time."""
    denied = ask(1, HOUR, "denied")
    denied()
    return {
        "allowed/s": _speed(ask(PLENTY, HOUR, "allowed"), seconds),
        "denied/s": _speed(denied, seconds),
        "allowed": _asking_all_the_time(ask(rate, period, "asked"), client, 3.2 * period),
    }


def most_in_a_window(allowed: list[list[int]], period: float) -> int:
    """The most calls that were surely allowed within less than one period."""
    return max(
        sum(1 for before, after in allowed if start <= before and after < start + period * 1e6) for start, _ in allowed
    )


def _speed(call: Callable[[], bool], seconds: float) -> float:
    began, calls = time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds:
        for _ in range(50):
            call()
        calls += 50
    return calls / passed


def _asking_all_the_time(call: Callable[[], bool], client: Any, seconds: float) -> list[list[int]]:
    """Between which times of the server (microseconds) each call was allowed."""
    found: list[list[int]] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        before = _us(client)
        if call():
            found.append([before, _us(client)])
    return found


def _us(client: Any) -> int:
    seconds, micros = client.time()
    return int(seconds) * 1_000_000 + int(micros)
