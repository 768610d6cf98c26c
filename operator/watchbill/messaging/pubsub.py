"""RedisPubSub and AsyncRedisPubSub: messages to whoever listens now, by handlers that survive outages.

Not redis-py's PubSub alone, because: one that is cut off for long ends with an exception, or in silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

import redis
import redis.asyncio

from watchbill.clock import SYSTEM, Clock, Patience
from watchbill.connection.client import REPLY_TIMEOUT_SECONDS
from watchbill.errors import InvalidInput, Problem
from watchbill.messaging import subscriptions
from watchbill.messaging.shells import Async, Blocking
from watchbill.messaging.steps import Pause
from watchbill.messaging.subscriptions import (
    Handle,
    Handler,
    Open,
    Ping,
    Read,
    Subscribe,
    Subscriptions,
    Unsubscribe,
    logger,
)

_STARTING: Final = -1
"""In the place of a thread's id: it is about to begin."""


class RedisPubSub(Blocking):
    """Messages to all who listen to a channel now. A context manager; threads may share it.

    When the server was away, it connects and subscribes anew; what was published meanwhile is lost to it. Handlers are
    called one after the other, in the thread that listens. What a handler raises is logged, and the next message comes.
    Channels are named as they are; with `key_prefix`, they are `{key_prefix}channel:NAME`.
    """

    def __init__(
        self, client: Blocking | redis.Redis | None = None, *, key_prefix: str = "", clock: Clock = SYSTEM
    ) -> None:
        super().__init__(client)
        self._told = threading.Condition()
        self._core = Subscriptions(key_prefix, clock, self._tell)
        self._listener: int | None = None
        """The thread that listens; None when none does. Changed under `_told`."""
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._messages: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def publish(self, channel: str, message: Any) -> int:
        """Sends what JSON can say to all who listen now. Returns how many subscribers got it; on a Cluster, those of
        one node."""
        return self._do(self._core.publish(channel, message))

    def subscribe(self, channel: str, handler: Handler) -> None:
        """Calls `handler(message)` for each message of the channel, in place of the handler that it had. Text that is
        no JSON comes as it is. If this object listens already, returns when the server has confirmed the subscription,
        or can't be reached."""
        self._check_open()
        if inspect.iscoroutinefunction(handler):
            fix = "Use AsyncRedisPubSub, or give a function."
            raise InvalidInput(Problem(f"{handler!r} is a coroutine function", fix, path="handler"))
        name = self._core.add(channel, handler)
        if self._listener not in (None, threading.get_ident()):
            self._wait_until_settled(name)

    def unsubscribe(self, channel: str) -> None:
        """Calls the channel's handler no more."""
        self._core.remove(channel)

    def run(self) -> None:
        """Listens until `stop` is called, by a handler or in another thread; warns if nobody has subscribed. If another
        thread listens already, waits for its end. Raises StoreRefuses if the server refuses us from the beginning."""
        if self._begin():
            self._core.warn_if_none()
            self._listen()
        else:
            with self._told:
                self._told.wait_for(lambda: self._listener is None)

    def run_in_thread(self, daemon: bool = True) -> threading.Thread:
        """Listens in a thread, and returns it when the server has confirmed the subscriptions, or can't be reached. A
        daemon thread ends with the program."""
        if self._begin():
            self._thread = threading.Thread(target=self._listen_in_thread, name="watchbill pubsub", daemon=daemon)
            self._thread.start()
        self._wait_until_settled()
        if self._failure is not None:
            raise self._failure
        return self._thread or threading.current_thread()

    def stop(self) -> None:
        """Ends listening. Waits for up to 5 s for a handler that runs, unless it is the handler that calls this. The
        handlers stay, for another `run`."""
        with self._told:
            self._core.is_stopping = True
            self._told.notify_all()
            if self._listener != threading.get_ident():
                self._told.wait_for(lambda: self._listener is None, subscriptions.STOP_SECONDS)

    def close(self) -> None:
        """Ends listening and the use of this object, and closes the connections, unless they are another object's."""
        self.stop()
        super().close()

    # ------------------------------------------------------------ within

    def _begin(self) -> bool:
        """Returns whether the caller is the one to listen, by `_listen`; else another thread does already."""
        self._check_open()
        with self._told:
            if self._listener is not None:
                return False
            self._listener, self._failure, self._core.is_stopping = _STARTING, None, False
            return True

    def _listen_in_thread(self) -> None:
        try:
            self._listen()
        except Exception as error:
            logger.error("the thread that listens ends: %s", error)

    def _listen(self) -> None:
        self._listener = threading.get_ident()
        try:
            self._do(self._core.listen())
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._drop()
            with self._told:
                self._listener = None
                self._told.notify_all()

    def _take(self, step: Any) -> Any:
        match step:
            case Read(seconds):
                return self._messages.get_message(timeout=seconds)
            case Handle(handler, data, channel):
                try:
                    handler(data)
                except Exception:
                    logger.exception("a handler of the channel %r failed", channel)
            case Open():
                self._drop()
                self._messages = self._redis.pubsub()
            case Subscribe(channels):
                self._messages.subscribe(*channels)
            case Unsubscribe(channels):
                self._messages.unsubscribe(*channels)
            case Ping():
                self._messages.ping()
            case Pause(seconds):
                with self._told:
                    self._told.wait_for(lambda: self._core.is_stopping, seconds)
            case _:
                return super()._take(step)
        return None

    def _drop(self) -> None:
        if self._messages is not None:
            with contextlib.suppress(redis.exceptions.RedisError, OSError):
                self._messages.close()
            self._messages = None

    def _tell(self) -> None:
        with self._told:
            self._told.notify_all()

    def _wait_until_settled(self, *channels: str) -> None:
        with self._told:
            self._told.wait_for(
                lambda: self._listener is None or self._core.is_settled(*channels), subscriptions.CONFIRM_SECONDS
            )


class AsyncRedisPubSub(Async):
    """RedisPubSub with coroutines. Handlers may be functions or coroutine functions, and are awaited one after the
    other."""

    def __init__(
        self, client: Async | redis.asyncio.Redis | None = None, *, key_prefix: str = "", clock: Clock = SYSTEM
    ) -> None:
        super().__init__(client)
        self._told = asyncio.Event()
        self._core = Subscriptions(key_prefix, clock, self._told.set)
        self._listener: asyncio.Task[Any] | None = None
        """The task that listens; None when none does."""
        self._messages: redis.asyncio.client.PubSub | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def publish(self, channel: str, message: Any) -> int:
        """Does what RedisPubSub.publish does."""
        return await self._do(self._core.publish(channel, message))

    async def subscribe(self, channel: str, handler: Handler) -> None:
        """Does what RedisPubSub.subscribe does."""
        self._check_open()
        name = self._core.add(channel, handler)
        if self._listener not in (None, asyncio.current_task()):
            await self._wait_until_settled(name)

    async def unsubscribe(self, channel: str) -> None:
        """Calls the channel's handler no more."""
        self._core.remove(channel)

    async def run(self) -> None:
        """Listens until `stop` is called, or the task is cancelled; warns if nobody has subscribed. If this object
        listens in a task already, waits for its end. Raises StoreRefuses if the server refuses us from the
        beginning."""
        self._check_open()
        if self._listener is not None:
            await asyncio.wait([self._listener])
            return
        self._core.is_stopping = False
        self._core.warn_if_none()
        await self._listen()

    async def run_in_task(self) -> asyncio.Task[None]:
        """Listens in a task, and returns it when the server has confirmed the subscriptions, or can't be reached. The
        task ends by `stop`, or when it is cancelled."""
        self._check_open()
        if self._listener is None:
            self._core.is_stopping = False
            self._listener = asyncio.create_task(self._listen(), name="watchbill pubsub")
        listener = self._listener
        await self._wait_until_settled()
        if listener.done() and not listener.cancelled() and (failure := listener.exception()):
            raise failure
        return listener

    async def stop(self) -> None:
        """Ends listening. Waits for up to 5 s for a handler that runs, unless it is the handler that calls this. The
        handlers stay, for another `run`."""
        self._core.is_stopping = True
        self._told.set()
        if self._listener not in (None, asyncio.current_task()):
            await asyncio.wait([self._listener], timeout=subscriptions.STOP_SECONDS)

    async def close(self) -> None:
        """Ends listening and the use of this object, and closes the connections, unless they are another object's."""
        await self.stop()
        await super().close()

    # ------------------------------------------------------------ within

    async def _listen(self) -> None:
        self._listener = asyncio.current_task()
        try:
            await self._do(self._core.listen())
        finally:
            try:
                await self._drop()
            finally:
                self._listener = None
                self._told.set()

    async def _take(self, step: Any) -> Any:
        messages: Any = self._messages
        match step:
            case Read(seconds):
                async with Patience(seconds + REPLY_TIMEOUT_SECONDS):  # to connect, redis-py waits for ever
                    return await messages.get_message(timeout=seconds)
            case Handle(handler, data, channel):
                try:
                    if inspect.isawaitable(answer := handler(data)):
                        await answer
                except Exception:
                    logger.exception("a handler of the channel %r failed", channel)
            case Open():
                await self._drop()
                self._messages = self._redis.pubsub()
            case Subscribe(channels):
                async with Patience(REPLY_TIMEOUT_SECONDS):
                    await messages.subscribe(*channels)
            case Unsubscribe(channels):
                await messages.unsubscribe(*channels)
            case Ping():
                await messages.ping()
            case Pause(seconds):
                await self._wait(lambda: self._core.is_stopping, seconds)
            case _:
                return await super()._take(step)
        return None

    async def _drop(self) -> None:
        messages, self._messages = self._messages, None
        if messages is not None:
            with contextlib.suppress(redis.exceptions.RedisError, OSError):
                await messages.aclose()

    async def _wait(self, until: Callable[[], bool], seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with Patience(seconds):
                while not until():
                    self._told.clear()
                    await self._told.wait()

    async def _wait_until_settled(self, *channels: str) -> None:
        await self._wait(
            lambda: self._listener is None or self._core.is_settled(*channels), subscriptions.CONFIRM_SECONDS
        )
