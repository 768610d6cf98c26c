"""When a watch that has ended is started again, and when no more."""

from __future__ import annotations

import pytest

from watchbill.controller.watch import Restarts
from watchbill.testing import FakeClock

pytestmark = pytest.mark.pure


def test_a_watch_that_ends_three_times_in_ten_minutes_is_given_up() -> None:
    clock = FakeClock()
    restarts = Restarts(clock)
    assert restarts.pause() == 2
    clock.advance(300)
    assert restarts.pause() == 4
    clock.advance(299)
    assert restarts.pause() is None


def test_what_ended_longer_ago_does_not_count() -> None:
    clock = FakeClock()
    restarts = Restarts(clock)
    for _ in range(10):
        assert restarts.pause() == 2
        clock.advance(600)
    assert [restarts.pause(), restarts.pause()] == [2, 4]
    clock.advance(600)
    assert restarts.pause() == 2
