"""Requests to models that go by batches of their providers: stubs over store/scripts/batch_*.lua.

A task's record says what it waits for (packed.Batched), and has the answer until its conversation has it. Beside that
the store keeps each request until it is answered, and each batch until all of its requests are. One worker at a time
sends and fetches. Every call is safe to send twice, and raises CrewGone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import redis.asyncio

from watchbill import connection
from watchbill.connection import outages, scripts
from watchbill.errors import LockLost
from watchbill.names import LIMITED, RETURNED, STEP_SEPARATOR, CrewKeys
from watchbill.plan import batches as plan
from watchbill.plan.batches import Batch, Group, Queued
from watchbill.plan.budget import Amount
from watchbill.store import attempts
from watchbill.store.budgets import Request, Settlement
from watchbill.store.packed import Batched, Gathered, Holder
from watchbill.store.queue import Claimed, Queue, crew_gone

AT_ONCE: Final = 200
"""Requests of one call."""
_GROUP: Final = "g:"
_BATCH: Final = "b:"

Told = Literal["ok", "over", "held"]


@dataclass(frozen=True, slots=True)
class Seen:
    """The requests and batches in the lane."""

    now_ms: int
    queued: Sequence[Queued]
    batches: Sequence[Batch]


@dataclass(frozen=True, slots=True)
class Sender:
    """A worker that sends the batches of a crew."""

    client: redis.asyncio.Redis
    keys: CrewKeys
    uid: str
    who: str
    """Its incarnation."""
    hold_ms: int
    """For so long after its last sign no other worker sends."""


# ------------------------------------------------------------ the task's side


async def of_task(client: redis.asyncio.Redis, keys: CrewKeys, task_id: str) -> tuple[Batched | None, str]:
    """Returns what the record of a task or step says of its last request, and the answer to it; None: it has made
    none."""
    with outages.translated():
        known, answer = await client.hmget(keys.record(task_id), list(_fields(task_id)))
    return (Batched.unpack(str(known)) if known else None), str(answer or "")


async def gather(
    queue: Queue, incarnation: str, task: Claimed, own: Batched, call: str, body: str, group: Group, seal_ms: int
) -> None:
    """Stores a request of a task, for the next batch of its group. Raises Fenced."""
    keys, place = queue.keys, plan.place(group, seal_ms)
    lane = keys.batch
    names = [*keys.fixed, keys.record(task.id), lane.lane, lane.requests, lane.batches, lane.reserved]
    packed = Gathered(task.id, task.agent, call, len(body.encode()), place).pack()
    args = [own.pack(), own.request, packed, body, place, group.id, group.pack()]
    await attempts.call(queue, incarnation, task, "batch_gather", names, [_fields(task.id)[0], *args])


async def leave(queue: Queue, incarnation: str, task: Claimed, own: Batched) -> str:
    """The task's request is made at once. Returns its reservation if it was withdrawn before it was sent; else nothing.
    Raises Fenced."""
    keys = queue.keys
    names = [*keys.fixed, keys.record(task.id), keys.batch.lane, keys.batch.requests]
    field, answer = _fields(task.id)
    left = own._replace(state="left").pack()
    said = str(await attempts.call(queue, incarnation, task, "batch_leave", names, [field, left, answer, own.request]))
    return said.partition(":")[2] if said != "ok" else ""


def _fields(task_id: str) -> tuple[str, str]:
    """The fields of a task's record with what it waits for, and with the answer (lib_batches.lua)."""
    _, separator, step = task_id.partition(STEP_SEPARATOR)
    return (f"batch:{step}", f"batched:{step}") if separator else ("batch", "batched")


# ------------------------------------------------------------ the sender's side


async def is_used(client: redis.asyncio.Redis, keys: CrewKeys) -> bool:
    """Returns whether any request of the crew waits for a batch."""
    with outages.translated():
        return bool(await client.hexists(keys.meta, "batched"))


async def hold(sender: Sender) -> bool:
    """Returns whether this worker sends the crew's batches for the next `hold_ms`."""
    client, key = sender.client, sender.keys.batch.sender
    with outages.translated():
        if await client.set(key, sender.who, nx=True, px=sender.hold_ms):
            return True
        return await client.get(key) == sender.who and bool(await client.pexpire(key, sender.hold_ms))


async def release(sender: Sender) -> None:
    """Lets another worker send at once."""
    with outages.translated():
        if await sender.client.get(sender.keys.batch.sender) == sender.who:
            await sender.client.delete(sender.keys.batch.sender)


async def look(client: redis.asyncio.Redis, keys: CrewKeys) -> Seen:
    """Reads what waits in the lane."""
    lane = keys.batch
    with outages.translated():
        found = {str(name): str(text) for name, text in (await client.hgetall(lane.batches)).items()}
        now_ms = await connection.now_ms(client, keys.meta)
        queued = []
        for text in [text for name, text in found.items() if name.startswith(_GROUP)]:
            group = Group.unpack(text)
            members = await _members(client, keys, f"{_GROUP}{group.id}:", group.max_requests)
            if members:
                queued.append(Queued(group, len(members), int(members[0].split(":")[2])))
    batches = [Batch.unpack(name.removeprefix(_BATCH), text) for name, text in found.items() if name.startswith(_BATCH)]
    return Seen(now_ms, queued, sorted(batches, key=lambda one: one.next_ms))


async def gathered(client: redis.asyncio.Redis, keys: CrewKeys, group: Group) -> dict[str, Gathered]:
    """The requests of a group that are gathered, by id, as many as one batch takes."""
    with outages.translated():
        members = await _members(client, keys, f"{_GROUP}{group.id}:", group.max_requests)
    return await _requests(client, keys, members)


async def of_batch(client: redis.asyncio.Redis, keys: CrewKeys, batch: Batch) -> dict[str, Gathered]:
    """The requests of a batch that have no answer yet, by id."""
    with outages.translated():
        members = await _members(client, keys, f"{_BATCH}{batch.id}:", -1)
    return await _requests(client, keys, members)


async def any_runs(client: redis.asyncio.Redis, keys: CrewKeys, requests: dict[str, Gathered]) -> bool:
    """Returns whether any of these requests' tasks has yet to be set aside (has_begun in lib_batches.lua)."""
    with outages.translated():
        held = await client.hmget(keys.holders, [one.task_id for one in requests.values()]) if requests else []
    holders = [Holder.unpack(str(text)).incarnation for text in held if text]
    return any(name != RETURNED and not name.startswith(LIMITED) for name in holders)


async def bodies(client: redis.asyncio.Redis, keys: CrewKeys, ids: Sequence[str]) -> list[str]:
    """The requests as their provider gets them."""
    with outages.translated():
        found = await client.hmget(keys.batch.requests, [f"{one}:body" for one in ids]) if ids else []
    return [str(body or "") for body in found]


async def seal(sender: Sender, batch: Batch, requests: dict[str, Gathered]) -> dict[str, str]:
    """Puts requests into a batch. Returns for each `sealed`; `held`: its task is yet to be set aside; `over`: nobody
    waits for it any more, and it is removed. Raises LockLost."""
    said: dict[str, str] = {}
    for page in _pages(list(requests)):
        args = [value for one in page for value in (one, requests[one].task_id)]
        names = [name for one in page for name in _of_item(sender.keys, requests[one])]
        answer = await _sent(sender, "batch_seal", names, [sender.uid, sender.who, batch.id, *args])
        said |= dict(zip(page, answer, strict=True))
    return said


async def mark(sender: Sender, batch: Batch, *, is_over: bool = False) -> None:
    """Stores what has become of a batch, and renews the hold. Raises LockLost."""
    await _mark(sender, batch.id, "" if is_over else batch.pack())


async def end(sender: Sender) -> None:
    """Stores that no request of the crew waits for a batch, if none is in the lane. Raises LockLost."""
    await _mark(sender, "", "")


async def _mark(sender: Sender, batch_id: str, packed: str) -> None:
    lane = sender.keys.batch
    names = [*sender.keys.fixed, lane.lane, lane.batches, lane.sender]
    with outages.translated():
        reply = await scripts.run(
            sender.client, "batch_mark", names, [sender.uid, sender.who, sender.hold_ms, batch_id, packed]
        )
    _check(sender, reply)


async def tell(
    sender: Sender, what: Literal["sent", "answered", "left"], requests: dict[str, Gathered], texts: dict[str, str]
) -> dict[str, Told]:
    """Tells the tasks of these requests what has become of them. `texts`: the reason why it waits, or the answer.
    Returns for each `ok`; `over`: nobody waits for it; `held`: nothing was written, as its task runs just now. Raises
    LockLost."""
    said: dict[str, Told] = {}
    for page in _pages(list(requests)):
        args = [v for one in page for v in (one, requests[one].task_id, what, texts.get(one, ""))]
        names = [name for one in page for name in _of_item(sender.keys, requests[one])]
        answer = await _sent(sender, "batch_tell", names, [sender.uid, sender.keys.crew, sender.who, *args])
        said |= dict(zip(page, answer, strict=True))
    return said


def settlement(keys: CrewKeys, task_id: str, call: str, cost: Amount) -> Settlement:
    """The end of a request and its cost, for `budgets.settle`. `call`: its reservation."""
    return Settlement(Request(call, "", keys.record(task_id), Amount(), (), keys.batch.reserved), cost)


async def _members(client: redis.asyncio.Redis, keys: CrewKeys, prefix: str, most: int) -> list[str]:
    found = await client.zrangebylex(keys.batch.lane, f"[{prefix}", f"({prefix[:-1]};", 0, most)
    return [str(member) for member in found]


async def _requests(client: redis.asyncio.Redis, keys: CrewKeys, members: Sequence[str]) -> dict[str, Gathered]:
    ids = [member.rpartition(":")[2] for member in members]
    with outages.translated():
        found = await client.hmget(keys.batch.requests, ids) if ids else []
    return {one: Gathered.unpack(str(text)) for one, text in zip(ids, found, strict=True) if text}


async def _sent(sender: Sender, script: str, names: Sequence[str], args: Sequence[Any]) -> list[Any]:
    lane = sender.keys.batch
    keys = [*sender.keys.fixed, lane.lane, lane.requests, lane.sender, *names]
    with outages.translated():
        reply = await scripts.run(sender.client, script, keys, args)
    _check(sender, reply[0])
    return list(reply[1:])


def _check(sender: Sender, status: str) -> None:
    if status == "gone":
        raise crew_gone(sender.keys)
    if status == "lost":
        raise LockLost(f"another worker sends the batches of crew {sender.keys.crew!r} by now")


def _of_item(keys: CrewKeys, request: Gathered) -> tuple[str, ...]:
    return keys.of_item(request.task_id, request.agent)


def _pages(ids: list[str]) -> list[list[str]]:
    return [ids[start : start + AT_ONCE] for start in range(0, len(ids), AT_ONCE)]
