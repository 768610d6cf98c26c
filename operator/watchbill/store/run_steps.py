"""Steps of runs: those that a run gets while it goes on (the next iteration of a loop, a list's items), and what single
steps are known by."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis.asyncio

from watchbill.connection import outages, scripts
from watchbill.connection.gathering import Reads
from watchbill.errors import Fenced, InvalidInput, Problem
from watchbill.names import CrewKeys, split_step_id
from watchbill.plan import flow
from watchbill.store import packed, refusals, runs
from watchbill.store.queue import BATCH, crew_gone
from watchbill.tasks import TaskState

_ROOM: Final = "Raise it, then replay this step from the dead letters: the run goes on from here."


@dataclass(frozen=True, slots=True)
class Held:
    """The step on whose behalf others are added: it is held under a fence."""

    keys: CrewKeys
    uid: str
    id: str
    """`run/step`."""
    fence: int

    @property
    def run_id(self) -> str:
        return (split_step_id(self.id) or ("", ""))[0]


async def add_iteration(client: redis.asyncio.Redis, held: Held, steps: Sequence[flow.Step]) -> bool:
    """Adds the next iteration of a loop; its first step comes after the one that is held. Does nothing where that was
    done before. Returns False if the run is being cancelled. Raises Fenced when the step is no longer ours, CrewGone.
    """
    first = steps[0].name
    added = [
        [
            step.name,
            step.agent,
            max(len(step.after), 1),
            packed.pack_ids(step.successors),
            packed.pack_marks(lenient=step.lenient, kind=step.kind),
            "",
        ]
        for step in steps
    ]
    return await _extend(client, held, added, follows=first)


async def add_items(
    client: redis.asyncio.Redis, held: Held, name: str, agent: str, items: Sequence[Any], *, lenient: bool, room: int
) -> bool:
    """Adds a step of `agent` for each item of a list, behind which step `name` waits. Those that are there stay.

    `room`: tasks.maxQueued. Returns False if the run is being cancelled. Raises QueueFull when the crew has no room for
    all of them, InvalidInput when it can't have any or has had none for an hour, Fenced, CrewGone.
    """
    marks = packed.pack_marks(lenient=lenient, kind="agent")
    if len(items) >= room:  # beside the step that makes them
        reason = f"the list has {len(items)} items, and tasks.maxQueued is {room}, which must be more"
        raise InvalidInput(Problem(reason, _ROOM, path="tasks.maxQueued"))
    for start in range(0, len(items), BATCH):
        added = [
            [flow.item_name(name, number), agent, 0, name, marks, json.dumps(item, ensure_ascii=False)]
            for number, item in enumerate(items[start : start + BATCH], start + 1)
        ]
        in_all = len(items) if start == 0 else 0
        if not await _extend(client, held, added, target=name, room=room, in_all=in_all):
            return False
    return True


async def _extend(
    client: redis.asyncio.Redis,
    held: Held,
    added: Iterable[Sequence[Any]],
    *,
    follows: str = "",
    target: str = "",
    room: int = 0,
    in_all: int = 0,
) -> bool:
    keys, run_id = held.keys, held.run_id
    rows = list(added)
    names = [*keys.fixed, keys.run(run_id), keys.run_steps(run_id), keys.run_events(run_id)]
    args: list[Any] = [held.uid, held.id, held.fence, follows, target, room, in_all, len(rows)]
    args += (value for row in rows for value in row)
    with outages.translated():
        reply = await scripts.run(client, "extend", names, args)
    match reply[0]:
        case "gone":
            raise crew_gone(keys)
        case "stale":
            raise Fenced(f"step {held.id!r} of crew {keys.crew!r} is no longer held by this worker")
        case "full":
            raise refusals.queue_full(keys, room)
        case "late":
            reason = f"for an hour there was no room for the {in_all} items of the list: tasks.maxQueued is {room}"
            raise InvalidInput(Problem(reason, _ROOM, path="tasks.maxQueued"))
    return bool(reply[0] == "ok")


async def is_followed(client: redis.asyncio.Redis, keys: CrewKeys, run_id: str, step: str) -> bool:
    """Returns whether other steps come after this one."""
    with outages.translated():
        stored = await client.hget(keys.run_steps(run_id), step)
    with runs.readable(keys, f"{run_id}/{step}"):
        return stored is not None and bool(packed.Step.unpack(str(stored)).successors)


async def agent_of(client: redis.asyncio.Redis, keys: CrewKeys, run_id: str, step: str) -> str | None:
    """The agent of a step; None where the run has no such step."""
    with outages.translated():
        stored = await client.hget(keys.run_steps(run_id), step)
    if stored is None:
        return None
    with runs.readable(keys, f"{run_id}/{step}"):
        return packed.Step.unpack(str(stored)).agent


async def item(client: Reads, keys: CrewKeys, run_id: str, step: str) -> Any:
    """The item that a step is for. Raises KeyError where it has none."""
    with outages.translated():
        (stored,) = await client.hmget(keys.run(run_id), [f"item:{step}"])
    if stored is None:
        raise KeyError(step)
    return json.loads(stored)


async def made(client: redis.asyncio.Redis, keys: CrewKeys, run_id: str, maker: str) -> int | None:
    """The number of items for which step `maker` made steps; None if it failed."""
    output = (await runs.outputs(client, keys, run_id, [maker])).get(maker)
    return output if isinstance(output, int) else None


async def outputs_of_items(
    client: redis.asyncio.Redis, keys: CrewKeys, run_id: str, name: str, number: int
) -> list[Any]:
    """The outputs of the steps for the items of a list, in the order of the items; of one that failed, an error value.
    Raises NotFound, KeyError."""
    found: list[Any] = []
    for start in range(1, number + 1, BATCH):
        names = [flow.item_name(name, n) for n in range(start, min(start + BATCH, number + 1))]
        outputs = await runs.outputs(client, keys, run_id, names)
        found += (outputs[one] for one in names)
    return found


async def last_steps(
    client: redis.asyncio.Redis, keys: CrewKeys, run_id: str, plan: flow.Plan
) -> tuple[dict[str, str], frozenset[str]]:
    """(agent → its last step, where that has an output or an error, in the order of the crew; the agents whose last
    step never began, since something failed before it). Raises NotFound, NewerRecord."""
    reached: dict[str, str] = {}
    kept: set[str] = set()
    for step in (await runs.status(client, keys, run_id)).steps:
        if plan.place(step.agent, step.name).kind not in ("agent", "list"):
            continue
        reached.pop(step.agent, None)  # in a loop: its output of an earlier iteration doesn't stand
        kept.discard(step.agent)
        if step.is_passed_over:
            continue
        if step.finished_at is None or step.status is TaskState.SKIPPED:  # it may be marked as that later
            kept.add(step.agent)
        else:
            reached[step.agent] = step.name
    ordered = (agent.agent_id for agent in plan.crew.agents)
    return {agent: reached[agent] for agent in ordered if agent in reached}, frozenset(kept)


async def digests(client: redis.asyncio.Redis, keys: CrewKeys, run_ids: Collection[str]) -> dict[str, str]:
    """Under which definition each of these runs goes on; without those that have no record."""
    with outages.translated():
        async with client.pipeline(transaction=False) as pipe:
            for run_id in run_ids:
                pipe.hget(keys.run(run_id), "def")
            found = await pipe.execute() if run_ids else []
    return {run_id: str(digest) for run_id, digest in zip(run_ids, found, strict=True) if digest}
