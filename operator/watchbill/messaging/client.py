"""RedisClient and AsyncRedisClient: keys with text or JSON, messages, pipelines, and whether the server answers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self

import redis
import redis.asyncio

from watchbill import connection
from watchbill.clock import Patience
from watchbill.connection import outages
from watchbill.errors import InvalidInput, Problem
from watchbill.messaging import checks
from watchbill.messaging.config import RedisConfig, from_environment
from watchbill.messaging.shells import Async, Blocking
from watchbill.messaging.steps import Call, Steps, call

HEALTH_SECONDS: Final = 2.0
"""A server that doesn't answer a health check for so long is not healthy."""

Value = str | bytes | int | float
Expiry = float | timedelta | None


# ---------------------------------------------------------------- the core


def _set(key: str, value: object, expire: Expiry) -> Steps[bool]:
    command: tuple[Any, ...] = ("SET", checks.text(key, "key"), checks.plain(value, "value"))
    if expire is not None:
        command += ("PX", int(checks.seconds(expire, "expire") * 1000))
    return bool((yield Call(command)))


def _set_json(key: str, value: object, expire: Expiry) -> Steps[bool]:
    return (yield from _set(key, checks.to_json(value, "value"), expire))


def _get(key: str) -> Steps[str | None]:
    found: str | None = yield Call(("GET", checks.text(key, "key")))
    return found


def _get_json(key: str) -> Steps[Any]:
    found = yield from _get(key)
    return None if found is None else checks.from_json(found, f"the key {key!r}")


def _delete(key: str) -> Steps[bool]:
    return bool((yield Call(("DEL", checks.text(key, "key")))))


def _exists(key: str) -> Steps[bool]:
    return bool((yield Call(("EXISTS", checks.text(key, "key")))))


def _publish(channel: str, message: object) -> Steps[int]:
    is_plain = isinstance(message, str | bytes)
    said = checks.plain(message, "message") if is_plain else checks.to_json(message, "message")
    return int((yield Call(("PUBLISH", checks.text(channel, "channel"), said))))


def _config(config: object) -> RedisConfig:
    if config is None:
        return from_environment()
    if not isinstance(config, str | RedisConfig):
        fix = "Give a RedisConfig or a URL."
        raise InvalidInput(Problem(f"a {type(config).__name__} names no server", fix, path="config"))
    return RedisConfig(url=config) if isinstance(config, str) else config


# ---------------------------------------------------------------- the shells


class RedisClient(Blocking):
    """A server's keys and channels, for programs without an event loop. A context manager; threads may share it.

    `config` is a RedisConfig or a URL; without it, WATCHBILL_REDIS_URL names the server, else it is localhost:6379.
    `client`, an existing redis-py client that answers with text, is used instead, and isn't closed. Connects at the
    first call.

    Every method but `health_check` raises StoreUnavailable during an outage: None says that there is no such key, and
    nothing else. A command whose answer was lost is sent again.
    """

    def __init__(self, config: RedisConfig | str | None = None, *, client: redis.Redis | None = None) -> None:
        self._config = None if client is not None else _config(config)
        super().__init__(client, self._config)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def client(self) -> redis.Redis:
        """The redis-py client, for commands that have no method here."""
        return self._redis

    def get(self, key: str) -> str | None:
        """The text at the key; None if there is no such key. Bytes that aren't UTF-8 come as surrogates."""
        return self._do(_get(key))

    def set(self, key: str, value: Value, expire: Expiry = None) -> bool:
        """Stores text, bytes or a number; True. After `expire` seconds (also parts of one) the key is gone."""
        return self._do(_set(key, value, expire))

    def delete(self, key: str) -> bool:
        """True if the key is gone now and was there."""
        return self._do(_delete(key))

    def exists(self, key: str) -> bool:
        """Returns whether there is such a key, of whatever type."""
        return self._do(_exists(key))

    def set_json(self, key: str, value: Any, expire: Expiry = None) -> bool:
        """Stores anything that JSON can say; True. Raises InvalidInput for what would not come back as it was."""
        return self._do(_set_json(key, value, expire))

    def get_json(self, key: str) -> Any:
        """The value that `set_json` stored; None if there is no such key. Raises InvalidInput if it is no JSON."""
        return self._do(_get_json(key))

    def publish(self, channel: str, message: Any) -> int:
        """Sends text or bytes as they are, anything else as JSON. Returns how many subscribers got it."""
        return self._do(_publish(channel, message))

    @contextlib.contextmanager
    def pipeline(self, transaction: bool = True) -> Iterator[redis.client.Pipeline]:
        """A redis-py pipeline: commands that go to the server together, and with `transaction` are all done or none.

        At the end of the block what has not been executed is; if the block raises, it is dropped. A pipeline whose
        answer was lost is sent again.
        """
        with self._redis.pipeline(transaction) as pipe:
            with _translated_of_pipeline():
                yield pipe
            if len(pipe):
                with outages.translated():
                    pipe.execute()

    def health_check(self) -> bool:
        """Returns whether the server answers within two seconds, by a new connection where the URL is known. False once
        this is closed. Never raises."""
        try:
            if self._config is None or self._is_closed:
                return bool(self._do(call("PING")))
            target, seconds = self._config.target(), HEALTH_SECONDS / 2  # to connect, and to answer
            with contextlib.closing(connection.connect_sync(target, reply_timeout=seconds, resends=0)) as own:
                return bool(own.execute_command("PING"))
        except Exception:
            return False


class AsyncRedisClient(Async):
    """RedisClient with coroutines: an async context manager that belongs to one event loop."""

    def __init__(self, config: RedisConfig | str | None = None, *, client: redis.asyncio.Redis | None = None) -> None:
        super().__init__(client, None if client is not None else _config(config))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def client(self) -> redis.asyncio.Redis:
        """The redis-py client, for commands that have no method here."""
        return self._redis

    async def get(self, key: str) -> str | None:
        """Does what RedisClient.get does."""
        return await self._do(_get(key))

    async def set(self, key: str, value: Value, expire: Expiry = None) -> bool:
        """Does what RedisClient.set does."""
        return await self._do(_set(key, value, expire))

    async def delete(self, key: str) -> bool:
        """Does what RedisClient.delete does."""
        return await self._do(_delete(key))

    async def exists(self, key: str) -> bool:
        """Does what RedisClient.exists does."""
        return await self._do(_exists(key))

    async def set_json(self, key: str, value: Any, expire: Expiry = None) -> bool:
        """Does what RedisClient.set_json does."""
        return await self._do(_set_json(key, value, expire))

    async def get_json(self, key: str) -> Any:
        """Does what RedisClient.get_json does."""
        return await self._do(_get_json(key))

    async def publish(self, channel: str, message: Any) -> int:
        """Does what RedisClient.publish does."""
        return await self._do(_publish(channel, message))

    @contextlib.asynccontextmanager
    async def pipeline(self, transaction: bool = True) -> AsyncIterator[redis.asyncio.client.Pipeline]:
        """A pipeline as RedisClient.pipeline gives it; `await pipe.execute()` within the block returns the answers."""
        async with self._redis.pipeline(transaction) as pipe:
            with _translated_of_pipeline():
                yield pipe
            if len(pipe):
                with outages.translated():
                    await pipe.execute()

    async def health_check(self) -> bool:
        """Returns whether the server answers within two seconds. False once this is closed. Never raises."""
        try:
            async with Patience(HEALTH_SECONDS):
                return bool(await self._do(call("PING")))
        except Exception:
            return False


@contextlib.contextmanager
def _translated_of_pipeline() -> Iterator[None]:
    """As `outages.translated`, for a block of the caller's, whose own OSError is not the store's."""
    try:
        yield
    except redis.exceptions.RedisError:
        with outages.translated():
            raise
