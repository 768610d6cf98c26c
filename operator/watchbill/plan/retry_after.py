"""The time that an exception asks to wait before another attempt: by its attribute, or by HTTP headers. Pure.

Exceptions are strangers': their attributes may be anything, and may raise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

_CAUSES: Final = 5


def asked(error: BaseException, now: datetime) -> float | None:
    """Seconds that this exception asks for, without those that caused it. `now` is aware."""
    own = _seconds(attribute(error, "retry_after"), now)
    if own is not None:
        return own
    for holder in (error, attribute(error, "response")):
        found = in_headers(attribute(holder, "headers"), now)
        if found is not None:
            return found
    return None


def in_headers(headers: Any, now: datetime) -> float | None:
    """Seconds that an HTTP answer asks for: by `retry-after-ms`, as OpenAI says it, or by Retry-After."""
    get = attribute(headers, "get")
    if not callable(get):
        return None
    with suppress(Exception):  # whatever it is, it has no headers as we know them
        exactly = _seconds(get("retry-after-ms") or get("Retry-After-Ms"), None)
        if exactly is not None:
            return exactly / 1000
        sent = _time(get("date") or get("Date"))  # who names a time reckons by its own clock
        return _seconds(get("retry-after") or get("Retry-After"), sent or now)
    return None


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it: libraries wrap what their HTTP clients raise."""
    current: BaseException | None = error
    for _ in range(_CAUSES):
        if current is None:
            return
        yield current
        current = current.__cause__


def attribute(holder: Any, name: str) -> Any:
    """None where there is none: attributes of others' exceptions may be properties that raise."""
    try:
        return getattr(holder, name, None)
    except BaseException:
        return None


def _seconds(value: Any, now: datetime | None) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        seconds = float(value)
    except Exception:  # whatever it is, it is no number
        at = _time(value)
        if at is None or now is None:
            return None
        seconds = (at - now).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _time(value: Any) -> datetime | None:
    """Parses a time as HTTP writes it."""
    try:
        at = parsedate_to_datetime(str(value))
    except Exception:  # it is an agent's, and may be anything
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
