"""Puts each result of a service's crew on the stream of results, for programs that read it there.

What ends is on the crew's own stream of results, by the script that ends it; so nothing is lost when a service dies
between the two. Any number of services do this at once: the store takes each result once, in order.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any, Final

import redis.asyncio

from watchbill.api.delivery import Log
from watchbill.connection import outages
from watchbill.delivery import Message, log
from watchbill.errors import NotFound
from watchbill.names import CrewKeys
from watchbill.services.tasks import TaskResult
from watchbill.store import ingress, runs
from watchbill.store.ingress import Published
from watchbill.tasks import TaskState

BATCH: Final = 100
BLOCK_MS: Final = 2000


class Publisher:
    """Publishes the results of one crew."""

    def __init__(self, client: redis.asyncio.Redis, keys: CrewKeys, stream: str, most: int) -> None:
        """`client` may block; `most`: how many results the stream keeps, about."""
        self._client = client
        self._keys = keys
        self._stream = stream
        self._most = most

    async def run(self) -> None:
        """Publishes until it is cancelled. Outlasts outages."""
        after = ""
        while True:
            after = await outages.persist(lambda: self._turn(after, BLOCK_MS))  # noqa: B023 - awaited here

    async def rest(self) -> None:
        """Publishes all that has ended so far. Raises StoreUnavailable."""
        after = before = ""
        while not before or after != before:
            before = after or "0-0"
            with outages.translated():
                after = await self._turn(after, None)

    async def _turn(self, after: str, block_ms: int | None) -> str:
        """Publishes what there is behind the result `after`; empty: behind the last published one. Returns the id of
        the last result that is published."""
        after = after or await ingress.last_published(self._client, self._keys, self._stream)
        reply: Any = await self._client.xread({self._keys.results: after}, count=BATCH, block=block_ms)
        if not reply:
            return after
        rows = reply[self._keys.results][0] if isinstance(reply, dict) else reply[0][1]
        found: list[Published] = []
        through, size = after, 0
        for entry, fields in rows:
            if size >= ingress.ROOM_BYTES:
                break
            through = str(entry)
            if fields.get("kind") == "task":
                found.append(await self._published(through, fields))
                size += len(found[-1].payload)
        last, count = await ingress.publish(self._client, self._keys, self._stream, found, through, most=self._most)
        for one in found[-count:] if count else ():
            _log(one)
        return last

    async def _published(self, entry: str, fields: dict[str, str]) -> Published:
        task_id, payload = fields["id"], fields.get("result", "")
        if not payload or fields.get("state") == TaskState.CANCELLED:  # too long for the stream; or without metadata
            payload = await self._read(task_id, fields.get("state", ""))
        return Published(entry, task_id, payload)

    async def _read(self, task_id: str, state: str) -> str:
        try:
            result = await runs.result(self._client, self._keys, task_id)
        except NotFound:
            result = None
        if result is None:
            why = None if state == TaskState.COMPLETED else f"{state}; its result is no longer stored"
            result = TaskResult(task_id=task_id, agent_name="", success=state == TaskState.COMPLETED, error=why)
        return result.model_dump_json()


def _log(one: Published) -> None:
    """Delivers a result to the log."""
    if logging.getLogger(log.LOGGER).isEnabledFor(logging.INFO):
        with suppress(ValueError):  # a newer version's
            result = TaskResult.model_validate_json(one.payload)
            log.send(Message.of(result, one.task_id), Log())
