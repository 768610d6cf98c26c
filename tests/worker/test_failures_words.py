"""What is kept of an exception: its words, its end, its judgement."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from watchbill.errors import NotWorthRetrying, RetryAfter
from watchbill.plan.retry import Failure
from watchbill.worker.execution import failures
from watchbill.worker.execution.failures import ERROR_MAX, AgentFailed, Failed, Unstorable

pytestmark = pytest.mark.pure

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SOON = "Fri, 02 Jan 2026 00:00:09 GMT"


def raised(error: BaseException) -> Failed:
    try:
        raise error
    except BaseException as caught:
        return failures.failed(caught, NOW)


def test_a_failure_that_comes_from_another_process_is_taken_as_it_is() -> None:
    failed = Failed("e", Failure(given_up=True), "t")
    error = AgentFailed(failed)
    assert str(error) == "e"
    assert failures.failed(error, NOW) is failed


def test_an_output_that_is_none_is_not_worth_another_try_and_has_no_traceback() -> None:
    assert raised(Unstorable("why")) == Failed("why", Failure(worth_retrying=False))


def test_of_long_texts_the_beginning_of_the_error_and_the_end_of_the_traceback_are_kept() -> None:
    told = raised(ValueError("x" * 20_000 + "end"))
    assert told.error == f"ValueError: {'x' * 20_000}"[:ERROR_MAX]
    assert told.traceback == "\u2026" + "x" * (ERROR_MAX - 4) + "end"
    assert failures.ending("x" * ERROR_MAX) == "x" * ERROR_MAX
    assert failures.ending("x" + "y" * ERROR_MAX) == "\u2026" + "y" * (ERROR_MAX - 1)
    assert failures.beginning("y" * ERROR_MAX + "x") == "y" * ERROR_MAX
    assert raised(Unstorable("y" * ERROR_MAX + "x")).error == "y" * ERROR_MAX


def test_an_exception_is_described_by_its_type_and_its_words() -> None:
    assert failures.describe(ValueError()) == "ValueError"
    assert failures.describe(ValueError("why")) == "ValueError: why"
    assert failures.describe(ValueError("x" * 1_000_001)) == "ValueError: " + "x" * 1_000_000


def test_a_headers_time_is_compared_with_the_time_of_the_failure() -> None:
    error = RuntimeError()
    error.headers = {"Retry-After": SOON}  # type: ignore[attr-defined]
    assert raised(error).judged.retry_after_seconds == 9.0
    assert raised(ExceptionGroup("g", [error])).judged.retry_after_seconds == 9.0


@pytest.mark.parametrize(
    ("errors", "judged"),
    [
        ([OSError(), OSError()], Failure()),
        ([OSError(), TypeError()], Failure(worth_retrying=False)),
        ([OSError(), NotWorthRetrying()], Failure(worth_retrying=True, given_up=True)),
        ([RetryAfter("", 2), OSError(), RetryAfter("", 1)], Failure(retry_after_seconds=2.0)),
    ],
    ids=range(4),
)
def test_failures_that_come_at_once_are_joined(errors: list[Exception], judged: Failure) -> None:
    joined = failures.judge(ExceptionGroup("g", errors), NOW)
    assert (joined.given_up, joined.retry_after_seconds) == (judged.given_up, judged.retry_after_seconds)
    assert joined.worth_retrying is all(failures.judge(error, NOW).worth_retrying for error in errors)


@pytest.mark.parametrize(
    ("status", "is_worth_it"),
    [
        (99, True),
        (100, True),
        (399, True),
        (400, False),
        (409, True),
        (423, True),
        (499, False),
        (500, True),
        (600, True),
    ],
)
@pytest.mark.parametrize("place", ["own", "own with headers", "own code with headers", "response", "response's code"])
def test_a_status_of_http_says_whether_another_try_is_worth_its_while(
    place: str, status: int, is_worth_it: bool
) -> None:
    error: Any = RuntimeError()
    match place:
        case "own":
            error.status_code = status
        case "own with headers":
            error.headers, error.status = {}, status
        case "own code with headers":
            error.headers, error.code = {}, status
        case "response":
            error.response = SimpleNamespace(status_code=status)
        case "response's code":
            error.response = SimpleNamespace(code=status)
    assert failures.judge(error, NOW).worth_retrying is is_worth_it
