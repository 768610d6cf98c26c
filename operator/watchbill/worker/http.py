"""An HTTP server for probes and scrapes, that whoever reaches its port can't hold up.

One GET to a connection, which is closed then, within seconds, however little is sent. Connections are few: one more
closes the oldest of those whose request isn't complete, so that a probe gets in while somebody opens thousands.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Final

from watchbill import background

logger = logging.getLogger("watchbill.health")

CONNECTIONS: Final = 64
HEAD_SECONDS: Final = 5.0
"""How long a request may take to come."""
ANSWER_SECONDS: Final = 10.0
"""How long its answer may take to be made, to be sent, and to be heard."""
HEAD_BYTES: Final = 16_384
_BACKLOG: Final = 1024
"""Connections that the kernel keeps meanwhile: those beyond it try again only after a second, which a probe hasn't."""
_ACCEPT_AGAIN_SECONDS: Final = 0.1
_READ_BYTES: Final = 65_536
_REQUEST: Final = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.[01](?:\r\n|$)")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a page says."""

    body: str | bytes
    status: HTTPStatus = HTTPStatus.OK
    kind: str = "text/plain; charset=utf-8"


class HttpServer:
    """Serves pages: path → what makes its answer."""

    def __init__(self, pages: Mapping[str, Callable[[], Awaitable[Answer]]]) -> None:
        self._pages = pages
        self._listening: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._asking: dict[socket.socket, asyncio.Task[None]] = {}
        """Whose request isn't complete, the oldest first."""
        self._hearing: dict[socket.socket, asyncio.Task[None]] = {}
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listens; port 0 takes any free one, told by `port`. Raises OSError when it is taken."""
        loop = asyncio.get_running_loop()
        flags = socket.AI_PASSIVE
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)
        self.port = port
        try:
            for family, _, _, _, address in found:
                sock = socket.socket(family, socket.SOCK_STREAM)
                self._listening.append(sock)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((address[0], self.port, *address[2:]))
                sock.listen(_BACKLOG)
                sock.setblocking(False)
                self.port = sock.getsockname()[1]
        except OSError:
            await self.close()
            raise
        self._accepting = [background.start("http", partial(self._accept, sock)) for sock in self._listening]

    async def close(self) -> None:
        """Serves no more, and leaves unanswered what was asked."""
        ending = [*self._accepting, *self._asking.values(), *self._hearing.values()]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        for sock in self._listening:
            sock.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listening)
            except OSError as error:  # no descriptor is left, say
                logger.debug("can't accept a connection: %s", error)
                self._close_oldest()
                await asyncio.sleep(_ACCEPT_AGAIN_SECONDS)
                continue
            if len(self._asking) + len(self._hearing) >= CONNECTIONS:
                self._close_oldest()
            self._asking[sock] = loop.create_task(self._serve(sock))
            self._asking[sock].add_done_callback(partial(self._end, sock))
            await asyncio.sleep(0)  # others' turn: there may be thousands

    def _close_oldest(self) -> None:
        held = self._asking or self._hearing
        if held:
            held.pop(next(iter(held))).cancel()

    async def _serve(self, sock: socket.socket) -> None:
        with suppress(OSError, TimeoutError):  # also what a connection that was lost raises
            async with asyncio.timeout(HEAD_SECONDS):
                head = await _head(sock)
            if head is not None:
                self._hearing[sock] = self._asking.pop(sock)
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._answer(sock, head)

    def _end(self, sock: socket.socket, _: asyncio.Task[None]) -> None:
        self._asking.pop(sock, None)
        self._hearing.pop(sock, None)
        sock.close()

    async def _answer(self, sock: socket.socket, head: bytes) -> None:
        loop = asyncio.get_running_loop()
        request = _REQUEST.match(head)
        method = request[1] if request else b""
        answer = await self._page(head, request)
        body = answer.body.encode() if isinstance(answer.body, str) else answer.body
        lines = (
            f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
            f"Content-Type: {answer.kind}",
            f"Content-Length: {len(body)}",
            "Connection: close",
            "\r\n",
        )
        await loop.sock_sendall(sock, "\r\n".join(lines).encode() + (b"" if method == b"HEAD" else body))
        sock.shutdown(socket.SHUT_WR)
        while await loop.sock_recv(sock, _READ_BYTES):  # what it still sends would cost it the answer
            pass

    async def _page(self, head: bytes, request: re.Match[bytes] | None) -> Answer:
        if len(head) > HEAD_BYTES:
            return _told(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        if request is None:
            return _told(HTTPStatus.BAD_REQUEST)
        page = self._pages.get(request[2].partition(b"?")[0].decode("ascii", "replace"))
        if page is None:
            return _told(HTTPStatus.NOT_FOUND)
        if request[1] not in (b"GET", b"HEAD"):
            return _told(HTTPStatus.METHOD_NOT_ALLOWED)
        try:
            return await page()
        except Exception:
            logger.exception("%s could not be answered", request[2].decode("ascii"))
            return _told(HTTPStatus.INTERNAL_SERVER_ERROR)


def _told(status: HTTPStatus) -> Answer:
    return Answer(f"{status.phrase}\n", status)


async def _head(sock: socket.socket) -> bytes | None:
    """All up to the empty line, or more than it may be; None: it has hung up."""
    got = b""
    while b"\r\n\r\n" not in got and len(got) <= HEAD_BYTES:
        more = await asyncio.get_running_loop().sock_recv(sock, _READ_BYTES)
        if not more:
            return None
        got += more
    return got.partition(b"\r\n\r\n")[0]
