"""The async client of one server. Callers see a `redis.asyncio.Redis`.

Not redis.asyncio.Redis as it is, because: a command costs half as much CPU this way; and redis-py's socket_timeout is
an asyncio.wait_for around sending, which on Python 3.11 drops a cancellation that comes as the sending ends: a task
that is cancelled then goes on, and whoever waits for its end waits for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final, TypeVar

import redis
import redis.asyncio
from redis.asyncio.connection import (
    AbstractConnection,
    BlockingConnectionPool,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import ReadOnlyError, ResponseError

from watchbill.clock import Patience
from watchbill.connection.acceptance import introducing
from watchbill.connection.url import DRIVER, Address, Target
from watchbill.errors import Closed

T = TypeVar("T")

REPLY_TIMEOUT_SECONDS: Final = 10.0
"""A server that is silent for so long, while this process runs, counts as unreachable. No command blocks for longer."""
CONNECTIONS_MAX: Final = 64
"""A client has at most so many connections to one server; further calls wait. Half of them are left for commands that
redis-py sends itself (see LeanClient)."""
BLOCKING_MAX: Final = CONNECTIONS_MAX // 4
"""At most so many of a client's connections may be blocked at the server."""
GUIDE_SECONDS: Final = 1.0
"""A Sentinel, or a node that was asked for the cluster's slots, is passed over when it is silent for so long."""
BROKEN: Final = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError)
_ASKING: Final = ("ASKING",)

try:
    from hiredis import pack_command
except ImportError:  # it is not there for every platform
    pack_command = None  # type: ignore[assignment]


class _Honest(AbstractConnection):
    """Raises redis-py's ConnectionError for a connection that was reset while it was idle. uvloop raises RuntimeError
    there, which no caller takes for a reason to wait. So does a user that the server has known before."""

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        with introducing(self):
            await super().on_connect_check_health(check_health)

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            if "the handler is closed" not in str(error):
                raise
            raise redis.exceptions.ConnectionError("the connection was closed while it was idle") from error


class _Tcp(_Honest, Connection):
    pass


class _Tls(_Honest, SSLConnection):
    pass


class _Unix(_Honest, UnixDomainSocketConnection):
    pass


def pool(target: Target, options: Mapping[str, Any], address: Address | None) -> BlockingConnectionPool:
    """Returns a pool of connections to one server; without an address, on the socket that the options name. `options`
    are those of each connection, as redis-py names them."""
    if address is None:
        return _pool(_Unix, options)
    return _pool(_Tls if target.tls else _Tcp, {**options, "host": address[0], "port": address[1]})


class _Pool(BlockingConnectionPool):
    """Gives no connection once its client is closed; redis-py's would, and nobody would close that."""

    is_closed = False

    async def get_connection(self, *args: Any, **options: Any) -> Any:
        self._check_open()
        connection = await super().get_connection(*args, **options)  # type: ignore[no-untyped-call]
        try:
            self._check_open()
        except Closed:  # while it connected
            await connection.disconnect()
            raise
        return connection

    def _check_open(self) -> None:
        if self.is_closed:
            raise closed()

    async def aclose(self) -> None:
        self.is_closed = True
        await super().aclose()


def _pool(kind: type[AbstractConnection], options: Mapping[str, Any]) -> _Pool:
    own = {"max_connections": CONNECTIONS_MAX, "timeout": REPLY_TIMEOUT_SECONDS, "driver_info": DRIVER}
    return _Pool(connection_class=kind, **{**own, **options})


def closed() -> Closed:
    """Returns the error that every command of a closed client raises."""
    return Closed("the client was closed. Make a new one")


def _packed(connection: Connection, command: Sequence[Any]) -> Sequence[bytes]:
    """Returns the bytes of a command; hiredis packs them where it can."""
    if pack_command is not None and " " not in command[0]:
        try:
            return (pack_command(tuple(command)),)
        except (TypeError, UnicodeEncodeError):  # redis-py knows more types, and our way with bytes that are no text
            pass
    return connection.pack_command(*command)


class _Pipeline(redis.asyncio.client.Pipeline):
    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        async with Patience(REPLY_TIMEOUT_SECONDS):
            return await super().execute(raise_on_error)


class LeanClient(redis.asyncio.Redis):
    """Sends commands itself, and leaves a command to redis-py when something is wrong. The time limit holds for a
    command as a whole."""

    def __init__(self, pool: BlockingConnectionPool) -> None:
        super().__init__(connection_pool=pool)
        self.auto_close_connection_pool = True
        self._blocking = 0

    async def execute_command(
        self, *args: Any, sent: Callable[[], None] | None = None, asking: bool = False, **options: Any
    ) -> Any:
        """`sent` is called each time that the command is on its way, and where possible before its answer comes.
        `asking`: the node is only about to get the key's slot."""
        commands = [_ASKING, args] if asking else [args]

        async def answer(connection: Connection) -> Any:
            if asking:
                await connection.read_response()
            return await self.parse_response(connection, args[0], **options)

        async with Patience(REPLY_TIMEOUT_SECONDS):
            try:
                return await self._trip(commands, answer, sent)
            except (*BROKEN, ReadOnlyError):
                if asking:
                    raise
                result = await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
                if sent is not None:
                    sent()
                return result

    async def execute_two(self, first: Sequence[Any], second: Sequence[Any], *, asking: bool = False) -> list[Any]:
        """Sends two commands in one trip on one connection, and never again. The server does the second right after the
        first, even where that blocks. An answer may be the error of a command."""
        return (await self.execute_all([_ASKING, first, second] if asking else [first, second]))[-2:]

    async def execute_all(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Sends commands to this server in one trip on one connection, and never again. An answer may be the error of a
        command."""

        async def answers(connection: Connection) -> list[Any]:
            found: list[Any] = []
            for _ in commands:
                try:
                    found.append(await connection.read_response())
                except ReadOnlyError:
                    raise
                except ResponseError as error:
                    found.append(error)
            return found

        async with Patience(REPLY_TIMEOUT_SECONDS):
            return await self._trip(commands, answers)

    async def _trip(
        self,
        commands: Sequence[Sequence[Any]],
        answer: Callable[[Connection], Awaitable[T]],
        sent: Callable[[], None] | None = None,
    ) -> T:
        async with self._room:
            idle = self._idle
            connection = idle.pop() if idle else await self.connection_pool.get_connection()
            answered = False
            try:
                packed = [part for command in commands for part in _packed(connection, command)]
                await connection.send_packed_command(packed, check_health=False)
                if sent is not None:
                    sent()
                result = await answer(connection)
                answered = True
                return result
            except ReadOnlyError:  # no master any more: whoever connects anew may find the one that is
                await self.connection_pool.disconnect(inuse_connections=False)
                raise
            except ResponseError:
                answered = True
                raise
            finally:
                if not answered:
                    await connection.disconnect(nowait=True)
                idle.append(connection)

    @contextmanager
    def blocking(self) -> Iterator[bool]:
        """Yields whether a command may block within the context. It may not where many do already, since they would
        leave no connection for others; the caller then polls."""
        free = self._blocking < BLOCKING_MAX
        self._blocking += free
        try:
            yield free
        finally:
            self._blocking -= free

    @cached_property
    def _room(self) -> asyncio.Semaphore:
        return asyncio.Semaphore(CONNECTIONS_MAX // 2)

    @cached_property
    def _idle(self) -> list[Connection]:
        """Connections that the client took out of redis-py's pool for good; the pool closes them in the end."""
        return []

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> redis.asyncio.client.Pipeline:
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Closes the connections for good: every later command raises Closed."""
        self._idle = []  # what is under way gives its connection back to the former list
        await super().aclose(close_connection_pool)

    async def home(self, key: str) -> LeanClient:
        """Returns a client of the server that keeps this key now."""
        return self

    async def masters(self) -> dict[str, redis.asyncio.Redis]:
        """Returns a client for each server that takes writes now, by address; by '' where there is one server."""
        return {"": self}

    async def servers(self) -> dict[str, redis.asyncio.Redis]:
        """Returns a client for each server, replicas included as far as the URL leads to them, by address."""
        return await self.masters()


# ---------------------------------------------------------------- addresses that change

Find = Callable[[], Awaitable[Address]]


class _FindingTcp(_Tcp):
    """Asks for the address each time that it connects; redis-py's connection for Sentinels asks only once."""

    def __init__(self, *, find: Find, **options: Any) -> None:
        super().__init__(**options)
        self._find = find

    async def _connect(self) -> None:
        self.host, self.port = await self._find()
        await super()._connect()  # type: ignore[no-untyped-call]


class _FindingTls(_FindingTcp, _Tls):
    pass


def finding_pool(target: Target, options: Mapping[str, Any], find: Find) -> BlockingConnectionPool:
    return _pool(_FindingTls if target.tls else _FindingTcp, {**options, "find": find})
