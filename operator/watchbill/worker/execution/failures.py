"""Reads an agent's exception: what went wrong, and, from its type, HTTP status and Retry-After, whether to try again.

Agents need nothing of Watchbill for that: an attribute `retryable` or `retry_after` does, too. Also used in agents' own
processes: imports no store.
"""

from __future__ import annotations

import traceback
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from watchbill.errors import (
    BudgetExhausted,
    GiveUp,
    NotWorthRetrying,
    Postponed,
    RetryLater,
    ToolError,
    UserActionRequired,
)
from watchbill.plan import retry_after
from watchbill.plan.retry import Failure
from watchbill.plan.retry_after import attribute
from watchbill.redaction import redact
from watchbill.worker.execution import places

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
_HTTP: Final = ("status_code", "status", "code")
_TEXT_MAX: Final = 1_000_000
"""Texts are cut to this length before secrets are taken out, and are kept much shorter: no secret is cut in two."""
ERROR_MAX: Final = 16_000


_WORTH_IT: Final = Failure()


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt that failed, told in values, so that it can come from another process. What `failed` makes is free of
    secrets, and short."""

    error: str
    """The exception's type and message."""
    judged: Failure = _WORTH_IT
    traceback: str = ""


class AgentFailed(Exception):
    """An agent failed in its process, which has already described the failure."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.error)
        self.failed = failed


class Unstorable(Exception):
    """An agent's output is no JSON, or too much of it. The message says whose, and why."""


def failed(error: BaseException, now: datetime) -> Failed:
    """Describes and judges what an agent raised. `now` is aware.

    Never raises; but it runs the exception's own code, and looks for secrets in a long text, which may take its time:
    call it where the agent ran. There the environment may also know more secrets than here.
    """
    kind = type(error)  # isinstance would ask the object, which may be any
    if kind is AgentFailed:
        return error.failed  # type: ignore[attr-defined, no-any-return]
    if kind is Unstorable:
        return Failed(beginning(describe(error).removeprefix("Unstorable: ")), Failure(worth_retrying=False))
    if not issubclass(kind, Exception):  # SystemExit, say: it ends the task, not the process
        another = RuntimeError(describe(error))
        another.__cause__ = error
        error = another
    try:
        judged = judge(error, now)
    except BaseException:  # nothing is known
        judged = _WORTH_IT
    return Failed(places.marked(describe(error), error)[:ERROR_MAX], judged, ending(_traceback(error).rstrip()))


def beginning(text: str) -> str:
    """Returns as much of a text's beginning as is kept, without secrets."""
    return redact(text)[:ERROR_MAX]


def ending(text: str) -> str:
    """Returns as much of a text's end as is kept, without secrets. A traceback's end has the frames that matter."""
    text = redact(text)
    return text if len(text) <= ERROR_MAX else "…" + text[-ERROR_MAX + 1 :]


def _traceback(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))[-_TEXT_MAX:]
    except BaseException:  # it, or one that came before it, can't be printed; where it came from, can
        with suppress(BaseException):
            return "".join([*traceback.format_tb(error.__traceback__), describe(error)])[-_TEXT_MAX:]
        return describe(error)


def describe(error: BaseException) -> str:
    """Returns `TypeError: its message`. Never raises."""
    name = type(error).__name__
    try:
        text = str(error)[:_TEXT_MAX]
        return f"{name}: {text}" if text else name
    except BaseException as another:
        return f"{name}, which can't say what it is: {type(another).__name__}"


def judge(error: BaseException, now: datetime) -> Failure:
    """Judges whether another attempt is worth its while, and when. `now` is aware."""
    error = next((one for one in retry_after.chain(error) if not isinstance(one, ToolError)), error)
    if isinstance(error, Postponed):
        return Failure(later_ms=error.later_ms)
    told = _declared(error)
    if isinstance(error, BaseExceptionGroup) and told is None:
        return _together([judge(one, now) for one in error.exceptions])
    causes = list(retry_after.chain(error))
    after = next((seconds for one in causes if (seconds := retry_after.asked(one, now)) is not None), None)
    given_up = told is False or (told is None and isinstance(error, NotWorthRetrying))
    return Failure(_is_worth_it(causes), given_up, after, is_of_agent=isinstance(error, BudgetExhausted))


def _together(judged: list[Failure]) -> Failure:
    """Joins failures that came at once, as from a TaskGroup: each of them would have to pass."""
    waits = [one.retry_after_seconds for one in judged if one.retry_after_seconds is not None]
    return Failure(
        worth_retrying=all(one.worth_retrying for one in judged),
        given_up=any(one.given_up for one in judged),
        retry_after_seconds=max(waits, default=None),
    )


def _declared(error: BaseException) -> bool | None:
    """Returns what the exception itself says of another attempt; None if nothing."""
    told = attribute(error, "retryable")
    return told if isinstance(told, bool) else None


def _is_worth_it(causes: list[BaseException]) -> bool:
    first = causes[0]
    if (told := _declared(first)) is not None:
        return told
    if isinstance(first, RetryLater):
        return True
    if isinstance(first, _HOPELESS):
        return False
    status = next((code for one in causes if (code := _status(one)) is not None), None)
    return status is None or not 400 <= status < 500 or status in _WORTH_ANOTHER_TRY


def _status(error: BaseException) -> int | None:
    """Returns the HTTP status. Other protocols use `code` and `status`, too (SMTP, MongoDB), so these count only beside
    headers, and in a response."""
    beside_headers = callable(attribute(attribute(error, "headers"), "get"))
    for holder, names in ((error, _HTTP if beside_headers else _HTTP[:1]), (attribute(error, "response"), _HTTP)):
        for name in names:
            value = attribute(holder, name)
            if isinstance(value, int) and not isinstance(value, bool) and 100 <= value < 600:
                return value
    return None
