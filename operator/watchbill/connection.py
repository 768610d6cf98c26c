"""URL → client, script loading, and the one table of what an error of the store means.

The door to the store: what the URL means is redis_url.py's, how servers are found redis_client.py's and
redis_cluster.py's, and callers need none of them. May not know what is stored: keys and protocols are the store's.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from functools import cache
from importlib import resources
from typing import Any, Final, Protocol, TypeVar, cast

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from watchbill import redis_url
from watchbill.errors import StoreUnavailable, UserActionRequired
from watchbill.loggers import Logger
from watchbill.redis_client import GUIDE_SECONDS, REPLY_TIMEOUT_SECONDS, LeanClient, SentinelClient, pool
from watchbill.redis_cluster import ClusterClient
from watchbill.redis_url import without_secret

__all__ = [
    "Persist",
    "StoreRefuses",
    "blocking",
    "connect",
    "connect_sync",
    "connected",
    "home",
    "masters",
    "persist",
    "run_script",
    "run_script_and_confirm",
    "run_script_sync",
    "script",
    "translated",
    "unavailable",
    "wait_and_run_script",
    "without_secret",
]

logger = Logger("watchbill.connection")

T = TypeVar("T")

CONNECT_TIMEOUT_SECONDS: Final = 5.0
RESENDS: Final = 3
"""redis-py sends a command again when the reply was lost; every script of ours is made for that."""
TELL_SECONDS: Final = 30.0
"""How often it is told that the store is waited for."""

_TRANSIENT: Final = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.MasterDownError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.RedisClusterException,
    OSError,
)
_TRANSIENT_CODES: Final = (
    "LOADING",
    "READONLY",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "NOREPLICAS",
    "OOM",
    "MISCONF",
    "BUSY",
    "UNBLOCKED",
)
_OF_PIPELINE: Final = re.compile(r"Command # \d+ \(.*\) of pipeline caused error: (?:\(['\"])?", re.DOTALL)
"""What redis-py writes before the error of one command of several."""
_RIGHTS: Final = "Give this user the rights that docs/redis.md lists"
_REFUSALS: Final[Mapping[str, str]] = {
    "ACL failure in script": _RIGHTS,
    "The user executing the script can't": _RIGHTS,
    "cluster support disabled": "It is no Redis Cluster: use redis://…",
    "CERTIFICATE_VERIFY_FAILED": "Name who vouches for it with ssl_ca_certs=/path/ca.crt in its URL",
}
"""Part of an error's text → what to do."""


class StoreRefuses(UserActionRequired, redis.exceptions.RedisError):
    """The store refuses our user, password, certificate or rights, or is of another kind than its URL says.

    Of redis-py's errors too, for those who go on whatever it says.
    """


def connect(url: str, *, db: int = 0) -> redis.asyncio.Redis:
    """An async client of the store at this URL, whatever it is: a server, one that Sentinels name, or a Cluster.

    Text in and out; bytes that aren't UTF-8 survive as surrogates. `db` counts where the URL names none. Connects at
    the first command. Raises InvalidInput when the URL is none of a store.
    """
    options: dict[str, Any] = {
        "db": db,
        "decode_responses": True,
        "encoding_errors": "surrogateescape",
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "socket_timeout": None,  # see LeanClient
        "retry": AsyncRetry(ExponentialWithJitterBackoff(base=0.02, cap=0.5), RESENDS),
        "health_check_interval": 0,
    }
    target = redis_url.parse(url)
    options |= target.options
    if target.kind == "cluster":
        return ClusterClient(target, options)
    if target.kind == "sentinel":
        return SentinelClient(target, options)
    return LeanClient(pool(target, options, target.nodes[0] if target.nodes else None))


def connect_sync(url: str) -> redis.Redis:
    """The same for a thread (the lease keeper's)."""
    target = redis_url.parse(url)
    options: dict[str, Any] = {
        "decode_responses": True,
        "encoding_errors": "surrogateescape",
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "socket_timeout": REPLY_TIMEOUT_SECONDS,
        "retry": Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.5), RESENDS),
    }
    if target.kind == "server":
        return redis.Redis.from_url(url, **options)
    options |= target.options
    if target.tls:
        options["ssl"] = True
    if target.kind == "sentinel":
        own = {"socket_timeout": GUIDE_SECONDS, "retry": Retry(NoBackoff(), 0), "ssl": target.tls}
        own |= target.sentinel_options
        return Sentinel(target.nodes, sentinel_kwargs=own).master_for(target.service, **options)  # type: ignore[no-any-return, no-untyped-call]
    return cast("redis.Redis", _LateCluster(target.nodes, options))


class _LateCluster:
    """What a thread needs of redis-py's RedisCluster, which connects when it is made."""

    def __init__(self, nodes: Sequence[tuple[str, int]], options: Mapping[str, Any]) -> None:
        self._nodes = nodes
        self._options = options
        self._made: redis.RedisCluster | None = None

    @property
    def _client(self) -> redis.RedisCluster:
        if self._made is None:
            nodes = [redis.cluster.ClusterNode(host, port) for host, port in self._nodes]  # type: ignore[no-untyped-call]
            self._made = redis.RedisCluster(startup_nodes=nodes, require_full_coverage=False, **self._options)
        return self._made

    def evalsha(self, *args: Any) -> Any:
        return self._client.evalsha(*args)

    def eval(self, *args: Any) -> Any:
        return self._client.eval(*args)

    def close(self) -> None:
        if self._made is not None:
            self._made.close()


async def home(client: redis.asyncio.Redis, key: str) -> redis.asyncio.Redis:
    """A client of the very server that keeps this key now: for questions about that server, as its time."""
    return await client.home(key) if isinstance(client, LeanClient) else client


def blocking(client: redis.asyncio.Redis) -> AbstractContextManager[bool]:
    """Whether a command may block at the server for the length of this; else it is to be asked again and again."""
    return client.blocking() if isinstance(client, LeanClient) else nullcontext(True)


async def masters(client: redis.asyncio.Redis) -> Mapping[str, redis.asyncio.Redis]:
    """A client of each server that takes writes now, by its address; by '' where the URL leads to one only."""
    return await client.masters() if isinstance(client, LeanClient) else {"": client}


def unavailable(error: BaseException) -> StoreUnavailable | None:
    """The error as StoreUnavailable if waiting may help, else None. The only place where this is decided."""
    if refused(error):
        return None
    text = str(error)
    if isinstance(error, _TRANSIENT) or (
        isinstance(error, redis.exceptions.ResponseError)
        and _OF_PIPELINE.sub("", text, count=1).split(" ", 1)[0] in _TRANSIENT_CODES
    ):
        return StoreUnavailable(f"the store doesn't answer as it should: {text or type(error).__name__}")
    return None


def refused(error: BaseException) -> StoreRefuses | None:
    """The error as StoreRefuses if that is what it means, else None."""
    if isinstance(error, redis.exceptions.AskError):  # MOVED, too
        what = "Its URL says that it is one server, and it is a Redis Cluster: use redis+cluster://…"
    elif isinstance(error, redis.exceptions.NoPermissionError):
        what = _RIGHTS
    elif any(isinstance(e, redis.exceptions.AuthenticationError) for e in (error, error.__cause__)):
        what = "Check user and password in its URL"  # redis-py wraps it when it connects
    else:
        what = next((fix for part, fix in _REFUSALS.items() if part in str(error)), "")
    return StoreRefuses(f"the store refuses us: {str(error).rstrip('. ')}. {what}") if what else None


@contextmanager
def translated() -> Iterator[None]:
    """Turns what redis-py raises into StoreUnavailable where waiting may help, and StoreRefuses where somebody must
    change the URL or our rights; other errors pass."""
    try:
        yield
    except StoreRefuses:
        raise
    except (redis.exceptions.RedisError, redis.exceptions.RedisClusterException, OSError) as error:
        if known := unavailable(error) or refused(error):
            raise known from error
        raise


class Persist(Protocol):
    """`persist`, with its bounds set."""

    async def __call__(self, call: Callable[[], Awaitable[T]]) -> T: ...


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
    began: float | None = None  # only what fails is waited for: a call may listen for hours before that
    while True:
        try:
            with translated():
                return await call()
        except StoreUnavailable as error:
            if until is not None and until():
                raise
            if on_wait is not None:
                on_wait(delay)
            began = time.monotonic() if began is None else began
            _tell(error, time.monotonic() - began)
            await asyncio.sleep(delay * (0.5 + random.random()))
            delay = min(delay * 2, 0.7)


_told_at = -TELL_SECONDS


def _tell(error: StoreUnavailable, waited: float) -> None:
    """Once for all who wait: whoever waits for ever must not do so in silence."""
    global _told_at
    now = time.monotonic()
    if waited > 1 and now - _told_at >= TELL_SECONDS:
        _told_at = now
        logger.warning("waiting for the store, for %.0f s now: %s", waited, error)


@cache
def script(name: str) -> tuple[str, str]:
    """(text, SHA-1) of store/scripts/NAME.lua with the shared parts that it uses put in behind its first line."""
    folder = resources.files("watchbill.store").joinpath("scripts")
    shebang, uses, body = folder.joinpath(f"{name}.lua").read_text("utf-8").split("\n", 2)
    names = [f"lib_{part}" for part in uses.removeprefix("-- uses ").split() if part != "nothing"]
    lib, *parts = (folder.joinpath(f"{part}.lua").read_text("utf-8") for part in ("lib", *names))
    # In a function of their own: making those of the parts then costs a fifth less, at each call.
    text = "\n".join((shebang, lib, "return (function()", *parts, body, "end)()"))
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
    if isinstance(client, LeanClient):
        waited, reply = await client.execute_two(wait, call)
    else:
        waited = await client.execute_command(*wait)  # type: ignore[no-untyped-call]
        reply = redis.exceptions.NoScriptError()
    if isinstance(reply, redis.exceptions.NoScriptError):
        reply = await run_script(client, name, keys, args)
    return waited, reply


async def run_script_and_confirm(
    client: redis.asyncio.Redis, name: str, keys: Sequence[str], args: Sequence[Any], confirm: Sequence[Any]
) -> tuple[Any, Any]:
    """A script's answer; and that of a command (it may be an error) that asks, on the script's connection and right
    behind it, how safe what it wrote is."""
    text, digest = script(name)
    if not isinstance(client, LeanClient):
        raise TypeError("only a client made by `connect` can tell how safe a write is")
    for what in (("EVALSHA", digest), ("EVAL", text)):
        call = (*what, len(keys), *keys, *args)
        try:
            reply, confirmed = await client.execute_two(call, confirm)
        except (
            redis.exceptions.ConnectionError,
            redis.exceptions.ReadOnlyError,
        ):  # an old one: once more, on a new one
            reply, confirmed = await client.execute_two(call, confirm)
        if not isinstance(reply, redis.exceptions.NoScriptError):
            break
    if isinstance(reply, Exception):
        raise reply
    return reply, confirmed


def run_script_sync(client: redis.Redis, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
    """The same for a thread."""
    text, digest = script(name)
    try:
        return client.evalsha(digest, len(keys), *keys, *args)
    except redis.exceptions.NoScriptError:
        return client.eval(text, len(keys), *keys, *args)
    except redis.exceptions.ReadOnlyError:  # no master any more: whoever connects anew may find the one that is
        client.connection_pool.disconnect()
        raise


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """A client for the length of a block."""
    client = connect(url)
    try:
        yield client
    finally:
        await client.aclose()
