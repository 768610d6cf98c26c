"""Reads what a crew's heartbeats have fired, and how it ended. Stubs over store/scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import redis.asyncio

from watchbill.connection import outages, scripts
from watchbill.names import CrewKeys
from watchbill.plan import schedule
from watchbill.store import heartbeats
from watchbill.store.heartbeats import HeartbeatState
from watchbill.store.queue import crew_gone

KEPT: Final = 100
"""Ids that the store keeps of each heartbeat."""
EXPIRED: Final = "expired"


@dataclass(frozen=True, slots=True)
class FiredWork:
    """A task or run that a heartbeat has fired."""

    id: str
    fired: datetime
    """The time at which it was put on the queue, by the store's clock."""
    state: str
    """The task's or run's state; `expired` once its record is gone."""
    finished: datetime | None
    """The time of its end; None: it has not ended, or that is no longer known."""

    @property
    def entry(self) -> str:
        return f"{self.id} {heartbeats.ms(self.fired)}"


@dataclass(frozen=True, slots=True)
class HeartbeatReport:
    """A heartbeat: when it fires next, and what became of what it has fired."""

    name: str
    crew: str
    """`namespace/name`."""
    schedule: str
    """Its cron expression and time zone, or its interval."""
    suspended: bool
    next: tuple[datetime, ...]
    """The times at which it is fired next, jitter included; none while it is suspended."""
    last: tuple[FiredWork, ...]
    """The work that it has fired, the newest first."""
    missed: int
    """Slots missed since the heartbeat came into being; beyond 100 in a row they are not counted."""
    crew_suspended: bool = False
    """It is suspended because its crew is."""
    hold: str = ""
    """It is suspended because the namespace has no room for the crew, for this reason."""
    managed: bool = False
    """An operator manages the crew."""


async def reports(client: redis.asyncio.Redis, keys: CrewKeys, *, now: datetime, most: int) -> list[HeartbeatReport]:
    """The crew's heartbeats by name, each with at most `most` times to come and as much of what it has fired. Raises
    NewerRecord."""
    states = await heartbeats.all_of(client, keys)
    found = await recent(client, keys, [state.name for state in states], most)
    return [
        HeartbeatReport(
            name=state.name,
            crew=keys.crew,
            schedule=state.timing,
            suspended=state.next is None,
            next=_following(state, now, most),
            last=last,
            missed=state.missed,
        )
        for state, last in zip(states, found, strict=True)
    ]


async def recent(
    client: redis.asyncio.Redis, keys: CrewKeys, names: Sequence[str], most: int
) -> list[tuple[FiredWork, ...]]:
    """For each of these heartbeats what it has fired, the newest first, at most `most`."""
    with outages.translated():
        async with client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.lrange(keys.fired(name), 0, most - 1)
            listed: list[list[str]] = await pipe.execute()
    ends = iter(await _ends(client, keys, [entry.partition(" ")[0] for entries in listed for entry in entries]))
    return [tuple(_work(entry, *next(ends)) for entry in entries) for entries in listed]


async def states(client: redis.asyncio.Redis, keys: CrewKeys, ids: Sequence[str]) -> list[str]:
    """The state of each task or run; `expired` where its record is gone."""
    return [state for state, _ in await _ends(client, keys, ids)] if ids else []


async def trim(client: redis.asyncio.Redis, keys: CrewKeys, state: HeartbeatState) -> int:
    """Removes records of what the heartbeat has fired beyond its history limits, the oldest first. Returns how many
    went. Raises CrewGone."""
    left = {True: state.spec.successful_runs_history_limit, False: state.spec.failed_runs_history_limit}
    if left == {True: None, False: None}:
        return 0
    [works] = await recent(client, keys, [state.name], KEPT)
    doomed = []
    for work in works:
        if work.finished is None:
            continue
        is_success = work.state == "completed"
        limit = left[is_success]
        if limit is not None and limit <= 0:
            doomed.append(work)
        elif limit is not None:
            left[is_success] = limit - 1
    if not doomed:
        return 0
    names = [*keys.fixed, keys.fired(state.name)]
    for work in doomed:
        names += (keys.task(work.id), keys.run(work.id), keys.run_steps(work.id), keys.run_results(work.id))
    with outages.translated():
        reply = await scripts.run(client, "heartbeat_trim", names, [state.uid, *(work.entry for work in doomed)])
    if reply[0] == "gone":
        raise crew_gone(keys)
    return int(reply[1])


def _following(state: HeartbeatState, now: datetime, most: int) -> tuple[datetime, ...]:
    if state.next is None:
        return ()
    slot = max(state.next, now - state.jitter) - schedule.TICK
    slots = []
    for _ in range(most):
        slot = schedule.next_slot(state.schedule, slot)
        slots.append(slot + state.jitter)
    return tuple(slots)


async def _ends(client: redis.asyncio.Redis, keys: CrewKeys, ids: Sequence[str]) -> list[tuple[str, datetime | None]]:
    """State and end of each task or run."""
    with outages.translated():
        async with client.pipeline(transaction=False) as pipe:
            for work_id in ids:
                pipe.hmget(keys.task(work_id), ["state", "finished"])
                pipe.hmget(keys.run(work_id), ["state", "finished"])
            records: list[Any] = await pipe.execute()
    found = (task if task[0] is not None else run for task, run in zip(records[::2], records[1::2], strict=True))
    return [
        (EXPIRED if state is None else str(state), heartbeats.moment(str(finished or ""))) for state, finished in found
    ]


def _work(entry: str, state: str, finished: datetime | None) -> FiredWork:
    work_id, _, fired = entry.partition(" ")
    return FiredWork(work_id, heartbeats.moment(fired) or schedule.EPOCH, state, finished)
