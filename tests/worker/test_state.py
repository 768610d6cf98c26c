"""When a worker is done, overdue or drained, and how many slots it has, on a clock that the test turns."""

from __future__ import annotations

import json
import logging
from datetime import timedelta

import pytest

from watchbill.errors import CrewGone, Fenced
from watchbill.store.queue import Claimed, Finished
from watchbill.testing import FakeClock
from watchbill.worker.incarnation import Incarnation, Job
from watchbill.worker.slots import Slots
from watchbill.worker.state import STILL_MOST_SECONDS, STILL_SECONDS, STORE_SECONDS, WorkerState

pytestmark = pytest.mark.pure

TASK = Claimed("t", "1", 1, "a", "1-0", 5, taken_over=False)
GRACE_SECONDS = 10.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def state(clock: FakeClock) -> WorkerState:
    """The state of a worker that the store knows."""
    made = WorkerState(GRACE_SECONDS, clock)
    made.incarnation.number = 1
    made.registered = True
    return made


def test_a_new_worker_looks_for_work_and_has_seen_no_trouble(clock: FakeClock) -> None:
    state = WorkerState(GRACE_SECONDS, clock)
    assert state.has_work
    assert not any((state.registered, state.cut_off, state.deleted, state.draining, state.recycled, state.ended))
    assert not any((state.stopping, state.is_done, state.is_overdue, state.drained))


def test_a_worker_with_running_tasks_is_done_when_the_grace_period_is_over(
    state: WorkerState, clock: FakeClock
) -> None:
    state.incarnation.jobs["t"] = Job(TASK)
    assert not state.is_done
    state.stop()
    assert state.stopping
    assert state.wake.is_set()
    clock.advance(GRACE_SECONDS - 0.1)
    assert not state.is_done
    clock.advance(0.1)
    assert state.is_done


def test_a_worker_with_nothing_to_save_is_done_at_once(state: WorkerState, clock: FakeClock) -> None:
    state.incarnation.held.append(TASK)
    state.unrecovered.append(Incarnation("old"))
    state.stop()
    assert not state.is_done, "what an earlier incarnation ran is to be saved"
    state.unrecovered.clear()
    assert state.is_done
    clock.advance(STORE_SECONDS)
    assert not state.is_overdue
    clock.advance(0.1)
    assert state.is_overdue, "it waits for the store no longer than if it had worked"


def test_a_second_stop_may_only_hurry(state: WorkerState, clock: FakeClock) -> None:
    state.stop()
    clock.advance(1.0)
    state.stop()
    assert state.stop_by == GRACE_SECONDS
    state.stop(now=True)
    assert state.stop_by == 1.0


def test_the_store_has_some_seconds_beyond_the_grace_period(state: WorkerState, clock: FakeClock) -> None:
    assert not state.is_overdue
    state.stop()
    clock.advance(GRACE_SECONDS + STORE_SECONDS)
    assert not state.is_overdue
    clock.advance(0.1)
    assert state.is_overdue


def test_while_the_event_loop_stands_still_the_store_has_its_seconds_left(state: WorkerState, clock: FakeClock) -> None:
    """Its answer may be there, and is heard only then."""
    state.stop()
    state.turn()
    clock.advance(GRACE_SECONDS + 5)
    assert not state.is_overdue, "a call that has failed is made again"
    state.turn()
    assert not state.is_overdue
    clock.advance(1.0)
    state.turn()
    clock.advance(4)
    state.turn()
    assert not state.is_overdue
    clock.advance(STORE_SECONDS - 1.0)
    state.turn()
    assert not state.is_overdue
    clock.advance(0.1)
    assert state.is_overdue


def test_an_agent_that_blocks_the_event_loop_again_and_again_does_not_keep_the_worker(
    state: WorkerState, clock: FakeClock
) -> None:
    state.stop(now=True)
    state.turn()
    turns = 0
    while not state.is_overdue:
        clock.advance(STILL_SECONDS)
        state.turn()
        turns += 1
        assert turns < 100, "it waits for ever"
    assert clock.monotonic() <= STORE_SECONDS + STILL_MOST_SECONDS + STILL_SECONDS


def test_a_worker_that_the_store_may_know_waits_for_it_but_not_for_the_grace_period(clock: FakeClock) -> None:
    state = WorkerState(GRACE_SECONDS, clock)
    state.incarnation.number = 1  # it was asked to, and has not answered
    state.stop()
    assert not state.is_overdue
    clock.advance(STORE_SECONDS + 0.1)
    assert state.is_overdue


def test_a_worker_that_the_store_never_heard_of_does_not_wait_for_it(clock: FakeClock) -> None:
    state = WorkerState(GRACE_SECONDS, clock)
    assert not state.is_overdue
    state.stop()
    assert state.is_overdue


def test_a_draining_worker_is_drained_only_once_it_is_idle(state: WorkerState) -> None:
    assert not state.drained
    state.draining = True
    state.incarnation.finished.append(Finished(TASK, "completed", ""))
    assert not state.drained, "a result is not reported yet"
    state.incarnation.finished.clear()
    assert state.drained
    state.draining = False
    assert not state.drained
    state.ended = True
    assert state.drained


def test_only_the_end_of_the_present_incarnation_counts_and_only_the_first_news_of_it(state: WorkerState) -> None:
    old, first = state.incarnation, Fenced("first")
    state.end_incarnation("another", first)
    assert state.incarnation_error is None
    assert not state.wake.is_set()
    state.end_incarnation(old.name, first)
    state.end_incarnation(old.name, CrewGone("later"))
    assert state.incarnation_error is first
    assert state.wake.is_set()
    new = state.reincarnate()
    assert state.incarnation is new
    assert (new.name != old.name, state.incarnation_error) == (True, None)


def test_the_stores_time_goes_on_by_the_monotonic_clock(state: WorkerState, clock: FakeClock) -> None:
    clock.advance(5.0)
    state.set_store_time(1_700_000_000_000)
    told = state.store_time()
    assert told.timestamp() == 1_700_000_000
    clock.advance(3.0)
    assert state.store_time() == told + timedelta(seconds=3)


@pytest.mark.parametrize(("recycle", "enough"), [(True, 2), (False, 4)])
def test_a_worker_stops_once_overdue_agents_hold_too_many_slots(
    state: WorkerState, recycle: bool, enough: int, caplog: pytest.LogCaptureFixture
) -> None:
    slots = Slots(state, 4, recycle=recycle)
    slots.set_abandoned(4, enough - 1)
    assert (state.stopping, state.recycled) == (False, False)
    slots.set_abandoned(4, enough)
    assert (state.stopping, state.recycled) == (True, True)
    slots.set_abandoned(4, enough)
    assert [record.levelno for record in caplog.records] == [logging.ERROR], "it says so once"


def test_a_worker_that_stops_anyhow_is_not_recycled(state: WorkerState) -> None:
    state.stop()
    Slots(state, 1, recycle=True).set_abandoned(1, 1)
    assert not state.recycled


def test_abandoned_agents_and_tasks_that_the_store_lost_hold_slots(state: WorkerState) -> None:
    slots = Slots(state, 4, recycle=True)
    assert slots.capacity == 4
    slots.set_abandoned(1, 0)
    assert state.wake.is_set()
    state.unrecovered.append(Incarnation("old", jobs={"t": Job(TASK)}))
    assert slots.capacity == 2
    state.incarnation.jobs["u"] = Job(TASK)
    assert slots.capacity == 2, "running tasks are counted by whoever begins more"
    shown = {"running": 1, "slots": 4, "abandoned": 1, "draining": False, "revision": "", "since": 0, "recovering": 1}
    assert json.loads(slots.describe()) == shown
    state.draining = True
    assert json.loads(slots.describe()) == shown | {"draining": True}
    state.draining = False
    state.stop()
    assert json.loads(slots.describe()) == shown | {"draining": True}
