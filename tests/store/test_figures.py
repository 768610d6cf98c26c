"""How much a crew has to do, as people and metrics are told: against the queue itself, and what it costs the store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis
import redis.asyncio
from support import LEASE_MS, MANY, SHORT_MS, Crew, flow_of, library, made, opened, server_ms

from waiting import until
from watchbill import connection
from watchbill.errors import QueueFull, StoreUnavailable
from watchbill.names import CrewKeys
from watchbill.store import control, figures
from watchbill.store.figures import Figures, OfClass
from watchbill.store.submissions import Submission
from watchbill.tasks import Priority

PrivateRedis = Callable[[], Awaitable[Any]]
CLASSES = ("critical", "high", "normal", "low", "background")


async def of(crew: Crew) -> Figures:
    return await figures.figures(crew.client, crew.keys)


def by_class(found: Figures) -> dict[str, tuple[int, int]]:
    return {c.name: (c.waiting, c.running) for c in found.classes if c.waiting or c.running}


async def calls(client: redis.asyncio.Redis) -> dict[str, int]:
    """Command → how often it was called since the server's statistics were reset, by scripts too."""
    stats = await client.info("commandstats")
    return {name.removeprefix("cmdstat_"): int(values["calls"]) for name, values in stats.items()}


async def test_each_class_tells_what_waits_what_runs_and_how_old_its_head_is(crew: Crew) -> None:
    await crew.submit("l1", "l2", priority=Priority.LOW)
    await asyncio.sleep(0.05)
    await crew.submit("c1", "c2", "c3", priority=Priority.CRITICAL)
    before = await server_ms(crew.client)
    found = await of(crew)
    assert [c.name for c in found.classes] == list(CLASSES)
    assert by_class(found) == {"critical": (3, 0), "low": (2, 0)}
    ages = {c.name: c.oldest_ms for c in found.classes}
    assert ages["high"] is ages["normal"] is ages["background"] is None
    assert ages["critical"] is not None
    assert ages["low"] is not None
    assert ages["low"] >= ages["critical"] + 50
    assert found.oldest_ms == ages["low"]
    assert before <= found.now_ms <= before + 60_000

    assert [t.id for t in await crew.take("w", slots=4)] == ["c1", "c2", "c3", "l1"]
    found = await of(crew)
    assert by_class(found) == {"critical": (0, 3), "low": (1, 1)}
    assert (found.waiting, found.running) == (1, 4)
    assert {c.name for c in found.classes if c.oldest_ms is not None} == {"low"}


async def test_what_was_handed_back_waits_and_is_as_old_as_it_was(crew: Crew) -> None:
    await crew.submit("t1")
    await asyncio.sleep(0.05)
    await crew.submit("t2", "t3")
    tasks = await crew.take("w", slots=2)
    entries = [entry for entry, _ in await crew.client.xrange(crew.keys.streams[2])]
    old = entries[0]
    found = await of(crew)
    assert found.oldest_ms == found.now_ms - int(entries[2].partition("-")[0]), "of what waits, not of what runs"
    await crew.queue.hand_back("w", tasks[:1])
    found = await of(crew)
    assert (found.waiting, found.running, by_class(found)) == (2, 1, {"normal": (2, 1)})
    assert found.oldest_ms == found.now_ms - int(old.partition("-")[0])
    assert [t.id for t in await crew.take("v", slots=1)] == ["t1"]
    found = await of(crew)
    assert (found.waiting, found.running) == (1, 2)


async def test_a_crew_without_streams_or_that_is_not_there_has_nothing_to_do(crew: Crew) -> None:
    assert await crew.client.keys(crew.keys.prefix + "tasks:*") == []
    nothing = await of(crew)
    assert (nothing.waiting, nothing.running, nothing.oldest_ms, nothing.workers) == (0, 0, None, 0)
    assert nothing.classes == tuple(OfClass(name, 0, 0, None) for name in CLASSES)
    missing = CrewKeys("test", "nobody-has-this")
    assert await figures.figures(crew.client, missing) == Figures()
    both = [pair async for pair in figures.each(crew.client, [crew.keys, missing])]
    assert [(name, found is None) for name, found in both] == [(crew.keys.crew, False), (missing.crew, True)]


async def test_an_entry_that_somebody_else_put_on_a_stream_without_a_group_waits(crew: Crew) -> None:
    await crew.client.xadd(crew.keys.streams[0], {"id": "t", "agent": "a"})
    assert by_class(await of(crew)) == {"critical": (1, 0)}
    assert (await of(crew)).oldest_ms is not None


async def test_what_is_parked_is_told_by_reason_and_what_is_delayed_by_when_it_is_due(crew: Crew) -> None:
    await crew.run("r1", library(*"abcd"), parallel=1)
    await crew.submit("later", due_ms=await server_ms(crew.client) + 60_000)
    await crew.submit("t1", "t2")
    (task,) = [t for t in await crew.take("w", slots=5) if t.id == "t1"]
    await crew.queue.park("w", [task], "not in this image")
    await crew.submit("t3")
    await control.interrupt(crew.client, crew.keys, crew.uid, "t3", "wait")
    found = await of(crew)
    assert found.parked_by == {"concurrency": 3, "agent": 1, "interrupt": 1, "limit": 0}
    assert (found.parked, found.delayed) == (5, 1)
    assert found.due_in_ms is not None
    assert 0 < found.due_in_ms <= 60_000


async def test_refused_submissions_are_counted_and_those_that_went_well_are_not(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    with pytest.raises(QueueFull):
        await crew.submit_all([Submission("t3", "a", "{}")], max_queued=2)
    await crew.submit_all([Submission("t1", "a", "{}")], max_queued=2)  # it is there already
    assert (await of(crew)).refused == 1
    await crew.client.hset(crew.keys.meta, "trimmed", "7")
    assert (await of(crew)).trimmed == 7


async def test_workers_are_those_whose_lease_runs_with_what_they_say_of_themselves(crew: Crew) -> None:
    sync = connection.connect_sync(crew.url)

    async def renew(name: str, lease_ms: int, text: str) -> None:
        await crew.claim(name, slots=0, lease_ms=lease_ms)
        await asyncio.to_thread(crew.queue.renew, sync, name, lease_ms, text)

    await renew("host-1.aa", LEASE_MS, json.dumps({"running": 3, "slots": 10, "draining": False}))
    await renew("host-2.bb", LEASE_MS, json.dumps({"running": 1, "slots": 5, "draining": True}))
    await renew("host-3.cc", LEASE_MS, "no JSON")
    await renew("host-4.dd", LEASE_MS, json.dumps({"running": 0, "slots": 2, "draining": False}))
    await renew("host-5.ee", SHORT_MS, json.dumps({"running": 0, "slots": 100, "draining": False}))
    sync.close()
    await control.drain(crew.client, crew.keys, crew.uid, "host-4", on=True)

    async def one_less() -> bool:
        return (await of(crew)).workers == 4

    await until(one_less)
    found = await of(crew)
    assert (found.draining, found.slots) == (2, 17)
    told = {one.name: one for one in await figures.incarnations(crew.client, crew.keys)}
    assert [(one.running, one.slots, one.draining) for one in told.values()] == [
        (3, 10, False),
        (1, 5, True),
        (0, 0, False),
        (0, 2, True),
        (0, 100, False),
    ]
    assert told["host-1.aa"].lease_ms > LEASE_MS / 2
    assert told["host-5.ee"].lease_ms <= 0, "nobody has taken over yet"


async def test_what_has_run_longest_is_told_first_and_what_is_only_held_not_at_all(crew: Crew) -> None:
    await crew.submit("t1", priority=Priority.HIGH)
    await crew.take("w", slots=1)
    await asyncio.sleep(0.03)
    await crew.submit("t2", agent="b")
    await crew.take("v", slots=1)
    await crew.submit("t3")
    await crew.claim("u", slots=1)
    found = await figures.running_longest(crew.client, crew.keys, 10)
    assert [(f.task_id, f.agent, f.incarnation, f.priority, f.attempt) for f in found] == [
        ("t1", "a", "w", 3, 1),
        ("t2", "b", "v", 5, 1),
    ]
    assert found[0].running_ms >= found[1].running_ms + 30
    assert [f.task_id for f in await figures.running_longest(crew.client, crew.keys, 1)] == ["t1"]
    assert (await of(crew)).running == 3


async def test_what_has_ended_since_is_counted_by_how_it_ended_and_runs_are_not_tasks(crew: Crew) -> None:
    async def since(last_id: str) -> figures.Ended | None:
        ((_, found),) = [pair async for pair in figures.each(crew.client, [crew.keys], {crew.keys.crew: last_id})]
        assert found is not None
        return found.ended

    assert await since("") is None
    assert (await of(crew)).ended is None, "it wasn't asked for"
    await crew.submit("t0")
    await crew.finish("w", await crew.take("w"))
    first = await since("")
    assert first is not None
    assert (first.results, first.seen) == (1, 0)

    await crew.submit("t1", "t2", "t3", "t4")
    await crew.run("r1", flow_of([("a", "b")]))
    tasks = await crew.take("w", 2, slots=5)
    await crew.finish("w", [t for t in tasks if t.id in ("t1", "t2")], "failed")
    await crew.finish("w", [t for t in tasks if t.id == "t3"], "dead")
    await crew.finish("w", [t for t in tasks if t.id in ("t4", "r1/a")])
    await crew.finish("w", await crew.take("w", 3))
    await crew.submit("t5")
    await control.cancel(crew.client, crew.keys, crew.uid, "t5", "", 60_000)
    now = await since(first.last_id)
    assert now is not None
    assert now.results == 1 + 5 + 1 + 1 + 1, "two steps, the run, and what was cancelled"
    assert (now.seen, now.completed, now.failed) == (8, 3, 3)
    again = await since(now.last_id)
    assert again is not None
    assert (again.results, again.seen) == (now.results, 0)


async def test_of_very_many_results_the_newest_are_looked_at(crew: Crew) -> None:
    ids = [f"t{i}" for i in range(figures.RESULTS_SEEN + 50)]
    await crew.submit(*ids)
    tasks = await crew.take("w", slots=len(ids))
    await crew.finish("w", tasks[:50], "failed")
    await crew.finish("w", tasks[50:])
    ((_, found),) = [pair async for pair in figures.each(crew.client, [crew.keys], {crew.keys.crew: "0-0"})]
    assert found is not None
    assert found.ended is not None
    assert (found.ended.results, found.ended.seen) == (len(ids), figures.RESULTS_SEEN)
    assert (found.ended.completed, found.ended.failed) == (figures.RESULTS_SEEN, 0)


async def test_it_costs_the_same_whatever_waits_and_runs(private_redis: PrivateRedis, crew_name: str) -> None:
    server = await private_redis()
    async with opened(server.url, crew_name) as crew:

        async def cost() -> dict[str, int]:
            await of(crew)  # the script is known from now on
            await crew.client.config_resetstat()
            await of(crew)
            return {name: n for name, n in (await calls(crew.client)).items() if not name.startswith("config")}

        await crew.submit("a", "b")
        await crew.take("w", slots=1)
        few = await cost()
        await crew.submit_all((Submission(f"t{i}", "a", "{}") for i in range(5000)), max_queued=MANY)
        await crew.take("w", 2, slots=400)
        assert await cost() == few
        assert sum(few.values()) < 40
        assert few["evalsha"] == 1


async def test_hundreds_of_crews_are_read_in_few_trips_and_the_script_is_sent_but_once(
    private_redis: PrivateRedis,
) -> None:
    server = await private_redis()
    client = connection.connect(server.url)
    crews = [await made(client, f"c{i}") for i in range(figures.CREWS_AT_ONCE + 5)]
    for i, crew in enumerate(crews):
        await crew.submit(*(f"t{n}" for n in range(i % 3)))
    await client.script_flush()
    await client.config_resetstat()
    found = [pair async for pair in figures.each(client, [crew.keys for crew in crews])]
    assert [name for name, _ in found] == [crew.keys.crew for crew in crews]
    assert [f.waiting for _, f in found if f] == [i % 3 for i in range(len(crews))]
    assert (await calls(client))["eval"] == 1
    await client.config_resetstat()
    found = [pair async for pair in figures.each(client, [crew.keys for crew in crews])]
    assert (await calls(client))["evalsha"] == len(crews)
    await client.aclose()


async def test_reading_needs_no_right_to_write_and_no_key_but_the_crews(
    private_redis: PrivateRedis, crew_name: str
) -> None:
    server = await private_redis()
    async with opened(server.url, crew_name) as crew:
        await crew.submit("t1", "t2", priority=Priority.LOW)
        await crew.queue.hand_back("w", (await crew.take("w"))[:1])
        patterns = [f"~{key}" for key in crew.keys.fixed]
        rights = ["+@read", "+@connection", "+evalsha", "+eval", "+time", "+xinfo"]
        await crew.client.execute_command("ACL", "SETUSER", "reader", "reset", "on", ">x", *rights, *patterns)
        reader = connection.connect(server.url.replace("unix://", "unix://reader:x@"))
        with pytest.raises(redis.ResponseError, match="permission"):  # the guard works
            await reader.hset(crew.keys.meta, "x", "y")
        found = await figures.figures(reader, crew.keys)
        assert (found.waiting, found.running) == (1, 1)
        assert len([pair async for pair in figures.each(reader, [crew.keys], {})]) == 1
        assert len(await figures.incarnations(reader, crew.keys)) == 1
        assert [held.task_id for held in await figures.running_longest(reader, crew.keys, 5)] == ["t2"]
        await reader.aclose()


async def test_a_store_that_is_away_is_said_to_be_away(private_redis: PrivateRedis, crew_name: str) -> None:
    server = await private_redis()
    async with opened(server.url, crew_name) as crew:
        await server.kill()
        with pytest.raises(StoreUnavailable):
            await of(crew)
        with pytest.raises(StoreUnavailable):
            [pair async for pair in figures.each(crew.client, [crew.keys])]
        with pytest.raises(StoreUnavailable):
            await figures.incarnations(crew.client, crew.keys)
        await server.restart()
