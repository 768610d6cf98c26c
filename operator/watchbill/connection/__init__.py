"""The way to the store: clients of it, whatever its URL names.

The modules, by their purpose: `url` says what a URL means, `client`, `sentinel` and `cluster` find and ask the servers,
`scripts` loads and calls Lua, `gathering` reads for many tasks at once, `outages` says what an error means and waits.
None of them knows what is stored: keys and protocols belong to `watchbill.store`.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from types import TracebackType
from typing import Any, Final, cast

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from watchbill.connection import acceptance
from watchbill.connection.client import GUIDE_SECONDS, REPLY_TIMEOUT_SECONDS, LeanClient, closed, pool
from watchbill.connection.cluster import ClusterClient
from watchbill.connection.sentinel import SentinelClient
from watchbill.connection.url import DRIVER, POOL_OPTIONS, Target, parse
from watchbill.errors import Closed, InvalidInput, Problem

CONNECT_TIMEOUT_SECONDS: Final = 5.0
RESENDS: Final = 3
"""redis-py sends a command so often again when its reply was lost; every script is safe to send twice."""


class Store:
    """A store with one async client, which all users of this object share. An async context manager."""

    def __init__(self, url: str | Target) -> None:
        """Connects at the first command. Raises InvalidInput if the URL names no store."""
        self.target = parse(url)
        self.client = connect(self.target)

    def connect_sync(self) -> redis.Redis:
        """Returns a blocking client, for a thread. The caller closes it."""
        return connect_sync(self.target)

    async def aclose(self) -> None:
        """Closes the connections of `client`."""
        await self.client.aclose()

    async def __aenter__(self) -> Store:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def connect(url: str | Target, *, db: int = 0) -> redis.asyncio.Redis:
    """Returns an async client of a server, of the server that Sentinels name, or of a Cluster.

    It takes and gives text; bytes that aren't UTF-8 survive as surrogates. `db` is the default for a URL without a
    database. Connects at the first command. Raises InvalidInput if the URL names no store.
    """
    target = parse(url)
    options: dict[str, Any] = {
        "db": db,
        "decode_responses": True,
        "encoding_errors": "surrogateescape",
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "socket_timeout": None,  # the client limits the time of a whole command
        "retry": AsyncRetry(ExponentialWithJitterBackoff(base=0.02, cap=0.5), RESENDS),
        "health_check_interval": 0,
        **target.options,
    }
    if target.kind == "cluster":
        return ClusterClient(target, options)
    if target.kind == "sentinel":
        return SentinelClient(target, options)
    return LeanClient(pool(target, options, target.nodes[0] if target.nodes else None))


def connect_sync(
    url: str | Target, *, reply_timeout: float = REPLY_TIMEOUT_SECONDS, resends: int = RESENDS
) -> redis.Redis:
    """Returns a blocking client, for a thread.

    A server that is silent for `reply_timeout` seconds counts as unreachable; a command without an answer is sent so
    many times again. On a Cluster it has `execute_command`, `pipeline`, `pubsub` and scripts, and no more.
    """
    target = parse(url)
    options: dict[str, Any] = {
        "decode_responses": True,
        "encoding_errors": "surrogateescape",
        "socket_connect_timeout": min(reply_timeout, CONNECT_TIMEOUT_SECONDS),
        "socket_timeout": reply_timeout,
        "retry": Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.5), resends),
        **{name: value for name, value in target.options.items() if name not in POOL_OPTIONS},
    }
    if target.kind != "cluster":  # where redis-py has introduced itself before it asks us
        options["redis_connect_func"] = acceptance.connect_sync
    if target.kind == "server":
        return redis.Redis.from_pool(_sync_pool(target, options))
    if target.tls:
        options["ssl"] = True
    if target.kind == "sentinel":
        own = {"socket_timeout": GUIDE_SECONDS, "retry": Retry(NoBackoff(), 0), "ssl": target.tls}
        own |= target.sentinel_options
        sentinel = Sentinel(target.nodes, sentinel_kwargs=own)
        return sentinel.master_for(target.service, connection_pool_class=_SentinelPool, **options)  # type: ignore[no-any-return]
    return cast("redis.Redis", _LateCluster(target.nodes, options))


class _Pool(redis.ConnectionPool):
    """Gives no connection once its client is closed."""

    is_closed = False

    def get_connection(self, *args: Any, **options: Any) -> Any:
        self._check_open()
        connection = super().get_connection(*args, **options)
        try:
            self._check_open()
        except Closed:  # by another thread, while it connected
            connection.disconnect()
            raise
        return connection

    def _check_open(self) -> None:
        if self.is_closed:
            raise closed()

    def close(self) -> None:
        self.is_closed = True
        super().close()


class _SentinelPool(_Pool, SentinelConnectionPool):
    pass


def _sync_pool(target: Target, options: Mapping[str, Any]) -> redis.ConnectionPool:
    options = {"driver_info": DRIVER, **options}
    if not target.nodes:
        return _Pool(redis.UnixDomainSocketConnection, **options)
    host, port = target.nodes[0]
    kind = redis.SSLConnection if target.tls else redis.Connection
    return _Pool(kind, host=host, port=port, **options)


class _LateCluster:
    """Calls redis-py's RedisCluster, which it makes at the first call: making one connects."""

    def __init__(self, nodes: Sequence[tuple[str, int]], options: Mapping[str, Any]) -> None:
        self._nodes = nodes
        self._options = options
        self._made: redis.RedisCluster | None = None
        self._making = threading.Lock()
        self._is_closed = False

    @property
    def _client(self) -> redis.RedisCluster:
        with self._making:  # threads share it
            if self._is_closed:
                raise closed()
            if self._made is None:
                nodes = [redis.cluster.ClusterNode(host, port) for host, port in self._nodes]
                self._made = redis.RedisCluster(startup_nodes=nodes, require_full_coverage=False, **self._options)
            return self._made

    def evalsha(self, *args: Any) -> Any:
        return self._client.evalsha(*args)

    def eval(self, *args: Any) -> Any:
        return self._client.eval(*args)

    def execute_command(self, *args: Any) -> Any:
        return self._client.execute_command(*args)

    def pipeline(self, transaction: bool = True) -> Any:
        return self._client.pipeline(transaction)

    def pubsub(self, **options: Any) -> Any:
        return self._client.pubsub(**options)

    def close(self) -> None:
        with self._making:
            self._is_closed = True
        if self._made is not None:
            self._made.close()


def checked(client: Any, *, is_async: bool, fix: str = "") -> Any:
    """Returns the client. Raises InvalidInput, with this fix, if it isn't one, or not of this kind: at its first use
    that would be an AttributeError."""
    command = getattr(client, "execute_command", None)
    if command is not None and inspect.iscoroutinefunction(command) is is_async:
        return client
    kind = "an asynchronous" if is_async else "a blocking"
    fix = fix or f"Give what watchbill.connection.connect{'' if is_async else '_sync'}(url) returns."
    raise InvalidInput(Problem(f"{type(client).__name__} is not {kind} client of redis-py", fix, path="client"))


async def home(client: redis.asyncio.Redis, key: str) -> redis.asyncio.Redis:
    """Returns a client of the server that keeps this key now, for questions about that server, such as its time."""
    return await client.home(key) if isinstance(client, LeanClient) else client


async def now_ms(client: redis.asyncio.Redis, key: str) -> int:
    """Returns the time of the server that keeps this key now, in ms since 1970."""
    seconds, micros = await (await home(client, key)).time()
    return int(seconds) * 1000 + int(micros) // 1000


def blocking(client: redis.asyncio.Redis) -> AbstractContextManager[bool]:
    """Yields whether a command may block at the server within the context; if not, the caller polls."""
    return client.blocking() if isinstance(client, LeanClient) else nullcontext(True)


async def masters(client: redis.asyncio.Redis) -> Mapping[str, redis.asyncio.Redis]:
    """Returns a client for each server that takes writes now, by address; by '' where the URL names one server."""
    return await client.masters() if isinstance(client, LeanClient) else {"": client}


async def servers(client: redis.asyncio.Redis) -> Mapping[str, redis.asyncio.Redis]:
    """Returns a client for each server, replicas included as far as the URL leads to them, by address; by '' where the
    URL names one server."""
    return await client.servers() if isinstance(client, LeanClient) else {"": client}


@asynccontextmanager
async def connected(url: str | Target) -> AsyncIterator[redis.asyncio.Redis]:
    """Yields a client, and closes it at the end of the context."""
    client = connect(url)
    try:
        yield client
    finally:
        await client.aclose()
