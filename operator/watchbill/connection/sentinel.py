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
        self._service = target.service
        own: dict[str, Any] = {
            "decode_responses": True,
            "socket_timeout": None,
            "socket_connect_timeout": GUIDE_SECONDS,
        }
        own |= {"retry": Retry(NoBackoff(), 0), **target.sentinel_options}
        self._sentinels = [LeanClient(pool(target, own, node)) for node in target.nodes]

    def __repr__(self) -> str:  # redis-py's would come round to ourselves
        return f"<SentinelClient of {self._service!r}>"

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
        for sentinel in self._sentinels:
            await sentinel.aclose()
