"""One agent at work and its end, whoever brings it about: the agent, its time, or who stops it. No worker around it."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from workshop import AGENTS, Crew, Make, agent, until

from watchbill.agents.loading import AgentLoader
from watchbill.store.queue import Claimed, Finished
from watchbill.tasks import AgentTask, TaskResult
from watchbill.testing import FakeClock
from watchbill.worker.execution.abandoned import CLEAN_UP_SECONDS
from watchbill.worker.execution.attempt import Attempt
from watchbill.worker.execution.executor import Executor
from watchbill.worker.execution.shared_lease import SharedLease


@dataclass
class Room:
    """An executor, and what it told."""

    crew: Crew
    executor: Executor
    clock: FakeClock
    ends: list[Finished] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    abandoned: int = 0
    overdue: int = 0
    alarms: list[int] = field(default_factory=list)
    """How many were overdue, whenever that number changed."""

    def changed(self, abandoned: int, overdue: int) -> None:
        if overdue != self.overdue:
            self.alarms.append(overdue)
        self.abandoned, self.overdue = abandoned, overdue

    def ended(self, finished: Finished, _: float | None = None) -> None:
        self.ends.append(finished)

    async def begin(self, task_id: str, agent_id: str, prompt: str = "do it", attempt: int = 1) -> Attempt:
        payload = AgentTask(task_id=task_id, agent_name=agent_id, prompt=prompt).model_dump_json()
        entry = f"{int(time.time() * 1000)}-0"
        digest = self.crew.definition.digest()
        task = Claimed(task_id, "7", attempt, agent_id, entry, 5, False, True, payload, digest)

        async def say(message: str) -> None:
            self.said.append(message)

        await self.executor.read(task)
        running = self.executor.begin(task, say, self.ended)
        assert running is not None
        return running

    async def time_is_up(self, task_id: str) -> None:
        """Its agent has run for a second, and had its time to clean up."""
        await self.started(task_id)
        self.clock.advance(1)
        self.clock.advance(CLEAN_UP_SECONDS)

    async def started(self, *task_ids: str) -> None:
        await self.crew.started(*task_ids)

    async def end(self) -> Finished:
        await until(lambda: self.ends, what="its end")
        await asyncio.sleep(0.02)
        (end,) = self.ends
        return end

    def noted(self, what: str) -> list[str]:
        return [note["task"] for note in self.crew.notes(what)]


def result(end: Finished) -> TaskResult:
    return TaskResult.model_validate_json(end.result)


Enter = Callable[..., Any]


@pytest.fixture
def enter(make_crew: Make) -> Enter:
    @asynccontextmanager
    async def made(agents: Mapping[str, str] | list[Any], **tasks: Any) -> AsyncIterator[Room]:
        crew = await make_crew(agents, tasks=tasks)
        clock = FakeClock()
        lease = SharedLease(monotonic=clock.monotonic)
        lease.extend(math.inf)
        executor = Executor(
            crew.redis,
            crew.keys,
            AgentLoader([AGENTS]),
            lease,
            on_abandoned=lambda *numbers: room.changed(*numbers),
            store_time=clock.now,
            clock=clock,
        )
        room = Room(crew, executor, clock)
        try:
            yield room
        finally:
            crew.open()
            await executor.close()

    return made


# ---------------------------------------------------------------- stopping


@pytest.mark.parametrize("outcome", ["cancelled", "interrupted"])
async def test_a_stopped_agent_is_cancelled_and_its_end_is_told_once_it_has_cleaned_up(
    enter: Enter, outcome: Any
) -> None:
    async with enter({"a": "Answers"}) as room:
        running = await room.begin("t", "a", "pass:0.3")
        await room.started("t")
        running.stop(outcome, 5.0)
        await until(lambda: room.noted("cancelled"))
        assert room.ends == [], "it is still cleaning up"
        end = await room.end()
        assert room.noted("end") == ["t"]
        assert (end.outcome, end.result, end.message, end.task.id) == (outcome, "", outcome, "t")
        assert end.definition == room.crew.definition.digest()
        assert end.ttl_ms == 3_600_000
        assert room.abandoned == 0


async def test_what_a_stopped_agent_returns_is_its_result(enter: Enter) -> None:
    async with enter({"a": "Answers", "b": "Looks"}) as room:
        for name in "ab":
            running = await room.begin(name, name, "return")
            await room.started(name)
            running.stop("cancelled", 5.0)
            end = await room.end()
            assert (end.outcome, result(end).output) == ("completed", "what there is")
            room.ends.clear()


async def test_nothing_is_no_result_of_a_stopped_agent(enter: Enter) -> None:
    """`if context.cancelled: return` is a polite way to stop; what comes after it must not begin on None."""
    late = [agent("a late", "Answers", timeout_seconds=1), agent("b late", "Looks", timeout_seconds=1)]
    async with enter([agent("a", "Answers"), agent("b", "Looks"), *late]) as room:
        for name in "ab":
            running = await room.begin(name, name, "return nothing")
            await room.started(name)
            running.stop("cancelled", 5.0)
            assert (await room.end()).outcome == "cancelled"
            room.ends.clear()
            await room.begin(f"{name} late", f"{name} late", "return nothing")
            await room.started(f"{name} late")
            room.clock.advance(1)
            assert (await room.end()).message.startswith("attempt 1 failed: timed out after 1 s")
            room.ends.clear()


async def test_what_a_stopped_agent_raises_is_no_failure(enter: Enter) -> None:
    async with enter({"a": "Answers", "b": "Looks"}) as room:
        for name in "ab":
            running = await room.begin(name, name, "raise")
            await room.started(name)
            running.stop("interrupted", 5.0)
            assert (await room.end()).outcome == "interrupted"
            room.ends.clear()


async def test_an_agent_that_was_stopped_before_it_began_never_begins(enter: Enter) -> None:
    async with enter({"a": "Gate", "b": "ThreadGate"}) as room:
        for name in "ab":
            running = await room.begin(name, name)
            running.stop("cancelled", 5.0)
            assert (await room.end()).outcome == "cancelled"
            room.ends.clear()
        assert room.noted("start") == []


async def test_stopping_what_has_ended_changes_nothing(enter: Enter) -> None:
    async with enter({"a": "Brief"}) as room:
        running = await room.begin("t", "a")
        assert (await room.end()).outcome == "completed"
        for stop in (lambda: running.stop("cancelled", 0.0), running.cancel):
            stop()
            await asyncio.sleep(0)  # whoever was told that the agent's task has ended was called
            assert len(room.ends) == 1
        assert room.abandoned == 0


@pytest.mark.parametrize("kind", ["Deaf", "ThreadGate"])
async def test_an_agent_that_does_not_stop_is_abandoned_at_the_deadline_and_counts_until_it_ends(
    enter: Enter, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with enter({"a": kind}) as room:
        running = await room.begin("t", "a")
        await room.started("t")
        running.stop("cancelled", 1.2)
        room.clock.advance(1.19)
        assert room.ends == []
        room.clock.advance(0.01)
        end = await room.end()
        assert (end.outcome, end.result) == ("cancelled", "")
        assert end.message == "cancelled; its agent did not stop in time, and was abandoned"
        await until(lambda: room.alarms == [1], what="the news that it is overdue")
        assert room.abandoned == room.overdue == 1
        (warning,) = [record.getMessage() for record in caplog.records if "still runs" in record.getMessage()]
        assert warning.startswith("agent 'a' with task t still runs, though it was told to stop")
        room.crew.open()
        await until(lambda: room.abandoned == 0)
        assert room.alarms == [1, 0]
        assert len(room.ends) == 1, "what it returned is too late"
        assert room.noted("end") == ["t"]


async def test_one_that_is_only_slow_to_clean_up_holds_its_slot_but_raises_no_alarm(
    enter: Enter, caplog: pytest.LogCaptureFixture
) -> None:
    """However short its deadline was: half of the slots may be stopped at once, and nothing is wrong with them."""
    async with enter({"a": "Answers"}) as room:
        running = await room.begin("t", "a", "pass:0.3")
        await room.started("t")
        running.stop("cancelled", 0.0)
        room.clock.advance(0)
        await room.end()
        room.clock.advance(CLEAN_UP_SECONDS - 0.01)
        assert (room.abandoned, room.overdue) == (1, 0)
        await until(lambda: room.abandoned == 0)
        room.clock.advance(10)
        assert room.alarms == []
        assert [record for record in caplog.records if "still runs" in record.getMessage()] == []


async def test_a_cancellation_overrules_an_interruption_and_may_hurry_it_but_not_the_other_way(enter: Enter) -> None:
    async with enter({"a": "Deaf"}) as room:
        running = await room.begin("t", "a")
        await room.started("t")
        running.stop("interrupted", 30.0)
        running.stop("cancelled", 0.3)
        running.stop("interrupted", 30.0)
        room.clock.advance(0.3)
        end = await room.end()
        assert end.outcome == "cancelled"
        assert room.noted("swallowed") == ["t"], "who is cleaning up isn't cancelled again"


async def test_a_task_that_is_cancelled_just_after_its_time_was_up_is_cancelled(enter: Enter) -> None:
    """Else it would be tried again."""
    async with enter([agent("a", "Answers", timeout_seconds=1)]) as room:
        running = await room.begin("t", "a", "pass:0.5")
        await room.started("t")
        room.clock.advance(1)
        await until(lambda: room.noted("cancelled"))
        running.stop("cancelled", 5.0)
        assert (await room.end()).outcome == "cancelled"


async def test_a_dropped_agent_is_told_of_by_nobody_and_counts_until_it_ends(enter: Enter) -> None:
    async with enter({"a": "Deaf", "b": "ThreadGate", "c": "Gate"}) as room:
        running = [await room.begin(name, name) for name in "abc"]
        await room.started(*"abc")
        for one in running:
            one.cancel()
        await until(lambda: room.abandoned == 2)
        assert room.overdue == 0
        room.clock.advance(CLEAN_UP_SECONDS)
        assert room.overdue == 2
        room.crew.open()
        await until(lambda: room.abandoned == 0)
        assert room.ends == []


async def test_an_agent_that_cancels_itself_has_failed(enter: Enter) -> None:
    """Nobody else would tell its end, and it would hold its slot for ever."""
    async with enter([agent("a", "cancels_itself", notes=False)], max_attempts=1) as room:
        await room.begin("t", "a")
        end = await room.end()
        assert end.outcome == "dead"
        assert end.message.startswith("RuntimeError: CancelledError (")
        assert room.abandoned == 0


# ---------------------------------------------------------------- what may lose an end


@pytest.mark.parametrize("kind", ["Mischief", "ThreadMischief"])
@pytest.mark.parametrize("fault", ["factory", "filter", "handler"])
async def test_an_end_that_cannot_be_logged_is_told(
    enter: Enter, monkeypatch: pytest.MonkeyPatch, kind: str, fault: str
) -> None:
    def breaks(*_: Any, **__: Any) -> Any:
        raise LookupError("a context variable")

    source = logging.getLogger("watchbill.worker")
    monkeypatch.setattr(source, "level", logging.INFO)
    if fault == "factory":
        monkeypatch.setattr(logging, "_logRecordFactory", breaks)
    elif fault == "filter":
        monkeypatch.setattr(source, "filters", [breaks])
    else:
        handler = logging.Handler()
        handler.emit = breaks  # type: ignore[method-assign]
        monkeypatch.setattr(source, "handlers", [handler])
    async with enter({"a": kind}, max_attempts=1) as room:
        await room.begin("t", "a", "ValueError")
        end = await room.end()
    assert end.outcome == "dead"
    assert end.message.startswith("ValueError: it broke")


async def test_an_exception_that_takes_its_time_to_say_what_it_is_holds_up_nobody_and_times_out(enter: Enter) -> None:
    async with enter([agent("a", "SilentlyFails", timeout_seconds=1), agent("b", "Brief")], max_attempts=1) as room:
        await room.begin("t", "a")
        await until(lambda: room.noted("asked"))
        await room.begin("other", "b")
        await until(lambda: room.ends, what="the end of another")
        assert [end.task.id for end in room.ends] == ["other"]
        room.ends.clear()
        room.clock.advance(1)
        room.clock.advance(CLEAN_UP_SECONDS)
        end = await room.end()
        assert (end.outcome, result(end).error) == ("dead", "timed out after 1 s")
        assert room.abandoned == 1
        room.crew.open()
        await until(lambda: room.abandoned == 0)
        assert len(room.ends) == 1


async def test_a_task_for_which_there_is_no_thread_ends(enter: Enter, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with enter({"a": "Mischief", "b": "ThreadGate"}) as room:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", exhausted)
            for name in "ab":
                await room.begin(name, name, "ValueError")
                end = await room.end()
                assert end.outcome == "retry"
                assert "can't start new thread" in end.message
                room.ends.clear()


async def test_an_iterator_without_end_holds_up_the_loop_no_longer_than_for_an_item_and_times_out(enter: Enter) -> None:
    async with enter([agent("a", "Counts", timeout_seconds=1)], max_attempts=1) as room:
        await room.begin("t", "a")
        await room.started("t")
        room.clock.advance(1)
        end = await room.end()
        assert (end.outcome, result(end).error) == ("dead", "timed out after 1 s")
        assert room.abandoned == 0


# ---------------------------------------------------------------- time


async def test_an_agent_whose_time_is_up_is_asked_to_stop(enter: Enter) -> None:
    agents = [agent("async", "Answers", timeout_seconds=1), agent("thread", "Looks", timeout_seconds=1)]
    async with enter(agents, max_attempts=1) as room:
        for one in agents:
            await room.begin(one.agent_id, one.agent_id, "raise")
        await room.started("async", "thread")
        room.clock.advance(0.99)
        assert room.noted("cancelled") == room.ends == []
        room.clock.advance(0.01)
        await until(lambda: len(room.ends) == 2)
        assert sorted(room.noted("end")) == ["async", "thread"]
        assert [(end.outcome, result(end).error) for end in room.ends] == [("dead", "timed out after 1 s")] * 2
        assert [note["cancelled"] for note in room.crew.notes("cancelled")] == [True]
        assert room.abandoned == 0


async def test_what_an_agent_still_returns_when_its_time_is_up_is_its_result(enter: Enter) -> None:
    async with enter([agent("a", "Answers", timeout_seconds=1)]) as room:
        await room.begin("t", "a", "return:0.2")
        await room.started("t")
        room.clock.advance(1)
        end = await room.end()
        assert (end.outcome, result(end).output) == ("completed", "what there is")


async def test_a_timeout_is_an_attempt_that_another_follows(enter: Enter) -> None:
    async with enter([agent("a", "Deaf", timeout_seconds=1)], max_attempts=2) as room:
        await room.begin("t", "a")
        await room.time_is_up("t")
        end = await room.end()
        assert end.outcome == "retry"
        assert end.message.startswith("attempt 1 failed: timed out after 1 s")
        room.ends.clear()
        await room.begin("t", "a", attempt=2)
        await until(lambda: len(room.noted("start")) == 2)
        room.clock.advance(1)
        room.clock.advance(CLEAN_UP_SECONDS)
        end = await room.end()
        assert (end.outcome, end.detail) == ("dead", "timed out after 1 s")
        assert room.abandoned == 2


async def test_a_wall_clock_that_is_set_anew_changes_no_timeout(enter: Enter, monkeypatch: pytest.MonkeyPatch) -> None:
    async with enter([agent("a", "Gate", timeout_seconds=2)], max_attempts=1) as room:
        await room.begin("t", "a")
        await room.started("t")
        set_anew = room.clock.now() + timedelta(hours=1)
        monkeypatch.setattr(room.clock, "now", lambda: set_anew)
        room.clock.advance(1.9)
        assert room.noted("cancelled") == room.ends == []
        room.clock.advance(0.1)
        end = await room.end()
        assert result(end).execution_time_ms == 2000


async def test_what_is_left_when_the_worker_ends_is_ended_where_it_stands(
    enter: Enter, caplog: pytest.LogCaptureFixture
) -> None:
    async with enter({"a": "Stubborn", "b": "Stuck", "c": "RaisesLate"}) as room:
        running = [await room.begin(name, name) for name in "abc"]
        await room.started(*"abc")
        for one in running:
            one.cancel()
        del running, one
        began = time.monotonic()
        await room.executor.close()
        assert time.monotonic() - began < 10
        assert room.abandoned == 0
        room.crew.open("c")
        (thread,) = [note["thread"] for note in room.crew.notes() if note["task"] == "c"]
        await until(lambda: thread not in {alive.ident for alive in threading.enumerate()}, what="that it raises")
        await asyncio.sleep(0.05)
        gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
