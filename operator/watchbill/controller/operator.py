"""The operator as a whole: connections, the first listing, the watch, the work, the wake-ups, the sweep."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, Final

import redis.asyncio

from watchbill import names
from watchbill.cluster import Cluster, ClusterUnavailable
from watchbill.connection import connect, persist
from watchbill.controller.reconcile import Cache, Heartbeats, Key, Reconciler
from watchbill.controller.watch import Watch
from watchbill.controller.workqueue import WorkQueue
from watchbill.errors import WatchbillError
from watchbill.plan import crew as plan
from watchbill.settings import Settings
from watchbill.store import definitions
from watchbill.store.crews import CrewRedis

logger = logging.getLogger("watchbill.operator")

LOOKS_AT_ONCE: Final = 16
START_SECONDS: Final = 2.0


class _Ears(redis.asyncio.client.PubSub):
    """A subscription that tells when it begins anew: whatever was said while it was broken was said to nobody."""

    connected: Callable[[], None]

    async def on_connect(self, connection: Any) -> None:
        await super().on_connect(connection)
        self.connected()


class Operator:
    """Runs until `stop`. Raises RuntimeError when the watch can't be kept up."""

    def __init__(self, settings: Settings, url: str, schedule: Callable[[redis.asyncio.Redis], Heartbeats]) -> None:
        """`schedule` makes the scheduler over the operator's client of the store at `url`."""
        self._settings = settings
        self._url = url
        self._schedule = schedule
        self._namespaces = [n.strip() for n in settings.watch_namespaces.split(",") if n.strip()]
        self._cache = Cache()
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopping = asyncio.Event()
        self.is_ready = False

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            self._client = connect(self._url)
            stack.push_async_callback(self._client.aclose)
            self._cluster = await stack.enter_async_context(await Cluster.connect())
            scheduler = self._schedule(self._client)
            self._reconciler = Reconciler(
                self._cluster,
                self._client,
                scheduler,
                self._cache,
                worker_image=self._settings.worker_image,
                owner=self._settings.installation,
            )
            self._queue: WorkQueue[Key] = WorkQueue(self._reconciler.look)
            await self._until_served()
            await self._list()
            watch = Watch(self._namespaces, self._take, self._break)
            watch.start()
            stack.push_async_callback(watch.stop)
            await scheduler.start()
            stack.push_async_callback(scheduler.stop)
            work = [
                asyncio.create_task(self._queue.run(LOOKS_AT_ONCE), name="reconcile"),
                asyncio.create_task(self._hear(), name="wake-ups"),
                asyncio.create_task(self._resync(), name="resync"),
            ]
            self.is_ready = True
            stopped = asyncio.create_task(self._stopping.wait())
            ends: list[asyncio.Future[Any]] = [stopped, self._broken, *work]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                for end in ends:
                    if end.done():
                        end.result()
            finally:
                for task in (*work, stopped):
                    task.cancel()
                await asyncio.gather(*work, stopped, return_exceptions=True)

    # ------------------------------------------------------------ what the API server says

    async def _until_served(self) -> None:
        while True:
            with suppress(ClusterUnavailable):
                if all([await self._cluster.is_established(plural) for plural in ("crews", "heartbeats")]):
                    return
            logger.warning("the API server doesn't serve crews and heartbeats (yet), or we may not list them")
            await asyncio.sleep(START_SECONDS)

    async def _list(self) -> None:
        """Everything, as of now. Whoever isn't in it has gone."""
        crews, beats, deployments = [], [], []
        namespaces: Sequence[str | None] = self._namespaces or [None]
        for namespace in namespaces:
            crews += await self._cluster.list("crews", namespace)
            beats += await self._cluster.list("heartbeats", namespace)
            deployments += await self._cluster.list("deployments", namespace, selector=names.WORKER_SELECTOR)
        before = {*self._cache.crews, *self._cache.beats}
        now = Cache(crews={_key(o): _slim(o) for o in crews})
        for heartbeat in beats:
            now.put_heartbeat(_slim(heartbeat))
        for deployment in deployments:
            child = plan.project(deployment)
            now.children.setdefault((_key(deployment)[0], _crew_of(deployment)), {})[child.name] = child
        self._cache.crews, self._cache.heartbeats = now.crews, now.heartbeats
        self._cache.beats, self._cache.children = now.beats, now.children
        for key in {*before, *now.crews, *now.beats}:
            self._queue.add(key)

    def _take(self, plural: str, kind: str, obj: Mapping[str, Any]) -> None:
        """One event of the watch. A hint: what is lost, the next listing finds."""
        key = _key(obj)
        gone = kind == "DELETED"
        if plural == "crews":
            if gone:
                if self._cache.crews.get(key, obj)["metadata"]["uid"] == obj["metadata"]["uid"]:
                    self._cache.crews.pop(key, None)
            else:
                self._cache.crews[key] = _slim(obj)
            self._queue.add(key)
        elif plural == "heartbeats":
            for crew in self._cache.drop_heartbeat(obj) if gone else self._cache.put_heartbeat(_slim(obj)):
                self._queue.add(crew)
        elif _crew_of(obj):
            crew = (key[0], _crew_of(obj))
            children = self._cache.children.setdefault(crew, {})
            if gone:
                children.pop(key[1], None)
            else:
                children[key[1]] = plan.project(obj)
            self._queue.add(crew)

    def _break(self, why: str) -> None:
        if not self._broken.done():
            self._broken.set_exception(RuntimeError(why))

    # ------------------------------------------------------------ beside it

    async def _hear(self) -> None:
        """Work that arrives wakes its crew at once. A message that is lost: the resync finds the work."""
        pubsub = _Ears(self._client.connection_pool, ignore_subscribe_messages=True)
        pubsub.connected = self._look_at_all
        await persist(lambda: pubsub.subscribe(names.WAKE_CHANNEL))
        try:
            while True:
                message = await persist(lambda: pubsub.get_message(timeout=5.0))
                if message:
                    namespace, _, name = str(message["data"]).partition("/")
                    if (namespace, name) in self._cache.crews:
                        self._queue.add((namespace, name))
        finally:
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    def _look_at_all(self) -> None:
        for key in self._cache.crews:
            self._queue.add(key)

    async def _resync(self) -> None:
        """Lists anew, looks at everything, and sweeps up crews that went while nobody watched."""
        while True:
            try:
                await self._sweep()
            except (WatchbillError, redis.exceptions.RedisError, OSError) as error:
                logger.warning("the sweep is put off: %s", error)
            listed = False
            while not listed:  # never a sweep after a listing that failed
                await asyncio.sleep(self._settings.resync_seconds)
                try:
                    self._reconciler.doubt()
                    await self._list()
                    listed = True
                except WatchbillError as error:
                    logger.warning("can't list: %s", error)

    async def _sweep(self) -> None:
        """Removes what this installation stored for crews that are no more. Only after a complete listing."""
        living = {key: str(crew["metadata"]["uid"]) for key, crew in self._cache.crews.items()}
        for namespace in await self._stored_namespaces():
            for name in await CrewRedis(client=self._client, tenant=namespace, strict=True).list_crews():
                key = (namespace, name)
                uid, owner = await definitions.identity(self._client, names.CrewKeys(*key))
                if owner == self._settings.installation and living.get(key) != uid:
                    self._queue.add(key)

    async def _stored_namespaces(self) -> Sequence[str]:
        tenants = [str(t) for t in await self._client.smembers(names.crew_tenants())]
        return [t for t in tenants if t != names.GLOBAL_TENANT and (not self._namespaces or t in self._namespaces)]


def _key(obj: Mapping[str, Any]) -> Key:
    return obj["metadata"]["namespace"], obj["metadata"]["name"]


def _crew_of(obj: Mapping[str, Any]) -> str:
    return str(obj["metadata"].get("labels", {}).get(names.LABEL_CREW, ""))


def _slim(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without managedFields and kubectl's copy, which are larger than the rest."""
    metadata = {k: v for k, v in obj["metadata"].items() if k not in ("managedFields",)}
    annotations = metadata.get("annotations", {})
    metadata["annotations"] = {k: v for k, v in annotations.items() if not k.startswith("kubectl.kubernetes.io/")}
    return {**obj, "metadata": metadata}
