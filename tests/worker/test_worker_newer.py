"""A crew that a newer version has defined, in a way that this one can't read: its work waits, and nothing dies."""

from __future__ import annotations

import json

import pytest
from workshop import Crew, Make

from waiting import until
from watchbill.errors import NewerRecord
from watchbill.metrics import BACKGROUND_RESTARTS
from watchbill.store import definitions
from watchbill.worker import parked


async def made_newer(crew: Crew, digest: str) -> str:
    """What was there before."""
    key = crew.keys.definition(digest)
    before = str(await crew.redis.get(key))
    await crew.redis.set(key, json.dumps(json.loads(before) | {"execution_mode": "swarm"}))
    return before


async def test_work_waits_until_the_crew_can_be_read_again(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief"}, lease_seconds=60)
    worker = await crew.worker(unpark_seconds=0.1)
    (name,) = await crew.incarnations(worker)
    await crew.client.drain(crew.name, name)
    readable = (await definitions.current(crew.redis, crew.keys)).digest
    changed = crew.definition.model_copy(update={"max_parallel_tasks": 3})
    await definitions.apply(crew.redis, crew.keys, changed)
    digest = (await definitions.current(crew.redis, crew.keys)).digest
    tasks = [f"t{number}" for number in range(20)]
    for task in tasks:
        await crew.submit(task, "a")
    await crew.submit("r")
    before = await made_newer(crew, digest)

    with pytest.raises(NewerRecord, match=r"newer version.*execution_mode"):
        await crew.client.crew(crew.name)
    late = await crew.worker(doomed=True)
    later = await crew.worker(doomed=True)
    for starting in (late, later):
        await until(lambda p=starting: "waiting until the crew can be read" in p.log, 180)  # type: ignore[misc]
    await later.drain()
    await crew.client.undrain(crew.name, name)

    async def all_parked() -> bool:
        return (await crew.client.figures(crew.name)).parked == len(tasks) + 1

    await until(all_parked)
    assert (await crew.client.figures(crew.name)).dead == 0
    await until(lambda: "execution_mode" in worker.log)

    await definitions.apply(crew.redis, crew.keys, crew.definition)
    assert [result.attempt for result in await crew.results(tasks)] == [1] * len(tasks)
    assert readable == (await definitions.current(crew.redis, crew.keys)).digest
    await crew.redis.set(crew.keys.definition(digest), before)
    run = await crew.run_result("r")  # it goes on under the definition with which it began
    assert (run.success, run.steps["a"].attempt) == (True, 1)
    told = [event for event in await crew.events(run="r") if event.message.startswith("NewerRecord: ")]
    assert len(told) == 1, "nobody brought it back in vain"
    await until(lambda: crew.incarnations(late), what="the late worker's lease")
    for process in (worker, late):
        await process.drain()


async def test_what_brings_parked_work_back_begins_anew_when_it_fails(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = await make_crew({"a": "Brief"})
    await crew.submit("t", "a")
    claimed = (await crew.queue.claim("w", 1, 1, lease_ms=60_000, take_over=False)).tasks
    await crew.queue.park("w", claimed, "nobody has it")
    await crew.redis.zadd(crew.keys.parked_agent, {"a stranger's": 0})
    look = parked._Search.bring_back

    async def fails_once(self: parked._Search) -> None:
        monkeypatch.setattr(parked._Search, "bring_back", look)
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(parked._Search, "bring_back", fails_once)
    restarts = BACKGROUND_RESTARTS.labels("parked")._value.get()
    async with crew.in_process():
        assert (await crew.result("t")).success
    assert BACKGROUND_RESTARTS.labels("parked")._value.get() == restarts + 1
