"""The async client of the server that Sentinels name."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from watchbill.connection.client import BROKEN, GUIDE_SECONDS, LeanClient, finding_pool, pool
from watchbill.connection.url import Address, Target


class SentinelClient(LeanClient):
    """Asks the Sentinels for the master each time that it connects."""

    def __init__(self, target: Target, options: Mapping[str, Any]) -> None:
        super().__init__(finding_pool(target, options, self._master))
        self._target = target
        self._options = options
        self._service = target.service
        self._servers: dict[str, LeanClient] = {}
        """Address → client of that very server."""
        own: dict[str, Any] = {
            "decode_responses": True,
            "socket_timeout": None,
            "socket_connect_timeout": GUIDE_SECONDS,
        }
        own |= {"retry": Retry(NoBackoff(), 0), **target.sentinel_options}
        self._sentinels = [LeanClient(pool(target, own, node)) for node in target.nodes]

    def __repr__(self) -> str:  # redis-py's would come round to ourselves
        return f"<SentinelClient of {self._service!r}>"

    async def servers(self) -> dict[str, redis.asyncio.Redis]:
        """The master, and the replicas that the Sentinels see."""
        found = {"%s:%s" % await self._master()}
        for sentinel in self._sentinels:
            try:
                async with asyncio.timeout(GUIDE_SECONDS):
                    replicas = await sentinel.execute_command("SENTINEL REPLICAS", self._service)
            except BROKEN:
                continue
            found |= {f"{one['ip']}:{one['port']}" for one in map(_fields, replicas) if "down" not in one["flags"]}
            break
        for place in found - set(self._servers):
            host, _, port = place.rpartition(":")
            self._servers[place] = LeanClient(pool(self._target, self._options, (host, int(port))))
        return {place: self._servers[place] for place in found}

    async def _master(self) -> Address:
        found: list[str] = []
        for sentinel in list(self._sentinels):
            try:
                async with asyncio.timeout(GUIDE_SECONDS):
                    command = "SENTINEL GET-MASTER-ADDR-BY-NAME"
                    address = await sentinel.execute_command(command, self._service)
            except BROKEN as error:
                found.append(str(error) or "no answer")
                continue
            if address:
                self._sentinels.remove(sentinel)  # it is asked first from now on
                self._sentinels.insert(0, sentinel)
                return str(address[0]), int(address[1])
            found.append(f"one knows no {self._service!r}")
        raise redis.exceptions.ConnectionError(f"no Sentinel names a master: {'; '.join(found)}")

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        for one in (*self._sentinels, *self._servers.values()):
            await one.aclose()


def _fields(reply: Any) -> dict[str, Any]:
    """The fields of a replica, which redis-py may have read already."""
    return dict(reply) if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
