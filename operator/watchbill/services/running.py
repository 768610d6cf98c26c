"""One run of a service, from its start to its stop: worker, listener, publisher, heartbeats and their connections."""

from __future__ import annotations

import asyncio
import os
from collections import ChainMap
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Final

from watchbill import background
from watchbill.agents.loading import AgentLoader
from watchbill.api import Heartbeat
from watchbill.clock import Clock
from watchbill.connection import Store, outages
from watchbill.delivery import LocalSecrets
from watchbill.errors import CrewGone, NotFound, StoreUnavailable
from watchbill.loggers import Logger
from watchbill.services import crew
from watchbill.services.beats import Beats
from watchbill.services.client import AgentServiceClient, target
from watchbill.services.config import AgentServiceConfig, keys_of
from watchbill.services.ingress import Listener
from watchbill.services.results import Publisher
from watchbill.settings import Settings, read
from watchbill.store import control, definitions, eviction, incarnations, ingress
from watchbill.store.figures import figures
from watchbill.store.ingress import Entry, Source
from watchbill.worker.delivering.sending import Delivering
from watchbill.worker.health import HealthServer, observe
from watchbill.worker.lease_keeper import STUCK_SECONDS
from watchbill.worker.worker import Worker

logger = Logger("watchbill.services")

POLL_SECONDS: Final = 1.0
"""Greatest age in seconds of the queue's size in `get_status`. A crew that the store has lost is back as soon."""
LAST_SECONDS: Final = 5.0
"""Seconds that a service that stops may take to leave the group, and to publish the last results. Others do what it
doesn't."""


class Running:
    """A service that was started. It is started and stopped once."""

    def __init__(
        self,
        config: AgentServiceConfig,
        loader: AgentLoader,
        beats: Sequence[Heartbeat],
        kept: dict[str, str],
        clock: Clock,
    ) -> None:
        """`kept`: secrets of deliveries by name; tasks that are submitted add theirs. Connects to nothing yet."""
        self.config = config
        self.client = AgentServiceClient(
            config.redis_url,
            redis_db=config.redis_db,
            task_stream=config.task_stream,
            result_stream=config.result_stream,
        )
        self.client.deliver_here(kept)
        self.queue_size = 0
        self._clock = clock
        self._loader = loader
        own = frozenset(config.streams.values())
        self._delivering = Delivering(LocalSecrets(ChainMap(kept, os.environ)), own_streams=own)
        self._definition = config.crew()
        self._keys = keys_of(config.task_stream)
        self._uid = ""
        found = target(config.redis_url, config.redis_db)
        self._store, self._blocking = Store(found), Store(found)
        self._worker: Worker | None = None
        self._beats = Beats(self._store.client, self._keys, beats, clock)
        name = config.consumer_name or incarnations.fresh()
        self._source = Source(self._blocking.client, config.task_stream, config.consumer_group, name)
        self._listener = Listener(self._source, self.client, self._refuse, clock)
        self._publisher = Publisher(self._blocking.client, self._keys, config.result_stream, config.results_kept)
        self._health = HealthServer(
            lambda: observe(self._store.client, [self._keys]), self._is_ready, stuck_seconds=STUCK_SECONDS
        )
        self._working: asyncio.Task[None] | None = None
        self._listening: list[asyncio.Task[None]] = []
        self._loops: list[asyncio.Task[None]] = []
        self._publishing: list[asyncio.Task[None]] = []
        self._is_stopping = False

    @property
    def works(self) -> bool:
        """True while it claims and runs tasks."""
        return self._working is not None and not self._working.done() and not self._is_stopping

    @property
    def active(self) -> int:
        """Tasks that run in this process."""
        return self._worker.running if self._worker is not None else 0

    @property
    def health_port(self) -> int | None:
        """The port of /healthz, /readyz and /metrics, if they are served."""
        return self._health.port or None

    # ------------------------------------------------------------ starting and stopping

    async def start(self, *, wait: bool) -> None:
        """Does what `AgentService.start` says. What raises has to be stopped, too."""
        settings = read(Settings)
        if settings.health_port is not None:
            await self._health.start(settings.health_host, settings.health_port)
        if wait:
            await outages.persist(self._enter, clock=self._clock)
        else:
            with outages.translated():
                await self._enter()
        await self._begin()

    async def _enter(self) -> None:
        """Makes the crew, and lets go what services of this host that have died held. Safe to be called again."""
        client = self._store.client
        self._uid = await crew.make(client, self._keys, self._definition)
        for keys in (self._keys, self._keys.deliveries()):
            await control.declare_dead(client, keys, self._uid)
        await self._read()

    async def _begin(self) -> None:
        client = self._store.client
        self._working = asyncio.create_task(self._work(), name=f"worker {self._keys.crew}")
        self._publishing = [background.start("results", self._publisher.run)]
        self._listening = [background.start("task stream", self._listener.run)]
        self._loops = [
            background.start("service", self._poll),
            background.start("eviction", lambda: eviction.warn(client)),
        ]
        await self._beats.start(self._uid)
        logger.info("started: tasks are in crew %s; %d heartbeats", self._keys.crew, len(self._beats))

    async def stop(self) -> None:
        """Stops in the order that `AgentService.stop` gives."""
        self._is_stopping = True
        await self._beats.stop()
        await background.end(*self._listening)
        if self._listening:
            await _within(LAST_SECONDS, self._source.leave())
        await background.end(*self._loops)
        await _within(LAST_SECONDS, self._beats.leave())
        if self._worker is not None and self._working is not None:
            self._worker.stop()
            await asyncio.gather(self._working, return_exceptions=True)
        await background.end(*self._publishing)
        if self._publishing:
            await _within(LAST_SECONDS, self._publisher.rest())
        await self._health.close()
        await self.client.disconnect()
        await self._blocking.aclose()
        await self._store.aclose()

    async def ended(self) -> None:
        """Returns when the worker has ended. Raises what ended it, unless it was stopped."""
        if self._working is not None:
            await asyncio.wait([self._working])
            if not self._is_stopping:
                self._working.result()

    # ------------------------------------------------------------ within

    def _is_ready(self) -> bool:
        return self._worker is None or not self._worker.drained

    async def _work(self) -> None:
        """Runs a worker, and another one when the crew was lost for longer than a worker waits for it."""
        while not self._is_stopping:
            self._worker = Worker(
                self._store,
                self._keys,
                self._loader,
                concurrency=self.config.max_workers,
                grace_seconds=self.config.shutdown_timeout_seconds,
                clock=self._clock,
                delivering=self._delivering,
            )
            try:
                return await self._worker.run()
            except (CrewGone, NotFound) as error:
                logger.warning("the worker begins anew: %s", error)
                await self._clock.sleep(POLL_SECONDS)
            except Exception:
                logger.exception("the worker ended, and this service runs no more tasks")
                raise

    async def _poll(self) -> None:
        while True:
            await self._clock.sleep(POLL_SECONDS)
            await outages.persist(self._read)
            await outages.persist(lambda: self._beats.keep(self._uid))

    async def _read(self) -> None:
        """Reads the queue's size, and makes the crew anew if the store has lost it."""
        client = self._store.client
        there = await definitions.identity(client, self._keys)
        if there.uid != self._uid and not there.leaving:
            self._uid = await crew.make(client, self._keys, self._definition, uid=None if there.uid else self._uid)
            self._beats.lost()
        self.queue_size = (await figures(client, self._keys)).waiting

    async def _refuse(self, entry: Entry, reason: str) -> None:
        await ingress.refuse(self._store.client, self._keys, self._uid, entry, reason)


async def _within(seconds: float, work: Awaitable[object]) -> None:
    """Does the work, unless the store is away, the crew is gone, or it takes longer."""
    with suppress(StoreUnavailable, CrewGone, TimeoutError):
        async with asyncio.timeout(seconds):
            await work
