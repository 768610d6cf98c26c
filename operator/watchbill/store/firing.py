"""Fires heartbeats: a slot, or what a person asks for, becomes a task or a run, once. Stubs over store/scripts.

Reads no clock: the caller says which slot, and what time it is. Every call is safe to send twice.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, Literal, NamedTuple, cast

import redis.asyncio

from watchbill.connection import outages, scripts
from watchbill.errors import Conflict, InvalidInput, NotFound, Problem
from watchbill.names import CrewKeys
from watchbill.plan import flow, submission
from watchbill.plan import heartbeat as beat
from watchbill.store import control, definitions, deliveries, heartbeats, runs, submissions
from watchbill.store.heartbeats import HeartbeatState, iso, label, ms
from watchbill.store.queue import BATCH, crew_gone, queue_full
from watchbill.tasks import AgentTask

GUARD: Final = timedelta(hours=1)
"""The time for which a slot is remembered by itself. The stored next slot does the rest; this covers clocks that
disagree while a heartbeat is changed or removed."""
RUN_NOW_GUARD: Final = timedelta(days=1)
"""The time for which the token of a run-now is remembered."""

Outcome = Literal["fired", "already", "busy", "full", "changed", "stale", "gone"]
"""`fired`: it is on the queue, by this call. `already`: it was fired, or told as missed, before. `busy`: what it fired
last has not ended, and its concurrencyPolicy is Forbid. `full`: the queue took nothing, try again. `changed`: the crew
has another definition by now. `stale`: the heartbeat was removed, suspended or given another spec. `gone`: the crew was
deleted or replaced."""


class Fired(NamedTuple):
    """The answer to firing a slot."""

    outcome: Outcome
    next: datetime | None
    """The stored next slot, where the slot is fired or was."""
    work: str
    """The id of the heartbeat's last task or run, as far as this call has learned it."""


async def fire(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    state: HeartbeatState,
    current: definitions.Current,
    *,
    slot: datetime,
    following: datetime,
    now: datetime,
) -> Fired:
    """Puts the work of this slot on the queue, unless that was done; `following` is the slot after it.

    With concurrencyPolicy Replace, what the heartbeat fired last is cancelled first, where it has not ended. Raises
    InvalidInput when the crew has more agents than one script may start, Conflict when the task's id is taken,
    NewerRecord; then nothing was written.
    """
    at = _At(label(slot), slot, now, ms(slot), ms(following), GUARD)
    return await _fire(client, keys, state, current, at)


async def run_now(
    client: redis.asyncio.Redis, keys: CrewKeys, name: str, token: str, *, now: datetime
) -> tuple[str, bool]:
    """Fires beside the schedule, once for each token, suspended or not. Returns the id of the task or run, and whether
    this call made it.

    Its concurrencyPolicy counts: with Forbid, Conflict is raised while what it fired last has not ended. Raises also
    NotFound when there is no such heartbeat or crew, QueueFull, CrewGone, and what `fire` raises.
    """
    made = heartbeats.run_now_id(name, token)
    while True:
        state = await heartbeats.get(client, keys, name)
        current = await definitions.current(client, keys)
        if state is None or state.uid != current.uid:
            listed = ", ".join(sorted(one.name for one in await heartbeats.all_of(client, keys))) or "none"
            raise NotFound(f"crew {keys.crew!r} has no heartbeat {name!r}; it has: {listed}")
        fired = await _fire(client, keys, state, current, _At(f"now-{token}", now, now, "", "", RUN_NOW_GUARD))
        match fired.outcome:
            case "fired" | "already":
                return made, fired.outcome == "fired"
            case "busy":
                raise Conflict(
                    f"heartbeat {name!r} of crew {keys.crew!r} is not fired: its concurrencyPolicy is Forbid, and "
                    f"{fired.work!r} has not ended. Wait for that, or cancel it"
                )
            case "gone":
                raise crew_gone(keys)
            case "full":
                most = current.definition.tasks.max_queued
                raise queue_full(keys, most)
            case "changed" | "stale":
                continue  # between our reads and the call: look again


# -------------------------------------------------------------------- within


@dataclass(frozen=True, slots=True)
class _At:
    """The time at which a heartbeat fires."""

    label: str
    slot: datetime
    now: datetime
    slot_ms: str
    """Empty: it was asked for by a person, beside the schedule."""
    following_ms: str
    guard: timedelta
    """The time for which it is remembered by itself that the slot has fired."""


async def _fire(
    client: redis.asyncio.Redis, keys: CrewKeys, state: HeartbeatState, current: definitions.Current, at: _At
) -> Fired:
    args, names = _script_args(keys, state, current, at)
    policy, last, is_stopped = state.spec.concurrency_policy, state.work, False
    made = heartbeats.work_id(state.name, at.label)
    while True:
        of_last = [keys.task(last or made), keys.run(last or made)]
        with outages.translated():
            given = [policy, last, int(is_stopped), *args]
            reply = await scripts.run(client, "heartbeat_fire", [*names, *of_last], given)
        outcome = reply[0]
        if outcome == "conflict":
            raise Conflict(f"{made!r} is the id of another task or run of crew {keys.crew!r}")
        if outcome == "other":  # somebody else has fired since
            last, is_stopped = reply[1], False
        elif outcome == "busy" and policy == "Replace":
            ttl_ms = current.definition.tasks.result_ttl_seconds * 1000
            why = f"heartbeat {state.name} fires anew"
            with suppress(NotFound, Conflict):  # it has ended meanwhile
                await control.cancel(client, keys, state.uid, last, why, ttl_ms)
            is_stopped = True
        else:
            work = made if outcome == "fired" else last
            return Fired(cast(Outcome, outcome), heartbeats.moment(reply[1]) if len(reply) > 1 else None, work)


def _script_args(
    keys: CrewKeys, state: HeartbeatState, current: definitions.Current, at: _At
) -> tuple[list[Any], list[str]]:
    made, spec, crew = heartbeats.work_id(state.name, at.label), state.spec, current.definition
    asked = partial(beat.asked, slot=at.slot, now=at.now, zone=spec.time_zone)
    prompt, inputs = asked(spec.prompt), {name: asked(text) for name, text in spec.inputs.items()}
    submission.check_own(prompt, made, {}, {})  # its times may have made it too long
    agent = crew.agent(spec.agent) if spec.agent else None
    # An agent that the crew no longer has gives a task that fails, which says more than a slot that was missed.
    agent_id = agent.agent_id if agent else spec.agent or ""
    payload = AgentTask(
        task_id=made,
        agent_name=agent_id,
        prompt=prompt,
        crew_name=crew.name,
        priority=spec.priority,
        metadata={**spec.metadata, "heartbeat": state.name, "slot": iso(at.slot)},
    ).model_dump_json()
    work = submission.work(agent_id, prompt, inputs)
    destinations = beat.destinations(spec.deliver, spec.delivery, crew)
    deliver = deliveries.wanted(destinations, crew.delivery)
    most = crew.tasks.max_queued
    guard_ms = at.guard // timedelta(milliseconds=1)
    kind = "task" if agent_id else "run"
    args: list[Any] = [state.uid, keys.crew, most, state.generation, at.slot_ms, at.following_ms, guard_ms]
    args += [kind, made, current.digest]
    if agent_id:
        task = submissions.Submission(made, agent_id, payload, spec.priority, inputs, work=work, deliver=deliver)
        args += submissions.script_args(task)
    else:
        steps = flow.steps(crew)
        if len(steps) > BATCH:
            reason = (
                f"crew {keys.crew!r} has {len(steps)} agents, and a heartbeat can start at most {BATCH} steps at once"
            )
            raise InvalidInput(Problem(reason, "Name one agent of the crew.", path="spec.agent"))
        run = runs.RunSubmission(
            made,
            payload,
            current.digest,
            crew.execution_mode,
            steps,
            crew.max_parallel_tasks,
            spec.priority,
            inputs,
            work=work,
            deliver=deliver,
        )
        args += runs.script_args(run, 0, "")
    names = [*keys.fixed, keys.heartbeat(state.name), keys.fired(state.name), keys.fire(state.name, at.label)]
    names += [keys.run(made), keys.run_steps(made), keys.task(made), keys.run_events(made)]
    return args, names
