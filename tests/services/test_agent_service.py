"""AgentService: what it runs, what it says of itself, and how it stops."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from runtimes import Gated, Runtime, task

from waiting import until
from watchbill.agents.context import Context
from watchbill.client import Client
from watchbill.errors import Conflict, InvalidInput, NotFound, StoreUnavailable, WatchbillError
from watchbill.names import WORKERS_GROUP, CrewKeys
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.services import (
    AgentService,
    AgentServiceClient,
    AgentServiceConfig,
    AgentTask,
    BotManager,
    HeartbeatConfig,
    TaskPriority,
    TaskStatus,
)
from watchbill.store import definitions, heartbeats
from watchbill.tasks import TaskState
from watchbill.worker.execution import abandoned, attempt

# ---------------------------------------------------------------- tasks


async def test_a_busy_agents_second_task_is_a_second_task_and_the_status_says_all(runtime: Runtime) -> None:
    service = await runtime.service(max_workers=2)
    assert service.get_status() == {
        "running": True,
        "queue_size": 0,
        "active_workers": 0,
        "available_slots": 2,
        "heartbeats": 0,
    }
    ids = [await service.submit_task(task(f"wait {i}")) for i in range(3)]
    await until(lambda: len(runtime.bot.asked) == 2)
    busy = {"running": True, "queue_size": 1, "active_workers": 2, "available_slots": 0, "heartbeats": 0}
    await until(lambda: service.get_status() == busy, what="a full service")
    for i in range(3):
        runtime.bot.let(f"wait {i}")
    results = [await service.get_result(task_id, 180) for task_id in ids]
    assert [result.output for result in results if result] == [f"done: wait {i}" for i in range(3)]
    await service.stop()
    await service.stop()
    status = service.get_status()
    assert (status["running"], status["active_workers"], status["available_slots"]) == (False, 0, 0)


async def test_a_task_leaves_the_queue_when_its_bot_has_answered_and_not_before(runtime: Runtime) -> None:
    service = await runtime.service()
    task_id = await service.submit_task(task("wait"))
    await until(lambda: runtime.bot.asked)
    stream = CrewKeys(*service.crew.split("/")).streams[2]
    assert (await runtime.redis.xpending(stream, WORKERS_GROUP))["pending"] == 1
    runtime.bot.let("wait")
    assert await service.get_result(task_id, 180)
    assert await runtime.redis.xlen(stream) == 0


async def test_urgent_tasks_run_first_and_equal_ones_in_order(runtime: Runtime) -> None:
    client = await runtime.client()
    given = [("low", TaskPriority.LOW), ("a", 5), ("b", 5), ("high", "high"), ("first", TaskPriority.CRITICAL)]
    ids = [await client.submit_task(task(name, priority=priority)) for name, priority in given]
    assert {await client.task_status(task_id) for task_id in ids} == {TaskStatus.QUEUED}
    await runtime.service(max_workers=1)
    await asyncio.gather(*(client.get_result(task_id, 180) for task_id in ids))
    assert runtime.bot.asked == ["first", "high", "a", "b", "low"]
    assert {await client.task_status(task_id) for task_id in ids} == {TaskStatus.COMPLETED}


async def test_a_result_carries_the_tasks_metadata_and_its_times(runtime: Runtime) -> None:
    service = await runtime.service()
    given = task("hello", metadata={"source": "cron_job", "tags": [1, {"deep": None}]})
    result = await service.get_result(await service.submit_task(given), 180)
    assert result is not None
    assert (len(result.task_id), result.agent_name, result.success, result.error) == (32, "Bot", True, None)
    assert result.metadata == given.metadata
    assert result.completed_at is not None
    assert result.execution_time_ms > 0
    assert abs(datetime.now(UTC) - result.completed_at) < timedelta(minutes=1)


async def test_a_task_for_later_is_pending_until_then(runtime: Runtime) -> None:
    service = await runtime.service()
    client = await runtime.client()
    later = await client.submit_task(task("later", scheduled_at=datetime.now(UTC) + timedelta(hours=1)))
    due = datetime.now(UTC) + timedelta(seconds=0.3)
    soon = await client.submit_task(task("soon", scheduled_at=due))
    await service.get_result(soon, 180)
    assert datetime.now(UTC) >= due
    assert runtime.bot.asked == ["soon"]
    assert await client.task_status(later) is TaskStatus.PENDING


@pytest.mark.parametrize("state", TaskState)
def test_every_state_has_a_status(state: TaskState) -> None:
    assert TaskStatus.of(state) in TaskStatus


# ---------------------------------------------------------------- bots


class Odd:
    """Notes how it is asked."""

    task_methods = ("listed", "blocking", "wrapped")
    name = "Odd"

    async def ask(self, question: str, user_id: str = "nobody", **more: Any) -> Any:
        return [question, user_id, more]

    async def listed(self, question: str, *, context: Context) -> Any:
        await context.emit("half way")
        return [question, context.task.metadata, context.attempt]

    async def wrapped(self, question: str) -> Any:
        return SimpleNamespace(output=question, client=object())

    def blocking(self, question: str, session_id: str = "none") -> Any:
        return [question, session_id, threading.current_thread() is threading.main_thread()]


class OddManager:
    """Finds bots as others do: asynchronously."""

    async def get_bot(self, name: str) -> Any:
        return {"Odd": Odd()}.get(name)


@pytest.mark.parametrize(
    ("options", "output"),
    [
        ({}, ["x", "nobody", {}]),
        ({"user_id": "u", "session_id": "s"}, ["x", "u", {"session_id": "s"}]),
        ({"method_name": "listed", "metadata": {"k": 1}}, ["x", {"k": 1}, 1]),
        ({"method_name": "wrapped"}, "x"),
        ({"method_name": "blocking", "user_id": "u", "session_id": "s"}, ["x", "s", False]),
    ],
)
async def test_a_bot_is_asked_with_what_it_takes(runtime: Runtime, options: Any, output: Any) -> None:
    service = await runtime.service(OddManager())
    result = await service.get_result(await service.submit_task(task("x", "Odd", **options)), 180)
    assert result is not None
    assert (result.output, result.error) == (output, None)


@pytest.mark.parametrize(
    ("agent", "method", "error"),
    [
        ("Nobody", None, "Agent 'Nobody' not found in BotManager"),
        ("Bot", "whisper", "Agent 'Bot' declares no task method 'whisper'. It declares: shout."),
        ("Bot", "__init__", "Agent 'Bot' declares no task method '__init__'"),
        ("Bare", None, "Agent 'Bare' has no method 'ask'"),
    ],
)
async def test_a_task_that_no_bot_can_do_fails_at_once_and_is_a_dead_letter(
    runtime: Runtime, agent: str, method: str | None, error: str
) -> None:
    class Bare:
        task_methods = ("other",)

    runtime.bots.add_bot(Bare(), "Bare")
    service = await runtime.service()
    task_id = await service.submit_task(task("x", agent, method_name=method))
    result = await service.get_result(task_id, 180)
    assert result is not None
    assert error in str(result.error)
    assert (result.success, result.attempt) == (False, 1)
    (letter,) = await runtime.letters(service)
    assert (letter.task_id, letter.replayable) == (task_id, True)


def test_a_bot_manager_takes_what_can_be_asked() -> None:
    manager = BotManager([Odd()])
    assert (manager.names, manager.get_bot("Nobody")) == (["Odd"], None)
    with pytest.raises(TypeError, match="has no method ask"):
        manager.add_bot(object(), "x")
    with pytest.raises(ValueError, match="has no name"):
        manager.add_bot(Gated())
    wrong = type("Wrong", (), {"task_methods": "ask"})
    with pytest.raises(TypeError, match="Make it a tuple"):
        manager.add_bot(wrong(), "x")
    assert manager.remove_bot("Odd")
    assert not manager.remove_bot("Odd")


# ---------------------------------------------------------------- heartbeats


async def test_two_services_fire_each_of_many_heartbeats_once(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    beats = [
        HeartbeatConfig(agent_name="Bot", interval_seconds=1, prompt_template="one", metadata={"deep": [1]}),
        HeartbeatConfig(agent_name="Bot", interval_seconds=1, prompt_template="two"),
        HeartbeatConfig(agent_name="Bot", interval_seconds=1, prompt_template="two"),
        HeartbeatConfig(agent_name="Bot", interval_seconds=1, prompt_template="never", enabled=False),
    ]
    services = [await runtime.service(heartbeats=beats, shutdown_timeout_seconds=30) for _ in range(2)]
    assert [service.get_status()["heartbeats"] for service in services] == [3, 3]
    await until(lambda: runtime.bot.asked.count("one") >= 2 and runtime.bot.asked.count("two") >= 4)
    for service in services:
        await service.stop()
    ran = Counter(runtime.bot.asked)
    results = await runtime.published()
    assert len(results) == len({task_id for task_id, _ in results}) == sum(ran.values())
    assert len({task_id.rpartition("-")[0] for task_id, _ in results}) == 3, "each of them has fired"
    assert set(ran) == {"one", "two"}
    assert sum('"deep":[1]' in payload for _, payload in results) == ran["one"]
    assert "fired the slot" in caplog.text
    assert "apscheduler" not in caplog.text, "its times are of no use to readers"


async def test_monday_is_monday_and_heartbeats_are_of_low_priority(runtime: Runtime) -> None:
    weekly = HeartbeatConfig(agent_name="Weekly Digest!", cron_expression="0 8 * * 1")
    service = await runtime.service(heartbeats=[weekly])
    (stored,) = await heartbeats.all_of(runtime.redis, CrewKeys(*service.crew.split("/")))
    assert stored.next is not None
    assert (stored.next.isoweekday(), stored.next.hour) == (1, 8)
    assert (stored.spec.agent, stored.spec.priority) == ("Weekly Digest!", TaskPriority.LOW)
    assert stored.spec.prompt == "Perform your scheduled check."


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "neither cron_expression nor interval_seconds is given"),
        ({"cron_expression": "* * * * *", "interval_seconds": 5}, "both cron_expression and interval_seconds"),
        ({"cron_expression": "* * *"}, r"heartbeats\[0\]: spec.schedule: '\* \* \*' is not a cron expression of five"),
        ({"cron_expression": "0 0 30 2 *"}, "is not a cron expression: bad day-of-month"),
        ({"cron_expression": "0 8 * * *", "time_zone": "Europe/Nowhere"}, "is not a known time zone"),
        ({"interval_seconds": 5, "agent_name": "two\nlines"}, "Name an agent"),
        ({"interval_seconds": 5, "metadata": {"n": float("nan")}}, "metadata.n: this can't be stored as JSON"),
        ({"interval_seconds": 5, "metadata": {str(n): n for n in range(63)}}, "metadata"),
    ],
)
def test_a_heartbeat_that_can_not_fire_is_refused(given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AgentService(
            AgentServiceConfig(heartbeats=[HeartbeatConfig(**{"agent_name": "Bot"} | given)]),
            BotManager(),
        )


# ---------------------------------------------------------------- stopping


async def test_what_does_not_end_in_time_is_cancelled_here_and_done_by_the_next(runtime: Runtime) -> None:
    beat = HeartbeatConfig(agent_name="Bot", interval_seconds=1, prompt_template="beat")
    first = await runtime.service(shutdown_timeout_seconds=30, heartbeats=[beat], max_workers=3)
    long, brief = [await first.submit_task(task(prompt)) for prompt in ("wait long", "wait brief")]
    await until(lambda: {"wait long", "wait brief"} <= set(runtime.bot.asked))
    client = await runtime.client()
    stopping = asyncio.create_task(first.stop())
    await until(lambda: not first.get_status()["running"])
    runtime.bot.let("wait brief")
    beats = runtime.bot.asked.count("beat")
    await runtime.redis.xadd(runtime.tasks, {"task_id": "late", "agent_name": "Bot", "prompt": "late"})
    assert (await client.get_result(brief, 180)).output == "done: wait brief"  # type: ignore[union-attr]
    await stopping
    assert runtime.bot.cancelled == ["wait long"]
    assert runtime.bot.asked.count("beat") <= beats + 1, "one may have been claimed already"
    assert await client.get_result("late", 0) is None
    assert await runtime.redis.xlen(runtime.tasks) == 1
    await runtime.has_published(brief)
    runtime.bot.let("wait long")
    await runtime.service()
    result = await client.get_result(long, 180)
    assert result is not None
    assert (result.output, result.attempt) == ("done: wait long", 1), "the attempt that was cancelled doesn't count"
    assert await client.get_result("late", 180)


async def test_a_service_whose_slots_are_all_lost_does_not_say_that_it_runs(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "CLEAN_UP_SECONDS", 0.05)
    monkeypatch.setattr(abandoned, "CLEAN_UP_SECONDS", 0.05)
    let_go = asyncio.Event()

    class Deaf:
        async def ask(self, prompt: str) -> None:
            while not let_go.is_set():
                with suppress(asyncio.CancelledError):
                    await let_go.wait()

    service = await runtime.service(BotManager({"Deaf": Deaf()}), max_workers=1, task_timeout_seconds=1)
    task_id = await service.submit_task(task("x", "Deaf"))
    try:
        with pytest.raises(WatchbillError, match="hold all of its slots"):
            await service.ended()
        assert service.get_status()["running"] is False
        assert await (await runtime.client()).task_status(task_id) is TaskStatus.PENDING, "another may try"
    finally:
        let_go.set()


async def test_a_service_without_a_store_says_so(tmp_path: Any) -> None:
    config = AgentServiceConfig(redis_url=f"unix://{tmp_path}/nothing.sock")
    with pytest.raises(StoreUnavailable):
        await AgentService(config, BotManager()).start()
    with pytest.raises(StoreUnavailable):
        await AgentServiceClient(config.redis_url).connect()
    with pytest.raises(InvalidInput, match="URL"):
        AgentService(AgentServiceConfig(redis_url="nothing"), BotManager())


# ---------------------------------------------------------------- the client


async def test_a_client_may_come_before_any_service_and_keeps_what_that_chose(runtime: Runtime) -> None:
    async with AgentServiceClient(runtime.url, task_stream=runtime.tasks) as client:
        first = await client.submit_task(task("early"))
        assert await client.get_result(first, 0) is None
        assert await client.get_result(first, 0.01) is None
        assert await client.get_result("unknown", 0.01) is None
        assert await client.submit_and_wait(task("too late"), timeout=0.01) is None
        service = await runtime.service(task_timeout_seconds=7)
        assert (await client.get_result(first, 180)).output == "done: early"  # type: ignore[union-attr]
    keys = CrewKeys(*service.crew.split("/"))
    assert (await definitions.current(runtime.redis, keys)).definition.tasks.timeout_seconds == 7
    again = await runtime.client()
    await again.submit_and_wait(task("again"))
    assert (await definitions.current(runtime.redis, keys)).definition.tasks.timeout_seconds == 7


async def test_the_same_task_again_is_done_once_and_other_work_of_its_id_is_refused(runtime: Runtime) -> None:
    await runtime.service()
    client = await runtime.client()
    given = task("once")
    assert [await client.submit_task(given) for _ in range(3)] == [given.task_id] * 3
    assert await client.get_result(given.task_id, 180)
    assert await client.submit_task(given) == given.task_id
    with pytest.raises(Conflict):
        await client.submit_task(given.model_copy(update={"prompt": "other"}))
    assert runtime.bot.asked == ["once"]


async def test_a_result_is_waited_for_before_its_task_is_there(runtime: Runtime) -> None:
    await runtime.service()
    client = await runtime.client()
    waiting = asyncio.create_task(client.get_result("to-come", 180))
    await asyncio.sleep(0)
    await runtime.redis.xadd(runtime.tasks, {"task_id": "to-come", "agent_name": "Bot", "prompt": "p"})
    result = await waiting
    assert result is not None
    assert result.output == "done: p"


async def test_a_task_may_go_to_another_crew_of_the_store(runtime: Runtime, crew_name: str) -> None:
    client = await runtime.client()
    with pytest.raises(NotFound, match=crew_name):
        await client.submit_task(task("x", crew_name=crew_name))
    keys = CrewKeys("default", crew_name)
    declared = CrewDefinition(name=crew_name, agents=[AgentDefinition(agent_id="echo", agent_class="EchoAgent")])
    await definitions.apply(runtime.redis, keys, declared)
    with pytest.raises(InvalidInput, match="has no agent 'Bot'"):
        await client.submit_task(task("x", crew_name=crew_name))
    task_id = await client.submit_task(task("x", "echo", crew_name=crew_name))
    assert await client.task_status(task_id, crew_name=crew_name) is TaskStatus.QUEUED
    async with Client(runtime.url) as other:
        assert await other.unfinished(crew_name) == [task_id]


async def test_a_run_of_all_agents_of_any_name_is_refused(runtime: Runtime) -> None:
    service = await runtime.service()
    async with Client(runtime.url) as client:
        with pytest.raises(InvalidInput, match="Name an agent"):
            await client.submit(service.crew, "x")
    with pytest.raises(InvalidInput, match="Name an agent"):
        await service.submit_task(AgentTask(agent_name="two\nlines", prompt="x"))
