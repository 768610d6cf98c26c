"""The port for probes and scrapes, while somebody does it harm."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress

import aiohttp
import pytest
from aiohttp import web
from workshop import Make, agent

from waiting import until
from watchbill.worker import http
from watchbill.worker.http import HttpServer

HALF = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


async def page(_: web.BaseRequest) -> web.Response:
    return web.Response(text="here\n")


async def broken(_: web.BaseRequest) -> web.Response:
    raise ValueError("unforeseen")


@pytest.fixture
async def port() -> AsyncIterator[int]:
    server = HttpServer({"/page": page, "/broken": broken})
    await server.start("localhost", 0)
    yield server.port
    await server.close()


async def say(port: int, words: bytes) -> bytes:
    """All that is answered, until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(words)
    async with asyncio.timeout(180):
        try:
            return await reader.read()
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (b"GET /page?x=y HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"GET /page HTTP/1.0\r\n\r\n", b"HTTP/1.0 200 OK"),
        (b"POST /page HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\nx", b"HTTP/1.1 405 "),
        (b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 404 "),
        (b"garbage\r\n\r\n", b"HTTP/1.0 400 "),
        (b"GET /page HTTP/1.1\r\nX: " + b"x" * 100_000, b"HTTP/1.0 400 "),
        (b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 500 "),
    ],
)
async def test_it_answers_one_request_and_hangs_up(
    port: int, words: bytes, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    said = await say(port, words)
    assert said.startswith(answer)
    assert said.endswith(b"here\n") == (b" 200 " in answer)
    assert bool(caplog.records) == (b" 500 " in answer), "only our own faults are logged"


async def test_head_has_no_body(port: int) -> None:
    async with aiohttp.ClientSession() as session, session.head(f"http://127.0.0.1:{port}/page") as answer:
        assert (answer.status, answer.headers["Content-Length"]) == (200, "5")


async def test_half_requests_end_in_time_and_unread_answers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CONNECTION_SECONDS", 2.0)
    body = b"x" * 50_000_000

    async def large(_: web.BaseRequest) -> web.Response:
        return web.Response(body=body)

    strict, server = HttpServer({}), HttpServer({"/large": large})
    await server.start("localhost", 0)
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.2)
    await strict.start("localhost", 0)
    try:
        for words in (b"", HALF):
            assert await say(strict.port, words) == b""
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await reader.readexactly(8) == b"HTTP/1.1"
        assert server._runner is not None
        inner = server._runner.server
        assert inner is not None
        await until(lambda: not inner.connections)
        writer.close()
    finally:
        await server.close()
        await strict.close()


async def test_a_worker_is_probed_and_starts_processes_while_somebody_opens_connections(make_crew: Make) -> None:
    crew = await make_crew([agent("a", "Apart")])
    worker = await crew.worker(health=True)
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (128, 128))
    port = int(worker.hello["port"])
    with ExitStack() as stack:
        half: list[socket.socket] = []
        for number in range(300):
            half.append(stack.enter_context(socket.create_connection(("127.0.0.1", port))))
            half[-1].send(HALF)
            if number % 30 == 29:
                assert (await say(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")).endswith(b"ok\n")
        await crew.submit("t", "a", "pid")
        assert (await crew.result("t")).success
        for sock in half[: -http.CONNECTIONS]:
            sock.settimeout(180)
            with suppress(ConnectionResetError):
                assert sock.recv(1) == b""
    assert "Too many open files" not in worker.log
