"""The two kinds of shells: they take a core's steps, one by blocking, one with `await`. They decide nothing."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final, TypeVar

import redis
import redis.asyncio

from watchbill import connection
from watchbill.connection import outages, scripts
from watchbill.connection.client import closed
from watchbill.messaging.config import RedisConfig, from_environment
from watchbill.messaging.steps import Acknowledge, Block, Call, Pause, Run, Script, Settle, Step

T = TypeVar("T")

FAILURES: Final = (redis.exceptions.RedisError, redis.exceptions.RedisClusterException, OSError)
"""All that redis-py raises: the cluster's exceptions stand apart."""
POLL_SECONDS: Final = 0.1
"""Seconds between two reads where too many others on the client wait at the server already."""


class Blocking:
    """The base of all classes whose methods block. Threads may share an object.

    `client` is another of these objects, or a redis-py client that answers with text (as `connection.connect_sync`
    makes it): its connections are used, and stay open. Without one, the object connects by itself, as RedisClient does
    without arguments, and `close` ends that. Raises StoreUnavailable where waiting may help, StoreRefuses where
    somebody must change the URL or our rights, redis-py's ResponseError when a key is of another type, and Closed after
    `close` of this object, or of the one whose connections it uses.
    """

    def __init__(self, client: Blocking | redis.Redis | None = None, config: RedisConfig | None = None) -> None:
        self._owns = client is None
        self._is_closed = False
        self._given: redis.Redis
        if isinstance(client, Blocking):
            self._given = client._redis
        elif client is not None:
            self._given = connection.checked(client, is_async=False, fix="Give RedisClient(url).")
        else:
            self._given = connection.connect_sync((config or from_environment()).target())

    def close(self) -> None:
        """Ends the use of this object, and closes the connections, unless they are another object's."""
        self._is_closed = True
        if self._owns:
            self._given.close()

    def _check_open(self) -> None:
        """Raises Closed once this is closed."""
        if self._is_closed:
            raise closed()

    @property
    def _redis(self) -> redis.Redis:
        self._check_open()
        return self._given

    def _do(self, steps: Generator[Any, Any, T], take: Callable[[Any], Any] | None = None) -> T:
        """`take` takes the steps in place of `_take`."""
        take = take or self._take
        try:
            step = next(steps)
            while True:
                try:
                    answer = take(step)
                except FAILURES as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        except FAILURES:
            with outages.translated():
                raise
        finally:
            steps.close()

    def _take(self, step: Step) -> Any:
        match step:
            case Call(command):
                return self._redis.execute_command(*command)
            case Script(name, keys, args):
                return scripts.run_sync(self._redis, f"messaging/{name}", keys, args)
            case Pause(seconds):
                return time.sleep(seconds)
            case Block(command):
                return self._redis.execute_command(*command)
            case Acknowledge(key, group, message):
                self._redis.execute_command("XACK", key, group, message)
                return True
            case Settle():
                return True
            case Run(function, argument):
                try:
                    function(argument)
                except Exception as error:
                    return error


class Async:
    """The base of all classes whose methods are coroutines. An object belongs to one event loop.

    `client` is another of these objects, or an async client as `connection.connect` makes it. Everything else is as in
    Blocking.
    """

    def __init__(self, client: Async | redis.asyncio.Redis | None = None, config: RedisConfig | None = None) -> None:
        self._owns = client is None
        self._is_closed = False
        self._given: redis.asyncio.Redis
        if isinstance(client, Async):
            self._given = client._redis
        elif client is not None:
            self._given = connection.checked(client, is_async=True, fix="Give AsyncRedisClient(url).")
        else:
            self._given = connection.connect((config or from_environment()).target())

    async def close(self) -> None:
        """Ends the use of this object, and closes the connections, unless they are another object's."""
        self._is_closed = True
        if self._owns:
            await self._given.aclose()

    def _check_open(self) -> None:
        """Raises Closed once this is closed."""
        if self._is_closed:
            raise closed()

    @property
    def _redis(self) -> redis.asyncio.Redis:
        self._check_open()
        return self._given

    async def _do(self, steps: Generator[Any, Any, T], take: Callable[[Any], Awaitable[Any]] | None = None) -> T:
        """`take` takes the steps in place of `_take`."""
        take = take or self._take
        try:
            step = next(steps)
            while True:
                try:
                    answer = await take(step)
                except FAILURES as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        except FAILURES:
            with outages.translated():
                raise
        finally:
            steps.close()

    async def _take(self, step: Step) -> Any:
        match step:
            case Call(command):
                return await self._redis.execute_command(*command)
            case Script(name, keys, args):
                return await scripts.run(self._redis, f"messaging/{name}", keys, args)
            case Pause(seconds):
                return await asyncio.sleep(seconds)
            case Block(command, seconds):
                with connection.blocking(self._redis) as may_block:
                    if may_block:
                        return await self._redis.execute_command(*command)
                return await asyncio.sleep(min(seconds, POLL_SECONDS))
            case Acknowledge(key, group, message):
                await self._redis.execute_command("XACK", key, group, message)
                return True
            case Settle():
                return True
            case Run(function, argument):
                try:
                    if inspect.isawaitable(found := function(argument)):
                        await found
                except Exception as error:
                    return error
