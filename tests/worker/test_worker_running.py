"""One agent at work and its end, whoever brings it about: the agent, its time, or who stops it. No worker around it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from rooms import Enter, result
from workshop import agent

from waiting import until
from watchbill.worker.execution import processes
from watchbill.worker.execution.abandoned import CLEAN_UP_SECONDS, DIE_SECONDS


@pytest.mark.parametrize("outcome", ["cancelled", "interrupted"])
async def test_a_stopped_agent_is_cancelled_and_its_end_is_told_once_it_has_cleaned_up(
    enter: Enter, outcome: Any
) -> None:
    async with enter({"a": "Answers"}) as room:
        running = await room.begin("t", "a", "pass:gate")
        await room.started("t")
        running.stop(outcome, 5.0)
        await until(lambda: room.noted("cancelled"))
        assert room.ends == [], "it is still cleaning up"
        room.crew.open()
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
        running = await room.begin("t", "a", "pass:gate")
        await room.started("t")
        running.stop("cancelled", 0.0)
        room.clock.advance(0)
        await room.end()
        room.clock.advance(CLEAN_UP_SECONDS - 0.01)
        assert (room.abandoned, room.overdue) == (1, 0)
        room.crew.open()
        await until(lambda: room.abandoned == 0)
        room.clock.advance(10)
        assert room.alarms == []
        assert [record for record in caplog.records if "still runs" in record.getMessage()] == []


async def test_a_loop_that_stood_still_costs_no_agent_its_time_to_clean_up(enter: Enter) -> None:
    """Its worker got no time either. What it returns counts, and no slot is lost, for which a worker might end."""
    async with enter([agent("a", "Answers", timeout_seconds=1), agent("b", "Answers")]) as room:
        await room.begin("t", "a", "return:gate")
        dropped = await room.begin("dropped", "b", "pass:gate")
        await room.started("t", "dropped")
        room.clock.advance(1)
        dropped.cancel()
        await until(lambda: len(room.noted("cancelled")) == 2)
        room.clock.advance(CLEAN_UP_SECONDS + 30)
        room.crew.open()
        end = await room.end()
        assert (end.outcome, result(end).output) == ("completed", "what there is")
        await until(lambda: room.abandoned == 0)
        assert room.alarms == []


async def test_a_process_that_was_killed_may_take_longer_to_end_than_an_agent_to_clean_up(
    enter: Enter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the machine that does not get round to it; a worker that ends for that would start on the same one."""
    kill = processes._Process.kill
    monkeypatch.setattr(processes._Process, "kill", lambda _: None)
    async with enter({"a": "Apart"}) as room:
        running = await room.begin("t", "a", "wait")
        await room.started("t")
        running.stop("cancelled", 5.0)
        room.clock.advance(5.0)
        end = await room.end()
        assert end.message == "cancelled; its agent did not stop in time, and was abandoned"
        room.clock.advance(DIE_SECONDS - 5.1)
        assert (room.abandoned, room.alarms) == (1, [])
        room.clock.advance(0.1)
        assert room.alarms == [1]
        monkeypatch.setattr(processes._Process, "kill", kill)
        for process in room.executor._processes._all:
            process.kill()
        await until(lambda: room.abandoned == 0)


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
        running = await room.begin("t", "a", "pass:gate")
        await room.started("t")
        room.clock.advance(1)
        await until(lambda: room.noted("cancelled"))
        running.stop("cancelled", 5.0)
        room.crew.open()
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
