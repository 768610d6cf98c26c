"""One run of a service, from its start to its stop: worker, listener, publisher, heartbeats and their connections."""

from __future__ import annotations

import asyncio
import os
from collections import ChainMap
from collections.abc import Awaitable, Sequence
from typing import Any, Final

from watchbill import background
from watchbill.agents.loading import AgentLoader
from watchbill.api import Heartbeat
from watchbill.clock import Clock, Patience
from watchbill.connection import Store, outages
from watchbill.delivery import LocalSecrets
from watchbill.errors import CrewGone, InvalidInput, NotFound, Problem, StoreUnavailable
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
from watchbill.tracing import switch
from watchbill.worker.delivering.options import Delivering
from watchbill.worker.health import HealthServer, observe
from watchbill.worker.lease_keeper import STUCK_SECONDS
from watchbill.worker.worker import Worker

logger = Logger("watchbill.services")

POLL_SECONDS: Final = 1.0
"""Greatest age in seconds of the queue's size in `get_status`. A crew that the store has lost is back as soon."""
LAST_SECONDS: Final = 5.0
"""Seconds that a service that stops may take in all to leave the group and the heartbeats, while its tasks end, and to
publish the last results. Others do what it doesn't."""


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
        self._traces = False
        """This has turned tracing on."""

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
        namespace, _, name = self._keys.crew.partition("/")
        self._traces = switch.on(settings, name, namespace)
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
        for field, stream in self.config.streams.items():
            kind: Any = await client.type(stream)
            if kind not in ("none", "stream"):
                reason, fix = f"at {stream!r} is a {kind} of another program", "Name another stream."
                raise InvalidInput(Problem(reason, fix, path=field))
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
        """Stops in the order that `AgentService.stop` gives, also when the store doesn't answer."""
        self._is_stopping = True
        last = _Spare(LAST_SECONDS)
        await self._beats.stop()
        await background.end(*self._listening, *self._loops)
        ending: list[Awaitable[None]] = [self._leave(last)]
        if self._worker is not None and self._working is not None:
            self._worker.stop()
            ending.append(self._working)
        await asyncio.gather(*ending, return_exceptions=True)
        await background.end(*self._publishing)
        if self._publishing:
            await last.spend("the last results could not be published", self._publisher.rest())
        await self._health.close()
        await self.client.disconnect()
        await self._blocking.aclose()
        await self._store.aclose()
        if self._traces:
            await asyncio.to_thread(switch.off)

    async def _leave(self, last: _Spare) -> None:
        """Lets others have what this service listened to and fired."""
        if self._listening:
            await last.spend("the task stream's group could not be left", self._source.leave())
        await last.spend("the heartbeats could not be given up", self._beats.leave())

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


class _Spare:
    """The seconds that a service that stops can spare for what others would do as well."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    async def spend(self, failure: str, work: Awaitable[object]) -> None:
        """Does the work, if it can be done in time: a service that stops goes on with what follows, whatever this
        raises. Logs `failure` unless the store is away, or the crew is gone."""
        now = asyncio.get_running_loop().time
        began = now()
        try:
            async with Patience(self._left):
                await work
        except (StoreUnavailable, CrewGone, TimeoutError):
            pass
        except Exception:
            logger.exception("%s, and the service goes on to stop", failure)
        finally:
            self._left = max(self._left - (now() - began), 0.0)
