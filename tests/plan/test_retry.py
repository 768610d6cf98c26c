"""When a failed task is tried again."""

from __future__ import annotations

import random

import pytest

from watchbill.plan.retry import ASKED_MAX_SECONDS, LONGEST_SECONDS, Failure, pause

pytestmark = pytest.mark.pure


def test_the_pause_is_anything_up_to_a_bound_that_doubles_with_each_attempt() -> None:
    for attempt, bound in ((1, 2.0), (2, 4.0), (3, 8.0), (5, 32.0)):
        pauses = [
            pause(Failure(), attempt, max_attempts=9, base_seconds=2.0, chance=random.Random(i).random())
            for i in range(300)
        ]
        assert all(p is not None and 0 <= p < bound for p in pauses)
        assert min(p for p in pauses if p is not None) < bound * 0.1
        assert max(p for p in pauses if p is not None) > bound * 0.9


def test_the_pause_stays_bounded_however_many_attempts_there_were() -> None:
    assert pause(Failure(), 5000, max_attempts=9999, base_seconds=2.0, chance=0.999) == LONGEST_SECONDS * 0.999


@pytest.mark.parametrize(("attempt", "again"), [(1, True), (2, True), (3, False), (4, False)])
def test_no_attempt_follows_the_last(attempt: int, again: bool) -> None:
    assert (pause(Failure(), attempt, max_attempts=3, base_seconds=2.0, chance=0.5) is not None) == again


def test_what_is_not_worth_it_is_not_tried_again() -> None:
    failure = Failure(worth_retrying=False, retry_after_seconds=1.0)
    assert pause(failure, 1, max_attempts=3, base_seconds=2.0, chance=0.5) is None


@pytest.mark.parametrize(("asked", "least"), [(30.0, 30.0), (-5.0, 0.0), (1e9, ASKED_MAX_SECONDS)])
def test_what_a_failure_asks_for_is_kept_to_and_spread(asked: float, least: float) -> None:
    failure = Failure(retry_after_seconds=asked)
    assert pause(failure, 1, max_attempts=3, base_seconds=2.0, chance=0.0) == least
    assert pause(failure, 1, max_attempts=3, base_seconds=2.0, chance=0.5) == least + 1.0
