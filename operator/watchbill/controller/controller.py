"""The controller: lists, watches, reconciles each crew that changes, and removes crews that are gone from the store.

Of several replicas one leads and does all of that. The others list and watch, too, and fire the heartbeats that the
leader stores, so that each of them can lead at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from typing import Any, Final

import redis.asyncio

from watchbill import background, cluster_names, metrics, names
from watchbill.clock import SYSTEM, Clock, wait_for_event
from watchbill.connection.url import without_user
from watchbill.controller import observed, quotas
from watchbill.controller.autoscaler import Autoscaler
from watchbill.controller.beats_stored import Heartbeats
from watchbill.controller.cache import Cache, Entry, Key, Object, entries
from watchbill.controller.events import Events
from watchbill.controller.eviction import Eviction
from watchbill.controller.leader import Elector
from watchbill.controller.memory import Memory
from watchbill.controller.reconcile import Reconciler
from watchbill.controller.redis_users import RedisUsers
from watchbill.controller.references import References
from watchbill.controller.statuses import Statuses
from watchbill.controller.store_gate import StoreGate
from watchbill.controller.stored import Stored
from watchbill.controller.wakeups import WakeUps
from watchbill.controller.watch import Watch
from watchbill.controller.workqueue import Lane, WorkQueue
from watchbill.errors import KubernetesForbids, WatchbillError
from watchbill.kubernetes_api import Kind, KubernetesApi
from watchbill.plan import manifests
from watchbill.plan.redis_users import Address
from watchbill.settings import Settings
from watchbill.store import definitions, figures

logger = logging.getLogger("watchbill.operator")

RECONCILES_AT_ONCE: Final = 16
FIGURES_SECONDS: Final = 10.0
"""Seconds after which a scrape reads the figures of a crew anew. The autoscaler and every reconciliation do so before,
where anything goes on: what is left are crews with nothing but dead letters or work of later."""
FIGURES_AT_ONCE: Final = 250
"""Crews that one scrape reads anew, so that it is no slower with thousands of them. The oldest figures go first."""
LIST_AGAIN_SECONDS: Final = 2.0
"""The pause after a listing that failed."""
UNLISTED_AGAIN_SECONDS: Final = 60.0
"""Seconds after which a namespace that could not be listed is tried again."""
BEHIND_SECONDS: Final = 5.0
"""While a crew has waited for longer, a resync lists and sweeps only. It would have all crews reconciled otherwise, and
those that wait for what is known to be due wait even longer."""
LEFT_OUT_MOST: Final = 5
"""Resyncs in a row that list and sweep only, at most."""
FOLLOW_SECONDS: Final = 60.0
"""Seconds after which a replica that does not lead reads the heartbeats of a crew again; sooner, after growing pauses,
while the store lacks some of them."""
EVICTION_SECONDS: Final = 2.0
"""Seconds that the first reconciliation waits for the store's maxmemory-policy, so that a restart writes no status."""

_SELECTORS: Final[dict[Kind, str]] = {"crews": "", "heartbeats": "", "deployments": cluster_names.WORKER_SELECTOR}


class Controller:
    """All parts of the operator, for one store and one API server."""

    def __init__(
        self,
        settings: Settings,
        client: redis.asyncio.Redis,
        kubernetes: KubernetesApi,
        scheduler: Heartbeats,
        owner: str,
        identity: str,
        clock: Clock = SYSTEM,
    ) -> None:
        """`owner` marks what this operator stores (docs/design/operator.md, "Whose a crew is"). `identity`: of this
        process, among the replicas of the operator."""
        self._settings = settings
        self._identity = identity
        self._namespaces = list(dict.fromkeys(n for n in map(str.strip, settings.watch_namespaces.split(",")) if n))
        self._resync_seconds = settings.resync_seconds
        self._heartbeat_seconds = settings.heartbeat_status_seconds
        self._client = client
        self._kubernetes = kubernetes
        self._scheduler = scheduler
        self._clock = clock
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._list_now = asyncio.Event()
        self._listed = asyncio.Event()
        """All resources have been listed once."""
        self._unlisted: set[str] = set()
        """Namespaces that could not be listed the last time: nothing of them may be swept."""
        self._is_consistent = True
        """The last listing was of one moment for each kind. If not, nothing may be swept."""
        self._lead_changed = asyncio.Event()
        self._elector: Elector | None = None
        """None: this is the only replica."""
        if settings.lease:
            seconds = settings.lease_seconds
            self._elector = Elector(
                kubernetes, settings.lease, identity, self._lead_changed.set, seconds=seconds, clock=clock
            )
            kubernetes.seconds_to_write = self._elector.seconds_to_write
        else:
            metrics.LEADER.set(1)
        self._memory = Memory()
        self._queue: WorkQueue[Key] = WorkQueue(metrics.WORKQUEUE_DEPTH.set, clock)
        self._cache = Cache(partial(quotas.hard_of, settings.quotas), self._on_quota)
        check = self._elector.check if self._elector else lambda: None
        self._stored = Stored(client, scheduler, owner, self._living, check=check, clock=clock)
        self._users: RedisUsers | None = None
        if settings.redis_acl_per_crew:
            address = Address(*without_user(settings.redis_url or ""))
            rotate = timedelta(seconds=settings.redis_acl_rotate_seconds) if settings.redis_acl_rotate_seconds else None
            self._users = RedisUsers(client, kubernetes, owner, address, rotate, check, clock)
        self._pauses: dict[Key, float] = {}
        """Crew whose heartbeats are not all in the store yet → the pause before they are read again."""
        self._eviction = Eviction(client, self._enqueue_all, clock)
        self._gate = StoreGate(self._on_store_back, clock)
        self._wakeups = WakeUps(client, self._on_work, self._enqueue_all, clock)
        self._watch = Watch(self._namespaces, self._on_event, self._list_now.set, self._break, clock)

    @property
    def is_ready(self) -> bool:
        """True while this replica leads, or can lead at once."""
        return self._listed.is_set()

    @property
    def _leads(self) -> bool:
        return self._elector is None or self._elector.is_leader

    async def run(self, stopped: asyncio.Future[Any]) -> None:
        """Works until `stopped` is done. Raises RuntimeError when the watch can't be kept up."""
        async with AsyncExitStack() as stack:
            self._watch.start()
            stack.push_async_callback(self._watch.stop)
            await self._scheduler.start()
            stack.push_async_callback(self._scheduler.stop)
            work = [
                background.start("resync", self._resync),
                background.start("wake-ups", self._wakeups.run),
                background.start("eviction", self._eviction.run),
                asyncio.create_task(self._work(), name="reconcile"),
            ]
            if self._elector is not None:
                stack.push_async_callback(self._elector.release)  # after all that writes has ended
                work.append(background.start("leader election", self._elector.run))
            stack.push_async_callback(background.end, *work)
            ends = [stopped, self._broken, *work]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._listed.clear()
            for end in ends:
                if end.done():
                    end.result()

    async def observe(self) -> None:
        """Brings metrics up to date that nothing else does, with the figures of crews that were not read lately."""
        metrics.WORKQUEUE_OLDEST.set(self._queue.oldest_seconds)
        observed.show_stalled(self._cache)
        if self.is_ready:
            await show_figures(self._client)
            await observed.show_memory(self._client)
        observed.show_quotas(self._cache.quotas, leads=self._leads)

    # ------------------------------------------------------------ leading

    async def _work(self) -> None:
        """Reconciles while this replica leads, and follows while it does not."""
        await self._listed.wait()  # not before every crew is known
        await self._eviction.asked(EVICTION_SECONDS)
        while True:
            self._lead_changed.clear()
            work = [asyncio.create_task(self._lead() if self._leads else self._follow())]
            changed = asyncio.create_task(self._lead_changed.wait())
            try:
                await asyncio.wait([*work, changed], return_when=asyncio.FIRST_COMPLETED)
            finally:
                await background.end(changed, *work)
            if not self._lead_changed.is_set():
                work[0].result()  # raises why it ended

    async def _lead(self) -> None:
        """Reconciles all crews, remembering nothing of the time when another replica may have led."""
        self._memory = Memory()
        self._cache.quotas.forget()
        if self._users is not None:
            self._users.forget()
        events = Events(self._kubernetes, self._identity, self._clock)
        statuses = Statuses(
            self._kubernetes,
            self._cache,
            self._gate,
            self._queue.add,
            events,
            self._clock,
            heartbeat_seconds=self._heartbeat_seconds,
        )
        references = References(self._kubernetes, self._on_reference, self._settings.references_seconds, self._clock)
        reconciler = Reconciler(
            self._kubernetes,
            self._cache,
            self._stored,
            statuses,
            self._gate,
            self._eviction,
            self._memory,
            events,
            references,
            workers=manifests.Defaults(
                image=self._settings.worker_image,
                resources=self._settings.worker_resources,
                allow_modules=",".join(self._settings.allowed_modules),
                log_format=self._settings.log_format,
                user_per_crew=self._users is not None,
                tracing=self._settings.of_tracing,
            ),
            users=self._users,
            clock=self._clock,
        )
        autoscaler = Autoscaler(
            self._client, self._cache.crews.crews, self._memory, self._queue.add, self._on_work, self._clock
        )
        self._enqueue_all()
        if self._elector is not None:
            self._list_now.set()  # the watch may lag, and crews may be gone
        async with asyncio.TaskGroup() as group:
            group.create_task(background.supervise("status turns", statuses.turns.run))
            group.create_task(background.supervise("events", events.run))
            group.create_task(background.supervise("autoscaler", autoscaler.run))
            group.create_task(background.supervise("references", references.run))
            if self._users is not None:
                group.create_task(background.supervise("users of the store", self._users.run))
            group.create_task(self._queue.run(reconciler.reconcile, RECONCILES_AT_ONCE))

    async def _follow(self) -> None:
        """Writes nothing but the slots of heartbeats that this process fires, once each over all replicas."""
        metrics.QUEUES.clear()  # the leader shows them
        metrics.BUDGETS.clear()
        self._enqueue_all()
        await self._queue.run(self._follow_heartbeats, RECONCILES_AT_ONCE)

    async def _follow_heartbeats(self, key: Key) -> float | None:
        beats = self._cache.heartbeats.of(key)
        try:
            complete = not beats or await self._stored.follow(key, beats)
        except (WatchbillError, redis.exceptions.RedisError, OSError) as error:
            logger.debug("%s/%s: the heartbeats can't be read: %s", *key, error)
            complete = False
        pause = self._pauses.pop(key, 1.0)
        if not complete:
            self._pauses[key] = min(2 * pause, FOLLOW_SECONDS)
            return pause
        return FOLLOW_SECONDS if beats else None

    async def _is_gone(self, key: Key) -> bool:
        held = await definitions.identity(self._client, names.CrewKeys(*key))
        if held.uid or held.leaving:  # its workers may end their tasks
            return False
        return await self._kubernetes.get("crews", *key) is None

    async def _living(self, key: Key) -> tuple[str, int] | None:
        seen = await self._kubernetes.get("crews", *key)
        if seen is None or seen["metadata"].get("deletionTimestamp"):
            return None
        return str(seen["metadata"]["uid"]), int(seen["metadata"]["generation"])

    # ------------------------------------------------------------ listing

    async def _resync(self) -> None:
        """Lists anew, has every crew reconciled, and sweeps up crews that went while nobody watched."""
        left_out = 0
        while True:
            listed = False
            self._list_now.clear()
            try:
                await self._list()
                listed = True
            except WatchbillError as error:
                logger.warning("can't list: %s", error)
            if listed:
                self._listed.set()
                if not left_out:
                    self._enqueue_all()
                if self._leads and self._is_consistent:  # and never sweep after a listing that failed
                    await self._sweep()
            pause = LIST_AGAIN_SECONDS if not listed else UNLISTED_AGAIN_SECONDS if self._unlisted else math.inf
            is_asked = await wait_for_event(self._list_now, min(pause, self._resync_seconds), self._clock)
            is_behind = pause == math.inf and self._queue.oldest_seconds > BEHIND_SECONDS
            left_out = left_out + 1 if is_behind and not is_asked and left_out < LEFT_OUT_MOST else 0
            if not (is_asked or left_out):
                self._memory.invalidate()
                if self._users is not None:
                    self._users.invalidate()

    async def _list(self) -> None:
        """Lists all resources. What is not listed is gone; a namespace that may not be listed stays as it was."""
        self._cache.expect_listing()
        self._is_consistent = True
        unlisted: set[str] = set()
        try:
            namespaces: Sequence[str | None] = self._namespaces or [None]
            for namespace in namespaces:
                try:
                    listings = [
                        (kind, *await self._listed_entries(kind, namespace, selector))
                        for kind, selector in _SELECTORS.items()
                    ]
                except KubernetesForbids as error:
                    if namespace is None or len(namespaces) == 1:
                        raise
                    logger.warning("namespace %r is left out: %s", namespace, error)
                    unlisted.add(namespace)
                    continue
                for kind, version, listed in listings:
                    for key in self._cache.replace(kind, namespace, version, listed):
                        self._queue.add(key, Lane.RESYNC)
        finally:
            self._cache.listed()
        self._unlisted = unlisted

    async def _listed_entries(self, kind: Kind, namespace: str | None, selector: str) -> tuple[int, list[Entry]]:
        """Returns the version of a listing, and what is kept of its objects. Never holds more than a page of them
        whole: 10,000 Deployments would take 340 MB."""
        version, found = 0, list[Entry]()
        async for page in self._kubernetes.pages(kind, namespace, selector=selector):
            version = page.version
            self._is_consistent &= page.is_consistent
            found += entries(kind, page.objects)
        return version, found

    async def _sweep(self) -> None:
        """Has every crew reconciled that this operator stored and that is no more: that removes it."""
        living = {key: str(crew["metadata"]["uid"]) for key, crew in self._cache.crews.items()}
        try:
            strays = await self._stored.strays(self._namespaces, living)
            if self._users is not None:
                await self._users.sweep(living, self._is_gone)
        except (WatchbillError, redis.exceptions.RedisError, OSError) as error:
            logger.warning("the sweep is put off: %s", error)
            return
        for key in strays:
            if key[0] not in self._unlisted:
                self._queue.add(key)

    # ------------------------------------------------------------ what others call

    def _enqueue_all(self) -> None:
        for key in {*self._cache.crews.crews(), *self._cache.heartbeats.crews()}:
            self._queue.add(key, Lane.RESYNC)

    def _on_store_back(self) -> None:
        self._eviction.ask_now()
        self._enqueue_all()

    def _on_event(self, plural: str, kind: str, obj: Object) -> None:
        """An event of the watch. An event that is lost is found by the next listing."""
        metrics.WATCH_EVENT.labels(plural).set(self._clock.now().timestamp())
        is_change = plural != "deployments" and obj.get("status", {}).get("observedGeneration", -1) >= 0
        # Without a kind it is of the listing with which a watch begins: at a start, of all resources there are.
        lane = Lane.RESYNC if not kind else Lane.CHANGE if is_change else Lane.ROUTINE
        for key in self._cache.take(plural, kind, obj):
            self._queue.add(key, lane)

    def _on_work(self, key: Key) -> None:
        if key in self._cache.crews:
            self._memory.on_work(key)
            self._queue.add(key)

    def _on_quota(self, key: Key) -> None:
        """The quota of the namespace has another outcome for this crew."""
        if self._leads:
            self._queue.add(key)

    def _on_reference(self, key: Key) -> None:
        """A Secret or ConfigMap has changed, maybe that of many crews."""
        self._queue.add(key, Lane.ROUTINE)

    def _break(self, why: str) -> None:
        if not self._broken.done():
            self._broken.set_exception(RuntimeError(why))


async def show_figures(client: redis.asyncio.Redis) -> None:
    """Has the metrics show anew the figures that are older than FIGURES_SECONDS and may have changed, of some crews."""
    due = metrics.QUEUES.due(FIGURES_SECONDS)[:FIGURES_AT_ONCE]
    crews = [names.CrewKeys(*crew.split("/", 1)) for crew in due]
    async for crew, found in figures.each(client, crews):
        metrics.QUEUES.show(crew, found)
