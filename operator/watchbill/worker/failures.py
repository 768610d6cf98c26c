"""What an agent's exception says: what went wrong, and, by type, HTTP status and Retry-After, about trying again.

Agents need nothing of Watchbill for that: an attribute `retryable` or `retry_after` does, too. Also used in agents' own
processes: imports no store.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from watchbill.errors import GiveUp, NotWorthRetrying, RetryAfter, UserActionRequired
from watchbill.plan.retry import Failure

_HOPELESS: Final = (
    UserActionRequired,
    GiveUp,
    # faults of the code, which is the same the next time
    AttributeError,
    ImportError,
    NameError,
    NotImplementedError,
    SyntaxError,
    TypeError,
)
_WORTH_ANOTHER_TRY: Final = frozenset({408, 409, 423, 425, 429})
_CAUSES: Final = 5
_TEXT_MAX: Final = 1_000_000
"""Far more than is kept of it: secrets are taken out before it is cut to size, and none may be cut in two."""


_WORTH_IT: Final = Failure()


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt that failed, told in values, so that it can come from another process."""

    error: str
    """The exception's type and message."""
    judged: Failure = _WORTH_IT
    traceback: str = ""


class AgentFailed(Exception):
    """An agent failed elsewhere, and all that is to be told of it has been told there."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.error)
        self.failed = failed


def failed(error: BaseException, now: datetime) -> Failed:
    """All that is to be told of an agent's exception. `now` is aware."""
    if isinstance(error, AgentFailed):
        return error.failed
    text = "".join(traceback.format_exception(error))
    return Failed(describe(error), judge(error, now), text[-_TEXT_MAX:])


def describe(error: BaseException) -> str:
    """`TypeError: its message`."""
    name = type(error).__name__
    try:
        text = str(error)
    except Exception as another:
        return f"{name}, which can't say what it is: {type(another).__name__}"
    return f"{name}: {text[:_TEXT_MAX]}" if text else name


def judge(error: BaseException, now: datetime) -> Failure:
    """What matters about it for trying again. `now` is aware."""
    chain = list(_chain(error))
    after = next((seconds for one in chain if (seconds := _retry_after(one, now)) is not None), None)
    told = _told(error)
    given_up = told is False or (told is None and isinstance(error, NotWorthRetrying))
    return Failure(worth_retrying=_is_worth_it(chain), given_up=given_up, retry_after_seconds=after)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it: libraries wrap what their HTTP clients raise."""
    current: BaseException | None = error
    for _ in range(_CAUSES):
        if current is None:
            return
        yield current
        current = current.__cause__


def _told(error: BaseException) -> bool | None:
    """What it says itself of another attempt."""
    told = _attribute(error, "retryable")
    return told if isinstance(told, bool) else None


def _is_worth_it(chain: list[BaseException]) -> bool:
    first = chain[0]
    if (told := _told(first)) is not None:
        return told
    if isinstance(first, RetryAfter):
        return True
    if isinstance(first, _HOPELESS):
        return False
    status = next((code for one in chain if (code := _status(one)) is not None), None)
    return status is None or not 400 <= status < 500 or status in _WORTH_ANOTHER_TRY


def _status(error: BaseException) -> int | None:
    for holder in (error, _attribute(error, "response")):
        for name in ("status_code", "status", "code"):
            value = _attribute(holder, name)
            if isinstance(value, int) and not isinstance(value, bool) and 100 <= value < 600:
                return value
    return None


def _retry_after(error: BaseException, now: datetime) -> float | None:
    own = _seconds(_attribute(error, "retry_after"), now)
    if own is not None:
        return own
    for holder in (error, _attribute(error, "response")):
        headers = _attribute(holder, "headers")
        get = _attribute(headers, "get")
        if callable(get):
            with suppress(Exception):  # whatever it is, it has no headers as we know them
                sent = _time(get("date") or get("Date"))  # who names a time reckons by its own clock
                found = _seconds(get("retry-after") or get("Retry-After"), sent or now)
                if found is not None:
                    return found
    return None


def _seconds(value: Any, now: datetime) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        seconds = float(value)
    except Exception:  # whatever it is, it is no number
        at = _time(value)
        if at is None:
            return None
        seconds = (at - now).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _time(value: Any) -> datetime | None:
    """As HTTP writes it."""
    try:
        at = parsedate_to_datetime(str(value))
    except Exception:  # it is an agent's, and may be anything
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _attribute(holder: Any, name: str) -> Any:
    """Attributes of others' exceptions may be properties that raise."""
    try:
        return getattr(holder, name, None)
    except Exception:
        return None
