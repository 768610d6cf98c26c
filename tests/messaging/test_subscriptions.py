"""The core of RedisPubSub alone: what it makes of silence, of outages and of refusals."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import redis

from watchbill.errors import StoreRefuses
from watchbill.messaging.steps import Pause
from watchbill.messaging.subscriptions import Open, Ping, Read, Subscribe, Subscriptions
from watchbill.testing import FakeClock

pytestmark = pytest.mark.pure


def test_silence_is_asked_about_and_then_believed(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    core = Subscriptions("", clock, lambda: None)
    core.add("a", print)
    steps = core.listen()
    assert [next(steps), steps.send(None), steps.send(None)] == [Open(), Subscribe(("a",)), Read(0.2)]
    assert steps.send({"type": "subscribe", "channel": "a"}) == Read(0.2)
    assert core.is_settled()

    clock._passed += 10.5
    assert steps.send(None) == Ping()
    assert steps.send(None) == Read(0.2)
    assert steps.send({"type": "pong", "channel": None}) == Read(0.2)
    clock._passed += 10.5
    assert steps.send(None) == Ping()
    assert steps.send(None) == Read(0.2)
    clock._passed += 10.5
    assert steps.send(None) == Ping()
    assert steps.send(None) == Read(0.2)
    clock._passed += 10.5
    assert isinstance(steps.send(None), Pause)
    assert steps.send(None) == Open()
    assert core.is_settled(), "nobody waits for a server that is down"
    core.is_stopping = True
    with pytest.raises(StopIteration):
        steps.send(None)


def test_an_outage_is_logged_once_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    core = Subscriptions("", clock, lambda: None)
    core.add("a", print)
    steps = core.listen()
    next(steps)
    for _ in range(5):
        pause: Any = steps.throw(redis.exceptions.ConnectionError("refused"))
        assert 0.02 < pause.seconds <= 1
        clock._passed += 0.5
        assert steps.send(None) == Open()

    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "refused" in caplog.text


def test_only_a_refusal_from_the_beginning_ends_it() -> None:
    refusal = redis.exceptions.AuthenticationError("NOAUTH")
    core = Subscriptions("", FakeClock(), lambda: None)
    core.add("a", print)
    steps = core.listen()
    next(steps)
    with pytest.raises(StoreRefuses):
        steps.throw(refusal)

    steps = core.listen()
    for answer in (None, None, None):
        steps.send(answer)
    steps.send({"type": "subscribe", "channel": "a"})
    for _ in range(2):
        assert isinstance(steps.throw(refusal), Pause)
        assert steps.send(None) == Open()
