"""The service: workers, heartbeats, a way in and a way out for tasks, in one process. It does no work of its own.

The queue is a crew's (docs/design/queue.md), whose agents may have any name; a worker runs them, a scheduler fires the
heartbeats. Any number of services may share the work; what one leaves undone, another does.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import ChainMap
from collections.abc import Awaitable
from contextlib import suppress
from types import TracebackType
from typing import Final

from watchbill import background
from watchbill.clock import SYSTEM, Clock
from watchbill.connection import Store, outages
from watchbill.delivery import LocalSecrets
from watchbill.errors import CrewGone, NotFound, StoreUnavailable
from watchbill.loggers import Logger
from watchbill.services import config as configuration
from watchbill.services import crew, heartbeats
from watchbill.services.beats import Beats
from watchbill.services.bots import FindsBots
from watchbill.services.client import AgentServiceClient, target
from watchbill.services.config import AgentServiceConfig
from watchbill.services.ingress import Listener
from watchbill.services.loader import BotLoader
from watchbill.services.results import Publisher
from watchbill.services.tasks import AgentTask, TaskResult
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


class AgentService:
    """Runs the bots of a manager. An async context manager, or `start` and `stop`."""

    def __init__(self, config: AgentServiceConfig, bot_manager: FindsBots, *, clock: Clock = SYSTEM) -> None:
        """`bot_manager` finds a bot by its name when a task of that name runs. Raises InvalidInput for a redis_url that
        is none, and ValueError for a heartbeat that could never fire."""
        self.config = config
        self._clock = clock
        kept: dict[str, str] = {}  # secrets of deliveries, which leave this process by no other way
        beats = list(heartbeats.resources(config, kept))
        own = frozenset(config.streams.values())
        self._delivering = Delivering(LocalSecrets(ChainMap(kept, os.environ)), own_streams=own)
        self._loader = BotLoader(bot_manager)
        self._definition = config.crew()
        self._keys = configuration.keys_of(config.task_stream)
        found = target(config.redis_url, config.redis_db)
        self._client = AgentServiceClient(
            config.redis_url,
            redis_db=config.redis_db,
            task_stream=config.task_stream,
            result_stream=config.result_stream,
        )
        self._client.deliver_here(kept)
        self._uid = ""
        self._queue_size = 0
        self._store, blocking = Store(found), Store(found)  # neither connects before it is used
        self._blocking = blocking
        self._worker: Worker | None = None
        self._beats = Beats(self._store.client, self._keys, beats, clock)
        name = config.consumer_name or incarnations.fresh()
        self._source = Source(blocking.client, config.task_stream, config.consumer_group, name)
        self._listener = Listener(self._source, self._client, self._refuse, clock)
        self._publisher = Publisher(blocking.client, self._keys, config.result_stream, config.results_kept)
        self._health = HealthServer(
            lambda: observe(self._store.client, [self._keys]), self._is_ready, stuck_seconds=STUCK_SECONDS
        )
        self._working: asyncio.Task[None] | None = None
        self._listening: list[asyncio.Task[None]] = []
        self._loops: list[asyncio.Task[None]] = []
        self._publishing: list[asyncio.Task[None]] = []
        self._stopping: asyncio.Task[None] | None = None
        self._started = False

    @property
    def crew(self) -> str:
        """The crew whose queue holds the tasks, as commands name it: `namespace/name`."""
        return self._keys.crew

    async def __aenter__(self) -> AgentService:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # ------------------------------------------------------------ starting and stopping

    async def start(self, *, wait: bool = False) -> None:
        """Starts the worker, which goes on with what former services have left, the listener and the heartbeats.

        `wait`: waits for a store that can't be reached, and logs that it does; else StoreUnavailable is raised. Raises
        RuntimeError when it was started before, InvalidInput for settings that can't be used, OSError when the port of
        its metrics is taken.
        """
        if self._started:
            raise RuntimeError("the service was started before. Make a new one to start again")
        self._started = True
        try:
            settings = read(Settings)
            if settings.health_port is not None:
                await self._health.start(settings.health_host, settings.health_port)
            if wait:
                await outages.persist(self._enter, clock=self._clock)
            else:
                with outages.translated():
                    await self._enter()
            await self._begin()
        except BaseException:
            await self.stop()
            raise

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
        """Stops in this order: heartbeats, the listener, background loops, the worker, deliveries, connections.

        Running tasks may end within `shutdown_timeout_seconds`; what doesn't is cancelled here, and done by another
        service. May be called again, and returns when all has stopped.
        """
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(), name="stopping the service")
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
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
        await self._client.disconnect()
        await self._blocking.aclose()
        await self._store.aclose()

    async def ended(self) -> None:
        """Returns when the service has stopped. Raises what ended its worker: agents that hold all slots and don't end
        when they are told to."""
        if self._working is not None:
            await asyncio.wait([self._working])
            if self._stopping is None:
                self._working.result()
        if self._stopping is not None:
            await asyncio.shield(self._stopping)

    # ------------------------------------------------------------ work

    async def submit_task(self, task: AgentTask) -> str:
        """Puts the task on the queue, durably, and returns its id; see `AgentServiceClient.submit_task`."""
        return await self._client.submit_task(task)

    async def get_result(self, task_id: str, timeout: float | None = 30.0) -> TaskResult | None:
        """The result of a task; None after `timeout` seconds; see `AgentServiceClient.get_result`."""
        return await self._client.get_result(task_id, timeout)

    def get_status(self) -> dict[str, bool | int]:
        """`running`: it claims and runs tasks. `queue_size`: tasks that wait for a free slot of any service, as of a
        second ago at most. `active_workers`, `available_slots`: slots of this process. `heartbeats`: those enabled."""
        active = self._worker.running if self._worker is not None else 0
        works = self._working is not None and not self._working.done() and self._stopping is None
        return {
            "running": works,
            "queue_size": self._queue_size,
            "active_workers": active,
            "available_slots": max(self.config.max_workers - active, 0) if works else 0,
            "heartbeats": len(self._beats),
        }

    @property
    def health_port(self) -> int | None:
        """The port of /healthz, /readyz and /metrics, if WATCHBILL_HEALTH_PORT asks for them and it was started."""
        return self._health.port or None

    # ------------------------------------------------------------ within

    def _is_ready(self) -> bool:
        return self._worker is None or not self._worker.drained

    async def _work(self) -> None:
        """Runs a worker, and another one when the crew was lost for longer than a worker waits for it."""
        while self._stopping is None:
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
        self._queue_size = (await figures(client, self._keys)).waiting

    async def _refuse(self, entry: Entry, reason: str) -> None:
        await ingress.refuse(self._store.client, self._keys, self._uid, entry, reason)


async def _within(seconds: float, work: Awaitable[object]) -> None:
    """Does the work, unless the store is away, the crew is gone, or it takes longer."""
    with suppress(StoreUnavailable, CrewGone, TimeoutError):
        async with asyncio.timeout(seconds):
            await work


async def start_agent_service(config: AgentServiceConfig, bot_manager: FindsBots) -> None:
    """Runs a service until SIGINT or SIGTERM, then stops it in order. Waits for a store that can't be reached, and logs
    that it does. Raises what ended the service's worker otherwise, and what `AgentService.start` raises."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    try:
        service = AgentService(config, bot_manager)
        running = asyncio.create_task(_run(service), name="running the service")
        asked = asyncio.create_task(told.wait())
        try:
            await asyncio.wait({running, asked}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
        finally:
            await background.end(running, asked)
            await service.stop()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _run(service: AgentService) -> None:
    await service.start(wait=True)
    await service.ended()
