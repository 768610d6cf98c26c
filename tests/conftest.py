"""What every test may lean on: a real server, ways to hurt it, and the promise that nothing leaves this machine.

`redis_url`, `redis_client`, `crew_name`: one server for the whole session (or WATCHBILL_TEST_REDIS), never flushed;
tests keep apart by fresh names. `private_redis`: a server of the test's own, which may be stopped and killed. `proxy`:
a way to a server that loses replies. The guard against real connections covers this process, asyncio and uvloop
included, but not the processes that a test starts.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import hiredis
import pytest
import redis.asyncio
import uvloop
from redis.asyncio.connection import parse_url

import forks
from collecting import pytest_collection, pytest_collection_modifyitems, pytest_ignore_collect  # noqa: F401
from watchbill import embedded, local_server

# A shell that starts us in the background has SIGINT ignored, and every process that a test starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TEST_REDIS = os.environ.get("WATCHBILL_TEST_REDIS", "")


def _forbid_unless_local(address: Any) -> None:
    # Raises no OSError, which a retry would take for bad weather.
    if not isinstance(address, tuple):  # a unix socket's path
        return
    host = str(address[0])
    with suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return
    if host not in ("localhost", ""):
        raise RuntimeError(f"A test tried to connect to {address!r}")


def _forbid_lookup(host: bytes | str | None) -> None:
    name = host.decode() if isinstance(host, bytes) else host or "localhost"
    try:
        ipaddress.ip_address(name)  # nobody is asked about these
    except ValueError:
        if name != "localhost":
            raise RuntimeError(f"A test tried to look up {name!r}") from None


@pytest.fixture(scope="session", autouse=True)
def _only_this_machine() -> Iterator[None]:
    """Make every connection and lookup that would leave this machine an error, for the whole session."""
    with pytest.MonkeyPatch.context() as patch:

        def guard(owner: Any, name: str, check: Callable[..., None]) -> None:
            original = getattr(owner, name)

            def guarded(*args: Any, **kwargs: Any) -> Any:
                check(*args, **kwargs)
                return original(*args, **kwargs)

            patch.setattr(owner, name, guarded)

        def check_connect(_: socket.socket, address: Any) -> None:
            _forbid_unless_local(address)

        def check_lookup(host: bytes | str | None, *_: Any, **__: Any) -> None:
            _forbid_lookup(host)

        guard(socket.socket, "connect", check_connect)
        guard(socket.socket, "connect_ex", check_connect)
        guard(socket, "getaddrinfo", check_lookup)

        # uvloop goes to libuv without passing by `socket`.
        def check_sock_connect(_: Any, __: socket.socket, address: Any) -> None:
            _forbid_unless_local(address)

        def check_create(_: Any, __: Any, host: Any = None, port: Any = None, **kwargs: Any) -> None:
            if host is not None:
                _forbid_unless_local((host, port))

        def check_datagram(_: Any, __: Any, local_addr: Any = None, remote_addr: Any = None, **kwargs: Any) -> None:
            if remote_addr is not None:
                _forbid_unless_local(remote_addr)

        def check_loop_lookup(_: Any, host: Any, *__: Any, **___: Any) -> None:
            _forbid_lookup(host)

        guard(uvloop.Loop, "sock_connect", check_sock_connect)
        guard(uvloop.Loop, "create_connection", check_create)
        guard(uvloop.Loop, "create_datagram_endpoint", check_datagram)
        guard(uvloop.Loop, "getaddrinfo", check_loop_lookup)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_developer() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("WATCHBILL_", "OTEL_"))]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_process_that_forks() -> Iterator[None]:
    yield
    forks.close()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis for the whole session: WATCHBILL_TEST_REDIS, else a throwaway of our own."""
    if TEST_REDIS:
        yield TEST_REDIS
        return
    # In a thread of its own: no event loop of any test may be running, or be replaced, there.
    with ThreadPoolExecutor(1) as apart:
        store = apart.submit(asyncio.run, embedded.EmbeddedStore.open(None)).result()
        try:
            yield store.url
        finally:
            apart.submit(asyncio.run, store.close()).result()


@pytest.fixture
async def redis_client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """A client of the session's Redis, with text answers. It has no time limit of its own: a test may stand still."""
    async with redis.asyncio.Redis.from_url(redis_url, decode_responses=True, socket_timeout=None) as client:
        yield client


@pytest.fixture
def crew_name() -> str:
    """A name that no other test uses, so that tests never share a key."""
    return f"crew-{uuid.uuid4().hex[:16]}"


class PrivateRedis:
    """A server of one test's own, to be stopped and killed as the test likes. Socket stays, and all it acknowledged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.url = f"unix://{quote(str(self.socket))}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def restart(self) -> None:
        """(Re)start the server on the data of the one before, which is killed if it still runs."""
        await self.kill()
        # With everysec, the kernel may not have been given the last writes when the server is killed.
        command = local_server.server_command(local_server.find_server(), self.folder, self.socket, fsync="no")
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 180
        while await local_server.ping(self.socket) != b"+PONG":
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.folder / "server.log").read_text())
            await asyncio.sleep(0.01)

    def pause(self) -> None:
        """Stop the server where it stands: connections stay open, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    async def kill(self) -> None:
        """kill -9. Connections break, and new ones are refused until `restart`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()  # at once, after a SIGKILL
            self._process = None


@pytest.fixture
async def private_redis() -> AsyncIterator[Callable[[], Awaitable[PrivateRedis]]]:
    """`await private_redis()` starts a server of the test's own. Killed when the test ends."""
    started: list[PrivateRedis] = []
    with tempfile.TemporaryDirectory(prefix="wb-", dir="/tmp", ignore_cleanup_errors=True) as folder:

        async def start() -> PrivateRedis:
            own = Path(folder, str(len(started)))
            own.mkdir()
            server = PrivateRedis(own)
            started.append(server)
            await server.restart()
            return server

        try:
            yield start
        finally:
            for server in started:
                await server.kill()


class Proxy:
    """A Unix socket before a Redis that passes everything on, and loses replies when told.

    A reply is lost like this: the server gets the request and answers; the client gets nothing of the answer but a
    closed connection, and must send again, as redis-py does by itself where it was given a `retry`. What a client says
    when it connects (HELLO, AUTH, CLIENT, SELECT) is never lost, and an error neither (NOSCRIPT: nothing was done yet).
    Of a pipeline the whole answer is lost.
    """

    HANDSHAKE = frozenset({b"HELLO", b"AUTH", b"CLIENT", b"SELECT"})
    ANSWERED_BY_PUSH = frozenset({b"SUBSCRIBE", b"UNSUBSCRIBE", b"PSUBSCRIBE", b"PUNSUBSCRIBE"})

    def __init__(self, upstream: str, path: Path) -> None:
        self._upstream = parse_url(upstream)
        self._path = path
        userinfo, at, _ = urlsplit(upstream).netloc.rpartition("@")
        self.url = f"unix://{userinfo}{at}{path}?db={self._upstream.get('db', 0)}"
        self.drop_every_reply_once = False
        """Lose the first reply to every request, known by its very bytes, and pass it from then on."""
        self.dropped = 0
        """Connections closed in the place of a reply."""
        self._drop_next = False
        self._lost: set[bytes] = set()
        """Requests of which a reply has been lost."""
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    def drop_next_reply(self) -> None:
        """Lose the reply to the next request, on whichever connection it comes."""
        self._drop_next = True

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._accept, self._path)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        server_out: asyncio.StreamWriter | None = None
        pumps: set[asyncio.Task[None]] = set()
        try:
            if "path" in self._upstream:
                server_in, server_out = await asyncio.open_unix_connection(self._upstream["path"])
            else:
                host, port = self._upstream.get("host", "127.0.0.1"), self._upstream.get("port", 6379)
                server_in, server_out = await asyncio.open_connection(host, port)
            waiting: deque[bytes] = deque()  # requests without a reply yet
            pumps = {
                asyncio.create_task(self._requests(client_in, server_out, waiting)),
                asyncio.create_task(self._replies(server_in, client_out, waiting)),
            }
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # no server: the client's connection is closed, as it would be without us
        finally:
            for pump in pumps:
                pump.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*pumps, return_exceptions=True)
            writers = [writer for writer in (client_out, server_out) if writer is not None]
            for writer in writers:
                writer.transport.abort()  # waits for no peer
            await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)

    async def _requests(
        self, client: asyncio.StreamReader, server: asyncio.StreamWriter, waiting: deque[bytes]
    ) -> None:
        unread = b""
        while data := await client.read(1 << 16):
            requests, unread = _split_requests(unread + data)
            waiting.extend(request for request in requests if _command(request) not in self.ANSWERED_BY_PUSH)
            server.write(data)
            await server.drain()

    async def _replies(self, server: asyncio.StreamReader, client: asyncio.StreamWriter, waiting: deque[bytes]) -> None:
        parser = hiredis.Reader()
        held, losing = b"", False
        while data := await server.read(1 << 16):
            held += data
            parser.feed(data)
            while (reply := parser.gets(False)) is not False:
                if waiting and not isinstance(reply, hiredis.PushNotification):
                    losing |= self._loses(waiting.popleft(), reply)
            if losing and not waiting:  # the server has done all that it was asked
                self.dropped += 1
                return
            if not waiting:
                client.write(held)
                held = b""
                await client.drain()

    def _loses(self, request: bytes, reply: Any) -> bool:
        if _command(request) in self.HANDSHAKE or isinstance(reply, hiredis.ReplyError):
            return False
        if not self._drop_next and (not self.drop_every_reply_once or request in self._lost):
            return False
        self._drop_next = False
        self._lost.add(request)
        return True


def _command(request: bytes) -> bytes:
    return request.split(b"\r\n", 3)[2].upper()


def _split_requests(data: bytes) -> tuple[list[bytes], bytes]:
    """The complete requests (arrays of bulk strings) in these bytes, each as its bytes, and what is left."""
    requests, start = [], 0
    while (end := _request_end(data, start)) is not None:
        requests.append(data[start:end])
        start = end
    return requests, data[start:]


def _request_end(data: bytes, start: int) -> int | None:
    line = data.find(b"\r\n", start)
    if line < 0:
        return None
    at = line + 2
    for _ in range(int(data[start + 1 : line])):
        line = data.find(b"\r\n", at)
        if line < 0:
            return None
        at = line + 2 + int(data[at + 1 : line]) + 2
    return at if at <= len(data) else None


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Callable[..., Awaitable[Proxy]]]:
    """`await proxy(url)` puts a proxy that can lose replies before that Redis; before the session's without one."""
    started: list[Proxy] = []
    with tempfile.TemporaryDirectory(prefix="wb-", dir="/tmp") as folder:

        async def start(url: str | None = None) -> Proxy:
            made = Proxy(url or redis_url, Path(folder, f"{len(started)}.sock"))
            await made.start()
            started.append(made)
            return made

        try:
            yield start
        finally:
            for made in started:
                await made.close()
