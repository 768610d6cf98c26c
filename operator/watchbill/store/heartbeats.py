"""A crew's heartbeats in the store: what they ask, their next slot, and firing it once. Stubs over store/scripts.

A slot has been dealt with once the stored next slot lies behind it; only firing it, or telling that it was missed,
moves that. So however many schedulers there are, each slot is fired once or told once. Reads no clock: the caller says
which slot, and what time it is. Every call is safe to send twice.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import Any, Final, Literal, cast

import redis.asyncio
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from watchbill import __version__
from watchbill.api import Heartbeat, HeartbeatSpec
from watchbill.api.delivery import Destination
from watchbill.connection import outages, scripts
from watchbill.errors import Conflict, InvalidInput, NewerRecord, NotFound, Problem
from watchbill.names import CrewKeys
from watchbill.plan import flow, submission
from watchbill.plan import heartbeat as beat
from watchbill.plan.schedule import EPOCH, Schedule, jitter, next_slot
from watchbill.store import crew_json, definitions, deliveries, runs, submissions
from watchbill.store.queue import BATCH, crew_gone, queue_full
from watchbill.tasks import AgentTask, Priority, PriorityField

GUARD: Final = timedelta(hours=1)
"""The time for which a slot is remembered by itself. The stored next slot does the rest; this covers clocks that
disagree while a heartbeat is changed or removed."""
RUN_NOW_GUARD: Final = timedelta(days=1)
"""The time for which the token of a run-now is remembered."""
TOKEN: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")

_INDEX: Final = "heartbeat:"
"""Fields of the crew's meta hash that begin so are its heartbeats' names."""

Outcome = Literal["fired", "already", "full", "changed", "stale", "gone"]
"""`fired`: it is on the queue, by this call. `already`: it was fired, or told as missed, before. `full`: the queue took
nothing, try again. `changed`: the crew has another definition by now. `stale`: the heartbeat was removed, suspended or
given another spec. `gone`: the crew was deleted or replaced."""
Telling = Literal["told", "moved", "stale", "gone"]
"""`moved`: somebody else has dealt with the first of these slots."""


Missed = Literal["Skip", "Once", "All"]


class StoredSpec(BaseModel):
    """The spec of a heartbeat, as it is stored. Ignores fields it doesn't know, so that an older program reads it
    too."""

    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_camel)

    schedule: str | None = None
    interval_seconds: int | None = None
    time_zone: str = "UTC"
    jitter_seconds: int = 0
    starting_deadline_seconds: int | None = None
    missed: Missed = "Skip"
    agent: str | None = None
    prompt: str = ""
    inputs: dict[str, str] = Field(default_factory=dict)
    priority: PriorityField = Priority.LOW
    suspend: bool = False
    metadata: dict[str, Any] = Field(default_factory=dict)
    deliver: list[str] | None = None
    delivery: list[Destination] = Field(default_factory=list)


@dataclass(frozen=True)
class HeartbeatState:
    """A heartbeat as the store has it."""

    name: str
    uid: str
    """The crew's."""
    generation: str
    """A digest of the spec."""
    content: str
    next: datetime | None
    """The first slot that nobody has dealt with; None while suspended."""
    last: datetime | None
    """The last slot that was fired; when it was asked for, where a person did."""
    missed: int
    """Slots missed since the heartbeat came into being; beyond 100 in a row they are not counted."""

    @cached_property
    def spec(self) -> StoredSpec:
        """Raises NewerRecord."""
        try:
            return StoredSpec.model_validate_json(self.content)
        except ValidationError as error:
            reasons = "; ".join(f"{problem.path}: {problem.reason}" for problem in crew_json.problems(error, ""))
            raise NewerRecord(
                f"heartbeat {self.name!r} was written by a newer version of Watchbill than this ({__version__}), or is "
                f"damaged: {reasons}. Upgrade this one, or apply the heartbeat again"
            ) from error

    @property
    def schedule(self) -> Schedule:
        spec = self.spec
        return Schedule(cron=spec.schedule, zone=spec.time_zone, interval_seconds=spec.interval_seconds)

    @cached_property
    def jitter(self) -> timedelta:
        """The time by which it is fired after its slots."""
        return jitter(f"{self.uid}/{self.name}", self.spec.jitter_seconds)


def generation(spec: HeartbeatSpec) -> str:
    """Equal specs have equal generations, whatever the version of the program that made them."""
    return hashlib.sha256(_content(spec).encode()).hexdigest()[:16]


def task_id(name: str, slot: datetime) -> str:
    """The id of the task, or run, that a slot becomes."""
    return _id(name, _label(slot))


def is_of(name: str, work_id: str) -> bool:
    """Returns whether this id of a task or run is one that the heartbeat gives."""
    return re.fullmatch(rf"{re.escape(_id(name, ''))}(\d+|now-{TOKEN.pattern})", work_id) is not None


def run_now_id(name: str, token: str) -> str:
    """The id of the task, or run, that `run_now` makes. Raises InvalidInput when the token can't be part of an id."""
    if not TOKEN.fullmatch(token):
        fix = "Use 1 to 64 letters, digits, dots, dashes and underscores."
        raise InvalidInput(Problem(f"{token!r} can't be a token", fix, path="token"))
    return _id(name, f"now-{token}")


async def apply(
    client: redis.asyncio.Redis, keys: CrewKeys, uid: str, heartbeat: Heartbeat, *, now: datetime
) -> HeartbeatState:
    """Stores the heartbeat. One whose spec is new here goes on with the first slot after `now`; else all stays.

    Raises InvalidInput when it can't ever fire, CrewGone.
    """
    spec = heartbeat.spec
    first = next_slot(Schedule.of(spec), now)
    content, digest = _content(spec), generation(spec)
    with outages.translated():
        reply = await scripts.run(
            client,
            "heartbeat_apply",
            [*keys.fixed, keys.heartbeat(heartbeat.name)],
            [uid, heartbeat.name, digest, content, "" if spec.suspend else _ms(first)],
        )
    if reply[0] == "gone":
        raise crew_gone(keys)
    fields = {"uid": uid, "generation": digest, "spec": content, "next": reply[1], "last": reply[2], "missed": reply[3]}
    return _state(heartbeat.name, fields)


async def remove(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, name: str) -> None:
    """The heartbeat fires no more. What it has fired stays. Removing what isn't there is fine, crew included."""
    with outages.translated():
        await scripts.run(client, "heartbeat_remove", [*keys.fixed, keys.heartbeat(name)], [uid, name])


async def get(client: redis.asyncio.Redis, keys: CrewKeys, name: str) -> HeartbeatState | None:
    with outages.translated():
        fields: Any = await client.hgetall(keys.heartbeat(name))
    return _state(name, fields) if fields else None


async def all_of(client: redis.asyncio.Redis, keys: CrewKeys) -> list[HeartbeatState]:
    """The crew's heartbeats, by name."""
    with outages.translated():
        uid = await client.hget(keys.meta, "uid")
        index = [str(field) for field in await client.hkeys(keys.meta)]
        known = sorted(field.removeprefix(_INDEX) for field in index if field.startswith(_INDEX))
        async with client.pipeline(transaction=False) as pipe:
            for name in known:
                pipe.hgetall(keys.heartbeat(name))
            stored = await pipe.execute()
    return [_state(name, fields) for name, fields in zip(known, stored, strict=True) if fields.get("uid") == uid]


async def fire(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    state: HeartbeatState,
    current: definitions.Current,
    *,
    slot: datetime,
    following: datetime,
    now: datetime,
) -> tuple[Outcome, datetime | None]:
    """Puts the work of this slot on the queue, unless that was done; `following` is the slot after it.

    Returns the stored next slot with it, where it is fired or was. Raises InvalidInput when the crew has more agents
    than one script may start, Conflict when the task's id is taken, NewerRecord; of these, nothing was written.
    """
    at = _At(_label(slot), slot, now, _ms(slot), _ms(following), GUARD)
    return await _fire(client, keys, state, current, at)


async def run_now(
    client: redis.asyncio.Redis, keys: CrewKeys, name: str, token: str, *, now: datetime
) -> tuple[str, bool]:
    """Fires beside the schedule, once for each token, suspended or not. Returns the id of the task or run, and whether
    this call made it.

    Raises NotFound when there is no such heartbeat or crew, QueueFull, CrewGone, and what `fire` raises.
    """
    made = run_now_id(name, token)
    while True:
        state = await get(client, keys, name)
        current = await definitions.current(client, keys)
        if state is None or state.uid != current.uid:
            listed = ", ".join(sorted(one.name for one in await all_of(client, keys))) or "none"
            raise NotFound(f"crew {keys.crew!r} has no heartbeat {name!r}; it has: {listed}")
        outcome, _ = await _fire(client, keys, state, current, _At(f"now-{token}", now, now, "", "", RUN_NOW_GUARD))
        match outcome:
            case "fired" | "already":
                return made, outcome == "fired"
            case "gone":
                raise crew_gone(keys)
            case "full":
                most = current.definition.tasks.max_queued
                raise queue_full(keys, most)
            case "changed" | "stale":
                continue  # between our reads and the call: look again


async def miss(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    state: HeartbeatState,
    *,
    first: datetime,
    following: datetime,
    count: int,
    message: str,
) -> tuple[Telling, datetime | None]:
    """Says on the crew's feed that the slots from `first` to before `following` were missed.

    Returns the stored next slot with it, where the heartbeat is still the same.
    """
    with outages.translated():
        reply = await scripts.run(
            client,
            "heartbeat_miss",
            [*keys.fixed, keys.heartbeat(state.name)],
            [state.uid, state.generation, _ms(first), _ms(following), count, message],
        )
    return cast(Telling, reply[0]), _time(reply[1]) if len(reply) > 1 else None


def iso(moment: datetime) -> str:
    """A slot as people and tasks are told of it."""
    return moment.isoformat().replace("+00:00", "Z")


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
) -> tuple[Outcome, datetime | None]:
    made, spec, crew = _id(state.name, at.label), state.spec, current.definition
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
    names = [*keys.fixed, keys.heartbeat(state.name), keys.fire(state.name, at.label), keys.run(made)]
    names += [keys.run_steps(made), keys.task(made), keys.run_events(made)]
    with outages.translated():
        reply = await scripts.run(client, "heartbeat_fire", names, args)
    if reply[0] == "conflict":
        raise Conflict(f"{made!r} is the id of another task or run of crew {keys.crew!r}")
    return cast(Outcome, reply[0]), _time(reply[1]) if len(reply) > 1 else None


def _content(spec: HeartbeatSpec) -> str:
    # Without defaults: so a field that comes with a new version changes no generation.
    fields = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return json.dumps(fields, sort_keys=True, ensure_ascii=False)


def _state(name: str, fields: Mapping[str, str]) -> HeartbeatState:
    return HeartbeatState(
        name=name,
        uid=fields["uid"],
        generation=fields["generation"],
        content=fields["spec"],
        next=_time(fields["next"]),
        last=_time(fields.get("last", "")),
        missed=int(fields.get("missed", "0")),
    )


def _id(name: str, label: str) -> str:
    return f"hb-{name}-{label}"


def _label(slot: datetime) -> str:
    return str((slot - EPOCH) // timedelta(seconds=1))


def _ms(moment: datetime) -> str:
    return str((moment - EPOCH) // timedelta(milliseconds=1))


def _time(ms: str) -> datetime | None:
    return EPOCH + timedelta(milliseconds=int(ms)) if ms else None
