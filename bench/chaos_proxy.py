"""A TCP proxy before a Unix socket that troubles its connections, as networks do. A process of its own.

    python -m bench.chaos_proxy SOCKET SEED EVERY_SECONDS LONGEST_STALL_SECONDS

Says {"port": N} once it listens on loopback. A line {"do": "tell"} is answered with how often it did what. After a line
{"do": "calm"}, which is answered alike, it troubles nobody any more. Ends with its stdin.

reset           a connection is closed by RST, at any moment
cut request     the server gets a part of what was sent, then both sides are closed
cut reply       the client gets a part of the answer, or nothing of it, then both sides are closed
delay           what is sent next, in one direction, comes late
stall           neither side hears the other, for longer; then what was held back arrives, even if the client has gone
blip            all connections are reset
hole            for a while, what is sent on any connection goes nowhere, and nobody is told: as behind a dead router.
                Connections of that time never come to life again
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import Final

_OFTEN: Final = ("reset", "cut request", "cut reply", "delay", "delay", "delay", "stall", "blip")
KINDS: Final = (*_OFTEN * 3, "hole")
"""Each of these in turn, in an order that the seed shuffles anew each time."""
DELAY_SECONDS: Final = (0.02, 0.8)
STALL_FROM_SECONDS: Final = 1.0
CHUNK: Final = 1 << 16
_RST: Final = struct.pack("ii", 1, 0)


class _Cut(Exception):
    """This connection ends here."""


class Connection:
    """One client's way to the server."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._clear = asyncio.Event()
        self._clear.set()
        self.is_blackholed = False

    def reset(self) -> None:
        with suppress(OSError):
            self._client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        self.close()

    def close(self) -> None:
        self._client.transport.abort()
        self._server.transport.abort()

    async def stall(self, seconds: float) -> None:
        self._clear.clear()
        await asyncio.sleep(seconds)
        self._clear.set()

    def blackhole(self) -> None:
        """From now on, what either side sends goes nowhere."""
        self.is_blackholed = True

    async def pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: str) -> None:
        """Passes on what comes one way. What was read before the source ended still arrives, however late."""
        while data := await source.read(CHUNK):
            what = self._proxy.due.pop(way, "")
            if what.startswith("cut"):
                self._proxy.did[what] += 1
                sink.write(data[: self._proxy.chance.randrange(len(data))])
                await sink.drain()
                raise _Cut
            if what == "delay":
                self._proxy.did[what] += 1
                await asyncio.sleep(self._proxy.chance.uniform(*DELAY_SECONDS))
            await self._clear.wait()
            if self.is_blackholed:
                continue
            sink.write(data)
            await sink.drain()


class Proxy:
    """Listens, passes on, and makes trouble until it is told to stop."""

    def __init__(self, upstream: str, seed: str, every: float, longest_stall: float) -> None:
        self._upstream = upstream
        self.chance = random.Random(seed)
        self._every = every
        self._longest_stall = longest_stall
        self.did: Counter[str] = Counter()
        self.due: dict[str, str] = {}
        """Direction (request | reply) → what happens to the next bytes that way, on whichever connection."""
        self.connections: dict[int, Connection] = {}
        self._hole_until = 0.0
        self._number = 0
        self._background: set[asyncio.Task[None]] = set()

    async def serve(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        try:
            server_in, server_out = await asyncio.open_unix_connection(self._upstream)
        except OSError:  # no server: as if we weren't there
            client_out.transport.abort()
            return
        self.did["connections"] += 1
        self._number += 1
        number = self._number
        mine = self.connections[number] = Connection(self, client_out, server_out)
        if time.monotonic() < self._hole_until:
            mine.blackhole()
        requests = asyncio.create_task(mine.pump(client_in, server_out, "request"))
        replies = asyncio.create_task(mine.pump(server_in, client_out, "reply"))
        try:
            await asyncio.wait({requests, replies}, return_when=asyncio.FIRST_COMPLETED)
            if self.chance.random() < 0.5:
                mine.reset()
        finally:
            self.connections.pop(number, None)
            mine.close()
            for pump in (requests, replies):
                pump.cancel()
            await asyncio.gather(requests, replies, return_exceptions=True)

    def end_hole(self) -> None:
        """New connections work again, and the router, which is back, knows nothing of the old ones."""
        self._hole_until = 0.0
        for each in [one for one in self.connections.values() if one.is_blackholed]:
            each.reset()

    async def trouble(self) -> None:
        kinds: list[str] = []
        while True:
            await asyncio.sleep(self.chance.expovariate(1 / self._every))
            if not self.connections:
                continue
            if not kinds:
                kinds = self.chance.sample(KINDS, len(KINDS))
            self._make(kinds.pop(), self.connections[self.chance.choice(sorted(self.connections))])

    def _make(self, kind: str, connection: Connection) -> None:
        if kind == "reset":
            self.did[kind] += 1
            connection.reset()
        elif kind == "blip":
            self.did[kind] += 1
            for each in list(self.connections.values()):
                each.reset()
        elif kind == "hole":
            self.did[kind] += 1
            self._hole_until = time.monotonic() + self.chance.uniform(STALL_FROM_SECONDS, self._longest_stall)
            for each in list(self.connections.values()):
                each.blackhole()
        elif kind == "stall":
            self.did[kind] += 1
            seconds = self.chance.uniform(STALL_FROM_SECONDS, self._longest_stall)
            task = asyncio.create_task(connection.stall(seconds))
            self._background.add(task)
            task.add_done_callback(self._background.discard)
        elif kind == "delay":
            self.due[self.chance.choice(["request", "reply"])] = kind
        else:
            self.due[kind.removeprefix("cut ")] = kind


async def main(upstream: str, seed: str, every: float, longest_stall: float) -> None:
    proxy = Proxy(upstream, seed, every, longest_stall)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    troubling = asyncio.create_task(proxy.trouble())
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while order := await orders.readline():
        if json.loads(order)["do"] == "calm":
            troubling.cancel()
            proxy.end_hole()
            proxy.due.clear()
        print(json.dumps(proxy.did), flush=True)
    server.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])))
