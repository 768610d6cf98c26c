"""Fires heartbeats: a slot, or what a person asks for, becomes a task or a run, once. Stubs over store/scripts.

Reads no clock: the caller says which slot, and what time it is. Every call is safe to send twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, Literal, NamedTuple, cast

import redis.asyncio

from watchbill import tracing
from watchbill.connection import batches, outages, scripts
from watchbill.errors import Conflict, InvalidInput, NotFound
from watchbill.names import CrewKeys
from watchbill.plan import heartbeat as beat
from watchbill.plan import submission
from watchbill.store import control, definitions, deliveries, heartbeats, refusals, runs, submissions
from watchbill.store.heartbeats import HeartbeatState, iso, label, ms
from watchbill.store.queue import crew_gone
from watchbill.tasks import METADATA_MAX_ENTRIES, AgentTask

GUARD: Final = timedelta(hours=1)
"""The time for which a slot is remembered by itself. The stored next slot does the rest; this covers clocks that
disagree while a heartbeat is changed or removed."""
RUN_NOW_GUARD: Final = timedelta(days=1)
"""The time for which the token of a run-now is remembered."""

Outcome = Literal["fired", "already", "busy", "full", "changed", "stale", "gone", "held", "closed"]
"""`fired`: it is on the queue, by this call. `already`: it was fired, or told as missed, before. `busy`: what it fired
last has not ended, and its concurrencyPolicy is Forbid. `full`: the queue took nothing, try again. `changed`: the crew
has another definition by now. `stale`: the heartbeat was removed, suspended or given another spec. `gone`: the crew was
deleted or replaced. `held`, `closed`: a person asked for it, and the namespace has no room for the crew, or the crew is
closed; `work` says why."""


class Fired(NamedTuple):
    """The answer to firing a slot."""

    outcome: Outcome
    next: datetime | None
    """The stored next slot, where the slot is fired or was."""
    work: str
    """The id of the heartbeat's last task or run, as far as this call has learned it."""


@dataclass(frozen=True, slots=True)
class Call:
    """The call that fires a heartbeat, ready to be sent. It can be made long before."""

    keys: CrewKeys
    state: HeartbeatState
    slot: datetime
    following: datetime
    """The slot after it."""
    made: str
    """The id of the task or run."""
    ttl_ms: int
    """The time for which results of the crew are kept."""
    names: Sequence[str]
    args: Sequence[Any]
    traceparent: str
    """The span in which it is fired; empty: there is none."""

    def sent(self, last: str, is_stopped: bool) -> tuple[list[str], list[Any]]:
        """The script's keys and arguments. `last`: the id of what the heartbeat fired last; `is_stopped`: the caller
        has cancelled that."""
        of_last = [self.keys.task(last or self.made), self.keys.run(last or self.made)]
        policy = self.state.spec.concurrency_policy
        return [*self.names, *of_last], [policy, last, int(is_stopped), *self.args]


def prepare(
    keys: CrewKeys,
    state: HeartbeatState,
    current: definitions.Current,
    *,
    slot: datetime,
    following: datetime,
    now: datetime,
) -> Call:
    """The call for this slot; `following` is the slot after it, and `now` the time that the work is told.

    Raises InvalidInput when the crew has more agents than one script may start, or than its queue can ever take, or
    none of the role that the work is for, or the work would be too long, and NewerRecord.
    """
    return _call(keys, state, current, _At(label(slot), slot, now, following, GUARD))


async def fire(client: redis.asyncio.Redis, call: Call) -> Fired:
    """Puts the work of a slot on the queue, unless that was done.

    With concurrencyPolicy Replace, what the heartbeat fired last is cancelled first, where it has not ended. Raises
    Conflict when the task's id is taken; then nothing was written.
    """
    return await _fire(client, call, None, _monotonic())


async def fire_all(client: redis.asyncio.Redis, calls: Sequence[Call]) -> list[Fired | BaseException]:
    """Fires many slots, in batches, as `fire` does. Returns in order what became of each, or the error."""
    began = _monotonic()
    replies = await batches.run(
        client, "heartbeat_fire", [call.sent(call.state.work, is_stopped=False) for call in calls]
    )
    works = (_fire(client, call, reply, began) for call, reply in zip(calls, replies, strict=True))
    return await asyncio.gather(*works, return_exceptions=True)


async def run_now(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    name: str,
    token: str,
    *,
    now: datetime,
    traceparent: str = "",
    uid: str = "",
) -> tuple[str, bool]:
    """Fires beside the schedule, once for each token, suspended or not. Returns the id of the task or run, and whether
    this call made it. `traceparent`: the span of whoever asks. `uid`: of the crew that is meant; empty: the one that is
    there.

    Its concurrencyPolicy counts: with Forbid, Conflict is raised while what it fired last has not ended. Raises also
    NotFound when there is no such heartbeat or crew, QueueFull, QuotaExceeded, Closed, CrewGone, and what `fire`
    raises.
    """
    made = heartbeats.run_now_id(name, token)
    while True:
        state = await heartbeats.get(client, keys, name)
        current = await definitions.current(client, keys)
        if uid not in ("", current.uid):
            raise crew_gone(keys)
        if state is None or state.uid != current.uid:
            listed = ", ".join(sorted(one.name for one in await heartbeats.all_of(client, keys))) or "none"
            raise NotFound(f"crew {keys.crew!r} has no heartbeat {name!r}; it has: {listed}")
        at = _At(f"now-{token}", now, now, None, RUN_NOW_GUARD, traceparent)
        fired = await fire(client, _call(keys, state, current, at))
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
            case "held":
                raise refusals.no_room(keys, fired.work)
            case "closed":
                raise refusals.closed(keys, fired.work)
            case "full":
                most = current.definition.tasks.max_queued
                raise refusals.queue_full(keys, most)
            case "changed" | "stale":
                continue  # between our reads and the call: look again


# -------------------------------------------------------------------- within


@dataclass(frozen=True, slots=True)
class _At:
    """The time at which a heartbeat fires."""

    label: str
    slot: datetime
    now: datetime
    following: datetime | None
    """The slot after it; None: it was asked for by a person, beside the schedule."""
    guard: timedelta
    """The time for which it is remembered by itself that the slot has fired."""
    traceparent: str = ""
    """The span of whoever asks; empty: it gets one of its own."""


def _monotonic() -> float:
    return asyncio.get_running_loop().time()


async def _fire(client: redis.asyncio.Redis, call: Call, reply: Any, began: float) -> Fired:
    """`reply`: the answer to the first call, or its error; None: it is still to be sent. `began`: when that was, by
    the loop's clock."""
    state, last, is_stopped = call.state, call.state.work, False
    while True:
        with outages.translated():
            if isinstance(reply, BaseException):
                raise reply
            reply = reply or await scripts.run(client, "heartbeat_fire", *call.sent(last, is_stopped))
        outcome = reply[0]
        if outcome == "conflict":
            raise Conflict(f"{call.made!r} is the id of another task or run of crew {call.keys.crew!r}")
        if outcome == "other":  # somebody else has fired since
            last, is_stopped = reply[1], False
        elif outcome == "busy" and state.spec.concurrency_policy == "Replace":
            why = f"heartbeat {state.name} fires anew"
            with suppress(NotFound, Conflict):  # it has ended meanwhile
                await control.cancel(client, call.keys, state.uid, last, why, call.ttl_ms)
            is_stopped = True
        elif outcome in ("held", "closed"):
            return Fired(outcome, None, reply[1])
        else:
            work = call.made if outcome == "fired" else last
            if outcome == "fired":
                took = _monotonic() - began
                tracing.fired(call.traceparent, call.keys.crew, state.name, work, iso(call.slot), took)
            return Fired(cast(Outcome, outcome), heartbeats.moment(reply[1]) if len(reply) > 1 else None, work)
        reply = None


def _call(keys: CrewKeys, state: HeartbeatState, current: definitions.Current, at: _At) -> Call:
    made, spec, crew = heartbeats.work_id(state.name, at.label), state.spec, current.definition
    asked = partial(beat.asked, slot=at.slot, now=at.now, zone=spec.time_zone)
    prompt, inputs = asked(spec.prompt), {name: asked(text) for name, text in spec.inputs.items()}
    submission.check_own(prompt, made, {}, {})  # its times may have made it too long
    # An agent that the crew no longer has gives a task that fails, which says more than a slot that was missed. Tasks
    # of a role that no agent has any more would wait for one, and fill the queue.
    if spec.role is not None and (missing := list(submission.of_role(crew, None, spec.role))):
        raise InvalidInput([beat.problem(one) for one in missing])
    whose = submission.addressee(crew, spec.agent, spec.role)
    metadata = {**spec.metadata, "heartbeat": state.name, "slot": iso(at.slot)}
    own = "" if at.traceparent else tracing.heartbeat(keys.crew, made, metadata)
    if (trace := own or at.traceparent) and len(metadata) < METADATA_MAX_ENTRIES:
        metadata.setdefault(tracing.FIELD, trace)
    payload = AgentTask(
        task_id=made,
        agent_name="" if spec.role else whose,
        prompt=prompt,
        crew_name=crew.name,
        priority=spec.priority,
        metadata=metadata,
        role=spec.role,
    ).model_dump_json()
    work = submission.work(whose, prompt, inputs)
    destinations = beat.destinations(spec.deliver, spec.delivery, crew)
    deliver = deliveries.wanted(destinations, crew.delivery)
    most = crew.tasks.max_queued
    guard_ms = at.guard // timedelta(milliseconds=1)
    kind = "task" if whose else "run"
    slots = [ms(at.slot), ms(at.following)] if at.following else ["", ""]
    args: list[Any] = [state.uid, keys.crew, most, state.generation, *slots, guard_ms]
    args += [kind, made, current.digest]
    if whose:
        task = submissions.Submission(made, whose, payload, spec.priority, inputs, work=work, deliver=deliver)
        args += submissions.script_args(task)
    else:
        refusals.too_large(keys, current.number, most, "a heartbeat", "spec.agent")
        run = runs.RunSubmission(
            made,
            payload,
            current.digest,
            crew.execution_mode,
            current.steps,
            crew.max_parallel_tasks,
            spec.priority,
            inputs,
            work=work,
            deliver=deliver,
        )
        args += runs.script_args(run, 0, "")
    names = [*keys.fixed, keys.heartbeat(state.name), keys.fired(state.name), keys.fire(state.name, at.label)]
    names += [keys.run(made), keys.run_steps(made), keys.task(made), keys.run_events(made)]
    ttl_ms = crew.tasks.result_ttl_seconds * 1000
    return Call(keys, state, at.slot, at.following or at.slot, made, ttl_ms, names, args, own)
