"""Watchbill, as its users run it: `python -m watchbill.worker` for a crew of one agent, and `watchbill.client`.

The crew has all defaults (10 tasks at once, lease 15 s, results kept for an hour); its agent is a function.
"""

# /// script
# dependencies = []
# ///
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import uvloop
from bench.peers.producing import CONCURRENCY, URL, WAIT_SECONDS, serve, worker
from bench.peers.work import perform

import watchbill
from watchbill import connection, names
from watchbill.agents.context import Context
from watchbill.client import Client
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.store import definitions
from watchbill.tasks import AgentTask, TaskResult

CREW = "default/bench"


async def noop(context: Context) -> dict[str, int]:
    return perform(int(context.prompt))


class Watchbill:
    async def open(self) -> None:
        self.raw = connection.connect(URL)
        keys = names.CrewKeys(*CREW.split("/"))
        agent = AgentDefinition(agent_id="noop", agent_class="bench.peers.watchbill:noop")
        crew = CrewDefinition(name="bench", agents=[agent], concurrency=CONCURRENCY)
        await definitions.apply(self.raw, keys, crew)
        self.client = Client(URL)

    async def submit(self, number: int) -> str:
        return await self.client.submit(CREW, str(number), agent="noop", id=f"t{number}")

    async def submit_all(self, numbers: Sequence[int]) -> list[str]:
        tasks = [AgentTask(task_id=f"t{number}", agent_name="noop", prompt=str(number)) for number in numbers]
        return await self.client.submit_many(CREW, "noop", tasks)

    async def call(self, number: int) -> Any:
        result = await self.client.run(CREW, str(number), agent="noop", timeout=WAIT_SECONDS)
        assert isinstance(result, TaskResult)
        return result.output

    async def stored(self, handles: Sequence[str]) -> list[Any]:
        results = [await self.client.result(CREW, task_id) for task_id in handles]
        return [result.output if result else None for result in results]

    async def left(self) -> int:
        now = await self.client.figures(CREW)
        return now.waiting + now.running


if __name__ == "__main__":
    uvloop.run(
        serve(
            Watchbill(),
            version=watchbill.__version__,
            worker=worker("-m", "watchbill.worker"),
            environment={"WATCHBILL_CREW": CREW, "WATCHBILL_REDIS_URL": URL, "WATCHBILL_ALLOW_MODULES": "bench"},
            guarantee="at least once, a finished task never again; a killed worker's tasks go on when its lease ends",
            settings=f"all defaults: {CONCURRENCY} at once, lease 15 s, events on",
        )
    )
