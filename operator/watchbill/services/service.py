"""The service: workers, heartbeats, a way in and a way out for tasks, in one process. It does no work of its own.

The queue is a crew's (docs/design/queue.md), whose agents may have any name; a worker runs them, a scheduler fires the
heartbeats. Any number of services may share the work; what one leaves undone, another does.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from watchbill import background
from watchbill.clock import SYSTEM, Clock
from watchbill.errors import Closed, InvalidInput, Problem
from watchbill.services import config as configuration
from watchbill.services import heartbeats
from watchbill.services.bots import FindsBots
from watchbill.services.client import AgentServiceClient, target
from watchbill.services.config import AgentServiceConfig
from watchbill.services.loader import BotLoader
from watchbill.services.running import Running
from watchbill.services.tasks import AgentTask, TaskResult


class AgentService:
    """Runs the bots of a manager. An async context manager, or `start` and `stop`; it may be started again."""

    def __init__(self, config: AgentServiceConfig, bot_manager: FindsBots, *, clock: Clock = SYSTEM) -> None:
        """`bot_manager` finds a bot by its name when a task of that name runs. Raises InvalidInput for a redis_url that
        is none and for arguments of the wrong types, and ValueError for a heartbeat that could never fire."""
        _check(config, bot_manager)
        self.config = config
        self._clock = clock
        self._kept: dict[str, str] = {}  # secrets of deliveries, which leave this process by no other way
        self._beats = list(heartbeats.resources(config, self._kept))
        self._loader = BotLoader(bot_manager)
        target(config.redis_url, config.redis_db)  # raises for what is no URL
        self._running: Running | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._was_started = False

    @property
    def crew(self) -> str:
        """The crew whose queue holds the tasks, as commands name it: `namespace/name`."""
        return configuration.keys_of(self.config.task_stream).crew

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

        `wait`: waits for a store that can't be reached, and logs that it does; else StoreUnavailable is raised. A
        service that stops is started when it has stopped. Raises RuntimeError while it is started, InvalidInput for
        settings that can't be used and for a stream where another program's key is, OSError when the port of its
        metrics is taken, Closed when it is stopped meanwhile.
        """
        while self._stopping is not None:
            await asyncio.shield(self._stopping)
        if self._running is not None:
            raise RuntimeError("the service was started before. Call stop() first to start it anew")
        self._was_started = True
        self._running = Running(self.config, self._loader, self._beats, self._kept, self._clock)
        try:
            await self._running.start(wait=wait)
        except BaseException as error:
            await self.stop()
            if isinstance(error, Closed):
                raise Closed("the service was stopped while it started. Call start() again") from None
            raise

    async def stop(self) -> None:
        """Stops in this order: heartbeats, the listener, background loops, the worker, deliveries, connections.

        Takes no task from now on. Running tasks may end within `shutdown_timeout_seconds`; what doesn't is cancelled
        here, and done by another service. May be called again, and returns when all has stopped: within some five
        seconds more, also when the store doesn't answer.
        """
        if self._running is None:
            return
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(self._running), name="stopping the service")
        await asyncio.shield(self._stopping)

    async def _stop(self, running: Running) -> None:
        try:
            await running.stop()
        finally:
            self._running = self._stopping = None

    async def ended(self) -> None:
        """Returns when the service has stopped. Raises what ended its worker: agents that hold all slots and don't end
        when they are told to."""
        if self._running is not None:
            await self._running.ended()
        if self._stopping is not None:
            await asyncio.shield(self._stopping)

    # ------------------------------------------------------------ work

    async def submit_task(self, task: AgentTask | Mapping[str, Any]) -> str:
        """Puts the task on the queue, durably, and returns its id; see `AgentServiceClient.submit_task`.

        Raises Closed unless the service is started, and stores nothing then.
        """
        if self._stopping is not None:
            raise Closed("the service is being stopped, and takes no task. Give it to an AgentServiceClient")
        return await self._client().submit_task(task)

    async def get_result(self, task_id: str, timeout: float | None = 30.0) -> TaskResult | None:
        """The result of a task; None after `timeout` seconds; see `AgentServiceClient.get_result`. Raises Closed unless
        the service is started, and when it stops meanwhile."""
        client = self._client()
        try:
            return await client.get_result(task_id, timeout)
        except Closed:
            raise Closed("the service was stopped meanwhile, and the task goes on. Use an AgentServiceClient") from None

    def get_status(self) -> dict[str, bool | int]:
        """`running`: it claims and runs tasks. `queue_size`: tasks that wait for a free slot of any service, as of a
        second ago at most; 0 when it is stopped. `active_workers`, `available_slots`: slots of this process.
        `heartbeats`: those enabled."""
        running = self._running
        works = running is not None and running.works
        active = running.active if running is not None else 0
        return {
            "running": works,
            "queue_size": running.queue_size if running is not None else 0,
            "active_workers": active,
            "available_slots": max(self.config.max_workers - active, 0) if works else 0,
            "heartbeats": len(self._beats),
        }

    @property
    def health_port(self) -> int | None:
        """The port of /healthz, /readyz and /metrics, if WATCHBILL_HEALTH_PORT asks for them and it is started."""
        return self._running.health_port if self._running is not None else None

    def _client(self) -> AgentServiceClient:
        if self._running is None:
            state = "is stopped" if self._was_started else "was not started"
            raise Closed(f"the service {state}. Call start(), or use an AgentServiceClient")
        return self._running.client


def _check(config: object, bot_manager: object) -> None:
    if not isinstance(config, AgentServiceConfig):
        reason, fix = f"a {type(config).__name__} is no configuration", "Give an AgentServiceConfig."
        raise InvalidInput(Problem(reason, fix, path="config"))
    if not callable(getattr(bot_manager, "get_bot", None)):
        reason = f"a {type(bot_manager).__name__} has no method get_bot"
        raise InvalidInput(Problem(reason, "Give a BotManager, or another finder of bots.", path="bot_manager"))


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
