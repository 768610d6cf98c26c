"""URL → client, script loading, and the one table of what an error of the store means.

May not know what is stored: keys and protocols are the store's.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cache, cached_property
from importlib import resources
from typing import Any, Final, TypeVar

import redis
import redis.asyncio
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from watchbill.errors import InvalidInput, Problem, StoreUnavailable

T = TypeVar("T")

CONNECT_TIMEOUT_SECONDS: Final = 5.0
REPLY_TIMEOUT_SECONDS: Final = 10.0
"""A server that says nothing for this long is taken for away. Longer than any block we ask for."""
CONNECTIONS_MAX: Final = 64
"""Of one client. Whoever wants one more waits; half of them are for what doesn't take the lean way (see `_Client`)."""
RESENDS: Final = 3
"""redis-py sends a command again when the reply was lost; every script of ours is made for that."""

_SCHEMES: Final = ("redis://", "rediss://", "unix://")

_TRANSIENT: Final = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.MasterDownError,
    redis.exceptions.OutOfMemoryError,
    OSError,
)
_TRANSIENT_CODES: Final = (
    "LOADING",
    "READONLY",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "OOM",
    "MISCONF",
    "BUSY",
    "UNBLOCKED",
)
_FATAL: Final = (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError)


try:
    from hiredis import pack_command
except ImportError:  # it is not there for every platform
    pack_command = None  # type: ignore[assignment]


def _packed(connection: redis.asyncio.Connection, command: Sequence[Any]) -> Sequence[bytes]:
    """A command as it is sent; made in C where that can be done."""
    if pack_command is not None and " " not in command[0]:
        try:
            return (pack_command(tuple(command)),)
        except (TypeError, UnicodeEncodeError):  # redis-py knows more types, and our way with bytes that are no text
            pass
    return connection.pack_command(*command)


class _Honest(redis.asyncio.connection.AbstractConnection):
    """Says that a connection is lost as redis-py's callers expect it. uvloop raises a RuntimeError for sending on what
    the other side has reset while it was idle, which neither redis-py nor anybody else takes for a reason to wait."""

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            if "the handler is closed" not in str(error):
                raise
            raise redis.exceptions.ConnectionError("the connection was closed while it was idle") from error


def _honest(kind: Any) -> type[_Honest]:
    """That kind of connection (TCP, TLS, Unix socket), honest."""
    return type(kind.__name__, (_Honest, kind), {})


class _Pipeline(redis.asyncio.client.Pipeline):
    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        async with asyncio.timeout(REPLY_TIMEOUT_SECONDS):
            return await super().execute(raise_on_error)


class _Client(redis.asyncio.Redis):
    """A leaner way to commands than redis-py's, which costs twice as much and is left for when something is wrong.

    It limits the time of a command as a whole, in place of redis-py's socket_timeout: that is an asyncio.wait_for
    around sending, which on Python 3.11 drops a cancellation that comes as the sending ends: a task that is cancelled
    then goes on, and whoever waits for its end waits for ever.
    """

    async def execute_command(self, *args: Any, sent: Callable[[], None] | None = None, **options: Any) -> Any:
        """`sent` is called, each time, once the command is on its way and before its answer is waited for."""

        async def answer(connection: redis.asyncio.Connection) -> Any:
            return await self.parse_response(connection, args[0], **options)

        async with asyncio.timeout(REPLY_TIMEOUT_SECONDS):
            try:
                return await self._trip([args], answer, sent)
            except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError):
                return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    async def execute_two(self, first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
        """Two commands in one trip, the second done right after the first, even where that blocks. An answer may be
        the error of a command."""

        async def answers(connection: redis.asyncio.Connection) -> list[Any]:
            found = []
            for _ in range(2):
                try:
                    found.append(await connection.read_response())
                except redis.exceptions.ResponseError as error:
                    found.append(error)
            return found

        async with asyncio.timeout(REPLY_TIMEOUT_SECONDS):
            return await self._trip([first, second], answers)

    async def _trip(
        self,
        commands: Sequence[Sequence[Any]],
        answer: Callable[[redis.asyncio.Connection], Awaitable[T]],
        sent: Callable[[], None] | None = None,
    ) -> T:
        async with self._room:
            idle = self._idle
            connection = idle.pop() if idle else await self.connection_pool.get_connection()  # type: ignore[no-untyped-call]
            answered = False
            try:
                packed = [part for command in commands for part in _packed(connection, command)]
                await connection.send_packed_command(packed, check_health=False)
                if sent is not None:
                    sent()
                result = await answer(connection)
                answered = True
                return result
            except redis.exceptions.ResponseError:
                answered = True
                raise
            finally:
                if not answered:
                    await connection.disconnect(nowait=True)
                idle.append(connection)

    @cached_property
    def _room(self) -> asyncio.Semaphore:
        return asyncio.Semaphore(CONNECTIONS_MAX // 2)

    @cached_property
    def _idle(self) -> list[redis.asyncio.Connection]:
        """Connections that are ours for good, as redis-py's pool sees it: it closes them in the end."""
        return []

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> _Pipeline:
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


def connect(url: str) -> redis.asyncio.Redis:
    """An async client. Text in and out; bytes that aren't UTF-8 survive as surrogates.

    Raises InvalidInput when the URL is none of redis://, rediss://, unix://. Connects at the first command.
    """
    _check(url)
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        decode_responses=True,
        encoding_errors="surrogateescape",
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_timeout=None,  # see _Client
        retry=AsyncRetry(ExponentialWithJitterBackoff(base=0.02, cap=0.5), RESENDS),
        health_check_interval=0,
        max_connections=CONNECTIONS_MAX,
        timeout=REPLY_TIMEOUT_SECONDS,
    )
    pool.connection_class = _honest(pool.connection_class)
    return _Client.from_pool(pool)


def connect_sync(url: str) -> redis.Redis:
    """The same for a thread (the lease keeper's)."""
    _check(url)
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        encoding_errors="surrogateescape",
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_timeout=REPLY_TIMEOUT_SECONDS,
        retry=Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.5), RESENDS),
    )


def _check(url: str) -> None:
    if not url.startswith(_SCHEMES):
        raise InvalidInput(
            Problem(
                f"{without_secret(url)!r} is not the URL of a Redis or Valkey",
                "Use redis://HOST:PORT/DB, rediss://… for TLS, or unix:///path/to/socket.",
                path="--redis-url",
            )
        )
    try:
        parse_url(url)
    except ValueError:  # its text may quote a part of a password
        shown = without_secret(url)
        fix = "Use redis://HOST:PORT/DB, with %-encoding for special characters in user and password."
        raise InvalidInput(Problem(f"{shown!r} has a part that can't be read", fix, path="--redis-url")) from None


def without_secret(url: str) -> str:
    """A store's URL as it may be shown: without user and password."""
    place, mark, query = url.partition("?")
    # redis-py takes credentials from the query, too
    options = "&".join(o for o in query.split("&") if not o.lower().startswith(("username=", "password=")))
    shown = place + (mark + options if options else "")
    scheme, separator, rest = shown.partition("://")
    if not separator:  # not a URL: what stands before an @ may still be a secret
        return shown.rpartition("@")[2]
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def unavailable(error: BaseException) -> StoreUnavailable | None:
    """The error as StoreUnavailable if waiting may help, else None. The only place where this is decided."""
    if isinstance(error, _FATAL) or isinstance(error.__cause__, _FATAL):  # redis-py wraps it when it connects
        return None
    text = str(error)
    if isinstance(error, _TRANSIENT) or (
        isinstance(error, redis.exceptions.ResponseError) and text.split(" ", 1)[0] in _TRANSIENT_CODES
    ):
        return StoreUnavailable(f"the store doesn't answer as it should: {text or type(error).__name__}")
    return None


@contextmanager
def translated() -> Iterator[None]:
    """Turns what redis-py raises into StoreUnavailable where waiting may help; other errors pass."""
    try:
        yield
    except (redis.exceptions.RedisError, OSError) as error:
        if known := unavailable(error):
            raise known from error
        raise


async def persist(
    call: Callable[[], Awaitable[T]],
    *,
    until: Callable[[], bool] | None = None,
    on_wait: Callable[[float], None] | None = None,
) -> T:
    """Calls until the store answers: waits 0.05 … 1 s with jitter in between, for as long as `until` is false.

    `call` must be safe to send twice. Raises StoreUnavailable once `until` is true; other errors at once.
    """
    delay = 0.05
    while True:
        try:
            with translated():
                return await call()
        except StoreUnavailable:
            if until is not None and until():
                raise
            if on_wait is not None:
                on_wait(delay)
            await asyncio.sleep(delay * (0.5 + random.random()))
            delay = min(delay * 2, 0.7)


@cache
def script(name: str) -> tuple[str, str]:
    """(text, SHA-1) of store/scripts/NAME.lua with the shared parts that it uses put in behind its first line."""
    folder = resources.files("watchbill.store").joinpath("scripts")
    shebang, uses, body = folder.joinpath(f"{name}.lua").read_text().split("\n", 2)
    parts = [f"lib_{part}" for part in uses.removeprefix("-- uses ").split() if part != "nothing"]
    shared = "\n".join(folder.joinpath(f"{part}.lua").read_text() for part in ("lib", *parts))
    text = f"{shebang}\n{shared}\n{body}"
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


async def run_script(
    client: redis.asyncio.Redis,
    name: str,
    keys: Sequence[str],
    args: Sequence[Any],
    sent: Callable[[], None] | None = None,
) -> Any:
    """Runs a queue script by its hash; sends its text when the server (new, restarted, failed over) doesn't know it.

    `sent` is called once the call is on its way, before its answer is waited for; and again if it is sent again.
    """
    text, digest = script(name)
    try:
        if sent is not None:
            call = client.execute_command("EVALSHA", digest, len(keys), *keys, *args, sent=sent)  # type: ignore[no-untyped-call]
            return await call
        return await client.evalsha(digest, len(keys), *keys, *args)
    except redis.exceptions.NoScriptError:
        return await client.eval(text, len(keys), *keys, *args)


async def wait_and_run_script(
    client: redis.asyncio.Redis, wait: Sequence[Any], name: str, keys: Sequence[str], args: Sequence[Any]
) -> tuple[Any, Any]:
    """The answers (each may be an error) to a command that blocks, and to a script that runs the moment that ends."""
    _, digest = script(name)
    call = ("EVALSHA", digest, len(keys), *keys, *args)
    if isinstance(client, _Client):
        waited, reply = await client.execute_two(wait, call)
    else:
        waited = await client.execute_command(*wait)  # type: ignore[no-untyped-call]
        reply = redis.exceptions.NoScriptError()
    if isinstance(reply, redis.exceptions.NoScriptError):
        reply = await run_script(client, name, keys, args)
    return waited, reply


def run_script_sync(client: redis.Redis, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
    """The same for a thread."""
    text, digest = script(name)
    try:
        return client.evalsha(digest, len(keys), *keys, *args)
    except redis.exceptions.NoScriptError:
        return client.eval(text, len(keys), *keys, *args)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """A client for the length of a block."""
    client = connect(url)
    try:
        yield client
    finally:
        await client.aclose()
