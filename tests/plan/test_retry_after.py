"""How long an exception asks to wait, whatever its attributes and headers are."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from watchbill.plan import retry_after

pytestmark = pytest.mark.pure

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def asked(**attributes: Any) -> float | None:
    error = RuntimeError()
    for name, value in attributes.items():
        setattr(error, name, value)
    return retry_after.asked(error, NOW)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1500"}, 1.5),
        ({"Retry-After-Ms": "1500"}, 1.5),
        ({"retry-after": "7"}, 7.0),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "Fri, 02 Jan 2026 03:04:15 GMT"}, 10.0),
        ({"retry-after": "Fri, 02 Jan 2026 04:04:15 +0100"}, 10.0),
        ({"Retry-After": "Fri, 02 Jan 2026 03:04:15 -0000"}, 10.0),  # which has no zone, and means GMT
        ({"Retry-After": "Fri, 02 Jan 2026 03:04:00 GMT"}, 0.0),
        ({"Retry-After": "Fri, 02 Jan 2026 03:05:15 GMT", "Date": "Fri, 02 Jan 2026 03:05:00 GMT"}, 15.0),
        ({"retry-after": "Fri, 02 Jan 2026 03:05:15 GMT", "date": "Fri, 02 Jan 2026 03:05:00 -0000"}, 15.0),
        ({"retry-after-ms": "Fri, 02 Jan 2026 03:04:15 GMT"}, None),
        ({"retry-after-ms": True, "Retry-After": "2"}, 2.0),
        ({"Retry-After": False}, None),
        ({}, None),
    ],
)
def test_an_answer_asks_by_its_headers(headers: dict[str, Any], seconds: float | None) -> None:
    assert retry_after.in_headers(headers, NOW) == seconds
    assert asked(headers=headers) == seconds
    assert asked(response=SimpleNamespace(headers=headers)) == seconds


class Unreadable:
    """Headers that can't be read."""

    def get(self, name: str) -> str:
        raise OSError("the connection is closed")


@pytest.mark.parametrize("headers", [None, "retry-after: 5", 5, SimpleNamespace(get="5"), Unreadable()])
def test_headers_that_are_none_ask_for_nothing(headers: Any) -> None:
    assert retry_after.in_headers(headers, NOW) is None


def test_its_own_attribute_goes_first_and_its_own_headers_before_those_of_its_response() -> None:
    mine, response = {"Retry-After": "2"}, SimpleNamespace(headers={"Retry-After": "3"})
    assert asked(retry_after=1, headers=mine, response=response) == 1.0
    assert asked(retry_after=True, headers=mine, response=response) == 2.0
    assert asked(retry_after="soon", headers={}, response=response) == 3.0
    assert asked(retry_after="Fri, 02 Jan 2026 03:04:15 GMT") == 10.0


def test_a_chain_of_causes_is_followed_for_five_errors() -> None:
    errors = [RuntimeError(number) for number in range(7)]
    for error, cause in pairwise(errors):
        error.__cause__ = cause
    assert list(retry_after.chain(errors[0])) == errors[:5]
    assert list(retry_after.chain(errors[5])) == errors[5:]
