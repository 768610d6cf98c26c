"""A client of services: gives them tasks from any process, and reads results. It is light to import."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace
from itertools import groupby
from types import TracebackType
from typing import Any, Final, cast

from watchbill.api.delivery import Destination
from watchbill.client import Client, arguments
from watchbill.connection import Store, outages, url
from watchbill.errors import Closed, InvalidInput, NotFound, Problem
from watchbill.plan import texts
from watchbill.services import config, crew
from watchbill.services.delivery import DeliveryConfig
from watchbill.services.tasks import AgentTask, TaskResult, TaskStatus, task_of, tasks_of
from watchbill.tasks import AgentTask as StoredTask
from watchbill.tasks import TaskState

_FIRST_POLL_SECONDS: Final = 0.02
_POLL_SECONDS: Final = 1.0


class AgentServiceClient:
    """Gives tasks to the services of one task stream. An async context manager; safe for concurrent use.

    No service need run: tasks wait for one. All methods raise StoreUnavailable when the store can't be reached, but
    those that wait for a result go on waiting. After `disconnect` they raise Closed, also those that wait.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        *,
        redis_db: int = 0,
        task_stream: str = config.TASK_STREAM,
        result_stream: str = config.RESULT_STREAM,
    ) -> None:
        """`redis_url` default: WATCHBILL_REDIS_URL, else redis://localhost:6379. `redis_db` counts where the URL names
        no database. The streams are the services' own; no delivery may name one. Raises InvalidInput for what is no URL
        of a store."""
        for field, stream in (("task_stream", task_stream), ("result_stream", result_stream)):
            config.check_stream(stream, field)
        self._target = target(redis_url or config.default_url(), redis_db)
        self._stream = task_stream
        self._streams = {"task_stream": task_stream, "result_stream": result_stream}
        self._keys = config.keys_of(task_stream)
        self._client: Client | None = None
        self._is_closed = False
        self._kept: MutableMapping[str, str] | None = None

    async def __aenter__(self) -> AgentServiceClient:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.disconnect()

    def deliver_here(self, kept: MutableMapping[str, str]) -> None:
        """Lets tasks hold secrets, which go into `kept`: for a process that delivers by itself."""
        self._kept = kept

    async def connect(self) -> None:
        """Connects, and raises StoreUnavailable if there is no store. Does nothing where it is connected.

        All other methods connect by themselves, but not after `disconnect`.
        """
        self._is_closed = False
        await self._connected()

    async def disconnect(self) -> None:
        """Closes the connections. Tasks go on. May be called again, and `connect` after it."""
        self._is_closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def submit_task(self, task: AgentTask | Mapping[str, Any]) -> str:
        """Puts the task on the queue, durably, and returns its id. The same task again is done once.

        `task` may be given as its fields, as in `{"agent_name": "MyAgent", "prompt": "Hello"}`. Its `crew_name` is
        another crew of the store that has the agent, as NAME or NAMESPACE/NAME. Its `delivery` may not hold a secret:
        give `env:NAME`. Raises InvalidInput before anything is stored, Conflict when other work has its id, QueueFull,
        NotFound for another crew.
        """
        try:
            (task_id,) = await self._submit_all([task_of(task)])
        except InvalidInput as error:  # nobody gave a list
            raise InvalidInput([replace(p, path=p.path.removeprefix("tasks[0].")) for p in error.problems]) from None
        return task_id

    async def submit_tasks(self, tasks: Sequence[AgentTask | Mapping[str, Any]]) -> list[str]:
        """Submits many tasks, as `submit_task` does. Returns their ids, in order.

        Nothing is stored if one is no task. After another error some may be on the queue; the same tasks may be
        submitted again.
        """
        return await self._submit_all(list(tasks_of(tasks)))

    async def _submit_all(self, tasks: Sequence[AgentTask]) -> list[str]:
        for (name, delivery), some in groupby(tasks, lambda task: (task.crew_name, task.delivery)):
            await self._submit(name, [task.stored() for task in some], self._destinations(delivery))
        return [task.task_id for task in tasks]

    def check(self, delivery: DeliveryConfig) -> None:
        """Raises InvalidInput for a delivery that a task of another process may not have."""
        delivery.destinations(None, self._streams)

    def _destinations(self, delivery: DeliveryConfig) -> list[Destination]:
        return delivery.destinations(self._kept, self._streams)

    async def _submit(self, crew_name: str, tasks: Sequence[StoredTask], deliver: list[Destination]) -> None:
        client = await self._connected()
        try:
            await client.submit_many(self._crew(crew_name), None, tasks, deliver=deliver or None)
        except NotFound:
            if crew_name:
                raise
            async with Store(self._target) as store:
                await crew.make(store.client, self._keys, config.definition(self._stream), only_new=True)
            await client.submit_many(self._keys.crew, None, tasks, deliver=deliver or None)

    async def get_result(self, task_id: str, timeout: float | None = 30.0, *, crew_name: str = "") -> TaskResult | None:
        """The result, as soon as there is one; None after `timeout` seconds, whether there is such a task or not.

        `timeout`: 0 looks once, None waits for as long as it takes. Results are kept for an hour.
        """
        texts.check(("task_id", "crew_name"), task_id=task_id, crew_name=crew_name)
        timeout = arguments.timeout(timeout)
        client = await self._connected()
        name = self._crew(crew_name)
        if timeout == 0:
            try:
                return cast("TaskResult | None", await client.result(name, task_id))
            except NotFound:
                return None
        try:
            async with asyncio.timeout(timeout):
                pause = _FIRST_POLL_SECONDS
                while True:
                    try:
                        return cast(TaskResult, await client.wait(name, task_id))
                    except NotFound:  # it may be on its way: another process has put it on the task stream
                        await asyncio.sleep(pause)
                        pause = min(2 * pause, _POLL_SECONDS)
        except TimeoutError:
            return None
        except Closed:
            self._check_open()
            raise

    async def submit_and_wait(
        self, task: AgentTask | Mapping[str, Any], timeout: float | None = 60.0
    ) -> TaskResult | None:
        """Submits the task and returns its result; None after `timeout` seconds: the task goes on."""
        given = task_of(task)
        timeout = arguments.timeout(timeout)
        try:
            async with asyncio.timeout(timeout):
                task_id = await self.submit_task(given)
                return await self.get_result(task_id, None, crew_name=given.crew_name)
        except TimeoutError:
            return None

    async def task_status(self, task_id: str, *, crew_name: str = "") -> TaskStatus:
        """The state of a task. Raises NotFound, also once it is no longer kept."""
        texts.check(("task_id", "crew_name"), task_id=task_id, crew_name=crew_name)
        client = await self._connected()
        return TaskStatus.of(cast(TaskState, await client.state(self._crew(crew_name), task_id)))

    def _crew(self, named: str) -> str:
        return named or self._keys.crew

    async def _connected(self) -> Client:
        if self._client is None:
            self._check_open()
            async with Store(self._target) as store:
                with outages.translated():
                    await store.client.ping()
            self._check_open()  # it may have been disconnected meanwhile
            self._client = self._client or Client(self._target, namespace=config.NAMESPACE)
        return self._client

    def _check_open(self) -> None:
        if self._is_closed:
            raise Closed("the client is disconnected. Call connect() first")


def target(redis_url: str, redis_db: int) -> url.Target:
    """Returns the address of the store. Raises InvalidInput."""
    found = url.parse(redis_url)
    if not isinstance(redis_db, int) or isinstance(redis_db, bool) or redis_db < 0:
        raise InvalidInput(Problem(f"{redis_db!r} is no database", "Give its number, 0 or more.", path="redis_db"))
    if redis_db and "db" not in found.options:
        return replace(found, options={**found.options, "db": redis_db})
    return found
