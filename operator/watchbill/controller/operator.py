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
        before = set(self._cache.crews)
        self._cache.crews = {_key(o): _slim(o) for o in crews}
        self._cache.heartbeats = {_key(o): _slim(o) for o in beats}
        self._cache.children = {_key(o): plan.project(o) for o in deployments}
        self._cache.owners = {_key(o): _crew_of(o) for o in deployments}
        for key in before | set(self._cache.crews):
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
            crews = {self._cache.heartbeats[key]["spec"]["crewRef"]["name"]} if key in self._cache.heartbeats else set()
            if gone:
                self._cache.heartbeats.pop(key, None)
            else:
                self._cache.heartbeats[key] = _slim(obj)
                crews.add(obj["spec"]["crewRef"]["name"])
            for crew in crews:
                self._queue.add((key[0], crew))
        elif _crew_of(obj):
            if gone:
                self._cache.children.pop(key, None)
                self._cache.owners.pop(key, None)
            else:
                self._cache.children[key] = plan.project(obj)
                self._cache.owners[key] = _crew_of(obj)
            self._queue.add((key[0], _crew_of(obj)))

    def _break(self, why: str) -> None:
        if not self._broken.done():
            self._broken.set_exception(RuntimeError(why))

    # ------------------------------------------------------------ beside it

    async def _hear(self) -> None:
        """Work that arrives wakes its crew at once. A message that is lost: the resync finds the work."""
        pubsub = self._client.pubsub(ignore_subscribe_messages=True)
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

    async def _resync(self) -> None:
        """Lists anew, looks at everything, and sweeps up crews that went while nobody watched."""
        while True:
            with suppress(ClusterUnavailable):
                try:
                    await self._sweep()
                except (WatchbillError, redis.exceptions.RedisError, OSError) as error:
                    logger.warning("the sweep is put off: %s", error)
            await asyncio.sleep(self._settings.resync_seconds)
            with suppress(ClusterUnavailable):
                await self._list()

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
