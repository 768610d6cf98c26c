"""Services and clients that are stopped, closed, or not started yet: what is called then raises Closed."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from runtimes import Gated, Runtime, task

from right_arguments import RIGHT
from waiting import until
from watchbill import connection, messaging, network
from watchbill.api import Heartbeat
from watchbill.client import Client, SyncClient
from watchbill.connection import client
from watchbill.crews import AgentDefinition, CrewDefinition, CrewRedis
from watchbill.errors import Closed, InvalidInput, StoreUnavailable
from watchbill.services import (
    AgentService,
    AgentServiceClient,
    AgentServiceConfig,
    BotManager,
    DeliveryChannel,
    DeliveryConfig,
    HeartbeatConfig,
    running,
)
from watchbill.services.config import keys_of
from watchbill.worker import state

# ---------------------------------------------------------------- services


async def test_a_service_takes_tasks_only_while_it_is_started(runtime: Runtime) -> None:
    beat = HeartbeatConfig(agent_name="Bot", interval_seconds=1, prompt_template="beat")
    service = AgentService(runtime.config(heartbeats=[beat], shutdown_timeout_seconds=60), runtime.bots)
    given = task("wait")
    with pytest.raises(Closed, match=r"was not started. Call start\(\)"):
        await service.submit_task(given)
    await service.start()
    await service.submit_task(given)
    await until(lambda: "wait" in runtime.bot.asked)

    refused = task("refused")
    waiting = asyncio.create_task(service.get_result("unknown", None))
    stopping = asyncio.create_task(service.stop())
    await until(lambda: not service.get_status()["running"])
    with pytest.raises(Closed, match="is being stopped"):
        await service.submit_task(refused)
    assert not waiting.done(), "results can be read until it has stopped"
    runtime.bot.let("wait")
    await stopping
    with pytest.raises(Closed, match="was stopped meanwhile"):
        await waiting
    for call in (service.submit_task(refused), service.get_result(given.task_id, 0)):
        with pytest.raises(Closed, match=r"is stopped. Call start\(\)"):
            await call
    assert service.get_status() == {
        "running": False,
        "queue_size": 0,
        "active_workers": 0,
        "available_slots": 0,
        "heartbeats": 1,
    }
    await service.ended()
    assert not await runtime.redis.exists(keys_of(runtime.tasks).task(refused.task_id)), "it was stored"


async def test_a_service_that_was_stopped_can_be_started_again(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHBILL_HEALTH_PORT", "0")
    beat = HeartbeatConfig(agent_name="Bot", interval_seconds=1, prompt_template="beat")
    service = AgentService(runtime.config(heartbeats=[beat]), runtime.bots)
    await service.start()
    with pytest.raises(RuntimeError, match=r"started before. Call stop\(\) first"):
        await service.start()
    stopping = asyncio.create_task(service.stop())
    await asyncio.sleep(0)  # it has begun
    await service.start()
    assert stopping.done(), "it is started when it has stopped"
    first_port = service.health_port
    done = await service.get_result(await service.submit_task(task("again")))
    assert done is not None
    assert done.output == "done: again"
    await runtime.redis.xadd(runtime.tasks, {"task_id": "streamed", "agent_name": "Bot", "prompt": "streamed"})
    await runtime.has_published(done.task_id, "streamed")
    beats = runtime.bot.asked.count("beat")
    await until(lambda: runtime.bot.asked.count("beat") > beats, what="a heartbeat")
    await service.stop()
    assert (first_port is not None, service.health_port) == (True, None)


@pytest.mark.parametrize("field", ["task_stream", "result_stream"])
async def test_a_stream_that_is_another_programs_key_is_told_at_the_start(runtime: Runtime, field: str) -> None:
    key = runtime.config().streams[field]
    await runtime.redis.lpush(key, "another program's")
    with pytest.raises(InvalidInput, match=f"{field}: at '{key}' is a list of another program"):
        await runtime.service()
    await runtime.redis.delete(key)
    service = await runtime.service()
    assert await service.get_result(await service.submit_task(task("x")))


async def test_a_service_stops_whatever_fails_meanwhile(runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    service = await runtime.service()
    await runtime.redis.lpush(runtime.results, "another program's")
    assert await service.get_result(await service.submit_task(task("x")))
    await service.stop()
    assert "the last results could not be published" in caplog.text
    assert not [one for one in asyncio.all_tasks() if one.get_name().startswith(("worker", "results"))]
    with pytest.raises(Closed):
        await service.submit_task(task("y"))
    await runtime.redis.delete(runtime.results)
    await service.start()
    assert await service.get_result(await service.submit_task(task("z")))


async def test_a_store_that_does_not_answer_hardly_delays_a_stop(
    private_redis: Callable[[], Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "LAST_SECONDS", 3)  # there are three things that it may be spent for
    monkeypatch.setattr(state, "STORE_SECONDS", 0.1)
    monkeypatch.setattr(client, "REPLY_TIMEOUT_SECONDS", 3600)  # which a stop must not wait for
    server, bot = await private_redis(), Gated()
    beat = HeartbeatConfig(agent_name="Bot", interval_seconds=3600, prompt_template="beat")
    config = AgentServiceConfig(redis_url=server.url, heartbeats=[beat], shutdown_timeout_seconds=0)
    async with AgentService(config, BotManager({"Bot": bot})) as service:
        await service.submit_task(task("wait"))
        await until(lambda: "wait" in bot.asked)
        server.pause()
        async with asyncio.timeout(120):
            await service.stop()
    assert bot.cancelled == ["wait"]


async def test_a_start_that_failed_may_be_repeated(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    service = AgentService(runtime.config(), runtime.bots)
    monkeypatch.setenv("WATCHBILL_HEALTH_PORT", "none")
    with pytest.raises(ValueError, match="WATCHBILL_HEALTH_PORT"):
        await service.start()
    monkeypatch.delenv("WATCHBILL_HEALTH_PORT")
    async with service:
        assert await service.get_result(await service.submit_task(task("now")))


async def test_a_service_may_be_stopped_while_it_waits_for_its_store(tmp_path: Path) -> None:
    service = AgentService(AgentServiceConfig(redis_url=f"unix://{tmp_path}/nothing.sock"), BotManager())
    starting = asyncio.create_task(service.start(wait=True))
    await until(lambda: service._running is not None)
    await service.stop()
    with pytest.raises(Closed, match="stopped while it started"):
        await starting
    with pytest.raises(StoreUnavailable):
        await service.start()
    with pytest.raises(Closed, match="is stopped"):
        await service.submit_task(task("x"))


async def test_a_secret_of_a_delivery_outlives_a_restart_of_the_service(runtime: Runtime) -> None:
    secret = DeliveryConfig(channel=DeliveryChannel.TEAMS, teams_webhook_url="https://SECRET.example/x")
    service = AgentService(runtime.config(), runtime.bots)
    async with service:
        await service.submit_task(task("x", delivery=secret))
    assert "https://SECRET.example/x" in service._kept.values()


# ---------------------------------------------------------------- clients

ARGUMENTS = RIGHT | {
    "sources": Heartbeat.model_validate(
        {"metadata": {"name": "a"}, "spec": {"crewRef": {"name": "a"}, "intervalSeconds": 60}}
    ),
    "metadata": {},
}
LOCAL = {"close", "stop", "keys", "unsubscribe", "health_check", "client", "held", "fence"}
"""Methods that end something, or ask nobody."""


def calls(made: Any) -> dict[str, Callable[[], Any]]:
    """Public methods of the object → a call with any arguments that are right."""
    found: dict[str, Callable[[], Any]] = {}
    for name in dir(type(made)):
        if name.startswith("_") or name in LOCAL or not callable(getattr(type(made), name)):
            continue
        method = getattr(made, name)
        parameters = inspect.signature(method).parameters.values()
        given = {
            p.name: ARGUMENTS.get(p.name, "a")
            for p in parameters
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY)
        }
        before = [ARGUMENTS.get(p.name, "a") for p in parameters if p.kind is p.POSITIONAL_ONLY]
        if "ids" in inspect.signature(method).parameters:
            given["ids"] = ["1-0"]
        ids = given.pop("ids", []) if any(p.kind is p.VAR_POSITIONAL for p in parameters) else []

        def call(method: Any = method, before: Any = before, ids: Any = ids, given: Any = given) -> Any:
            if ids:
                return method(*ids, **given)
            return method(*before, **given)

        found[name] = call
    return found


async def outcome(call: Callable[[], Any]) -> str:
    """The name of what a call of any kind raises: of a function, coroutine, iterator or context manager."""
    try:
        answer = call()
        if inspect.isawaitable(answer):
            answer = await answer
        if hasattr(answer, "__aenter__"):
            async with answer:
                pass
        elif hasattr(answer, "__enter__"):
            with answer:
                pass
        elif hasattr(answer, "__anext__"):
            await anext(answer)
        elif hasattr(answer, "__next__"):
            next(answer)
    except Exception as error:
        return type(error).__name__
    return f"returned {answer!r}"


async def closed(made: Any) -> dict[str, str]:
    """Method → what it did instead of raising Closed, once the object is closed."""
    if hasattr(made, "join"):  # else the arguments would be refused
        made.join("g", "c")
    if hasattr(made, "acquire"):  # else there is nothing to ask the server about
        taken = made.acquire()
        assert await taken if inspect.isawaitable(taken) else taken
    ended = made.close()
    if inspect.isawaitable(ended):
        await ended
    found = {name: await outcome(call) for name, call in calls(made).items()}
    assert len(found) >= 3
    return {name: what for name, what in found.items() if what != "Closed"}


MESSAGING = [name for name in messaging.__all__ if name not in ("RateDecision", "RedisConfig")]
OPTIONS: dict[str, Any] = {
    "RedisRateLimiter": lambda: {"prefix": "p"},
    "RedisStream": lambda: {"name": "s"},
    "RedisLock": lambda: {"name": uuid.uuid4().hex},
}


@pytest.mark.parametrize("owns", [True, False])
@pytest.mark.parametrize("name", MESSAGING)
async def test_an_object_of_messaging_that_is_closed_does_nothing_more(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, name: str, owns: bool
) -> None:
    monkeypatch.setenv("WATCHBILL_REDIS_URL", redis_url)
    is_async = name.startswith("Async")
    client: Any = connection.connect(redis_url) if is_async else connection.connect_sync(redis_url)
    options = OPTIONS.get(name.removeprefix("Async"), dict)()
    made = getattr(messaging, name)(**options, **({} if owns else {"client": client}))
    assert await closed(made) == {}
    if hasattr(made, "health_check"):
        answer = made.health_check()
        assert (await answer if is_async else answer) is False
    pinged = client.ping()  # which isn't the object's
    assert await pinged if is_async else pinged
    await client.aclose() if is_async else client.close()


@pytest.mark.parametrize("is_async", [True, False])
async def test_with_its_connections_all_that_uses_them_is_closed(redis_url: str, is_async: bool) -> None:
    if is_async:
        shared = messaging.AsyncRedisClient(redis_url)
        lock = messaging.AsyncRedisLock("closed-with-another", client=shared)
        await shared.close()
        with pytest.raises(Closed, match="Make a new one"):
            await lock.acquire()
    else:
        blocking = messaging.RedisClient(redis_url)
        held = messaging.RedisLock("closed-with-another", client=blocking)
        blocking.close()
        with pytest.raises(Closed, match="Make a new one"):
            held.acquire()


async def test_clients_of_any_kind_do_nothing_once_they_are_closed(redis_url: str, crew_name: str) -> None:
    assert await closed(Client(redis_url)) == {}
    assert await closed(SyncClient(redis_url)) == {}
    given = connection.connect(redis_url)
    assert await closed(network.RedisStream(client=given)) == {}
    assert await closed(network.RedisCache(client=given)) == {}
    await given.aclose()

    strict, seed = [CrewRedis(redis_url, strict=is_strict) for is_strict in (True, False)]
    for records in (strict, seed):
        await records.close()
        assert await records.ping() is False
    with pytest.raises(Closed):
        await strict.list_crews()
    assert await seed.list_crews() == []
    assert await seed.save_crew(CrewDefinition(name=crew_name, agents=[AgentDefinition(agent_id="a")])) is False


async def test_a_client_that_waits_is_told_that_it_is_closed(runtime: Runtime) -> None:
    async with AgentServiceClient(runtime.url, task_stream=runtime.tasks) as client, Client(runtime.url) as other:
        task_id = await client.submit_task(task("nobody does it"))
        wrong = {"prompt": "half a pair: \ud800", "metadata": {"n": float("nan")}, "user_id": "u" * 600}
        for field, value in wrong.items():
            with pytest.raises(InvalidInput) as caught:
                await client.submit_task({"agent_name": "Bot", "prompt": "x", field: value})
            assert caught.value.problems[0].path.partition(".")[0] == field
        crew = keys_of(runtime.tasks).crew
        waiting = [asyncio.create_task(one) for one in (client.get_result(task_id, None), other.wait(crew, task_id))]
        await until(lambda: other._replies.are_awaited(keys_of(runtime.tasks), task_id))
        await other.close()
        await client.disconnect()
        for one in waiting:
            with pytest.raises(Closed):
                await one
        for call in (client.submit_task(task("x")), client.get_result(task_id, 0), client.task_status(task_id)):
            with pytest.raises(Closed, match=r"disconnected. Call connect\(\) first"):
                await call
        await client.connect()
        assert await client.get_result(task_id, 0) is None
