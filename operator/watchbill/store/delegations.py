"""Steps that a step of a run begins while it is held: delegated work, and its review."""

from __future__ import annotations

import redis.asyncio

from watchbill.connection import outages, scripts
from watchbill.event_types import EventType
from watchbill.names import CrewKeys, split_step_id
from watchbill.plan.hierarchy import Asked, Delegated
from watchbill.store import runs
from watchbill.store.queue import Claimed, Queue, crew_gone
from watchbill.tasks import TaskResult


async def asked(client: redis.asyncio.Redis, keys: CrewKeys, run_id: str, step: str) -> Asked:
    """Returns what a step was asked by the one that has delegated it. Raises NotFound, NewerRecord."""
    with outages.translated():
        text = await client.hget(keys.run(run_id), f"asked:{step}")
    if text is None:
        raise runs.not_found(keys, f"{run_id}/{step}")
    with runs.readable(keys, f"{run_id}/{step}"):
        return Asked.unpack(str(text))


async def delegate(
    queue: Queue, incarnation: str, task: Claimed, work: Delegated, message: str
) -> tuple[str, TaskResult | None] | None:
    """Begins a step that works for the step `task`, unless it is there. Returns what it was asked, packed, and its
    result once it has ended. None: the task is no longer this incarnation's, or its run is being cancelled; nothing was
    begun. Raises NewerRecord."""
    keys = queue.keys
    run_id, _ = split_step_id(task.id) or ("", "")
    kind = EventType.REVIEWER_HANDOFF if work.asked.reviews else EventType.TASK_DELEGATED
    names = [*keys.fixed, *keys.of_item(task.id, task.agent), keys.run_results(run_id), keys.agent_events(work.agent)]
    args = [queue.uid, incarnation, task.id, task.fence, work.name, work.agent, work.asked.pack()]
    with outages.translated():
        args += [kind.value, message, work.scope]
        reply = await scripts.run(queue.client, "delegate", names, args)
    if reply[0] == "gone":
        raise crew_gone(keys)
    if reply[0] != "ok":
        return None
    with runs.readable(keys, f"{run_id}/{work.name}"):
        return str(reply[1]), TaskResult.model_validate_json(reply[2]) if reply[2] else None
