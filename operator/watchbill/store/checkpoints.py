"""Checkpoints: results of steps within a task (`Context.step`), which later attempts of the task find again.

They are fields of the task's record, or of that of its run, and so are kept and deleted with it. Only the attempt that
holds the task can add to them. Every call raises Fenced where that is no longer so, and CrewGone.
"""

from __future__ import annotations

from typing import Any, Final

import redis.asyncio

from watchbill.connection import outages
from watchbill.names import STEP_SEPARATOR, CrewKeys
from watchbill.store import attempts, packed
from watchbill.store.packed import Checkpoint
from watchbill.store.queue import Claimed, Queue

ALONG: Final = 64 * 1024
"""A longer value has a field of its own, which is read only when its step is asked for."""
PAGE_BYTES: Final = 1024 * 1024
"""With so much no more goes into an answer."""


async def store(queue: Queue, incarnation: str, task: Claimed, number: int, name: str, value: str) -> None:
    """Stores the JSON of a step. `number` counts the checkpoints of the task from 1; a repeat of the same call changes
    nothing."""
    size = len(value) if value.isascii() else len(value.encode())
    beside = value if size > ALONG else ""
    checkpoint = Checkpoint(name, size, "" if beside else value)
    await _call(queue, incarnation, task, "checkpoint", [number, checkpoint.pack(), beside])


async def stored(queue: Queue, incarnation: str, task: Claimed) -> dict[int, Checkpoint]:
    """Returns what earlier attempts have stored, by number. One trip, where that is less than PAGE_BYTES."""
    found: dict[int, Checkpoint] = {}
    first = 1
    while first:
        _, first, *rows = await _call(queue, incarnation, task, "checkpoints", [first, PAGE_BYTES])
        first = int(first)
        found |= {int(number): Checkpoint.unpack(text) for number, text in packed.rows(rows, 2)}
    return found


async def value(queue: Queue, task: Claimed, number: int) -> str | None:
    """Returns the JSON of a checkpoint that has a field of its own; None: it is gone."""
    with outages.translated():
        found = await queue.client.hget(queue.keys.record(task.id), f"{_fields(task.id)[1]}{number}:value")
    return None if found is None else str(found)


async def last(client: redis.asyncio.Redis, keys: CrewKeys, task_id: str) -> tuple[int, str]:
    """Returns how many checkpoints a task or step has, and the name of the last step; 0 and nothing where there is
    none."""
    counter, field = _fields(task_id)
    with outages.translated():
        number = int(await client.hget(keys.record(task_id), counter) or 0)
        found = await client.hget(keys.record(task_id), f"{field}{number}") if number else None
    return number, Checkpoint.unpack(str(found)).name.rpartition("#")[0] if found else ""


def _fields(task_id: str) -> tuple[str, str]:
    """The fields of a task's checkpoints in its record: their number, and what stands before the number of each."""
    _, separator, step = task_id.partition(STEP_SEPARATOR)
    of_step = f":{step}" if separator else ""
    return f"checkpoints{of_step}", f"checkpoint{of_step}:"


async def _call(queue: Queue, incarnation: str, task: Claimed, script: str, args: list[Any]) -> Any:
    names = [*queue.keys.fixed, queue.keys.record(task.id)]
    return await attempts.call(queue, incarnation, task, script, names, [*_fields(task.id), *args])
