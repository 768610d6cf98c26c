"""Receives messages about ends that callers wait for, on one channel for each crew.

A message only wakes the caller, who then reads the result: any client of the store may have sent it.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Iterator
from typing import Final

import redis.asyncio

from watchbill import names
from watchbill.clock import Patience
from watchbill.connection import outages
from watchbill.loggers import Logger
from watchbill.store import packed

logger = Logger("watchbill.client")

POLL_SECONDS: Final = 2.0
"""Seconds after which a caller reads the result without a message, which may be lost."""
LISTEN_SECONDS: Final = 10.0
"""Seconds that the store may take to confirm a subscription."""


class Waiter:
    """A caller that waits for the end of one task or run."""

    def __init__(self) -> None:
        self.told = asyncio.Event()


class Replies:
    """The messages to one client. They may be lost."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._id = uuid.uuid4().hex
        self._channels: redis.asyncio.client.PubSub | None = None
        self._reader: asyncio.Task[None] | None = None
        self._subscribing = asyncio.Lock()
        self._waiting: dict[tuple[str, str], list[Waiter]] = {}

    @contextlib.contextmanager
    def awaited(self, keys: names.CrewKeys, task_id: str) -> Iterator[Waiter]:
        """A waiter that is woken when this task ends, within the block."""
        waiter = Waiter()
        waiters = self._waiting.setdefault((keys.crew, task_id), [])
        waiters.append(waiter)
        try:
            yield waiter
        finally:
            waiters.remove(waiter)
            if not waiters:
                self._waiting.pop((keys.crew, task_id), None)

    def are_awaited(self, keys: names.CrewKeys, task_id: str) -> bool:
        """Returns whether a caller waits for this task."""
        return (keys.crew, task_id) in self._waiting

    async def listen(self, keys: names.CrewKeys) -> str:
        """Subscribes to the crew's channel, whose messages wake the waiters, and returns its name."""
        channel = keys.reply(self._id)
        if self._reader is None or self._channels is None or channel not in self._channels.channels:
            async with self._subscribing:  # several at once would each open a connection, and one of them is read
                await self._subscribe(channel)
        return channel

    async def close(self) -> None:
        """Ends all subscriptions."""
        await self._stop_reading()
        if self._channels is not None:
            with contextlib.suppress(redis.exceptions.RedisError, OSError):
                await self._channels.aclose()

    def wake(self) -> None:
        """Lets all waiters read now."""
        for waiters in self._waiting.values():
            for waiter in waiters:
                waiter.told.set()

    async def _subscribe(self, channel: str) -> None:
        if self._channels is None:
            self._channels = self._client.pubsub(ignore_subscribe_messages=True)
        try:
            if channel not in self._channels.channels:
                # A reader that finds the connection lost makes it anew, and so do we: one at a time, or both lose it.
                await self._stop_reading()
                with outages.translated():
                    async with Patience(LISTEN_SECONDS):  # redis-py itself waits for ever
                        await self._channels.subscribe(channel)
        finally:
            if self._reader is None and self._channels.channels:
                self._reader = asyncio.create_task(self._read(self._channels), name="watchbill replies")

    async def _stop_reading(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, channels: redis.asyncio.client.PubSub) -> None:
        try:
            while True:
                # redis-py subscribes again by itself when it connects again; a message lost meanwhile is made up by
                # polling
                message = await outages.persist(lambda: channels.get_message(timeout=None))
                if message:
                    self._tell(str(message["channel"]), message["data"])
        except Exception as error:
            logger.warning("can't hear what ends, so who waits looks every %.0f s: %s", POLL_SECONDS, error)
            self._reader = None  # who comes next listens again

    def _tell(self, channel: str, data: str) -> None:
        crew = channel.partition("{")[2].partition("}")[0]
        for task_id in packed.ids(data):
            for waiter in self._waiting.get((crew, task_id), ()):
                waiter.told.set()
