"""Deliveries as the work of a shift: each is an attempt to send one message to one destination.

An attempt that fails is repeated by plan/deliveries.py's schedule; a destination that fails often is left in peace for
a while, and what waits for it is put off without counting as an attempt.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Literal

import redis.asyncio
from pydantic import ValidationError

from watchbill import metrics, tracing
from watchbill.agents.asking import Line
from watchbill.api.delivery import Destination
from watchbill.clock import Patience
from watchbill.connection import outages
from watchbill.delivery import Delivered, Message, Sender
from watchbill.errors import CrewGone, DeliveryRefused, DestinationGone, NewerRecord, NotDelivered, NotFound
from watchbill.loggers import Logger
from watchbill.names import CrewKeys
from watchbill.plan import deliveries as plan
from watchbill.plan.retry import ASKED_MAX_SECONDS
from watchbill.records import CrewDefinition, TaskPolicy
from watchbill.redaction import redact
from watchbill.settings import Settings, read
from watchbill.store import circuits, definitions
from watchbill.store.circuits import Failure
from watchbill.store.deliveries import Content
from watchbill.store.queue import Claimed, Finished, Outcome, Queue
from watchbill.worker.counts import Counts
from watchbill.worker.delivering.circuits import Circuits
from watchbill.worker.delivering.options import Delivering
from watchbill.worker.delivering.shares import Shares
from watchbill.worker.execution import outputs, results
from watchbill.worker.execution.attempt import End
from watchbill.worker.execution.reading import NOTHING, Read
from watchbill.worker.execution.shared_lease import SharedLease
from watchbill.worker.slots import Slots
from watchbill.worker.state import WorkerState

logger = Logger("watchbill.worker")

SEND_SECONDS: Final = 60.0
"""A destination that hasn't taken a message by then has not taken it. Channels have tighter bounds of their own."""
PUT_OFF_SECONDS: Final = 5.0
PACE_SECONDS: Final = 0.2
"""A message that is put off holds its slot for about so long, or thousands of them would take time from the tasks."""
_ERROR_MAX: Final = 1000
_DEFINITIONS_KEPT: Final = 16
_CHANNELS_KEPT: Final = 1000


class DeliveryCounts(Counts):
    """Deliveries are no tasks of agents, and have a metric of their own."""

    def __init__(self, crew: str) -> None:
        super().__init__(crew)
        self._channels: dict[str, str] = {}
        """Destination, as the delivery queue names it → its channel."""

    def knows(self, agent: str, destination: Destination) -> None:
        self._channels.pop(agent, None)
        self._channels[agent] = destination.channel
        if len(self._channels) > _CHANNELS_KEPT:
            del self._channels[next(iter(self._channels))]

    def ended(self, agent: str, outcome: str, *, is_step: bool) -> None:
        if outcome != "stale":  # whoever holds it now counts its end
            shown = {"completed": "delivered", "later": "put off"}.get(outcome, outcome)
            metrics.DELIVERIES.labels(*self._of_crew, self._channels.get(agent, "none"), shown).inc()

    def claimed(self, task: Claimed) -> None: ...
    def waited(self, seconds: float) -> None: ...
    def begin_delay(self, seconds: float) -> None: ...
    def ran(self, agent: str, seconds: float) -> None: ...
    def show(self, running: int) -> None: ...


class DeliveryWork:
    """The deliveries of one crew, in one shift."""

    # No agent blocks the loop, or runs in a process that must see its lease end; and tasks go on beside the deliveries.
    poll_seconds: float = 1.0

    def __init__(
        self, client: redis.asyncio.Redis, keys: CrewKeys, uid: str, how: Delivering, state: WorkerState
    ) -> None:
        """`keys`: the crew's own."""
        self.counts: Counts = (counts := DeliveryCounts(keys.crew))
        self._counts = counts
        self._client = client
        self._keys = keys
        self._uid = uid
        self._how = how
        settings = how.settings or read(Settings)
        self._sender = Sender(settings, how.secrets, store=client, own_streams=how.own_streams, clock=state.clock)

    def executor(self, state: WorkerState, uid: str, slots: Slots, lease: SharedLease) -> Deliverer:
        known = Circuits(self._client, self._keys, self._uid, state, SEND_SECONDS)
        shares = Shares(self._client, self._keys, self._uid, state, slots)
        return Deliverer(self._client, self._keys, self._sender, known, shares, self._how, state, self._counts)

    def start_beside(self, state: WorkerState, queue: Queue, parked: asyncio.Event) -> list[asyncio.Task[None]]:
        return []

    async def close(self) -> None:
        await self._sender.aclose()


class Deliverer:
    """Begins attempts to deliver (execution.protocols.Executes)."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        keys: CrewKeys,
        sender: Sender,
        known: Circuits,
        shares: Shares,
        how: Delivering,
        state: WorkerState,
        counts: DeliveryCounts,
    ) -> None:
        self._client = client
        self._keys = keys
        self._counts = counts
        self._sender = sender
        self._circuits = known
        self._shares = shares
        self._how = how
        self._state = state
        self._definitions: dict[str, CrewDefinition] = {}

    def at_hand(self, task: Claimed) -> Read | None:
        return None if task.definition not in self._definitions or task.attempt > 1 else NOTHING

    async def read(self, task: Claimed) -> Read:
        """Reads the crew's definition of now, whose destinations count; and who of several recipients has not been
        reached by the attempts before."""
        if task.definition not in self._definitions:
            try:
                loaded = await outages.persist(lambda: definitions.load(self._client, self._keys, task.definition))
            except (NotFound, NewerRecord) as error:  # replaced meanwhile; or workers that can read it deliver
                return Read({"unreadable": str(error)})
            self._definitions[task.definition] = loaded
            if len(self._definitions) > _DEFINITIONS_KEPT:
                del self._definitions[next(iter(self._definitions))]
        remaining: Any = None
        if task.attempt > 1:
            record = self._keys.deliveries().task(task.id)
            remaining = await outages.persist(lambda: self._client.hget(record, "remaining"))
        return Read({"remaining": json.loads(remaining)}) if remaining else NOTHING

    def begin(
        self, task: Claimed, line: Line, end: End, read: Read = NOTHING, *, connect_checkpoints: object = None
    ) -> Sending:
        return Sending(self, task, end, read.inputs)

    def failed(self, task: Claimed, error: Exception) -> Finished:
        return self._dead(task, str(error))

    def broken(self, task: Claimed, failure: BaseException) -> Finished:
        return self._dead(task, f"{type(failure).__name__}: {failure}")

    def lost(self, finished: Finished) -> Finished | None:
        return finished if finished.result else None

    def put_off(self, task: Claimed) -> Finished:
        return self._finished(task, "later", "", "", math.ceil(PUT_OFF_SECONDS * 1000))

    async def close(self) -> None: ...

    async def deliver(self, task: Claimed, known: Mapping[str, Any]) -> Finished:
        """Makes one attempt, and returns how it ended. Raises CrewGone."""
        if "unreadable" in known:
            return self.put_off(task)
        content = Content.unpack(task.payload)
        destination = self._destination(task, content)
        if destination is None:
            return self._dead(task, f"the crew has no destination {content.destination!r} any more")
        self._counts.knows(task.agent, destination)
        if task.attempt > len(self._how.schedule) + 1:
            return self._dead(task, f"its worker died while attempt {task.attempt - 1} was made")
        wait = await self._circuits.wait(destination)
        if wait is None:
            return self._dead(task, "the destination wants no further message")
        if wait > 0:
            await self._circuits.defer(destination, task.agent)
            await self._pause()
            return await self._wait_for(destination, task, math.ceil(wait * 1000))
        if self._shares.room(destination) <= 0:
            due_ms = await self._shares.set_aside(destination, task.agent)
            await self._pause()
            if self._shares.room(destination) <= 0:
                return await self._wait_for(destination, task, -due_ms)
        remaining = tuple(known.get("remaining", ()))
        message = Message(delivery_id=task.id, attempt=task.attempt, remaining=remaining, **content.message)
        with self._shares.sending(destination):
            finished = await self._attempt(task, destination, message)
        with suppress(CrewGone):  # what has ended is to be told all the same
            await self._shares.go_on(destination, task.agent)
        return finished

    async def _pause(self) -> None:
        await self._state.clock.sleep(PACE_SECONDS * random.uniform(0.5, 1.5))

    async def _attempt(self, task: Claimed, destination: Destination, message: Message) -> Finished:
        try:
            taken = await self._send(message, destination)
        except DeliveryRefused as error:
            failure = self._failure(task, error, is_gone=isinstance(error, DestinationGone))
            return await self._failed(task, destination, failure, None)
        except NotDelivered as error:
            asked_ms = math.ceil(min(error.retry_after or 0.0, ASKED_MAX_SECONDS) * 1000)
            failure = self._failure(task, error, counts=True, asked_ms=asked_ms)
            if error.remaining:  # some were reached, so it works
                failure = replace(failure, remaining=json.dumps(error.remaining), counts=False)
            seconds = plan.pause(task.attempt, error.retry_after, schedule=self._how.schedule, chance=random.random())
            return await self._failed(task, destination, failure, seconds)
        with suppress(CrewGone):
            await self._circuits.succeeded(destination, task.agent)
        output = outputs.made(task.agent, {"status": taken.status, "detail": taken.detail})
        return self._finished(task, "completed", self._result(task, output=output))

    async def _send(self, message: Message, destination: Destination) -> Delivered:
        """Sends the message within a span, if its trace is recorded. Raises as `Sender.send` does."""
        is_run = message.agent_name == self._keys.crew
        about = {
            "messaging.destination.name": self._keys.crew,
            "watchbill.run" if is_run else "messaging.message.id": message.task_id,
            "watchbill.channel": destination.channel,
            "watchbill.attempt": message.attempt,
        }
        crew, work, name = self._keys.crew, message.task_id, destination.name
        span = tracing.deliver(crew, work, name, message.metadata, about, is_run=is_run)
        outcome, text, status = "interrupted", "", None
        try:
            try:
                async with Patience(SEND_SECONDS):
                    taken = await self._sender.send(message, destination)
            except TimeoutError:
                raise NotDelivered(f"no answer in {SEND_SECONDS:g} s") from None
            outcome, status = "completed", taken.status
            return taken
        except (DeliveryRefused, NotDelivered) as error:
            outcome, text, status = "failed", redact(f"{type(error).__name__}: {error}"), error.status
            raise
        finally:
            tracing.end(span, outcome, text, None if destination.channel == "email" else status)

    async def _failed(self, task: Claimed, destination: Destination, failure: Failure, pause: float | None) -> Finished:
        """`pause`: seconds until the next attempt; None: there is none, but to a destination that was defined anew."""
        left = await self._circuits.failed(destination, failure)
        if left and await self._is_redefined(destination, task):
            left = None
        schedule = self._how.schedule
        if left is None and task.attempt <= len(schedule):
            pause, left = schedule[0], 0.0
        if pause is None:
            return self._dead(task, failure.error)
        seconds = max(pause, left or 0.0)
        said = f"attempt {task.attempt} failed: {failure.error}; the next is in {seconds:.0f} s"
        return self._finished(task, "retry", "", said, math.ceil(seconds * 1000))

    def _failure(self, task: Claimed, error: NotDelivered | DeliveryRefused, **more: Any) -> Failure:
        return Failure(task.id, task.attempt, redact(str(error))[:_ERROR_MAX], error.status, agent=task.agent, **more)

    def _destination(self, task: Claimed, content: Content) -> Destination | None:
        if content.inline:
            return Destination.model_validate_json(content.inline)
        of_crew = self._definitions[task.definition].delivery
        return next((one for one in of_crew if one.name == content.destination), None)

    async def _wait_for(self, destination: Destination, task: Claimed, ttl_ms: int) -> Finished:
        """Puts the message off; one whose destination was defined anew is due at once."""
        ttl_ms = 1 if await self._is_redefined(destination, task) else ttl_ms
        return self._finished(task, "later", "", "", ttl_ms)

    async def _is_redefined(self, destination: Destination, task: Claimed) -> bool:
        """Asked shortly before the message is delayed: what waits for a destination that is defined anew is brought
        forward, but not what a worker holds."""
        of = circuits.key(destination)
        return await outages.persist(lambda: circuits.is_redefined(self._client, self._keys, task.agent, of))

    def _dead(self, task: Claimed, error: str) -> Finished:
        logger.warning("delivery %s of %s is dead: %s", task.id, self._keys.crew, error)
        return self._finished(task, "dead", self._result(task, error=error), error)

    def _result(self, task: Claimed, *, output: outputs.Output = outputs.NOTHING, error: str | None = None) -> str:
        now = self._state.store_time()
        return outputs.as_json(
            task.id,
            task.agent,
            success=error is None,
            output=output,
            error=error,
            attempt=task.attempt,
            completed_at=now,
        )

    def _finished(self, task: Claimed, outcome: Outcome, result: str, message: str = "", ttl_ms: int = 0) -> Finished:
        crew = self._definitions.get(task.definition)
        kept_ms = 1000 * (crew.tasks if crew else TaskPolicy()).result_ttl_seconds
        return Finished(task, outcome, result, message[: results.MESSAGE_MAX], ttl_ms=ttl_ms or kept_ms)


class Sending:
    """One attempt to deliver, in an asyncio task of its own (execution.protocols.RunningAttempt)."""

    def __init__(self, deliverer: Deliverer, task: Claimed, end: End, known: Mapping[str, Any]) -> None:
        self._deliverer = deliverer
        self._claimed = task
        self._end: End | None = end
        self._known = known
        self._task = asyncio.create_task(self._run(), name="delivery")

    def stop(self, why: Literal["cancelled", "interrupted"], within_seconds: float) -> None:
        self._task.cancel()
        self._report(Finished(self._claimed, why, "", definition=self._claimed.definition))

    def cancel(self) -> None:
        self._end = None
        self._task.cancel()

    def _report(self, finished: Finished) -> None:
        end, self._end = self._end, None
        if end is not None:
            end(finished)

    async def _run(self) -> None:
        try:
            finished = await self._deliverer.deliver(self._claimed, self._known)
        except CrewGone:  # the shift hears it, too; where the store has lost the crew, it has lost the message
            finished = self._deliverer.put_off(self._claimed)
        except (ValueError, LookupError, ValidationError) as error:  # a payload that can't be read
            finished = self._deliverer.broken(self._claimed, error)
        except Exception as error:  # our own fault
            logger.exception("delivery %s could not be made", self._claimed.id)
            finished = self._deliverer.broken(self._claimed, error)
        self._report(finished)
