"""What an exception says about trying again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from email.message import Message
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError

import aiohttp
import broken_hands
import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from watchbill.errors import AgentNotLoadable, NotWorthRetrying, RetryAfter, RetryLater, ToolError
from watchbill.plan.retry import Failure
from watchbill.worker.execution.failures import failed, judge

pytestmark = pytest.mark.pure

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


REQUEST = aiohttp.RequestInfo(URL("http://localhost"), "GET", CIMultiDictProxy(CIMultiDict()), URL("http://localhost"))


def with_(error: Exception, **attributes: Any) -> Exception:
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


class Spiteful(Exception):
    @property
    def response(self) -> Any:
        raise RuntimeError("there is none")

    @property
    def retryable(self) -> Any:
        raise RuntimeError("who knows")


@pytest.mark.parametrize(
    "error",
    [
        OSError("the network is away"),
        TimeoutError(),
        ValueError("the model wrote no JSON"),
        KeyError("it left something out"),
        Spiteful(),
        with_(TypeError("but it says so"), retryable=True),
        ToolError("tool 'x' failed"),
        caused(RetryLater("so says the agent"), with_(RuntimeError(), status_code=404)),
        ExceptionGroup("tasks", [OSError(), ExceptionGroup("more", [TimeoutError()])]),
        *[with_(RuntimeError(), status_code=code) for code in (408, 425, 429, 500, 502, 503, 529)],
        with_(RuntimeError(), code="invalid", status=True),
        with_(RuntimeError("of SMTP"), code=421),
        with_(RuntimeError("of SMTP"), code=450, headers=None),
        with_(RuntimeError("of MongoDB"), code=462, status=404),
        aiohttp.ClientResponseError(REQUEST, (), status=429, headers=CIMultiDict()),
    ],
)
def test_worth_another_try(error: Exception) -> None:
    assert judge(error, NOW) == Failure(worth_retrying=True)


@pytest.mark.parametrize(
    "error",
    [
        NotWorthRetrying("it would fail again"),
        AgentNotLoadable("no such class"),
        TypeError(),
        AttributeError(),
        ModuleNotFoundError(),
        with_(OSError(), retryable=False),
        *[with_(RuntimeError(), status_code=code) for code in (400, 401, 403, 404, 422)],
        with_(RuntimeError(), response=SimpleNamespace(status_code=401)),
        ExceptionGroup("tasks", [OSError(), TypeError()]),
        caused(ToolError("tool 'x' failed"), TypeError()),
        with_(RuntimeError(), response=SimpleNamespace(status=403)),
        aiohttp.ClientResponseError(REQUEST, (), status=404, headers=CIMultiDict()),
        HTTPError("http://localhost", 404, "Not Found", Message(), None),
        caused(RuntimeError("a library's"), with_(RuntimeError("the HTTP client's"), status=403, headers={})),
    ],
)
def test_not_worth_another_try(error: Exception) -> None:
    assert not judge(error, NOW).worth_retrying


@pytest.mark.parametrize(
    ("error", "given_up"),
    [
        (NotWorthRetrying("it would fail again"), True),
        (with_(OSError(), retryable=False), True),
        (with_(NotWorthRetrying("but not yet"), retryable=True), False),
        (TypeError(), False),
        (with_(RuntimeError(), status_code=401), False),
        (ValueError(), False),
    ],
)
def test_only_an_agent_gives_its_work_up_for_good(error: Exception, given_up: bool) -> None:
    assert judge(error, NOW).given_up is given_up


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (RetryAfter("busy", 12.5), 12.5),
        (with_(OSError(), retry_after=3), 3.0),
        (with_(OSError(), retry_after="7"), 7.0),
        (with_(OSError(), retry_after=-1), 0.0),
        (with_(OSError(), retry_after=float("nan")), None),
        (with_(OSError(), retry_after="soon"), None),
        (with_(OSError(), retry_after=10**400), None),
        (with_(OSError(), retry_after=f"Fri, 02 Jan {10**30} 03:04:35 GMT"), None),
        (with_(RuntimeError(), response=SimpleNamespace(status_code=429, headers={"retry-after": "20"})), 20.0),
        (with_(RuntimeError(), status=429, headers={"Retry-After": "Fri, 02 Jan 2026 03:04:35 GMT"}), 30.0),
        (
            with_(
                RuntimeError(),
                headers={"Retry-After": "Fri, 02 Jan 2026 05:04:35 GMT", "Date": "Fri, 02 Jan 2026 05:04:05 GMT"},
            ),
            30.0,
        ),
        (with_(RuntimeError(), headers={"Retry-After": "Fri, 02 Jan 2026 03:04:35 GMT", "Date": "today"}), 30.0),
        (with_(RuntimeError(), response=SimpleNamespace(headers=object())), None),
        (caused(RuntimeError(), with_(OSError(), retry_after=5)), 5.0),
        (with_(OSError(), headers={"retry-after-ms": "2500", "Retry-After": "3"}), 2.5),
        (with_(OSError(), headers={"retry-after-ms": "soon", "Retry-After": "3"}), 3.0),
        (ExceptionGroup("tasks", [RetryAfter("busy", 3), OSError(), RetryAfter("busier", 4)]), 4.0),
        (caused(ToolError("tool 'x' failed"), RetryAfter("busy", 6)), 6.0),
    ],
)
def test_what_it_asks_for(error: Exception, seconds: float | None) -> None:
    assert judge(error, NOW).retry_after_seconds == seconds


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (lambda: broken_hands.Mute("x"), "Mute, which can't say what it is: RuntimeError"),
        (lambda: broken_hands.Unattributable("the API refused"), "Unattributable: the API refused"),
        (lambda: broken_hands.Untouchable("of glass"), "Untouchable, which can't say what it is: SystemExit"),
        (lambda: ValueError(broken_hands.Mute("x")), "ValueError, which can't say what it is: RuntimeError"),
        (lambda: caused(ValueError("after it"), broken_hands.Untouchable("of glass")), "ValueError: after it"),
        (lambda: caused(ValueError("after it"), broken_hands.Unattributable("x")), "ValueError: after it"),
        (lambda: broken_hands.Odd("odd"), "RuntimeError: Odd: odd"),
        (lambda: SystemExit(3), "RuntimeError: SystemExit: 3"),
    ],
)
def test_whatever_an_agent_raises_can_be_told(error: Callable[[], BaseException], text: str) -> None:
    def raises() -> None:
        raise error()

    try:
        raises()
    except BaseException as caught:
        told = failed(caught, NOW)
    assert told.error.startswith(text)
    assert told.judged.worth_retrying
    assert "in raises" in told.traceback or "Untouchable" in text
    assert text in told.traceback or "can't say" in text


def test_a_circle_of_causes_ends() -> None:
    one, two = RuntimeError("one"), RuntimeError("two")
    one.__cause__, two.__cause__ = two, one
    assert judge(one, NOW) == Failure()
