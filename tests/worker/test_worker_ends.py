"""Ends of attempts: what may lose one, and time."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from rooms import Enter, result
from workshop import agent

from waiting import until
from watchbill.worker.execution.abandoned import CLEAN_UP_SECONDS

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
        await room.begin("t", "a", "return:gate")
        await room.started("t")
        room.clock.advance(1)
        await until(lambda: room.noted("cancelled"), what="its time is up")
        room.crew.open()
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
        assert time.monotonic() - began < 180, "a thread would go on for an hour"
        assert room.abandoned == 0
        room.crew.open("c")
        (thread,) = [note["thread"] for note in room.crew.notes() if note["task"] == "c"]
        await until(lambda: thread not in {alive.ident for alive in threading.enumerate()}, what="that it raises")
        await asyncio.sleep(0.05)
        gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
