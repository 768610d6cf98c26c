"""Calls of the store's scripts: what is sent, and which commands a user needs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import redis
import redis.asyncio
from support import LEASE_MS, MANY, Crew, finished, flow_of, opened, server_ms
from test_scripts import SCRIPTS

from waiting import until
from watchbill import connection
from watchbill.api import Heartbeat
from watchbill.api.delivery import Destination
from watchbill.connection import scripts
from watchbill.plan.scaling import Scaling
from watchbill.records import TaskPolicy
from watchbill.store import (
    circuits,
    control,
    dead,
    definitions,
    figures,
    fired,
    firing,
    heartbeats,
    ingress,
    retention,
    runs,
    scaling,
    service_heartbeats,
    suspension,
    why,
    workers,
)


async def test_scripts_are_sent_again_to_a_server_that_has_forgotten_them(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str
) -> None:
    server = await private_redis()
    async with opened(server.url, crew_name) as crew:
        await crew.submit("t1")
        await crew.client.script_flush()
        assert [t.id for t in await crew.take("w")] == ["t1"]
        sync = connection.connect_sync(crew.url)
        await crew.client.script_flush()
        await asyncio.to_thread(crew.queue.renew, sync, "w", 1000, "{}")
        sync.close()
        assert await crew.client.hlen(crew.keys.workers) == 1


async def test_scripts_touch_only_the_keys_that_were_declared(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store itself checks it: the user that runs a script may see the script's keys and no other."""
    server = await private_redis()
    url: str = server.url
    async with opened(url, crew_name) as crew:
        probe = connection.connect(url.replace("unix://", "unix://probe:x@"))
        plain = scripts.run
        ran: set[str] = set()

        async def guarded(
            client: redis.asyncio.Redis, name: str, keys: Sequence[str], args: list[object], *sent: Callable[[], None]
        ) -> object:
            ran.add(name)
            patterns = [f"~{key}" for key in dict.fromkeys(keys)]
            await crew.client.execute_command(
                "ACL", "SETUSER", "probe", "reset", "on", ">x", "+@all", "allchannels", *patterns
            )
            return await plain(probe, name, keys, args, *sent)

        with monkeypatch.context() as patch:
            patch.setattr(scripts, "run", guarded)
            await guarded(crew.client, "leave", crew.keys.fixed, [crew.uid, "nobody"])
            with pytest.raises(redis.ResponseError, match=r"No permissions|can't access"):  # the guard works
                await probe.eval("return redis.call('HGET', KEYS[1] .. 'x', 'uid')", 1, crew.keys.meta)
            await _everything_workers_do(crew)
            await _everything_people_do(crew)
            await crew.assert_idle()
            await control.call(crew.client, crew.keys, "close", crew.keys.fixed, [crew.uid])
            await definitions.delete(crew.client, crew.keys, crew.uid)
        await probe.aclose()
    left = {"renew": "a thread calls it; it has the fixed keys only", "sweep": "it declares no keys, and only reads"}
    assert ran | {*left} == set(SCRIPTS)


async def _everything_workers_do(crew: Crew) -> None:
    await crew.submit("t1", "t2", "ghost", dedupe_key="k", dedupe_ms=1000, inputs={"x": "1"})
    await crew.submit("t2", "ghost")
    await crew.submit("later", due_ms=1)
    await crew.submit("later-still", due_ms=await server_ms(crew.client) + 100)
    await crew.queue.move_due()
    await crew.run("r1", flow_of([("a", "b"), ("b", "c"), ("d", "e")]), parallel=1, dedupe_key="l", dedupe_ms=1000)
    await crew.run("r2", flow_of([("x", "y")]))
    told = Scaling(at="", mode="Auto", why="hold", wanted=1, replicas=1)
    await scaling.keep(crew.client, crew.keys, crew.uid, told)
    assert await scaling.last(crew.client, crew.keys) == told
    await crew.client.delete(crew.keys.task("ghost"))
    await crew.client.xadd(crew.keys.streams[0], {"bad": "entry"})
    ops = Destination.model_validate({"name": "ops", "log": {}})
    failure = circuits.Failure("no-delivery", 1, "it broke", counts=True)
    await circuits.record_failure(crew.client, crew.keys, crew.uid, ops, failure)
    await circuits.enter(crew.client, crew.keys, crew.uid, ops, 1000)
    await circuits.record_success(crew.client, crew.keys, crew.uid, ops)
    await circuits.defer(crew.client, crew.keys, crew.uid, "to:ops", due_ms=1, before_ms=1)
    for url in ("https://a.example", "https://b.example"):
        hook = Destination.model_validate({"name": "hook", "webhook": {"url": url}})
        await definitions.apply(
            crew.client, crew.keys, crew.definition.model_copy(update={"delivery": [hook]}), uid=crew.uid
        )
    await definitions.apply(crew.client, crew.keys, crew.definition, uid=crew.uid)
    await ingress.refuse(crew.client, crew.keys, crew.uid, ingress.Entry("1-0", {"what": "?"}), "no task")
    await crew.queue.enter("entering", ["a", "b"], lease_ms=LEASE_MS)
    await crew.queue.leave("entering")
    for i in range(300):
        if i > 20 and not await crew.queued() and not await crew.client.zcard(crew.keys.delayed):
            break
        if i % 2:
            tasks = (await crew.queue.claim(f"w{i}", 1, 3, begin=2, lease_ms=LEASE_MS, take_over=True)).tasks
            await crew.queue.finish(f"w{i}", [], begun=tasks, announced=tasks)
        else:
            tasks = await crew.take(f"w{i}", 1, 3)
        for task in tasks:
            await crew.queue.say(f"w{i}", task, "hello", 1)
        if i == 4:
            await crew.queue.park(f"w{i}", tasks, "not in this image")
            await crew.queue.unpark([m for members in (await crew.queue.parked_agents()).values() for m in members])
        if i % 3 == 0:
            await crew.queue.hand_back(f"w{i}", tasks)
        elif i % 3 == 1:
            await crew.queue.declare_dead([f"w{i}"])
        else:
            await crew.queue.finish(f"w{i}", [finished(t, "retry", ttl_ms=1) for t in tasks[:1] if i < 20])
            await crew.finish(f"w{i}", tasks, "dead" if any(t.id == "ghost" for t in tasks) else "completed")
            await crew.queue.leave(f"w{i}")


async def _everything_people_do(crew: Crew) -> None:
    of_crew = (crew.client, crew.keys, crew.uid)
    await dead.purge(*of_crew, [letter.id async for letter in dead.letters(crew.client, crew.keys)])
    await crew.submit("t3", "t4", "t5")
    await crew.run("r3", flow_of([("a", "b"), ("c", "d")]), parallel=1)
    for task in ("t3", "r3/a"):
        assert await control.interrupt(*of_crew, task, "wait")
        assert await control.resume(*of_crew, task)
    assert await control.cancel(*of_crew, "t4", "no more", LEASE_MS)
    assert await control.cancel(*of_crew, "r3/c", "no more", LEASE_MS)
    assert await runs.subscribe(crew.client, crew.keys, "r3", "nobody")
    tasks = await crew.take("p1")
    assert sorted(task.id for task in tasks) == ["r3/a", "t3", "t5"]
    assert not await control.cancel(*of_crew, "t5", "no more", LEASE_MS)
    assert await crew.finish("p1", tasks, "dead") == ["applied"] * 3
    letters = [letter async for letter in dead.letters(crew.client, crew.keys)]
    replayed = await dead.replay(*of_crew, letters, max_queued=MANY)
    assert [one.outcome for one in replayed] == ["replayed"] * 3
    assert await control.cancel_all(*of_crew, None, "enough", LEASE_MS) == control.CancelledAll(3, 0)
    await crew.queue.recover([finished(tasks[0])], "another time")
    await crew.queue.leave("p1")
    await _heartbeats(crew)
    assert await control.drain(*of_crew, "host", on=True)
    await crew.claim("silent", lease_ms=1)
    assert await suspension.suspend(*of_crew, on=True)
    await until(lambda: suspension.silent(crew.client, crew.keys))
    assert await suspension.return_dead(*of_crew, ["silent"]) == 0
    assert await suspension.suspend(*of_crew, on=False)
    assert await workers.workers(*of_crew)
    await definitions.record_loaded(*of_crew, crew.definition.digest())
    await definitions.record_loss(*of_crew, "another time")
    await figures.figures(crew.client, crew.keys)
    await why.seen(crew.client, crew.keys, "r3/a")
    current = await definitions.current(crew.client, crew.keys)
    bounds = current.definition.model_copy(update={"tasks": TaskPolicy(max_results=1)})
    assert await retention.trim(*of_crew, replace(current, content=bounds.content()))


async def _heartbeats(crew: Crew) -> None:
    noon = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
    for agent in ("a", None):
        spec = {"crewRef": {"name": "test"}, "schedule": "* * * * *", "prompt": "look", "agent": agent}
        beat = Heartbeat.model_validate({"metadata": {"name": "hb"}, "spec": spec})
        state = await heartbeats.apply(crew.client, crew.keys, crew.uid, beat, now=noon)
        assert (await firing.run_now(crew.client, crew.keys, "hb", agent or "all", now=noon))[1]
        slots = {"first": state.next or noon, "following": noon + timedelta(minutes=9)}
        assert await heartbeats.miss(crew.client, crew.keys, state, **slots, count=8, message="missed")
        await control.cancel_all(crew.client, crew.keys, crew.uid, None, "enough", LEASE_MS)
        kept_none = Heartbeat.model_validate(
            {"metadata": {"name": "hb"}, "spec": {**spec, "failedRunsHistoryLimit": 0}}
        )
        state = await heartbeats.apply(crew.client, crew.keys, crew.uid, kept_none, now=noon)
        assert await fired.trim(crew.client, crew.keys, state) == 1
    await heartbeats.remove(crew.client, crew.keys, crew.uid, "hb")
    await heartbeats.apply(crew.client, crew.keys, crew.uid, beat, now=noon)
    fires = partial(service_heartbeats.fires, crew.client, crew.keys, crew.uid, holds=timedelta(minutes=1))
    assert await fires("s", ["hb"]) == (False, [])
    assert await fires("s", []) == (True, ["hb"])
    await service_heartbeats.fires_none(crew.client, crew.keys, crew.uid, "s")
