"""Heartbeats that a service has no longer go; those of other services that live stay."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from runtimes import Runtime

from waiting import until
from watchbill.names import CrewKeys
from watchbill.services import AgentService, HeartbeatConfig, beats
from watchbill.store import heartbeats, service_heartbeats


def config(*agents: str) -> dict[str, Any]:
    return {"heartbeats": [HeartbeatConfig(agent_name=agent, interval_seconds=86400) for agent in agents]}


async def stored(runtime: Runtime, service: AgentService) -> set[str | None]:
    """The agents of the heartbeats in the store."""
    keys = CrewKeys(*service.crew.split("/"))
    return {state.spec.agent for state in await heartbeats.all_of(runtime.redis, keys)}


async def test_what_was_taken_out_of_the_config_goes_at_the_next_start(runtime: Runtime) -> None:
    before = await runtime.service(**config("old", "kept"))
    (kept,) = [state for state in await _states(runtime, before) if state.spec.agent == "kept"]
    await before.stop()
    assert await stored(runtime, before) == {"old", "kept"}, "it may come back as it was"
    after = await runtime.service(**config("kept", "new"))
    assert await stored(runtime, after) == {"kept", "new"}
    assert kept in await _states(runtime, after), "its next slot is the same"


async def test_the_heartbeats_of_another_living_service_stay_and_go_after_its_end(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a rolling update, while a third service has a configuration of its own."""
    monkeypatch.setattr(beats, "SAY_SECONDS", 0.0)
    old = await runtime.service(**config("old", "both"))
    other = await runtime.service(**config("other"))
    new = await runtime.service(**config("both"))
    told = CrewKeys(*new.crew.split("/")).meta
    said = await runtime.redis.hgetall(told)
    await until(lambda: _all_said_again(runtime, told, said), what="each service says again what it fires")
    assert await stored(runtime, new) == {"old", "both", "other"}
    await old.stop()
    await until(lambda: _is(runtime, new, {"both", "other"}))
    await new.stop()
    assert await stored(runtime, other) >= {"other"}


async def test_a_service_that_died_keeps_its_heartbeats_for_a_while(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await runtime.service(**config("own"))
    keys = CrewKeys(*service.crew.split("/"))
    uid = str(await runtime.redis.hget(keys.meta, "uid"))
    (own,) = await _states(runtime, service)

    async def says(name: str, *fires: str, **holds: int) -> tuple[bool, list[str]]:
        return await service_heartbeats.fires(runtime.redis, keys, uid, name, fires, holds=timedelta(**holds))

    assert await says("elsewhere-1.00aa", "not-there", seconds=60) == (False, [])
    await service.stop()
    assert await says("elsewhere-2.00aa", own.name, milliseconds=1) == (False, [])
    await until(lambda: _removed(says), what="what that said is over")
    assert await stored(runtime, service) == set()


async def test_a_service_that_was_taken_for_dead_stores_its_heartbeats_again(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beats, "SAY_SECONDS", 0.0)
    service = await runtime.service(**config("own"))
    keys = CrewKeys(*service.crew.split("/"))
    (own,) = await _states(runtime, service)
    assert service._running is not None
    name = service._running._beats._name
    async with runtime.redis.pipeline(transaction=True) as pipe:
        pipe.hdel(keys.meta, f"service:{name}", f"heartbeat:{own.name}")
        pipe.delete(keys.heartbeat(own.name))
        await pipe.execute()
    await until(lambda: _is(runtime, service, {"own"}))


async def _states(runtime: Runtime, service: AgentService) -> list[heartbeats.HeartbeatState]:
    return await heartbeats.all_of(runtime.redis, CrewKeys(*service.crew.split("/")))


async def _is(runtime: Runtime, service: AgentService, agents: set[str]) -> bool:
    return await stored(runtime, service) == agents


async def _all_said_again(runtime: Runtime, key: str, before: dict[str, str]) -> bool:
    now = await runtime.redis.hgetall(key)
    services = [field for field in now if field.startswith("service:")]
    return len(services) == 3 and all(now[field] != before.get(field) for field in services)


async def _removed(says: Any) -> bool:
    await asyncio.sleep(0)
    _, removed = await says("elsewhere-3.00aa", seconds=60)
    return bool(removed)
