"""A worker that was stopped for longer than its lease, in the middle of what it does, and wakes."""

from __future__ import annotations

import asyncio
import math
import re
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from test_worker_processes import lives
from workshop import AGENTS, Make, agent

from waiting import until
from watchbill.agents.sources import Sources
from watchbill.connection.url import parse
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.tasks import AgentTask
from watchbill.testing import context
from watchbill.worker.execution import child_messaging, processes
from watchbill.worker.execution.shared_lease import SharedLease

PrivateRedis = Callable[[], Awaitable[Any]]
ROUNDS, TASKS = 2, 600
LEASE = 5
"""Seconds. A test waits them out; a busy machine must not let a worker be silent for as long."""


async def test_a_worker_that_wakes_after_its_lease_begins_nothing_that_it_had_claimed(make_crew: Make) -> None:
    """What it claimed before, begun or held, may have been done by others: it asks first."""
    crew = await make_crew({"a": "Brief"}, lease_seconds=LEASE)
    sleeper = await crew.worker()
    others: list[str] = []
    for number in range(ROUNDS):
        names = [f"t{number}-{n}" for n in range(TASKS)]
        await crew.client.submit_many(
            crew.name, "a", [AgentTask(task_id=name, agent_name="a", prompt="do it") for name in names]
        )
        await until(lambda n=number: len(crew.started_by(sleeper)) > n * 100 + 30)  # type: ignore[misc]
        (asleep,) = await crew.incarnations(sleeper)
        sleeper.signal(signal.SIGSTOP)
        heir = await crew.worker()
        await crew.results(names)  # which the sleeper may have done all by itself

        async def is_given_up(name: str = asleep) -> bool:
            return name not in await crew.incarnations()

        await until(is_given_up)
        woken = time.monotonic()
        sleeper.signal(signal.SIGCONT)
        await until(lambda n=number: sleeper.log.count("silent for longer") > n)  # type: ignore[misc]
        await heir.drain()
        late = [note["task"] for note in crew.notes() if note["pid"] == sleeper.pid and note["at"] > woken]
        others += late[1:]  # it may have stood at the very beginning of one
        await crew.redis.delete(crew.keys.results)
    assert others == []
    assert await crew.is_idle()


@pytest.mark.parametrize(
    ("where", "kinds"),
    [
        ("worker", ["Loop", "Thread", "HiddenInThread"]),
        ("process", ["Process", "HiddenInProcess", "LoopInProcess"]),
    ],
)
async def test_no_agent_takes_its_first_step_once_its_worker_has_lost_the_lease(
    make_crew: Make, where: str, kinds: list[str]
) -> None:
    """The worker stops when it has handed the tasks over, and before the agents' module is loaded."""
    agents = [AgentDefinition(agent_id=kind, agent_class=f"late:{kind}", config={"folder": ""}) for kind in kinds]
    crew = await make_crew(agents, lease_seconds=LEASE)
    environment = {"LATE": str(crew.folder), "LATE_IN": where}
    (crew.folder / "whom").write_text("")
    first = await crew.worker(environment=environment)
    (crew.folder / "whom").write_text(str(first.pid))

    def importing() -> list[int]:
        return [int(path.suffix[1:]) for path in crew.folder.glob("importing.*")]

    for kind in kinds:
        await crew.submit(f"t{kind}", kind)
    await until(lambda: len(importing()) == (3 if where == "process" else 1))
    first.signal(signal.SIGSTOP)
    heir = await crew.worker(environment=environment)
    assert all(result.success for result in await crew.results(f"t{kind}" for kind in kinds))
    (crew.folder / "go").touch()
    if where == "process":
        await until(lambda: not any(map(lives, importing())), what="the end of its processes, with the lease")
    first.signal(signal.SIGCONT)
    await until(lambda: "silent for longer" in first.log)
    await heir.drain()
    await crew.submit("next", kinds[0])
    assert (await crew.result("next")).success, "it works again"
    assert crew.executions() == {f"t{kind}": 1 for kind in kinds} | {"next": 1}


async def test_a_process_and_what_it_started_end_with_the_lease_of_a_worker_that_was_stopped(make_crew: Make) -> None:
    crew = await make_crew([agent("a", "Apart")], tasks={"max_attempts": 1}, lease_seconds=LEASE)
    worker = await crew.worker()
    for what in ("wait", "hold_interpreter", "start_another"):
        await crew.submit(what, "a", what)
    await until(lambda: len(crew.notes()) == 3 and crew.notes("other"))
    pids = [*(note["pid"] for note in crew.notes()), *(note["other"] for note in crew.notes("other"))]
    worker.signal(signal.SIGSTOP)
    await until(lambda: not any(map(lives, pids)), what="their end")
    worker.signal(signal.SIGCONT)
    error = "its process was stopped, because its worker stood still for longer than its lease"
    assert {result.error for result in await crew.results(crew.executions())} == {error}


async def test_a_process_begins_only_while_the_lease_is_surely_its_workers() -> None:
    """Its worker has looked, and the lease ran out on the way to it; the store is away, so that nothing stops it."""
    lease = SharedLease()
    lease.begin(3600)
    lease.extend(math.inf)
    process = processes._Process(Sources.of([AGENTS]), lease)
    definition = CrewDefinition(name="c", agents=[agent("a", "apart", notes=False)])
    given = context("x", agent=definition.agents[0])
    request = {**processes.request(definition, given), "store": child_messaging.told(parse("redis://127.0.0.1:1"))}
    try:
        assert (await process.run(request, given)).text == str(process.pid)
        lease.extend(0)
        slept = naps(process.pid)
        run = asyncio.create_task(process.run(request, given))
        await until(lambda: run.done() or naps(process.pid) > slept + 10, what="the agent, or looks at the lease")
        assert not run.done(), "it waits"
        lease.extend(math.inf)
        assert (await run).text == str(process.pid)
    finally:
        process.kill()
        await process.ended()
        process.close()


def naps(pid: int) -> int:
    """How often the process's main thread has gone to sleep."""
    return int(re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)[0])


async def test_a_process_goes_on_while_the_store_is_away_for_longer_than_the_lease(
    make_crew: Make, private_redis: PrivateRedis
) -> None:
    """Its worker turns, and nobody could take the task over: as agents on the loop and in threads do."""
    store, lease = await private_redis(), 36  # a busy machine must not let the worker stand still for a third of it
    crew = await make_crew([agent("a", "Apart")], url=store.url, lease_seconds=lease)
    await crew.worker()
    await crew.submit("t", "a", "wait")
    await crew.started("t")
    store.pause()
    await asyncio.sleep(lease + 1)
    store.resume()
    crew.open()
    result = await crew.result("t")
    assert (result.output, result.attempt) == ("waited", 1)
    assert crew.executions() == {"t": 1}
