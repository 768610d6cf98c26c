"""How many connections a worker takes: that bounds how many workers one store can have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from workshop import Make


async def test_a_worker_takes_few_connections_however_busy_it_is(
    make_crew: Make, private_redis: Callable[[], Awaitable[Any]]
) -> None:
    store = await private_redis()
    crew = await make_crew({"a": "Brief", "gate": "Gate"}, url=store.url, concurrency=20)
    tasks = [f"t{number}" for number in range(200)]
    await crew.submit("gate", "gate")
    for task in tasks:
        await crew.submit(task, "a")

    async def connections() -> set[str]:
        await crew.client.state(crew.name, tasks[-1])  # so that our own are there, too
        return {client["id"] for client in await crew.redis.client_list()}

    ours = await connections()
    await crew.worker()
    await crew.started("gate")
    most, are_done = 0, False
    while not are_done:
        are_done = bool(await crew.client.result(crew.name, tasks[-1]))
        most = max(most, len(await connections() - ours))  # once at least, though all may be done by now
    assert 4 <= most <= 12, "of 20 agents at once, each with a call of its own to begin and to end"
    crew.open()
