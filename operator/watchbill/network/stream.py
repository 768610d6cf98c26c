"""RedisStream: messages between agents, for each of them or for one of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final, Self

import redis.asyncio

from watchbill.clock import Patience
from watchbill.errors import WatchbillError
from watchbill.loggers import Logger
from watchbill.messaging import checks, config, stream_core
from watchbill.messaging.shells import Async

logger = Logger("watchbill.network")

LEAVE_SECONDS: Final = 2.0
"""A consumer that ends waits for so long to hand back its message. The message is given again later if it can't."""


class RedisStream(Async):
    """The streams of a server. An async context manager, which belongs to one event loop.

    With a group for each agent, every agent gets each message. With one group for all, one of them gets it.

    The server is the one at `host` and `port` (REDIS_HOST and REDIS_PORT, else localhost:6379), or that of `client`, as
    in `watchbill.messaging`. So are `max_length`, `retry_after` and `max_deliveries`, and what a message may be. Every
    method raises StoreUnavailable during an outage.
    """

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        db: int = 0,
        *,
        client: Async | redis.asyncio.Redis | None = None,
        max_length: int | None = None,
        retry_after: float = 60.0,
        max_deliveries: int = 5,
    ) -> None:
        self._bounds: dict[str, Any] = {
            "max_length": max_length,
            "retry_after": retry_after,
            "max_deliveries": max_deliveries,
        }
        self._core("any")  # raises InvalidInput for a wrong bound
        super().__init__(client, None if client is not None else config.from_parts(host, port, db))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def create_consumer_group(self, stream_name: str, group_name: str) -> bool:
        """Makes a group that begins with the first message of the stream. False if there is one of this name."""
        return await self._do(self._core(stream_name).create_group(checks.text(group_name, "group_name")))

    async def publish_message(self, stream_name: str, message_data: dict[str, Any]) -> str:
        """Adds a message, once, also where an answer was lost. Returns its id."""
        return await self._do(self._core(stream_name).add(message_data, "message_data"))

    async def consume_messages(
        self, stream_name: str, group_name: str, consumer_name: str
    ) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """The messages of a group that this consumer gets, as (id, data), without end.

        A message is acknowledged when the next one is asked for. If the body raises or breaks, or the iterator is
        closed, it is given again to any consumer of the group: at once where the iterator was closed (by
        `contextlib.aclosing`, or when Python drops it), else after `retry_after` seconds. Raises NotFound if there is
        no such group.
        """
        core = self._core(stream_name)
        core.join(checks.text(group_name, "group_name"), checks.text(consumer_name, "consumer_name"))
        held: list[str] = []
        try:
            while True:
                for message in await self._do(core.read_group(1, stream_core.BLOCK_SECONDS)):
                    held = [message["id"]]
                    yield message["id"], message["data"]
                    await self._do(core.acknowledge(*held))
                    held = []
        finally:
            try:
                async with Patience(LEAVE_SECONDS):
                    await self._do(core.leave(*held, counts=True))
            except (WatchbillError, TimeoutError) as error:
                why = str(error) or "the store doesn't answer"
                logger.info("the consumer %r could not leave %r: %s", consumer_name, stream_name, why)

    async def cleanup_stream(
        self, stream_name: str, num_groups: int | None = None, group_prefix: str = "group_", *, force: bool = False
    ) -> dict[str, str]:
        """Destroys groups, and then the stream with its dead letters, whatever is left to do in it.

        All groups, or with `num_groups` those called `group_prefix` and a number from 1. Groups with a living consumer
        stay unless `force` is given, and with them the stream. Returns these groups, each with such a consumer.
        """
        most = stream_core.COUNT_MAX
        number = None if num_groups is None else checks.whole(num_groups, "num_groups", least=0, most=most)
        checks.prefix(group_prefix, "group_prefix")
        groups = None if number is None else [f"{group_prefix}{n + 1}" for n in range(number)]
        left = await self._do(self._core(stream_name).cleanup(groups, force=force))
        if left:
            logger.warning("the stream %r stays, because these groups are in use: %s", stream_name, ", ".join(left))
        return left

    def _core(self, name: str) -> stream_core.Stream:
        return stream_core.Stream(checks.text(name, "stream_name"), **self._bounds)
