"""A worker that was stopped for longer than its lease, in the middle of many brief tasks, and wakes."""

from __future__ import annotations

import signal
import time

from workshop import Make, until

from watchbill.tasks import AgentTask

ROUNDS, TASKS = 4, 600


async def test_a_worker_that_wakes_after_its_lease_begins_nothing_that_it_had_claimed(make_crew: Make) -> None:
    """What it claimed before, begun or held, may have been done by others: it asks first."""
    crew = await make_crew({"a": "Brief"})
    sleeper = await crew.worker()
    others: list[str] = []
    for number in range(ROUNDS):
        names = [f"t{number}-{n}" for n in range(TASKS)]
        await crew.client.submit_many(
            crew.name, "a", [AgentTask(task_id=name, agent_name="a", prompt="do it") for name in names]
        )
        await until(lambda n=number: len(crew.started_by(sleeper)) > n * 100 + 30)
        sleeper.signal(signal.SIGSTOP)
        heir = await crew.worker()
        await crew.results(names)
        woken = time.monotonic()
        sleeper.signal(signal.SIGCONT)
        await until(lambda n=number: sleeper.log.count("silent for longer") > n)
        await heir.drain()
        late = [note["task"] for note in crew.notes() if note["pid"] == sleeper.pid and note["at"] > woken]
        others += late[1:]  # it may have stood at the very beginning of one
        await crew.redis.delete(crew.keys.results)
    assert others == []
    assert await crew.is_idle()
