"""The deliveries of a crew: what has ended and is to be delivered (the outbox), what becomes of it on the delivery
queue, and which destinations are left in peace. The protocol is docs/design/queue.md.

A delivery is a task on a queue of its own (`CrewKeys.deliveries`), so everything else about it is store/queue.py's and
its neighbours'. Every call is safe to send twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import redis.asyncio

from watchbill import connection
from watchbill.api.delivery import Destination
from watchbill.connection import outages
from watchbill.errors import NotFound
from watchbill.names import RECEIVER, ROLE, CrewKeys
from watchbill.plan import deliveries as plan
from watchbill.records import CrewDefinition
from watchbill.store import circuits, packed, runs, submissions
from watchbill.store.submissions import Submission
from watchbill.tasks import AgentTask, RunResult, TaskResult, TaskState

PAGE: Final = 100
"""Entries of the outbox that are moved at once."""
MANY: Final = 10**12
"""The bound of the delivery queue: a result that is stored is delivered, however much waits."""


def wanted(destinations: Sequence[Destination | str], known: Sequence[Destination]) -> str:
    """The `deliver` field of a record. `destinations`: those of `known` by name, others themselves."""
    of_crew = {destination.name: destination for destination in known}
    found = []
    for one in destinations:
        destination = of_crew[one] if isinstance(one, str) else one
        outcomes = ("f" if destination.wants(success=False) else "") + ("s" if destination.wants(success=True) else "")
        found.append(packed.Wanted(destination.name, outcomes, "" if isinstance(one, str) else plan.as_json(one)))
    return packed.pack_deliver(found)


def of_submission(crew: CrewDefinition, asked: Sequence[Destination | str] | None) -> str:
    """The `deliver` field of a submission (plan.chosen). Raises InvalidInput."""
    if asked is None and not crew.delivery:
        return ""
    return wanted(plan.chosen(crew, asked), crew.delivery)


@dataclass(frozen=True, slots=True)
class Content:
    """The payload of a delivery."""

    destination: str
    """Its name."""
    inline: str
    """The destination as JSON; empty: the crew's of that name."""
    message: Mapping[str, Any]
    """The seven values of a result that receivers get."""

    def pack(self) -> str:
        return json.dumps(
            {"destination": self.destination, "inline": self.inline, "message": self.message}, ensure_ascii=False
        )

    @classmethod
    def unpack(cls, text: str) -> Content:
        found = json.loads(text)
        return cls(str(found["destination"]), str(found["inline"]), dict(found["message"]))


# ------------------------------------------------------------ from the outbox to the queue


async def exist(client: redis.asyncio.Redis, keys: CrewKeys) -> bool:
    """Returns whether the crew has anything to deliver, or has had it."""
    with outages.translated():
        return bool(await client.exists(keys.outbox, keys.deliveries().ids))


async def due(client: redis.asyncio.Redis, keys: CrewKeys) -> int:
    """Counts the deliveries that are due: in the outbox, waiting or being sent. Those that are tried again later don't
    count."""
    with outages.translated():
        outbox = int(await client.xlen(keys.outbox))
        return outbox + sum([int(await client.xlen(stream)) for stream in keys.deliveries().streams])


async def wait(client: redis.asyncio.Redis, keys: CrewKeys, block_ms: int) -> bool:
    """Returns whether there is anything in the outbox; waits for it, where this connection may block."""
    with connection.blocking(client) as may_block, outages.translated():
        return bool(await client.xread({keys.outbox: "0-0"}, count=1, block=block_ms if may_block else None))


async def hold(client: redis.asyncio.Redis, keys: CrewKeys, who: str, hold_ms: int) -> bool:
    """Returns whether `who` moves this crew's outbox for the next `hold_ms`. If two do, each delivery is made once all
    the same: this only saves work."""
    with outages.translated():
        holder = await client.get(keys.mover)
        if holder is None:
            return bool(await client.set(keys.mover, who, nx=True, px=hold_ms))
        return holder == who and bool(await client.pexpire(keys.mover, hold_ms))


async def release(client: redis.asyncio.Redis, keys: CrewKeys, who: str) -> None:
    """Lets somebody else move the outbox at once."""
    with outages.translated():
        if await client.get(keys.mover) == who:
            await client.delete(keys.mover)


async def move(client: redis.asyncio.Redis, keys: CrewKeys, uid: str) -> int:
    """Makes deliveries of the oldest entries of the outbox, and then removes these. Returns how many those were.

    The ids of deliveries follow from the entries, so whoever moves an entry again adds nothing. Raises CrewGone.
    """
    with outages.translated():
        entries: Any = await client.xrange(keys.outbox, count=PAGE)
    made: list[Submission] = []
    for entry, fields in entries:
        made += await _deliveries(client, keys, uid, str(entry), fields)
    if made:
        await submissions.submit(client, keys.deliveries(), uid, made, max_queued=MANY)
    if entries:
        with outages.translated():
            await client.xdel(keys.outbox, *(entry for entry, _ in entries))
    return len(entries)


async def _deliveries(
    client: redis.asyncio.Redis, keys: CrewKeys, uid: str, entry: str, fields: Mapping[str, str]
) -> list[Submission]:
    success = fields["state"] == "completed"
    to = [one for one in packed.deliver(fields["deliver"]) if ("s" if success else "f") in one.outcomes]
    if not to:
        return []
    message = await _message(client, keys, fields)
    # Receivers tell repetitions by the id alone, and another crew may have a task of this id that ends in the same ms.
    crew = hashlib.blake2b(uid.encode(), digest_size=4).hexdigest()
    return [
        Submission(
            id=f"{fields['id']}.{one.name}.{entry}-{crew}",
            agent=RECEIVER + _receiver(one),
            payload=Content(one.name, one.destination, message).pack(),
        )
        for one in to
    ]


def _receiver(one: packed.Wanted) -> str:
    """The name of a destination on the delivery queue. Those that only a submission has may share names."""
    if not one.destination:
        return one.name
    try:
        return circuits.key(Destination.model_validate_json(one.destination))
    except ValueError:  # a newer version's: it may not hold up what waits behind it
        return one.name


async def _message(client: redis.asyncio.Redis, keys: CrewKeys, fields: Mapping[str, str]) -> dict[str, Any]:
    task_id, result = fields["id"], None
    with outages.translated():
        record = keys.run(task_id) if fields["kind"] == "run" else keys.task(task_id)
        payload, agent = await client.hmget(record, ["payload", "agent"])
    try:
        metadata: Mapping[str, Any] = AgentTask.model_validate_json(payload or "").metadata
    except ValueError:
        metadata = {}
    if fields["result"]:
        result = _result(fields["result"])
    if result is None:
        with suppress(NotFound):
            result = await runs.result(client, keys, task_id)
    if result is None:  # its record has expired, or was replayed meanwhile
        success = fields["state"] == "completed"
        why = None if success else f"it is {fields['state']}; its result is no longer kept"
        whose = str(agent or keys.crew)
        name = "" if whose.startswith(ROLE) else whose
        result = TaskResult(task_id=task_id, agent_name=name, success=success, error=why)
    return plan.content(result, metadata)


def _result(text: str) -> TaskResult | RunResult | None:
    try:
        return TaskResult.model_validate_json(text)
    except ValueError:  # a newer version's: the store's own reader says so
        return None


# ------------------------------------------------------------ what became of them


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery, as its record has it."""

    id: str
    task_id: str
    """The task or run whose result it is."""
    destination: str
    state: TaskState
    attempts: int
    """Attempts that were made."""
    submitted_at: datetime
    ended_at: datetime | None
    due_at: datetime | None
    """The time of the next attempt; None: it isn't delayed."""
    log: tuple[packed.Attempt, ...]
    """The attempts that failed."""
    status: int | None = None
    """The HTTP or SMTP status of the destination that took it."""
    message: Mapping[str, Any] = field(default_factory=dict)
    """The seven values of a result that are sent."""


async def listed(client: redis.asyncio.Redis, keys: CrewKeys, most: int) -> list[Delivery]:
    """The newest deliveries that have a record: unfinished ones first."""
    with outages.translated():
        ids = [str(i) for i in await client.zrange(keys.deliveries().ids, 0, most - 1, desc=True)]
    return [found for found in await _read(client, keys, ids) if found is not None]


async def get(client: redis.asyncio.Redis, keys: CrewKeys, delivery: str) -> Delivery:
    """The delivery of this id. Raises NotFound."""
    (found,) = await _read(client, keys, [delivery])
    if found is None:
        raise NotFound(
            f"crew {keys.crew!r} has no delivery {delivery!r}. One that has ended is kept for tasks.resultTTLSeconds"
        )
    return found


_FIELDS: Final = ("state", "agent", "attempt", "submitted", "finished", "log", "payload", "result", "class")


async def _read(client: redis.asyncio.Redis, keys: CrewKeys, ids: Sequence[str]) -> list[Delivery | None]:
    queue = keys.deliveries()
    with outages.translated():
        async with client.pipeline(transaction=False) as pipe:
            for delivery in ids:
                pipe.hmget(queue.task(delivery), _FIELDS)
            records = await pipe.execute() if ids else []
        members = []
        for delivery, record in zip(ids, records, strict=True):
            _, agent, attempt, *_, priority = record
            members.append(packed.Member(str(agent), int(priority or 5), int(attempt or 0) + 1, delivery).pack())
        due = await client.zmscore(queue.delayed, members) if members else []
    return [
        None if record[0] is None else _delivery(delivery, record, at)
        for delivery, record, at in zip(ids, records, due, strict=True)
    ]


def _delivery(delivery: str, record: Sequence[Any], due_ms: float | None) -> Delivery:
    state, agent, attempt, submitted, finished, log, payload, result, _ = record
    content, ended = Content.unpack(payload), _result(result) if result else None
    output = ended.output if ended else None
    return Delivery(
        id=delivery,
        task_id=str(content.message["task_id"]),
        destination=str(agent).removeprefix(RECEIVER).partition("@")[0],
        state=TaskState(state) if due_ms is None else TaskState.DELAYED,  # defer.lua can't write records
        attempts=int(attempt or 0),
        submitted_at=_time(submitted),
        ended_at=_time(finished) if finished else None,
        due_at=_time(due_ms) if due_ms is not None else None,
        log=tuple(packed.attempts(log or "")),
        status=output.get("status") if isinstance(output, dict) else None,
        message=content.message,
    )


def _time(ms: str | float) -> datetime:
    return datetime.fromtimestamp(float(ms) / 1000, UTC)
