"""Workers as scaling sees them, and draining those that are to leave."""

from __future__ import annotations

import contextlib
import json

import pytest
from support import SHORT_MS, Crew

from waiting import until
from watchbill import connection
from watchbill.errors import CrewGone
from watchbill.names import WORKERS_GROUP
from watchbill.store import control
from watchbill.store.queue import Queue
from watchbill.store.workers import Worker, workers
from watchbill.tasks import Priority


async def seen(crew: Crew) -> dict[str, Worker]:
    found = await workers(crew.client, crew.keys, crew.uid)
    return {worker.name: worker for worker in found.of_crew}


async def drain(crew: Crew, *names: str, on: bool = True) -> int:
    return await control.drain_for_scaling(crew.client, crew.keys, crew.uid, names, on=on)


async def test_a_worker_holds_what_it_claimed_until_that_has_ended(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    await crew.submit("t3", priority=Priority.CRITICAL)
    tasks = await crew.take("pod-1.aaaa", 1, 3)
    assert (await seen(crew))["pod-1"].holds == 3
    await crew.finish("pod-1.aaaa", tasks[:1])
    await crew.queue.hand_back("pod-1.aaaa", tasks[1:2])
    assert (await seen(crew))["pod-1"].holds == 1
    await crew.finish("pod-1.aaaa", tasks[2:])
    assert (await seen(crew))["pod-1"].holds == 0
    assert list(await seen(crew)) == ["pod-1"], "what was handed back is no worker's"


async def test_deliveries_that_a_worker_sends_count_as_held_by_the_same_worker(crew: Crew) -> None:
    keys = crew.keys.deliveries()
    await crew.claim("pod-1.aaaa")
    await Queue(crew.client, keys, crew.uid).claim("pod-1.bbbb", 1, 0, lease_ms=60_000, take_over=False)
    await crew.client.xgroup_create(keys.streams[2], WORKERS_GROUP, mkstream=True)
    await crew.client.xadd(keys.streams[2], {"what": "a delivery"})
    await crew.client.xreadgroup(WORKERS_GROUP, "pod-1.bbbb", {keys.streams[2]: ">"})
    assert {name: worker.holds for name, worker in (await seen(crew)).items()} == {"pod-1": 1}


async def test_a_worker_says_its_revision_and_since_when_the_store_knows_it(crew: Crew) -> None:
    for name in ("pod-1.aaaa", "pod-2.bbbb", "pod-3.cccc"):
        await crew.claim(name)
    with contextlib.closing(connection.connect_sync(crew.url)) as client:
        crew.queue.renew(client, "pod-1.aaaa", 60_000, json.dumps({"revision": "abcd1234", "since": 17}))
        crew.queue.renew(client, "pod-2.bbbb", 60_000, "what another version says")
    found = await seen(crew)
    assert (found["pod-1"].revision, found["pod-1"].since_ms) == ("abcd1234", 17)
    assert {(found[name].revision, found[name].since_ms) for name in ("pod-2", "pod-3")} == {(None, 0)}


async def test_who_has_left_is_none_and_who_is_silent_is_one_while_it_holds_something(crew: Crew) -> None:
    await crew.submit("t1")
    await crew.claim("busy-1.aaaa", 1, 1, lease_ms=SHORT_MS)
    await crew.claim("idle-1.bbbb", lease_ms=SHORT_MS, take_over=False)
    await crew.claim("left-1.cccc", take_over=False)
    await crew.queue.leave("left-1.cccc")

    async def silent() -> bool:
        return "idle-1" not in await seen(crew)

    await until(silent, what="the leases' end")
    assert list(await seen(crew)) == ["busy-1"]
    await crew.claim("other-1.dddd", 1, 1)
    assert list(await seen(crew)) == ["other-1"], "its task was taken over"


async def test_named_workers_drain_and_the_same_call_again_changes_nothing(crew: Crew) -> None:
    await crew.submit("t1")
    for name in ("pod-1.aaaa", "pod-2.bbbb", "pod-3.cccc"):
        await crew.claim(name, slots=0)
    assert await drain(crew, "pod-1", "pod-2") == 2
    assert await drain(crew, "pod-1", "pod-2") == 0
    assert {n: w.draining for n, w in (await seen(crew)).items()} == {
        "pod-1": "scaling",
        "pod-2": "scaling",
        "pod-3": "",
    }
    assert await crew.claim("pod-1.aaaa", 2) == ()
    assert (await workers(crew.client, crew.keys, crew.uid)).undrained_ms == 0
    assert await drain(crew, "pod-1", on=False) == 1
    found = await workers(crew.client, crew.keys, crew.uid)
    assert 0 < found.undrained_ms <= found.now_ms
    assert [task.id for task in await crew.claim("pod-1.aaaa", 3)] == ["t1"]


async def test_scaling_takes_back_no_drain_that_a_person_asked_for(crew: Crew) -> None:
    of_crew = (crew.client, crew.keys, crew.uid)
    await crew.claim("pod-1.aaaa")
    await crew.claim("pod-2.bbbb")
    assert await control.drain(*of_crew, "pod-1", on=True)
    assert await drain(crew, "pod-1", "pod-2") == 1
    assert await control.drain(*of_crew, "pod-2", on=True), "a person takes it over"
    assert await drain(crew, "pod-1", "pod-2", on=False) == 0
    assert {worker.draining for worker in (await seen(crew)).values()} == {"person"}
    await control.drain(*of_crew, "pod-2", on=False)
    assert await drain(crew, "pod-2") == 1
    assert await control.drain(*of_crew, "pod-2", on=False), "and may take it back"


async def test_flags_of_scaling_are_forgotten_a_day_after_their_worker(crew: Crew) -> None:
    await drain(crew, "gone-1", "late-1")
    long_ago = int((await crew.client.time())[0] * 1000 - 25 * 3_600_000)
    await crew.client.hset(crew.keys.meta, "drain:gone-1", f"{long_ago} scaling")
    await drain(crew, "new-1")
    flags = {field for field in await crew.client.hkeys(crew.keys.meta) if field.startswith("drain:")}
    assert flags == {"drain:late-1", "drain:new-1"}


async def test_workers_of_a_crew_that_was_replaced_are_neither_read_nor_drained(crew: Crew) -> None:
    with pytest.raises(CrewGone):
        await workers(crew.client, crew.keys, "another uid")
    with pytest.raises(CrewGone):
        await control.drain_for_scaling(crew.client, crew.keys, "another uid", ["pod-1"], on=True)
    assert not [field for field in await crew.client.hkeys(crew.keys.meta) if field.startswith("drain:")]
