"""The operator as a whole: connections, the first listing, the watch, the work, the wake-ups, the sweep."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import redis.asyncio

from watchbill import background, connection, metrics, names
from watchbill.connection import outages
from watchbill.controller.cache import Cache, Key, Object
from watchbill.controller.eviction import Eviction
from watchbill.controller.reconcile import Reconciler, StoreGate
from watchbill.controller.statuses import Statuses
from watchbill.controller.stored import Heartbeats, Stored
from watchbill.controller.watch import Watch
from watchbill.controller.workqueue import WorkQueue
from watchbill.errors import WatchbillError
from watchbill.kubernetes_api import Forbidden, Kind, KubernetesApi
from watchbill.plan import manifests
from watchbill.settings import Settings
from watchbill.store import figures

logger = logging.getLogger("watchbill.operator")

RECONCILES_AT_ONCE: Final = 16
FIGURES_SECONDS: Final = 10.0
"""How old the figures of a crew with work may be that a scrape shows. Every reconciliation reads them anew. An idle
crew costs a scrape nothing; work that comes has it reconciled."""
START_SECONDS: Final = 2.0
LEFT_OUT_SECONDS: Final = 60.0
"""When a namespace that could not be listed is tried again."""
SILENCE_SECONDS: Final = 5.0
"""A subscription that was silent for this long is asked whether it is still there, and must answer within as much."""

_SELECTORS: Final[dict[Kind, str]] = {"crews": "", "heartbeats": "", "deployments": names.WORKER_SELECTOR}


class _Subscription(redis.asyncio.client.PubSub):
    """A subscription that tells when it begins anew: whatever was said while it was broken was said to nobody."""

    connected: Callable[[], None]
    heard_at: float = 0.0
    """When anything came over it last, answers to pings included."""

    async def on_connect(self, connection: Any) -> None:
        await super().on_connect(connection)
        self.connected()

    async def parse_response(self, *args: Any, **options: Any) -> Any:
        response = await super().parse_response(*args, **options)
        if response is not None:
            self.heard_at = time.monotonic()
        return response


class Operator:
    """Runs until `stop`. Raises RuntimeError when the watch can't be kept up."""

    def __init__(self, settings: Settings, url: str, schedule: Callable[[redis.asyncio.Redis], Heartbeats]) -> None:
        """`schedule` makes the scheduler over the operator's client of the store at `url`."""
        self._settings = settings
        self._url = url
        self._schedule = schedule
        self._namespaces = list(dict.fromkeys(n for n in map(str.strip, settings.watch_namespaces.split(",")) if n))
        self._cache = Cache()
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopping = asyncio.Event()
        self._list_now = asyncio.Event()
        self._unlisted: set[str] = set()
        """Namespaces that could not be listed the last time: nothing of them may be swept."""
        self.is_ready = False

    def stop(self) -> None:
        self._stopping.set()

    async def observe(self) -> None:
        """For the metrics: reads the figures of crews that have something to show and were not reconciled lately."""
        if self.is_ready:
            crews = [names.CrewKeys(*crew.split("/", 1)) for crew in metrics.QUEUES.due(FIGURES_SECONDS)]
            async for crew, found in figures.each(self._client, crews):
                metrics.QUEUES.show(crew, found)

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            self._client = connection.connect(self._url)
            stack.push_async_callback(self._client.aclose)
            self._kubernetes = await stack.enter_async_context(await KubernetesApi.connect())
            scheduler = self._schedule(self._client)
            stopped = asyncio.create_task(self._stopping.wait())
            starting = asyncio.create_task(self._until_served())
            try:
                await asyncio.wait({stopped, starting}, return_when=asyncio.FIRST_COMPLETED)
                if not starting.done():
                    return
                self._make(scheduler, owner=f"{self._settings.installation}@{starting.result()}")
                stack.callback(self._statuses.turns.close)
                watch = Watch(self._namespaces, self._on_event, self._list_now.set, self._break)
                watch.start()
                stack.push_async_callback(watch.stop)
                await scheduler.start()
                stack.push_async_callback(scheduler.stop)
                await self._work(stopped)
            finally:
                await _end(stopped, starting)

    def _make(self, scheduler: Heartbeats, owner: str) -> None:
        self._stored = Stored(self._client, scheduler, owner)
        self._statuses = Statuses(self._kubernetes, self._cache, self._add)
        self._eviction = Eviction(self._client, self._enqueue_all)
        self._reconciler = Reconciler(
            self._kubernetes,
            self._cache,
            self._stored,
            self._statuses,
            StoreGate(self._on_store_back),
            self._eviction,
            workers=manifests.Defaults(
                image=self._settings.worker_image,
                resources=self._settings.worker_resources,
                allow_modules=",".join(self._settings.allowed_modules),
            ),
        )
        self._queue: WorkQueue[Key] = WorkQueue(self._reconciler.reconcile, metrics.WORKQUEUE_DEPTH.set)

    async def _work(self, stopped: asyncio.Future[Any]) -> None:
        work = [
            background.start("resync", self._resync),
            background.start("wake-ups", self._listen),
            background.start("eviction", self._eviction.run),
        ]
        ends = [stopped, self._broken, *work]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                if end.done():
                    end.result()
        finally:
            self.is_ready = False
            await _end(*work)

    # ------------------------------------------------------------ what the API server says

    async def _until_served(self) -> str:
        """Waits until the API server serves our kinds. Returns which cluster it is."""
        while True:
            try:
                served = [await self._kubernetes.is_established(plural) for plural in ("crews", "heartbeats")]
                if all(served):
                    return await self._kubernetes.uid()
                logger.warning("the API server doesn't serve crews and heartbeats (yet)")
            except WatchbillError as error:
                logger.warning("can't start yet: %s", error)
            await asyncio.sleep(START_SECONDS)

    async def _list(self) -> None:
        """Everything, as of now. Whoever isn't in it has gone. A namespace that we may not list stays as it was."""
        self._cache.expect_listing()
        unlisted: set[str] = set()
        try:
            namespaces: Sequence[str | None] = self._namespaces or [None]
            for namespace in namespaces:
                try:
                    listings = [
                        (kind, await self._kubernetes.list(kind, namespace, selector=selector))
                        for kind, selector in _SELECTORS.items()
                    ]
                except Forbidden as error:
                    if namespace is None or len(namespaces) == 1:
                        raise
                    logger.warning("namespace %r is left out: %s", namespace, error)
                    unlisted.add(namespace)
                    continue
                for kind, listing in listings:
                    for key in self._cache.replace(kind, namespace, listing):
                        self._queue.add(key, later=True)
        finally:
            self._cache.listed()
        self._unlisted = unlisted
        self._enqueue_all()

    def _on_event(self, plural: str, kind: str, obj: Object) -> None:
        """One event of the watch. A hint: what is lost, the next listing finds."""
        for key in self._cache.take(plural, kind, obj):
            self._queue.add(key)

    def _break(self, why: str) -> None:
        if not self._broken.done():
            self._broken.set_exception(RuntimeError(why))

    # ------------------------------------------------------------ beside it

    async def _resync(self) -> None:
        """Lists anew, has every crew reconciled, and sweeps up crews that went while nobody watched."""
        reconciling: asyncio.Task[None] | None = None
        try:
            while True:
                listed = False
                self._list_now.clear()
                try:
                    await self._list()
                    listed = True
                except WatchbillError as error:
                    logger.warning("can't list: %s", error)
                if listed and reconciling is None:  # not before all that there is is known
                    await self._eviction.asked(START_SECONDS)
                    reconciling = asyncio.create_task(self._queue.run(RECONCILES_AT_ONCE), name="reconcile")
                    reconciling.add_done_callback(self._on_reconcile_ended)
                    self.is_ready = True
                if listed:  # never a sweep after a listing that failed
                    await self._sweep()
                pause = START_SECONDS if not listed else LEFT_OUT_SECONDS if self._unlisted else math.inf
                try:
                    async with asyncio.timeout(min(pause, self._settings.resync_seconds)):
                        await self._list_now.wait()
                except TimeoutError:
                    self._reconciler.invalidate()
        finally:
            if reconciling is not None:
                await _end(reconciling)

    def _on_reconcile_ended(self, reconciling: asyncio.Task[None]) -> None:
        if not reconciling.cancelled():
            self._break(f"the work queue ended: {reconciling.exception()!r}")

    async def _sweep(self) -> None:
        """Has every crew reconciled that this operator stored and that is no more: that removes it."""
        living = {key: str(crew["metadata"]["uid"]) for key, crew in self._cache.crews.items()}
        try:
            strays = await self._stored.strays(self._namespaces, living)
        except (WatchbillError, redis.exceptions.RedisError, OSError) as error:
            logger.warning("the sweep is put off: %s", error)
            return
        for key in strays:
            if key[0] not in self._unlisted:
                self._queue.add(key)

    def _add(self, key: Key) -> None:
        self._queue.add(key)

    def _enqueue_all(self) -> None:
        for key in {*self._cache.crews.crews(), *self._cache.heartbeats.crews()}:
            self._queue.add(key, later=True)

    def _on_store_back(self) -> None:
        self._eviction.ask_now()
        self._enqueue_all()

    async def _listen(self) -> None:
        """Work that arrives wakes its crew at once. A message that is lost: the resync finds the work."""
        while True:
            subscription = _Subscription(self._client.connection_pool, ignore_subscribe_messages=True)
            subscription.connected = self._enqueue_all
            try:
                await self._listen_once(subscription)
            finally:
                await subscription.aclose()  # type: ignore[no-untyped-call]

    async def _listen_once(self, subscription: _Subscription) -> None:
        """Returns when nothing comes from the other end: a connection may be dead without saying so."""
        await outages.persist(lambda: subscription.subscribe(names.WAKE_CHANNEL))
        subscription.heard_at = time.monotonic()
        while (silent_for := time.monotonic() - subscription.heard_at) < 2 * SILENCE_SECONDS:
            if silent_for >= SILENCE_SECONDS:
                await outages.persist(subscription.ping)
            message = await outages.persist(lambda: subscription.get_message(timeout=SILENCE_SECONDS))
            if message is not None and message["type"] == "message":
                namespace, _, name = str(message["data"]).partition("/")
                if (namespace, name) in self._cache.crews:
                    self._reconciler.reset_idle((namespace, name))
                    self._queue.add((namespace, name))


async def _end(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
