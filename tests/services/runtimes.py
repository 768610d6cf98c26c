"""What tests of services share: services of streams of their own, and bots that do as they are told."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from typing import Any

import redis.asyncio

from waiting import until
from watchbill.client import Client
from watchbill.services import AgentService, AgentServiceClient, AgentServiceConfig, AgentTask, BotManager
from watchbill.store.dead import DeadLetter


class Gated:
    """Answers at once, or a prompt that begins with `wait` once that is let through."""

    task_methods = ("shout",)

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.cancelled: list[str] = []
        self._gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def ask(self, prompt: str) -> str:
        self.asked.append(prompt)
        if prompt.startswith("wait"):
            try:
                await self._gates[prompt].wait()
            except asyncio.CancelledError:
                self.cancelled.append(prompt)
                raise
        return f"done: {prompt}"

    async def shout(self, prompt: str) -> str:
        return prompt.upper()

    async def whisper(self, prompt: str) -> str:
        raise AssertionError("it was not declared")

    def let(self, prompt: str) -> None:
        self._gates[prompt].set()


class Runtime:
    """Services of one pair of streams in one store."""

    def __init__(self, url: str, redis_client: redis.asyncio.Redis) -> None:
        of = uuid.uuid4().hex[:12]
        self.url = url
        self.redis: Any = redis_client
        self.tasks, self.results = f"tasks:{of}", f"results:{of}"
        self.bot = Gated()
        self.bots = BotManager({"Bot": self.bot})
        self.stack = AsyncExitStack()

    def config(self, **options: Any) -> AgentServiceConfig:
        given = {"redis_url": self.url, "task_stream": self.tasks, "result_stream": self.results}
        return AgentServiceConfig(**given | {"shutdown_timeout_seconds": 0} | options)

    async def service(self, bots: Any = None, **options: Any) -> AgentService:
        return await self.stack.enter_async_context(AgentService(self.config(**options), bots or self.bots))

    async def client(self) -> AgentServiceClient:
        return await self.stack.enter_async_context(AgentServiceClient(self.url, task_stream=self.tasks))

    async def published(self) -> list[tuple[str, str]]:
        """(task id, result as JSON) on the stream of results."""
        return [(fields["task_id"], fields["payload"]) for _, fields in await self.redis.xrange(self.results)]

    async def has_published(self, *ids: str) -> Counter[str]:
        """How often each result is on the stream, once those of `ids` are."""

        async def seen() -> Counter[str] | None:
            found = Counter(task_id for task_id, _ in await self.published())
            return found if set(ids) <= set(found) else None

        found: Counter[str] = await until(seen, what=f"results of {ids}")
        return found

    async def letters(self, service: AgentService) -> list[DeadLetter]:
        async with Client(self.url) as client:
            return [letter async for letter in client.dead_letters(service.crew)]


def task(prompt: str, agent: str = "Bot", **options: Any) -> AgentTask:
    return AgentTask(agent_name=agent, prompt=prompt, **options)
