"""Calls scripts that write only while an attempt holds its task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from watchbill.connection import outages, scripts
from watchbill.errors import Fenced
from watchbill.store.queue import Claimed, Queue


async def call(
    queue: Queue, incarnation: str, task: Claimed, script: str, names: Sequence[str], args: Sequence[Any]
) -> Any:
    """Returns the script's answer. Its first arguments are the crew's uid, and incarnation, task and fence of the
    attempt. Raises CrewGone, WorkerForgotten, and Fenced where the task is no longer its worker's."""
    with outages.translated():
        reply = await scripts.run(queue.client, script, names, [queue.uid, incarnation, task.id, task.fence, *args])
    status = reply if isinstance(reply, str) else reply[0]
    queue.check(status, incarnation)
    if status == "stale":
        raise Fenced(f"task {task.id!r} of crew {queue.keys.crew!r} is no longer this attempt's: nothing was stored")
    return reply
