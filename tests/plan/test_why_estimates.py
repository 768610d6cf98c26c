"""The estimate of when a task begins, from what was measured; and what is said where too little was."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest

from watchbill.plan.whereabouts import Attempt, Ended, Holder, Place, Seen, Workers
from watchbill.plan.why import Reason, explain
from watchbill.tasks import Priority, RunState, RunStatus, StepStatus, TaskState

pytestmark = pytest.mark.pure

NOW = 1_000_000_000
BUSY = Workers(alive=2, slots=4, busy=4)
WAITS = Seen(
    crew="team/blog", id="t1", now_ms=NOW, state="waiting", agent="a", submitted_ms=NOW - 60_000, place=Place(7, True)
)


def ended(count: int, every_ms: int, *, seconds: float | None = None, last_ms: int = 0) -> list[Ended]:
    """So many tasks that ended one after the other, the newest first."""
    return [Ended(NOW - last_ms - i * every_ms, seconds) for i in range(count)]


def test_what_has_ended_while_it_waited_tells_the_rate() -> None:
    told = explain(dataclasses.replace(WAITS, workers=BUSY, ended=ended(30, 1000)))
    # 30 in the 60 s of its wait: 8 more ends until it begins
    assert told.starts_in_seconds == pytest.approx(16.0)
    assert told.starts == "in about 16.0s: 0.5 tasks end in a second"


def test_only_the_newest_results_are_read_so_a_fast_crew_is_measured_over_their_time() -> None:
    told = explain(dataclasses.replace(WAITS, workers=BUSY, ended=ended(100, 100), ended_from_ms=NOW - 9900))
    assert told.starts_in_seconds == pytest.approx(8 * 9.9 / 100)


def test_before_enough_has_ended_slots_and_the_median_of_run_times_tell_it() -> None:
    old = ended(9, 1000, seconds=10.0, last_ms=3_600_000)
    old[0] = dataclasses.replace(old[0], seconds=500.0)
    told = explain(dataclasses.replace(WAITS, workers=BUSY, ended=old))
    assert told.starts_in_seconds == pytest.approx(8 * 10.0 / 4)
    assert told.starts == "in about 20.0s: half of the tasks take less than 10.0s"


def test_without_measurements_it_is_unknown() -> None:
    told = explain(dataclasses.replace(WAITS, workers=BUSY, ended=ended(4, 1000, seconds=1.0)))
    assert (told.starts_in_seconds, told.reason) == (None, Reason.QUEUED)
    assert told.starts == "unknown: too few tasks have ended to tell how fast the crew is"


def test_a_free_slot_means_now_and_a_place_that_was_not_found_a_lower_bound() -> None:
    free = dataclasses.replace(WAITS, workers=Workers(alive=2, slots=10, busy=2), ended=ended(30, 1000))
    assert explain(free).starts == "now: a slot is free"
    least = dataclasses.replace(WAITS, workers=BUSY, place=Place(7, False), ended=ended(30, 1000))
    told = explain(least)
    assert (told.before, told.before_is_least) == (7, True)
    assert told.message == "at least 7 tasks are before it; 4 of 4 slots are busy"
    assert told.starts.startswith("not before 16.0s")


def test_more_urgent_work_is_before_it_and_less_urgent_work_is_not() -> None:
    waiting = [(Priority.CRITICAL, 2), (Priority.HIGH, 3), (Priority.NORMAL, 50), (Priority.LOW, 100)]
    told = explain(dataclasses.replace(WAITS, workers=BUSY, waiting=waiting))
    assert told.before == 12
    assert told.message == "12 tasks are before it (5 of higher priority); 4 of 4 slots are busy"


def test_what_moves_between_two_places_is_not_said_to_wait() -> None:
    assert explain(dataclasses.replace(WAITS, workers=BUSY, place=None)).reason is Reason.MOVING


def test_a_claimed_task_begins_now_and_an_attempt_without_a_report_was_lost() -> None:
    held = Holder("w", attempt=3, started_ms=0, lease_ms=5000, returned=False)
    tried = [Attempt(1, "failed", "v", 2.0, "it broke")]
    told = explain(dataclasses.replace(WAITS, place=None, holder=held, attempt=2, tried=tried))
    assert (told.reason, told.starts_in_seconds, told.attempt) == (Reason.STARTING, 0.0, 3)
    assert [(a.number, a.outcome) for a in told.attempts] == [(1, "failed"), (2, "lost")]


def test_a_step_of_a_run_that_is_cancelled_never_begins() -> None:
    step = StepStatus(name="s", agent="a", status=TaskState.WAITING, index=0)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    run = RunStatus(run_id="r", crew="team/blog", status=RunState.CANCELLING, submitted_at=at, steps=(step,))
    told = explain(dataclasses.replace(WAITS, id="r/s", run=run, place=Place(0, True)))
    assert (told.kind, told.reason, told.starts) == ("step", Reason.CANCELLING, "never")


def test_a_step_behind_one_that_its_own_condition_skipped_waits_for_a_slot() -> None:
    before = StepStatus(name="b", agent="b", status=TaskState.SKIPPED, index=0, attempt=1)
    step = StepStatus(name="s", agent="a", status=TaskState.WAITING, index=1, after=("b",))
    at = datetime(2026, 1, 1, tzinfo=UTC)
    run = RunStatus(run_id="r", crew="team/blog", status=RunState.RUNNING, submitted_at=at, steps=(before, step))
    seen = dataclasses.replace(WAITS, id="r/s", run=run, workers=BUSY)
    assert explain(seen).reason is Reason.QUEUED
    assert explain(dataclasses.replace(seen, id="r", state="")).waits_for == ("s",)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "its crew is suspended; 7 tasks are before it"),
        ({"place": None}, "its crew is suspended; nothing is before it"),
        ({"aside": "delayed", "aside_ms": NOW + 9000}, "due in 9.0s, but no task of its crew begins"),
        ({"aside": "delayed", "aside_ms": NOW + 9000, "attempt": 2}, "attempt 2 failed; no task of its crew begins"),
        ({"holder": Holder("w1", 1, NOW - 1000, None, False)}, "its lease is over"),
    ],
    ids=["waits", "was returned", "delayed", "retried", "worker silent"],
)
def test_what_can_not_begin_because_its_crew_is_suspended_has_no_time(changes: dict[str, Any], said: str) -> None:
    told = explain(dataclasses.replace(WAITS, suspended=True, workers=BUSY, ended=ended(30, 1000), **changes))
    assert (told.reason, told.starts_in_seconds) == (Reason.SUSPENDED, None)
    assert said in told.message
