"""The async client: submits work to crews, waits for it, reads its state. It must stay light to import."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

from watchbill import names, tracing
from watchbill.api.delivery import Destination
from watchbill.client import arguments
from watchbill.client.budgets import Budgets
from watchbill.client.control import Control
from watchbill.client.crews import Crews
from watchbill.client.deliveries import Deliveries
from watchbill.client.replies import POLL_SECONDS, Replies, Waiter
from watchbill.client.sessions import Sessions
from watchbill.connection import outages
from watchbill.connection.url import Target
from watchbill.errors import NotFound
from watchbill.event_types import Gap, TownEvent
from watchbill.loggers import Logger
from watchbill.plan import submission, texts
from watchbill.plan.scaling import Scaling
from watchbill.plan.why import Why, explain
from watchbill.store import definitions, deliveries, events, runs, scaling, submissions, unfinished
from watchbill.store.events import BEGINNING
from watchbill.store.figures import Figures, figures
from watchbill.store.submissions import Submission
from watchbill.store.why import seen
from watchbill.tasks import AgentTask, Durability, Priority, RunResult, RunState, RunStatus, TaskResult, TaskState

logger = Logger("watchbill.client")

Result = RunResult | TaskResult

_GOOD_MAX: Final = 10_000


class Client(Budgets, Control, Crews, Deliveries, Sessions):
    """Submits work to the crews of one store. It is an async context manager, and safe for concurrent use.

    Every method names a crew as `name` (in `namespace`) or `namespace/name`, and raises StoreUnavailable when the
    store can't be reached. Methods that submit work or read a result raise NotFound when the store has no such crew
    or work; the events of a missing crew are empty.
    """

    def __init__(self, url: str | Target, *, namespace: str = "default") -> None:
        super().__init__(url, namespace=namespace)
        self._replies = Replies(self._redis)
        self._good: set[tuple[str, str]] = set()
        """Definitions and agents for which a task without inputs was checked."""

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections. Submitted work goes on. Every other method raises Closed from then on, also one that
        waits."""
        await self._replies.close()
        await self._redis.aclose()
        self._replies.wake()

    # ------------------------------------------------------------ giving work

    async def submit(
        self,
        crew: str,
        prompt: str,
        *,
        agent: str | None = None,
        role: str | None = None,
        inputs: Mapping[str, str] | None = None,
        priority: Priority = Priority.NORMAL,
        id: str | None = None,  # noqa: A002 - what everyone calls it
        user_id: str | None = None,
        session_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        dedupe_key: str | None = None,
        dedupe_seconds: float = 3600.0,
        scheduled_at: datetime | None = None,
        durability: Durability | None = None,
        deliver: Sequence[str | Destination] | None = None,
    ) -> str:
        """Starts a run of the crew, or with `agent` one task of that agent, or with `role` one task of whichever agent
        of that role has room when it begins. Returns its id.

        Work with the same `id` is done once; another agent, prompt or other inputs for a known id are a Conflict. Work
        with the same `dedupe_key` within `dedupe_seconds` is done once, too, and the first id is returned. A task
        that is `scheduled_at` a time (aware) doesn't begin before, by the store's clock. With `durability` the
        method returns once the work is on a replica, or on disk. The result is delivered to `deliver`: destinations of
        the crew by name, or others; default: all of the crew's. Raises InvalidInput before anything is stored,
        QueueFull, Closed, Conflict, NotDurable (whose `ids` may be sent again).
        """
        keys = self._door(crew, agent=agent, role=role)
        inputs, metadata = arguments.mapping(inputs, "inputs"), arguments.mapping(metadata, "metadata")
        deliver = deliver if deliver is None else arguments.listed(deliver, "deliver", "names or Destinations")
        durability = arguments.durability(durability)
        labels = {"user_id": user_id, "session_id": session_id, "dedupe_key": dedupe_key}
        submission.check_own(prompt, id or None, metadata, labels)
        due_ms = arguments.due(scheduled_at, agent if role is None else role)
        task_id = id or uuid.uuid4().hex
        with tracing.submitting(keys.crew, metadata, task_id) as carried:
            payload, priority = arguments.task_json(
                task_id=task_id,
                agent_name=agent or "",
                prompt=prompt,
                crew_name=keys.crew,
                priority=priority,
                user_id=user_id,
                session_id=session_id,
                metadata=carried,
                role=role,
            )
            dedupe_ms = arguments.dedupe_ms(dedupe_seconds) if dedupe_key else 0
            # awaited by `run`; a later `wait` subscribes by itself
            reply_to = await self._replies.listen(keys) if self._replies.are_awaited(keys, task_id) else ""

            async def give(current: definitions.Current) -> str:
                self._fits(current, prompt, agent, inputs, role)
                whose = submission.addressee(current.definition, agent, role)
                rest: dict[str, Any] = {"dedupe_key": dedupe_key or "", "dedupe_ms": dedupe_ms}
                rest["work"] = submission.work(whose, prompt, inputs)
                rest["deliver"] = deliveries.of_submission(current.definition, deliver)
                if whose:
                    task = Submission(task_id, whose, payload, priority, inputs, due_ms=due_ms, **rest)
                    return (await self._put(keys, current, [task], durability, reply_to))[0]
                run = _run(current, id=task_id, payload=payload, priority=priority, inputs=inputs, **rest)
                most = current.definition.tasks.max_queued
                return await runs.submit(
                    self._redis, keys, current.uid, run, max_queued=most, reply_to=reply_to, durability=durability
                )

            return await self._with_current(keys, give)

    async def submit_many(
        self,
        crew: str,
        agent: str | None,
        tasks: Iterable[AgentTask | str],
        *,
        role: str | None = None,
        durability: Durability | None = None,
        deliver: Sequence[str | Destination] | None = None,
    ) -> list[str]:
        """Submits many tasks for `agent`, or for any agents of `role`, or each for the agent or the role that it names
        (with an empty agent_name). Returns their ids, in order.

        With `agent` or `role`, a task may be its prompt alone; it gets a new id. Those with inputs or a dedupe key are
        for `submit`. All are checked first: after InvalidInput nothing is stored. They are stored in batches of 500,
        each all or nothing. When one fails (QueueFull, StoreUnavailable, CrewGone; InvalidInput, when the crew has
        changed since), the error's `stored` has the ids of those before, and the same tasks, with ids, may be submitted
        again. Raises Conflict when an id is that of a run or of other work, NotDurable (see `submit`).
        """
        keys = self._door(crew, agent=agent, role=role)
        work = [arguments.task(task, agent, role, i) for i, task in enumerate(arguments.listed(tasks, "tasks"))]
        deliver = deliver if deliver is None else arguments.listed(deliver, "deliver", "names or Destinations")
        arguments.check_each(work)
        durability = arguments.durability(durability)
        first = {(task.agent_name, task.role): i for i, task in reversed(list(enumerate(work)))}

        async def give(current: definitions.Current) -> list[str]:
            for (name, of), i in first.items():
                with arguments.naming(i):
                    self._fits(current, work[i].prompt, name if of is None else name or None, {}, of)
            arguments.check_methods(current.definition, work)
            ids = {(name, of): submission.addressee(current.definition, name, of) for name, of in first}
            destinations = deliveries.of_submission(current.definition, deliver)
            return await self._put(
                keys,
                current,
                (
                    Submission(
                        t.task_id,
                        ids[t.agent_name, t.role],
                        t.model_dump_json(exclude_defaults=True),
                        t.priority,
                        due_ms=arguments.due(t.scheduled_at, t.agent_name),
                        work=submission.work(ids[t.agent_name, t.role], t.prompt, {}),
                        deliver=destinations,
                    )
                    for t in work
                ),
                durability,
            )

        if not work:
            return []
        with tracing.submitting(keys.crew, {}, count=len(work)) as carried:
            if carried:
                work = [arguments.carrying(task, carried) for task in work]
            return await self._with_current(keys, give)

    def _fits(
        self,
        current: definitions.Current,
        prompt: str,
        agent: str | None,
        inputs: Mapping[str, str],
        role: str | None = None,
    ) -> None:
        """Checks the work against the crew. Raises InvalidInput; logs warnings."""
        if role is None and (current.digest, agent) in self._good and not inputs:
            return
        for warning in submission.check(current.definition, prompt, agent=agent, role=role, inputs=inputs):
            logger.warning("%s", warning)
        if agent is not None and not inputs:
            if len(self._good) >= _GOOD_MAX:  # a crew may have agents of any name
                self._good.clear()
            self._good.add((current.digest, agent))

    async def _put(
        self,
        keys: names.CrewKeys,
        current: definitions.Current,
        tasks: Iterable[Submission],
        durability: Durability | None,
        reply_to: str = "",
    ) -> list[str]:
        return await submissions.submit(
            self._redis,
            keys,
            current.uid,
            tasks,
            max_queued=current.definition.tasks.max_queued,
            reply_to=reply_to,
            digest=current.digest,
            durability=durability,
        )

    async def fire(self, crew: str, heartbeat: str, *, token: str | None = None) -> str:
        """Fires a heartbeat now, in addition to its schedule, once for each `token`. Returns the id of the run or task.

        Raises NotFound when the crew has no such heartbeat; QueueFull; Conflict when its concurrencyPolicy is Forbid,
        and what it fired last has not ended.
        """
        from watchbill.store import firing  # with the models of the API, which only this needs

        texts.check(("heartbeat",), heartbeat=heartbeat)
        keys = self._door(crew, token=token)
        now = datetime.now(UTC)  # noqa: TID251 - shell
        token = token or uuid.uuid4().hex
        with tracing.submitting(keys.crew, {}) as carried:
            trace = str(carried.get(tracing.FIELD, ""))
            made, _ = await firing.run_now(self._redis, keys, heartbeat, token, now=now, traceparent=trace)
        return made

    async def run(self, /, crew: str, prompt: str, *, timeout: float | None = None, **options: Any) -> Result:
        """Calls `submit`, with its options, and `wait`."""
        keys, timeout = self.keys(crew), arguments.timeout(timeout)
        given = options.pop("id", None) or None
        task_id = given or uuid.uuid4().hex
        with self._replies.awaited(keys, task_id) as waiter:  # before it can end
            submitted = await self.submit(crew, prompt, id=task_id, **options)
            if submitted == task_id:
                async with _within(timeout, keys, task_id):
                    # what was given an id may have ended long ago: nobody is told of that
                    return await self._result(keys, task_id, waiter, subscribed=given is None)
        return await self.wait(crew, submitted, timeout=timeout)

    # ------------------------------------------------------------ getting results

    async def wait(self, crew: str, task_id: str, *, timeout: float | None = None) -> Result:
        """Waits until the run or task has ended, and returns its result. An outage of the store doesn't end the wait.

        Raises TimeoutError after `timeout` seconds, NotFound.
        """
        keys = self._door(crew, task_id=task_id)
        async with _within(timeout, keys, task_id):
            with self._replies.awaited(keys, task_id) as waiter:
                return await self._of_crew(keys, self._result(keys, task_id, waiter, subscribed=False))

    async def _result(self, keys: names.CrewKeys, task_id: str, waiter: Waiter, *, subscribed: bool) -> Result:
        async def subscribe() -> bool:
            return await runs.subscribe(self._redis, keys, task_id, await self._replies.listen(keys))

        # Nobody is told of the end of a step, so its result is polled, often at first.
        is_step = names.split_step_id(task_id) is not None
        pause = 0.05 if is_step else POLL_SECONDS
        read = not subscribed
        while True:
            if read:
                waiter.told.clear()
                result = await outages.persist(lambda: runs.result(self._redis, keys, task_id))
                if result is not None:
                    return result
            if not (subscribed or is_step):
                subscribed = await outages.persist(subscribe)
                if not subscribed:  # it has ended meanwhile
                    continue
            timer = asyncio.get_running_loop().call_later(pause, waiter.told.set)
            await waiter.told.wait()
            timer.cancel()
            read = True
            pause = min(pause * 1.5, POLL_SECONDS)

    async def result(self, crew: str, task_id: str) -> Result | None:
        """The result; None before the end. `task_id` may be a run, a task, or a step (`run/step`)."""
        keys = self._door(crew, task_id=task_id)
        return await self._of_crew(keys, runs.result(self._redis, keys, task_id))

    # ------------------------------------------------------------ looking

    async def state(self, crew: str, task_id: str) -> RunState | TaskState:
        """The state of a run, a task, or a step (`run/step`). Raises NotFound."""
        keys = self._door(crew, task_id=task_id)
        return await self._of_crew(keys, runs.state(self._redis, keys, task_id))

    async def status(self, crew: str, run_id: str) -> RunStatus:
        """The current state of a run and its steps."""
        keys = self._door(crew, run_id=run_id)
        return await self._of_crew(keys, runs.status(self._redis, keys, run_id))

    async def why(self, crew: str, task_id: str) -> Why:
        """Returns why the run, task or step (`run/step`) is where it is, by the store alone: what it waits for, what
        is before it, when it is likely to begin, and its attempts so far. Raises NotFound."""
        keys = self._door(crew, task_id=task_id)
        most = (await self._current(keys)).definition.tasks.max_attempts
        told = explain(await seen(self._redis, keys, task_id, most))
        if told.kind == "run" and told.waits_for:
            with contextlib.suppress(NotFound):  # its record may have expired meanwhile
                step = await seen(self._redis, keys, f"{task_id}/{told.waits_for[0]}", most)
                return replace(told, step=explain(step))
        return told

    async def explain(self, crew: str) -> Scaling | None:
        """Returns why the crew has as many workers as it has, from the values of the operator's last plan; None: no
        operator scales it. `watchbill.plan.scaling.sentences` tells it in words."""
        keys = self.keys(crew)
        await self._current(keys)
        return await scaling.last(self._redis, keys)

    async def figures(self, crew: str) -> Figures:
        """The figures of the crew: tasks by state, and workers."""
        keys = self.keys(crew)
        await self._current(keys)
        return await figures(self._redis, keys)

    async def unfinished(self, crew: str) -> list[str]:
        """The ids of runs and tasks that haven't ended, newest first."""
        return await unfinished.newest(self._redis, self.keys(crew))

    async def events(
        self, crew: str, *, agent: str | None = None, run: str | None = None, count: int = 20, deliveries: bool = False
    ) -> list[tuple[str, TownEvent]]:
        """The newest events of the crew, an agent or a run, with their ids, in order of time. `deliveries`: those of
        its deliveries, whose agents are destinations, as in `to:ops`."""
        keys = self._door(crew, agent=agent, run=run)
        arguments.count(count, "count", least=0)
        keys = keys.deliveries() if deliveries else keys
        return await events.recent(self._redis, events.stream(keys, agent=agent, run=run), count)

    def follow(
        self,
        crew: str,
        *,
        agent: str | None = None,
        run: str | None = None,
        after: str = BEGINNING,
        deliveries: bool = False,
    ) -> AsyncIterator[tuple[str, TownEvent | Gap]]:
        """Yields events as they come, after the id `after`, without end. `deliveries`: as for `events`."""
        keys = self._door(crew, agent=agent, run=run, after=after)
        keys = keys.deliveries() if deliveries else keys
        return events.follow(self._redis, events.stream(keys, agent=agent, run=run), after)

    # ------------------------------------------------------------ within


@contextlib.asynccontextmanager
async def _within(seconds: float | None, keys: names.CrewKeys, task_id: str) -> AsyncIterator[None]:
    """Raises TimeoutError with the id of the work, which the caller may not know otherwise."""
    try:
        async with asyncio.timeout(arguments.timeout(seconds)) as timer:
            yield
    except TimeoutError:
        if not timer.expired():
            raise
        raise TimeoutError(f"{task_id!r} of crew {keys.crew!r}: no result after {seconds:g} s") from None


def _run(current: definitions.Current, **fields: Any) -> runs.RunSubmission:
    definition = current.definition
    return runs.RunSubmission(
        digest=current.digest,
        mode=definition.execution_mode,
        steps=current.steps,
        parallel=definition.max_parallel_tasks,
        **fields,
    )
