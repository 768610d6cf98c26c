"""The server that everyone measured runs against: private, on a loopback port, and what each phase cost it.

It is `watchbill.embedded`'s, so it ends with this process however that ends; peers get a TCP port, because all of them
speak that and users have it. We ourselves ask over its Unix socket, and leave our questions out of the count.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis.asyncio

from watchbill.embedded import EmbeddedStore

_OURS: Final = {"cmdstat_config|resetstat", "cmdstat_config|set", "cmdstat_info", "cmdstat_ping", "cmdstat_flushall"}


@dataclass(frozen=True)
class Cost:
    """The cost of a phase for the server."""

    commands: int
    """Commands run, those inside scripts too."""
    bytes_in: int
    bytes_out: int
    cpu_seconds: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.commands + other.commands,
            self.bytes_in + other.bytes_in,
            self.bytes_out + other.bytes_out,
            self.cpu_seconds + other.cpu_seconds,
        )


class Server:
    """A running server."""

    def __init__(self, client: redis.asyncio.Redis, url: str) -> None:
        self.client = client
        self.url = url
        """redis://127.0.0.1:PORT/0"""
        self._cpu = 0.0

    async def clear(self) -> None:
        await self.client.flushall()

    async def connections(self) -> int:
        """Returns the number of connections that were made since `reset`."""
        return int((await self.client.info("stats"))["total_connections_received"])

    async def reset(self) -> None:
        """A phase begins."""
        self._cpu = await self._cpu_seconds()
        await self.client.config_resetstat()

    async def cost(self) -> Cost:
        """Returns the cost since `reset`."""
        stats = await self.client.info("stats")
        commands = await self.client.info("commandstats")
        return Cost(
            sum(int(of["calls"]) for name, of in commands.items() if name not in _OURS),
            int(stats["total_net_input_bytes"]),
            int(stats["total_net_output_bytes"]),
            await self._cpu_seconds() - self._cpu,
        )

    async def version(self) -> str:
        info = await self.client.info("server")
        return f"{info.get('server_name', 'redis')} {info.get('valkey_version') or info['redis_version']}"

    async def _cpu_seconds(self) -> float:
        info = await self.client.info("cpu")
        return float(info["used_cpu_sys"]) + float(info["used_cpu_user"])


@asynccontextmanager
async def private(aof: Path | None = None) -> AsyncIterator[Server]:
    """A server of our own; with a folder for its AOF it syncs each second."""
    async with await EmbeddedStore.open(aof) as store:
        client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(store.url, decode_responses=True)
        try:
            await client.config_set("bind", "127.0.0.1")
            if aof is None:
                await client.config_set("appendonly", "no")  # which a store of nobody else's has, to survive its server
            yield Server(client, f"redis://127.0.0.1:{await _listen(client)}/0")
        finally:
            await client.aclose()


async def _listen(client: redis.asyncio.Redis) -> int:
    """Opens a free port; another process may be faster, so it may take some tries."""
    for last in (False,) * 9 + (True,):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(free.getsockname()[1])
        try:
            await client.config_set("port", port)
        except redis.exceptions.ResponseError:
            if last:
                raise
            continue
        return port
    raise AssertionError("unreachable")
