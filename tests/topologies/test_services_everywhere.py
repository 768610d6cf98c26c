"""A service over stores of every kind: its streams are slots of their own, and a Cluster keeps each elsewhere."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from typing import Any

import servers

from watchbill import connection
from watchbill.services import AgentService, AgentServiceClient, AgentServiceConfig, AgentTask, BotManager


class Echo:
    name = "Echo"

    async def ask(self, prompt: str) -> str:
        return prompt


async def test_a_service_takes_tasks_from_its_stream_and_publishes_each_result_once(store: servers.Store) -> None:
    of = uuid.uuid4().hex[:8]
    tasks, results = f"tasks:{of}", f"results:{of}"
    config = AgentServiceConfig(redis_url=store.url, task_stream=tasks, result_stream=results)
    ids = [f"t{n}" for n in range(20)]
    async with (
        connection.connected(store.url) as redis_client,
        AgentServiceClient(store.url, task_stream=tasks) as client,
        AgentService(config, BotManager([Echo()])),
        AgentService(config, BotManager([Echo()])),
    ):
        for name in ids[:10]:
            await redis_client.xadd(tasks, {"task_id": name, "agent_name": "Echo", "prompt": name})
        await client.submit_tasks([AgentTask(task_id=name, agent_name="Echo", prompt=name) for name in ids[10:]])
        found = await asyncio.gather(*(client.get_result(name, 180) for name in ids))
        assert [result.output for result in found if result] == ids
    async with connection.connected(store.url) as redis_client:  # the services have published the rest
        entries: Any = await redis_client.xrange(results)
        published = Counter(fields["task_id"] for _, fields in entries)
        assert published == dict.fromkeys(ids, 1)
        assert await redis_client.xlen(tasks) == 0
