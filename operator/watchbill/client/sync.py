"""A client for programs without an event loop. It may not do anything by itself: it calls Client.

Each method is made from that of Client, so it has the same arguments, for type checkers, too.

Not anyio.from_thread.BlockingPortal, because: Ctrl-C would leave the call running on its loop; a portal that was used
before a fork would hang the child; and a client needs no anyio otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from watchbill import names
from watchbill.client.client import Client
from watchbill.connection.client import closed
from watchbill.connection.url import Target
from watchbill.errors import Closed

P = ParamSpec("P")
T = TypeVar("T")


def _waits(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SyncClient, P], T]:
    """The method of Client, as one that blocks until it returns."""

    @functools.wraps(method)
    def call(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._wait(lambda client: method(client, *args, **kwargs))

    return call


def _iterates(
    method: Callable[Concatenate[Client, P], AsyncIterator[T]],
) -> Callable[Concatenate[SyncClient, P], Iterator[T]]:
    """The method of Client, as an iterator that blocks for each item."""

    @functools.wraps(method)
    def call(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._each(lambda client: method(client, *args, **kwargs))

    return call


class SyncClient:
    """Client with methods that block. It is a context manager, and may be used by many threads at once.

    It runs an event loop in a thread of its own, which begins with the first call and ends with `close`; so it may
    also be used where a loop runs (and blocks that loop). Ctrl-C, or another exception while a call waits, cancels the
    call. A forked process must make its own client: one that was used before the fork raises RuntimeError, and one that
    was closed raises Closed.
    """

    def __init__(self, url: str | Target, *, namespace: str = "default") -> None:
        self._client = Client(url, namespace=namespace)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._closed = False
        self._process = 0

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; calls that wait in other threads raise Closed. Submitted work goes on."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None or self._process != os.getpid():
            return
        with contextlib.suppress(RuntimeError):  # it has ended
            loop.call_soon_threadsafe(self._stop.set)
        if threading.current_thread() is not thread:
            thread.join()

    def keys(self, crew: str) -> names.CrewKeys:
        """The crew's keys. Raises InvalidInput if `crew` can't be a crew's name."""
        return self._client.keys(crew)

    submit = _waits(Client.submit)
    submit_many = _waits(Client.submit_many)
    fire = _waits(Client.fire)
    run = _waits(Client.run)
    wait = _waits(Client.wait)
    result = _waits(Client.result)
    cancel = _waits(Client.cancel)
    cancel_all = _waits(Client.cancel_all)
    cancelling = _waits(Client.cancelling)
    interrupt = _waits(Client.interrupt)
    approve = _waits(Client.approve)
    reject = _waits(Client.reject)
    approvals = _waits(Client.approvals)
    suspend = _waits(Client.suspend)
    resume = _waits(Client.resume)
    close_crew = _waits(Client.close_crew)
    open_crew = _waits(Client.open_crew)
    workers = _waits(Client.workers)
    drain = _waits(Client.drain)
    undrain = _waits(Client.undrain)
    apply = _waits(Client.apply)
    crews = _waits(Client.crews)
    crew = _waits(Client.crew)
    owner = _waits(Client.owner)
    uid = _waits(Client.uid)
    is_suspended = _waits(Client.is_suspended)
    hold = _waits(Client.hold)
    manifest = _waits(Client.manifest)
    heartbeats = _waits(Client.heartbeats)
    heartbeat_reports = _waits(Client.heartbeat_reports)
    delete = _waits(Client.delete)
    state = _waits(Client.state)
    status = _waits(Client.status)
    why = _waits(Client.why)
    explain = _waits(Client.explain)
    figures = _waits(Client.figures)
    unfinished = _waits(Client.unfinished)
    events = _waits(Client.events)
    follow = _iterates(Client.follow)
    dead_letters = _iterates(Client.dead_letters)
    dead_letter = _waits(Client.dead_letter)
    replay = _waits(Client.replay)
    purge = _waits(Client.purge)
    deliveries = _waits(Client.deliveries)
    delivery = _waits(Client.delivery)
    sessions = _waits(Client.sessions)
    session = _waits(Client.session)
    delete_session = _waits(Client.delete_session)
    spending = _waits(Client.spending)

    # ------------------------------------------------------------ within

    def _wait(self, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        future = self._begin(work)
        try:
            return future.result()
        except CancelledError:
            raise Closed("the client was closed while this waited. Make a new one") from None
        finally:
            future.cancel()  # nothing once it is done

    def _each(self, items: Callable[[Client], AsyncIterator[T]]) -> Iterator[T]:
        iterator = items(self._client)  # raises what is wrong with the arguments at once

        def each() -> Iterator[T]:
            end: Any = object()

            async def step(_: Client) -> T:
                return await anext(iterator, end)

            while (item := self._wait(step)) is not end:
                yield item

        return each()

    def _begin(self, work: Callable[[Client], Coroutine[Any, Any, T]]) -> Future[T]:
        with self._lock:
            if self._closed:
                raise closed()
            loop = self._loop or self._start()
            if self._process != os.getpid():
                raise RuntimeError("the client was used before this process was forked. Make one in each process")
            if threading.current_thread() is self._thread:
                raise RuntimeError("the client is used from within a call of its own, which would wait for itself")
            return asyncio.run_coroutine_threadsafe(work(self._client), loop)

    def _start(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()  # here, where somebody is told if there are no descriptors left

        async def live() -> None:
            async with self._client:
                await self._stop.wait()
                calls = asyncio.all_tasks() - {asyncio.current_task()}
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)

        def run() -> None:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(live())

        thread = threading.Thread(target=run, name="watchbill client", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # nor threads
            loop.close()
            raise
        self._thread, self._loop, self._process = thread, loop, os.getpid()
        return loop
