"""A crew's heartbeats in the store: what they ask, and their next slot. Stubs over store/scripts.

A slot has been dealt with once the stored next slot lies behind it; only firing it, or telling that it was missed,
moves that. So however many schedulers there are, each slot is fired once or told once. Reads no clock: the caller says
which slot, and what time it is. Every call is safe to send twice.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Final, Literal, cast

import redis.asyncio
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from watchbill import __version__
from watchbill.api import Heartbeat, HeartbeatSpec
from watchbill.api.delivery import Destination
from watchbill.connection import batches, outages, scripts
from watchbill.errors import InvalidInput, NewerRecord, Problem, sentence
from watchbill.names import ROLE, CrewKeys
from watchbill.plan.schedule import EPOCH, Schedule, jitter, next_slot
from watchbill.store import crew_json
from watchbill.store.queue import crew_gone
from watchbill.tasks import Priority, PriorityField

TOKEN: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")

_INDEX: Final = "heartbeat:"
"""Fields of the crew's meta hash that begin so are its heartbeats' names."""

Telling = Literal["told", "moved", "stale", "gone"]
"""`moved`: somebody else has dealt with the first of these slots."""


Missed = Literal["Skip", "Once", "All"]
ConcurrencyPolicy = Literal["Allow", "Forbid", "Replace"]


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
    concurrency_policy: ConcurrencyPolicy = "Allow"
    successful_runs_history_limit: int | None = None
    failed_runs_history_limit: int | None = None
    agent: str | None = None
    role: str | None = None
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
    slot: datetime | None
    """The newest slot that was fired."""
    work: str
    """The id of the task or run that it made last; empty: it has made none."""
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
                f"damaged: {sentence(reasons)} Upgrade this one, or apply the heartbeat again"
            ) from error

    @cached_property
    def schedule(self) -> Schedule:
        spec = self.spec
        return Schedule(cron=spec.schedule, zone=spec.time_zone, interval_seconds=spec.interval_seconds)

    @property
    def timing(self) -> str:
        """The schedule in words."""
        spec = self.spec
        return f"{spec.schedule} {spec.time_zone}" if spec.schedule else f"every {spec.interval_seconds} s"

    @cached_property
    def jitter(self) -> timedelta:
        """The time by which it is fired after its slots."""
        return jitter(f"{self.uid}/{self.name}", self.spec.jitter_seconds)


def generation(spec: HeartbeatSpec) -> str:
    """Equal specs have equal generations, whatever the version of the program that made them."""
    return hashlib.sha256(_content(spec).encode()).hexdigest()[:16]


def task_id(name: str, slot: datetime) -> str:
    """The id of the task, or run, that a slot becomes."""
    return work_id(name, label(slot))


def is_of(name: str, made: str) -> bool:
    """Returns whether this id of a task or run is one that the heartbeat gives."""
    return re.fullmatch(rf"{re.escape(work_id(name, ''))}(\d+|now-{TOKEN.pattern})", made) is not None


def run_now_id(name: str, token: str) -> str:
    """The id of the task, or run, that `run_now` makes. Raises InvalidInput when the token can't be part of an id."""
    if not TOKEN.fullmatch(token):
        fix = "Use 1 to 64 letters, digits, dots, dashes and underscores."
        raise InvalidInput(Problem(f"{token!r} can't be a token", fix, path="token"))
    return work_id(name, f"now-{token}")


def work_id(name: str, label: str) -> str:
    """The id of the task, or run, that a heartbeat makes. `label` tells one from another."""
    return f"hb-{name}-{label}"


def label(slot: datetime) -> str:
    return str((slot - EPOCH) // timedelta(seconds=1))


def ms(at: datetime) -> str:
    """A time as scripts take it."""
    return str((at - EPOCH) // timedelta(milliseconds=1))


def moment(milliseconds: str) -> datetime | None:
    """A time as scripts give it."""
    return EPOCH + timedelta(milliseconds=int(milliseconds)) if milliseconds else None


async def apply(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    uid: str,
    heartbeat: Heartbeat,
    *,
    now: datetime,
    fired: datetime | None = None,
) -> HeartbeatState:
    """Stores the heartbeat. One whose spec is new here goes on with the first slot after `now`; else all stays.

    `fired`: the newest slot that was fired, as somebody else remembers it: the store may have lost that, and then goes
    on behind it.
    Raises InvalidInput when it can't ever fire, CrewGone.
    """
    spec = heartbeat.spec
    first = next_slot(Schedule.of(spec), now)
    known = [ms(fired), ms(next_slot(Schedule.of(spec), fired))] if fired else ["", ""]
    content, digest = _content(spec), generation(spec)
    with outages.translated():
        reply = await scripts.run(
            client,
            "heartbeat_apply",
            [*keys.fixed, keys.heartbeat(heartbeat.name), keys.fired(heartbeat.name)],
            [uid, heartbeat.name, digest, content, "" if spec.suspend else ms(first), *known],
        )
    if reply[0] == "gone":
        raise crew_gone(keys)
    fields = {"uid": uid, "generation": digest, "spec": content, "next": reply[1], "last": reply[2], "missed": reply[3]}
    fields |= {"work": reply[4], "slot": reply[5]}
    return _state(heartbeat.name, fields)


async def remove(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, name: str) -> None:
    """The heartbeat fires no more. What it has fired stays. Removing what isn't there is fine, crew included."""
    with outages.translated():
        await scripts.run(
            client, "heartbeat_remove", [*keys.fixed, keys.heartbeat(name), keys.fired(name)], [uid, name]
        )


async def get(client: redis.asyncio.Redis, keys: CrewKeys, name: str) -> HeartbeatState | None:
    with outages.translated():
        fields: Any = await client.hgetall(keys.heartbeat(name))
    return _state(name, fields) if fields else None


async def all_of(client: redis.asyncio.Redis, keys: CrewKeys) -> list[HeartbeatState]:
    """The crew's heartbeats, by name."""
    with outages.translated():
        async with client.pipeline(transaction=False) as pipe:
            pipe.hget(keys.meta, "uid")
            pipe.hkeys(keys.meta)
            uid, fields = await pipe.execute()
        index = [str(field) for field in fields]
        known = sorted(field.removeprefix(_INDEX) for field in index if field.startswith(_INDEX))
        async with client.pipeline(transaction=False) as pipe:
            for name in known:
                pipe.hgetall(keys.heartbeat(name))
            stored = await pipe.execute()
    return [_state(name, fields) for name, fields in zip(known, stored, strict=True) if fields.get("uid") == uid]


async def next_slots(client: redis.asyncio.Redis, beats: Sequence[tuple[CrewKeys, str]]) -> list[datetime | None]:
    """The stored next slot of each of these heartbeats; None where that is not known."""
    found = await batches.send(client, [("HGET", keys.heartbeat(name), "next") for keys, name in beats])
    return [moment(answer) if isinstance(answer, str) else None for answer in found]


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
            [state.uid, state.generation, ms(first), ms(following), count, message],
        )
    return cast(Telling, reply[0]), moment(reply[1]) if len(reply) > 1 else None


def iso(moment: datetime) -> str:
    """A slot as people and tasks are told of it."""
    return moment.isoformat().replace("+00:00", "Z")


# -------------------------------------------------------------------- within


def _content(spec: HeartbeatSpec) -> str:
    # Without defaults: so a field that comes with a new version changes no generation.
    fields = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    if spec.role is not None:  # what has no roles would else have the whole crew run
        fields["agent"] = ROLE + spec.role
    return json.dumps(fields, sort_keys=True, ensure_ascii=False)


def _state(name: str, fields: Mapping[str, str]) -> HeartbeatState:
    return HeartbeatState(
        name=name,
        uid=fields["uid"],
        generation=fields["generation"],
        content=fields["spec"],
        next=moment(fields["next"]),
        last=moment(fields.get("last", "")),
        slot=moment(fields.get("slot", "")),
        work=fields.get("work", ""),
        missed=int(fields.get("missed", "0")),
    )
