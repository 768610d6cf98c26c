"""Reads what is known of a task, a step or a run, and of what stands between it and its beginning. Only reads."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import redis.asyncio

from watchbill.connection import outages, scripts
from watchbill.names import CLASSES, LIMITED, RETURNED, ROLE, CrewKeys, split_step_id
from watchbill.plan.whereabouts import AgentLimit, Attempt, Ended, Holder, Place, Seen, Workers
from watchbill.store import checkpoints, figures, packed, runs
from watchbill.tasks import RUN_TERMINAL, Priority, RunState, RunStatus

ENDED_MOST: Final = 100
"""Ended tasks from which the speed of the crew is measured."""
_PAGE: Final = 1000
"""Entries that one call of the script looks at: 4 MiB at most, which take it about 3 ms."""
_PAGES: Final = 100
_PAUSE_SECONDS: Final = 0.003
"""The pause between two pages, for others."""


async def seen(client: redis.asyncio.Redis, keys: CrewKeys, task_id: str, max_attempts: int = 0) -> Seen:
    """Returns what is known of the work of this id. One script reads it as of one moment; of a class with more than a
    thousand entries before this one, further calls count the rest, a hundred thousand at most. Raises NotFound,
    NewerRecord."""
    with outages.translated():
        answer = await _ask(client, keys, task_id, "")
        before = 0
        for _ in range(_PAGES):
            place = answer[9] if answer else []
            if not place or place[2] or place[0] < _PAGE:
                break
            before += place[0]
            await asyncio.sleep(_PAUSE_SECONDS)
            answer = await _ask(client, keys, task_id, place[1])
        recent: Any = await client.xrevrange(keys.results, count=ENDED_MOST)
    if not answer or not (answer[3] or answer[4]):
        raise runs.not_found(keys, task_id)
    with runs.readable(keys, task_id):
        from_ms = _time_of(recent[-1][0]) if len(recent) == ENDED_MOST else 0
        count, last = await checkpoints.last(client, keys, task_id)
        found = dataclasses.replace(_seen(keys, task_id, answer, before), checkpoints=count, last_checkpoint=last)
        return dataclasses.replace(found, max_attempts=max_attempts, ended=_ended(recent), ended_from_ms=from_ms)


async def _ask(client: redis.asyncio.Redis, keys: CrewKeys, task_id: str, behind: str) -> list[Any]:
    run_id, step = split_step_id(task_id) or (task_id, "")
    names = [*keys.fixed, keys.task(run_id), keys.run(run_id), keys.run_steps(run_id)]
    answer: list[Any] = await scripts.run(client, "why", names, [task_id, step, behind, _PAGE])
    return answer


def _seen(keys: CrewKeys, task_id: str, answer: Sequence[Any], before: int) -> Seen:
    now_ms, owner, suspended, record, of_run, graph, holder, wish, (aside, aside_ms), place, classes, *rest = answer
    workers, closed, limit = rest
    run, active, parallel = _run(keys, task_id, of_run, graph)
    found = Seen(
        crew=keys.crew,
        id=task_id,
        now_ms=now_ms,
        managed=bool(owner),
        suspended=bool(suspended),
        hold="" if closed.isdecimal() else closed,
        holder=_holder(holder, now_ms),
        limit=_limit(limit),
        wish=packed.StopRequest.unpack(wish).what if wish else "",
        aside=aside,
        aside_ms=int(float(aside_ms or 0)),
        place=_place(place, before),
        waiting=[(Priority(c), n) for c, (n, _) in zip(CLASSES, packed.rows(classes, 2), strict=True)],
        workers=_workers(workers),
        run=run,
        active=active,
        parallel=parallel,
    )
    if not record:
        return dataclasses.replace(found, priority=Priority(int(of_run[5]))) if of_run else found
    state, agent, priority, attempt, submitted, started, finished, tried, approvals, waits, role = record
    for_role = agent if agent.startswith(ROLE) else role
    return dataclasses.replace(
        found,
        state=state,
        agent="" if agent.startswith(ROLE) else agent,
        role=for_role.removeprefix(ROLE),
        priority=Priority(int(priority)),
        attempt=int(attempt or 0),
        submitted_ms=int(submitted or 0),
        started_ms=int(started or 0),
        finished_ms=int(finished or 0),
        postponed=packed.postponed(waits, found.aside_ms) if aside == "delayed" else "",
        tried=[
            Attempt(one.number, "failed", one.worker, max(one.ended_ms - one.started_ms, 0) / 1000, one.message)
            for one in packed.tried(tried)
        ],
        approvals=packed.approvals(approvals),
    )


def _place(place: Sequence[Any], before: int) -> Place | None:
    """None: it doesn't wait for a slot, or all entries of its class were read, and its own is not among them."""
    if not place or (not place[2] and place[0] < _PAGE):
        return None
    return Place(before + place[0], bool(place[2]))


def _run(
    keys: CrewKeys, task_id: str, of_run: Sequence[Any], graph: Sequence[Any]
) -> tuple[RunStatus | None, int, int]:
    if not of_run:
        return None, 0, 0
    state, submitted, finished, active, parallel, _ = of_run
    run_id = (split_step_id(task_id) or (task_id, ""))[0]
    status = RunStatus(
        run_id=run_id,
        crew=keys.crew,
        status=RunState(state),
        submitted_at=runs.time_of(submitted) or datetime.fromtimestamp(0, UTC),
        finished_at=runs.time_of(finished),
        steps=runs.steps_of(dict(packed.rows(graph, 2)), over=RunState(state) in RUN_TERMINAL),
    )
    return status, int(active or 0), int(parallel or 0)


def _limit(found: Sequence[Any]) -> AgentLimit | None:
    if not found:
        return None
    most, held, every_us, burst, next_ms, before, whose, away = found
    return AgentLimit(
        running=int(held),
        most=int(most) if most else None,
        every_seconds=int(every_us) / 1e6 if every_us else None,
        burst=int(burst or 1),
        next_seconds=int(next_ms or 0) / 1000,
        before=before,
        role=whose.removeprefix(ROLE) if whose.startswith(ROLE) else "",
        away=away,
    )


def _holder(found: Sequence[Any], now_ms: int) -> Holder | None:
    if not found:
        return None
    held = packed.Holder.unpack(found[0])
    if held.incarnation.startswith(LIMITED):
        return None
    left = int(float(found[1])) - now_ms if found[1] != "" else None
    return Holder(held.incarnation, held.attempt, held.started_ms, left, held.incarnation == RETURNED)


def _workers(flat: Sequence[Any]) -> Workers:
    says = [figures.says(text, told) for text, told in packed.rows(flat, 2)]
    able = [one for one in says if not one["draining"]]
    return Workers(
        alive=len(says),
        draining=len(says) - len(able),
        slots=sum(one["slots"] for one in able),
        busy=sum(one["running"] for one in able),
    )


def _ended(recent: Sequence[Any]) -> list[Ended]:
    """The tasks and steps among the newest results. A large result is not beside them, and its time not known."""
    found = []
    for entry, fields in recent:
        if fields.get("kind") == "run" or fields.get("state") == "cancelled":
            continue
        try:
            took = json.loads(fields.get("result") or "{}").get("execution_time_ms")
        except (ValueError, AttributeError):
            took = None
        seconds = took / 1000 if isinstance(took, int | float) and took > 0 else None
        found.append(Ended(_time_of(entry), seconds))
    return found


def _time_of(entry: str) -> int:
    return int(entry.partition("-")[0])
