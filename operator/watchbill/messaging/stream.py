"""RedisStream and AsyncRedisStream: messages that are kept, for groups of consumers that share them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import redis
import redis.asyncio

from watchbill.messaging import stopping, stream_core
from watchbill.messaging.entries import Message
from watchbill.messaging.shells import Async, Blocking


class RedisStream(Blocking):
    """A stream of messages, and this program as one consumer of it. Threads may share an object.

    A message is a dict. Its texts come back as texts, and everything else that JSON can say as it was (a tuple as a
    list). A stream keeps all messages, also what was acknowledged, unless it has a `max_length`: then it gives up its
    oldest ones, but `add` raises QueueFull rather than give up what a group still has to do.

    Each message goes to one consumer of each group, at least once. It is given again when nobody acknowledges or renews
    it for `retry_after` seconds: its handling failed, or its consumer died. So `retry_after` is longer than a handling
    takes, or the handling calls `renew`. A message that was given `max_deliveries` times becomes a dead letter.

    The key is the name, or `PREFIXstream:NAME` with a `key_prefix`. `client` is as in Blocking. Every method raises
    StoreUnavailable during an outage, but process_messages, which waits; and InvalidInput for what can't be stored.
    """

    def __init__(
        self,
        name: str,
        client: Blocking | redis.Redis | None = None,
        *,
        max_length: int | None = None,
        retry_after: float = 60.0,
        max_deliveries: int = 5,
        key_prefix: str = "",
    ) -> None:
        self._core = stream_core.Stream(
            name,
            max_length=max_length,
            retry_after=retry_after,
            max_deliveries=max_deliveries,
            key_prefix=key_prefix,
        )
        super().__init__(client)

    def add(self, data: dict[str, Any]) -> str:
        """Adds a message, once, also where an answer was lost. Returns its id."""
        return self._do(self._core.add(data))

    def read(self, last_id: str = "0-0", count: int | None = None) -> list[Message]:
        """Messages behind the one with this id, by default all, as `{"id": …, "data": {…}}`, oldest first; at most
        `count`. Belongs to no group, and changes nothing."""
        return self._do(self._core.read(last_id, count))

    def create_consumer_group(self, group: str, consumer: str) -> bool:
        """Makes this object a consumer of a group, and the group if it isn't there. True if it was made now.

        A new group begins with the first message of the stream, however long ago that was added.
        """
        self._core.join(group, consumer)
        return self._do(self._core.create_group(group))

    def join(self, group: str, consumer: str) -> None:
        """Makes this object a consumer of a group that is there. Asks nobody."""
        self._check_open()
        self._core.join(group, consumer)

    def read_group(self, count: int = 10, wait: float = 0.0) -> list[Message]:
        """Up to `count` messages for this consumer: first those that are given again, then new ones.

        Waits for `wait` seconds until there is one. Raises NotFound if the group has gone.
        """
        return self._do(self._core.read_group(count, wait))

    def acknowledge(self, *ids: str) -> int:
        """Says that messages are done. Returns how many of them were pending in the group."""
        return self._do(self._core.acknowledge(*ids))

    def renew(self, *ids: str) -> list[str]:
        """Begins `retry_after` anew for messages that are being handled. Returns those that are still this consumer's;
        the others were given to somebody else meanwhile."""
        return self._do(self._core.renew(*ids))

    def process_messages(
        self,
        handler: Callable[[Message], object],
        *,
        count: int = 10,
        limit: int | None = None,
        wait: float | None = None,
    ) -> int:
        """Calls the handler with each message, and acknowledges what it returns from; `count` are read at once.

        A message whose handler raises is given again after `retry_after`, and is a dead letter with the error after
        `max_deliveries`. Goes on through outages until `stop` is called, `limit` messages were handled, or none came
        for `wait` seconds. Returns how many were handled without an error. What was read and not begun goes back at
        once.
        """
        with stopping.Helper(self._take, lambda: self._core.is_stopped) as helper:
            return self._do(self._core.process(handler, count=count, limit=limit, wait=wait), helper.take)

    def stop(self) -> None:
        """Ends process_messages, here or in another thread, after the message that it is at; within two seconds if the
        server doesn't answer. What it was given then is given again later."""
        self._core.is_stopped = True

    def leave(self, *ids: str) -> bool:
        """Takes this consumer out of its group, and hands back these messages, for the next consumer that reads. Their
        delivery doesn't count. False if others are pending with this consumer: it stays in the group until they have
        been given to somebody else."""
        return self._do(self._core.leave(*ids))

    def dead_letters(self, count: int | None = None) -> list[Message]:
        """Dead letters, oldest first: as messages, with `message_id`, `group`, `deliveries` and `error` besides."""
        return self._do(self._core.dead_letters(count))

    def replay_dead_letters(self, *ids: str) -> list[str]:
        """Gives the messages of these dead letters to their group again, with all their deliveries, and deletes the
        letters. Returns the ids of the letters that were replayed: not those that are gone, or whose group is.

        A message that the stream has given up meanwhile is added to it anew, and so comes to all groups.
        """
        return self._do(self._core.replay_dead_letters(*ids))

    def delete_dead_letters(self, *ids: str) -> int:
        """Deletes dead letters by their `id`. Returns how many there were."""
        return self._do(self._core.delete_dead_letters(*ids))

    def purge_dead_letters(self) -> int:
        """Deletes all dead letters. Returns how many there were."""
        return self._do(self._core.purge_dead_letters())

    def cleanup(self, groups: Sequence[str] | None = None, *, force: bool = False) -> dict[str, str]:
        """Destroys groups, by default all, and then the stream with its dead letters, whatever is left to do in it.

        Groups with a living consumer stay unless `force` is given, and with them the stream. Returns these groups, each
        with such a consumer: one that asked for messages in the last ten seconds, or one that got some within
        `retry_after` and may still handle them.
        """
        return self._do(self._core.cleanup(groups, force=force))


class AsyncRedisStream(Async):
    """RedisStream with coroutines. Its handlers are functions or coroutine functions."""

    def __init__(
        self,
        name: str,
        client: Async | redis.asyncio.Redis | None = None,
        *,
        max_length: int | None = None,
        retry_after: float = 60.0,
        max_deliveries: int = 5,
        key_prefix: str = "",
    ) -> None:
        self._core = stream_core.Stream(
            name,
            max_length=max_length,
            retry_after=retry_after,
            max_deliveries=max_deliveries,
            key_prefix=key_prefix,
        )
        self._limits = stopping.Limits(self._take, lambda: self._core.is_stopped)
        super().__init__(client)

    async def add(self, data: dict[str, Any]) -> str:
        """Does what RedisStream.add does."""
        return await self._do(self._core.add(data))

    async def read(self, last_id: str = "0-0", count: int | None = None) -> list[Message]:
        """Does what RedisStream.read does."""
        return await self._do(self._core.read(last_id, count))

    async def create_consumer_group(self, group: str, consumer: str) -> bool:
        """Does what RedisStream.create_consumer_group does."""
        self._core.join(group, consumer)
        return await self._do(self._core.create_group(group))

    def join(self, group: str, consumer: str) -> None:
        """Does what RedisStream.join does."""
        self._check_open()
        self._core.join(group, consumer)

    async def read_group(self, count: int = 10, wait: float = 0.0) -> list[Message]:
        """Does what RedisStream.read_group does."""
        return await self._do(self._core.read_group(count, wait))

    async def acknowledge(self, *ids: str) -> int:
        """Does what RedisStream.acknowledge does."""
        return await self._do(self._core.acknowledge(*ids))

    async def renew(self, *ids: str) -> list[str]:
        """Does what RedisStream.renew does."""
        return await self._do(self._core.renew(*ids))

    async def process_messages(
        self,
        handler: Callable[[Message], Awaitable[object] | object],
        *,
        count: int = 10,
        limit: int | None = None,
        wait: float | None = None,
    ) -> int:
        """Does what RedisStream.process_messages does."""
        return await self._do(self._core.process(handler, count=count, limit=limit, wait=wait), self._limits.take)

    def stop(self) -> None:
        """Does what RedisStream.stop does."""
        self._core.is_stopped = True
        self._limits.stop()

    async def leave(self, *ids: str) -> bool:
        """Does what RedisStream.leave does."""
        return await self._do(self._core.leave(*ids))

    async def dead_letters(self, count: int | None = None) -> list[Message]:
        """Does what RedisStream.dead_letters does."""
        return await self._do(self._core.dead_letters(count))

    async def replay_dead_letters(self, *ids: str) -> list[str]:
        """Does what RedisStream.replay_dead_letters does."""
        return await self._do(self._core.replay_dead_letters(*ids))

    async def purge_dead_letters(self) -> int:
        """Does what RedisStream.purge_dead_letters does."""
        return await self._do(self._core.purge_dead_letters())

    async def delete_dead_letters(self, *ids: str) -> int:
        """Does what RedisStream.delete_dead_letters does."""
        return await self._do(self._core.delete_dead_letters(*ids))

    async def cleanup(self, groups: Sequence[str] | None = None, *, force: bool = False) -> dict[str, str]:
        """Does what RedisStream.cleanup does."""
        return await self._do(self._core.cleanup(groups, force=force))
