"""RedisCache: what each agent answered, and what all of them answered lately.

Keys, with the prefix `cache:`
    cache:{agent}        list, oldest first: dicts and lists as JSON, everything else as text
    cache:timestamps     sorted set by time (seconds): JSON objects of agent, id and value
    cache:agents         sorted set: the agents that have a list, by the time (ms) at which that expires

A text that begins like JSON (with a brace, a bracket or a quote) is kept as a JSON string, so that it comes back as a
text. An agent that is called like a key beside the lists has a list with a colon behind its name.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any, Final, Literal, Self

import redis.asyncio
from redis.exceptions import ClusterCrossSlotError

from watchbill import message_names
from watchbill.connection import outages, scripts
from watchbill.errors import InvalidInput, Problem
from watchbill.messaging import checks, config
from watchbill.messaging.shells import Async

_JSON_BEGINS: Final = ("{", "[", '"')
_AT_ONCE: Final = 500
"""Histories that one call deletes: the server is never held for long."""
_MOST: Final = 10**9


class RedisCache(Async):
    """Responses of agents. An async context manager, which belongs to one event loop.

    A history keeps its newest `max_history` responses, the recent view the newest `max_recent` of all agents; None is
    no bound. The server is the one at `host` and `port` (REDIS_HOST and REDIS_PORT, else localhost:6379), or that of
    `client`, as in `watchbill.messaging`. On a Redis Cluster the prefix needs a hash tag, as in `{cache}:`.

    Every method raises StoreUnavailable during an outage, and InvalidInput for what can't be kept.
    """

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        db: int = 1,
        prefix: str = "cache:",
        *,
        client: Async | redis.asyncio.Redis | None = None,
        max_history: int | None = 1000,
        max_recent: int | None = 10_000,
    ) -> None:
        self.prefix = checks.text(prefix, "prefix")
        self._max_history = 0 if max_history is None else checks.whole(max_history, "max_history", least=1, most=_MOST)
        self._max_recent = 0 if max_recent is None else checks.whole(max_recent, "max_recent", least=1, most=_MOST)
        self._recent = message_names.cache_recent(prefix)
        self._agents = message_names.cache_agents(prefix)
        super().__init__(client, None if client is not None else config.from_parts(host, port, db))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def append_response(self, agent_id: str, value: Any, expire: float | None = None) -> None:
        """Appends to the agent's history and to the recent view, once, also where an answer was lost.

        A dict or a list is kept as JSON, everything else as `str(value)`. With `expire` the agent's history goes that
        many seconds from now, all of it and what the recent view has of it; without, when it would have gone before.
        """
        history = self._history(agent_id)
        value = value if isinstance(value, dict | list) else str(value)
        item = _item(value)
        member = _owner(agent_id) + f'"id":"{uuid.uuid4().hex}","value":{checks.to_json(value, "value")}}}'
        expire_ms = 0 if expire is None else max(int(checks.seconds(expire, "expire") * 1000), 1)
        args = (agent_id, item, member, self._max_history, self._max_recent, expire_ms)
        done = False
        while not done:
            done, *expired = await self._run("append", [history, self._recent, self._agents], args)
            for agent in expired:
                await self._remove(str(agent), if_expired=True)

    async def get_responses(self, agent_id: str, last_n: int | None = None) -> list[Any]:
        """The agent's responses, oldest first: all of them, or the newest `last_n`."""
        history = self._history(agent_id)
        if last_n is not None and checks.whole(last_n, "last_n", least=0, most=_MOST) == 0:
            return []
        with outages.translated():
            items = await self._redis.lrange(history, -last_n if last_n else 0, -1)
        return [_value(str(item)) for item in items]

    async def get_last_responses(self, sample_size: int) -> list[Any]:
        """The newest responses of all agents, newest first."""
        return await self._read_recent("newest", sample_size)

    async def get_random_responses(self, sample_size: int) -> list[Any]:
        """So many responses of the recent view, or as many as there are, each at most once, in any order."""
        return await self._read_recent("random", sample_size)

    async def clear(self, agent_id: str) -> None:
        """Deletes the agent's history, and what the recent view has of it."""
        self._history(agent_id)
        await self._remove(agent_id)

    async def clear_all(self) -> None:
        """Deletes all histories, and the recent view. Reads no other keys."""
        with outages.translated():
            agents = [str(agent) for agent in await self._redis.zrange(self._agents, 0, -1)]
        for start in range(0, max(len(agents), 1), _AT_ONCE):
            some = agents[start : start + _AT_ONCE]
            keys = [self._recent, self._agents, *map(self._history, some)]
            await self._run("clear", keys, some)

    async def _read_recent(self, order: Literal["newest", "random"], count: int) -> list[Any]:
        if checks.whole(count, "sample_size", least=0, most=_MOST) == 0:
            return []
        while True:
            members, expired = await self._run("recent", [self._recent, self._agents], (count, order))
            if not expired:
                return [_shown(str(member)) for member in members]
            for agent in expired:
                await self._remove(str(agent), if_expired=True)

    async def _remove(self, agent: str, *, if_expired: bool = False) -> None:
        keys = [self._history(agent), self._recent, self._agents]
        await self._run("remove", keys, (agent, _owner(agent), int(if_expired)))

    async def _run(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        try:
            with outages.translated():
                return await scripts.run(self._redis, f"network/cache_{script}", keys, args)
        except ClusterCrossSlotError as error:
            reason = f"keys with the prefix {self.prefix!r} don't share a slot of the Redis Cluster"
            fix = f"Give it a hash tag, as in {{{self.prefix.rstrip(':')}}}:"
            raise InvalidInput(Problem(reason, fix, path="prefix")) from error

    def _history(self, agent: str) -> str:
        return message_names.cache_history(self.prefix, checks.text(agent, "agent_id"))


def _owner(agent: str) -> str:
    """Returns the prefix of the recent view's members that are of this agent."""
    return f'{{"agent":{json.dumps(agent)},'


def _item(value: dict[str, Any] | list[Any] | str) -> str:
    if checks.is_text(value) and not value.lstrip().startswith(_JSON_BEGINS):
        return value
    return checks.to_json(value, "value")


def _shown(member: str) -> Any:
    """The value of a member of the recent view. The original kept values there as they are in its lists."""
    found = checks.from_json_or_text(member)
    is_ours = isinstance(found, dict) and found.keys() == {"agent", "id", "value"}
    return found["value"] if is_ours else _value(member)


def _value(item: str) -> Any:
    return checks.from_json_or_text(item) if item.lstrip().startswith(_JSON_BEGINS) else item
