"""A crew's place in the queue: its uid, its limits, and its definitions, kept by content.

The record that people read is `store/crews.py`'s; this is what the scripts check.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal

import redis.asyncio
from pydantic import ValidationError

from watchbill import __version__
from watchbill.connection import outages, scripts
from watchbill.errors import NameTaken, NewerRecord, NotFound, Problem, StaleObject, sentence
from watchbill.message_names import stream_dead
from watchbill.names import RECEIVER, ROLE, SYNTHESIS, UNTIL, CrewKeys, crew_index
from watchbill.plan import flow, given, limits
from watchbill.records import CrewDefinition
from watchbill.store import budgets, circuits, crew_json, packed

_BATCH: Final = 500
_LOSS: Final = (
    "the store lost all it had of this crew: what waited is gone, and must be submitted again; what still runs goes "
    "on, and its result is kept"
)
_NAMED: Final = 10
"""Crews that an error names."""
_IDENTITY: Final = ("uid", "owner", "leaving", "def", "loaded", "generation", "suspended", "closed", "closing")
"""The fields of an Identity in `meta`, in order."""
_RECORDS: Final = 100
"""Tasks and runs that are removed at once, of five keys each."""


@dataclass(frozen=True)
class Current:
    """The crew as it is now."""

    crew: str
    """As `namespace/name`."""
    uid: str
    digest: str
    content: str
    """The definition as JSON; empty: the store has lost it."""
    born: str
    """Since when the store knows it: another time, if it has lost it meanwhile."""

    @cached_property
    def definition(self) -> CrewDefinition:
        """Raises NewerRecord; whoever needs only the uid is not hindered by that."""
        if not self.content:
            raise NewerRecord(f"the store has lost the definition of crew {self.crew!r}: watchbill apply -f FILE")
        return _read(self.crew, self.content)

    @cached_property
    def number(self) -> int:
        """The number of steps with which a run of it begins. Raises InvalidInput for a crew that can't be run."""
        return len(self._planned)

    @cached_property
    def steps(self) -> tuple[flow.Step, ...]:
        """The steps with which a run of it begins, worked out once: a crew may have ten thousand agents. Raises
        InvalidInput for one that can't be run."""
        return given.steps(self.definition, self._planned)

    @cached_property
    def _planned(self) -> tuple[flow.Step, ...]:
        return flow.steps(self.definition)


@dataclass(frozen=True, slots=True)
class Identity:
    """The owner of the crew in the store; all empty where there is none."""

    uid: str = ""
    owner: str = ""
    leaving: str = ""
    """The uid of a crew whose removal has begun and not ended."""
    definition: str = field(default="", compare=False)
    """The digest of the current one."""
    loaded: str = field(default="", compare=False)
    """Under which definition a worker has last loaded all agents."""
    generation: str = field(default="", compare=False)
    """The generation of the current definition, where its owner counts."""
    suspended: str = field(default="", compare=False)
    """Since when no task of the crew begins, in ms; empty: they do."""
    closed: str = field(default="", compare=False)
    """The reason why the crew takes no work; a time in ms: its Crew is gone; empty: it takes work. The sweep leaves out
    this and the next."""
    closing: str = field(default="", compare=False)
    """The reason for which somebody has closed the crew."""

    @property
    def hold(self) -> str:
        """The reason why the namespace has no room for the crew; empty: it has."""
        return "" if self.closed.isdecimal() or self.closed == self.closing else self.closed


async def apply(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    definition: CrewDefinition,
    *,
    uid: str | None = None,
    owner: str = "",
    was_there: bool = False,
    only_new: bool = False,
    generation: int | None = None,
    over: int | None = None,
    suspended: bool | None = None,
    hold: str = "",
    deletion: str = "",
) -> str:
    """Makes `definition` the crew's current one; creates streams and groups. Returns the crew's uid.

    Runs that have started keep the definition they started with. What is delayed for a destination that is defined
    anew is due at once, and what waits for budgets or limits that changed. `uid` must be the crew's own where given;
    `owner` says who manages it, so that no other takes it up or sweeps it. An interrupted removal of a former crew is
    ended first. `was_there`: the crew of this uid has been in the store before; if it isn't now, the store lost it,
    and the feed says so. `only_new`: a crew that has a definition keeps it. `suspended`: whether no task is to begin;
    None: as it was. `hold`: why a suspended crew takes no work either. `deletion`: what becomes of its work when its
    owner deletes it. `generation`: of the definition, for an owner that counts; a later one stays, unless it is
    `over`. Raises NameTaken for a crew of another uid or owner, StaleObject when a later generation is stored.
    """
    digest = definition.digest(content := definition.content())
    to = {RECEIVER + destination.name: destination for destination in definition.delivery}
    with outages.translated():
        while True:
            known, old = (str(value or "") for value in await client.hmget(keys.meta, ["uid", "def"]))
            if only_new and known and old:
                return known
            before = await client.get(keys.definition(old)) if old not in ("", digest) else None
            reply = await scripts.run(
                client,
                "apply",
                [*keys.fixed, keys.definition(digest), keys.definition(old or digest)],
                [
                    uid or str(uuid.uuid4()),
                    uid or "",
                    digest,
                    old,
                    content,
                    definition.tasks.max_queued,
                    owner,
                    _LOSS if was_there else "",
                    *(number or "" for number in (generation, over)),
                    keys.crew,
                    "" if suspended is None else int(suspended),
                    deletion,
                    hold,
                    *(limits.pack(definition.agents), packed.pack_ids(watch.name for watch in definition.watches)),
                    *(text for agent, one in to.items() for text in (agent, circuits.key(one))),
                ],
            )
            match reply[0]:
                case "ok":
                    for agent in reply[2]:
                        await circuits.release(client, keys, str(reply[1]), to[str(agent)])
                    await _release_postponed(client, keys, str(reply[1]), before, definition)
                    return str(reply[1])
                case "other":
                    raise NameTaken(
                        f"crew {keys.crew!r} in the store is another crew of that name (uid {reply[1]}), "
                        + (f"which {reply[2]!r} manages" if reply[2] else "which no operator manages")
                    )
                case "older":
                    raise StaleObject(f"crew {keys.crew!r}: generation {reply[1]} is stored, and {generation} is older")
                case "leaving":
                    await delete(client, keys, str(reply[1]))


async def _release_postponed(
    client: redis.asyncio.Redis, keys: CrewKeys, uid: str, before: object, definition: CrewDefinition
) -> None:
    """Makes due what waits for a budget or the limit of a model, if the definition `before` (its content, or None) had
    others."""
    if before is None:
        return
    parts = ("budgets", "prices", "model_limits")
    with suppress(ValueError, AttributeError):  # a damaged one: it may have had others
        had, has = json.loads(str(before)), definition.model_dump(include=set(parts))
        if all(had.get(part, []) == has[part] for part in parts):
            return
    await budgets.release(client, keys, uid)


async def current(client: redis.asyncio.Redis, keys: CrewKeys) -> Current:
    """The crew's uid and definition, which may be unreadable. Raises NotFound when the store has no such crew."""
    missed = ""
    with outages.translated():
        while True:
            uid, digest, born = (str(v or "") for v in await client.hmget(keys.meta, ["uid", "def", "born"]))
            if not uid or not digest:
                raise await _no_crew(client, keys)
            content = await client.get(keys.definition(digest))
            if content is not None or digest == missed:
                return Current(keys.crew, uid, digest, str(content or ""), born)
            missed = digest  # it was replaced between the two reads; or it is lost, and is the current one again


async def _no_crew(client: redis.asyncio.Redis, keys: CrewKeys) -> NotFound:
    namespace = keys.crew.partition("/")[0]
    there = ""
    with suppress(redis.exceptions.RedisError):  # it isn't everybody's right to know of others
        known = sorted(map(str, await client.srandmember(crew_index(namespace), _NAMED) or ()))
        more = int(await client.scard(crew_index(namespace))) - len(known)
        listed = (", ".join(known) or "none") + (f" and {more} more" if more > 0 else "")
        there = f" Namespace {namespace!r} has: {listed}."
    return NotFound(f"the store has no crew {keys.crew!r}.{there} To put it there: watchbill apply -f FILE")


async def born(client: redis.asyncio.Redis, keys: CrewKeys) -> str:
    """Since when the store knows the crew; empty where there is none."""
    with outages.translated():
        return str(await client.hget(keys.meta, "born") or "")


async def record_loss(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, born: str) -> bool:
    """For whoever knows the crew as the store had it, since `born`: if the store has lost it meanwhile, and has it
    back, the feed tells of that, once for all who know. False: the crew isn't there."""
    with outages.translated():
        return bool(await scripts.run(client, "record_loss", keys.fixed, [uid, born, _LOSS]) == "ok")


async def record_loaded(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, digest: str) -> None:
    """A worker has loaded all agents of the crew under this definition. Nothing is written where the crew is gone."""
    with outages.translated():
        await scripts.run(client, "loaded", keys.fixed, [uid, keys.crew, digest])


async def load(client: redis.asyncio.Redis, keys: CrewKeys, digest: str) -> CrewDefinition:
    """One definition by its hash. Raises NotFound when it is gone, NewerRecord when it can't be read."""
    with outages.translated():
        content = await client.get(keys.definition(digest))
    if content is None:
        raise NotFound(f"definition {digest!r} of crew {keys.crew!r} is no longer in the store")
    return _read(keys.crew, str(content))


def _read(crew: str, content: str) -> CrewDefinition:
    try:
        return CrewDefinition.model_validate_json(content, extra="ignore")
    except ValidationError as error:
        raise _newer(crew, list(crew_json.problems(error, ""))) from error


def _newer(crew: str, found: Sequence[Problem]) -> NewerRecord:
    reasons = [f"{problem.path}: {problem.reason}" if problem.path else problem.reason for problem in found]
    more = f", and {len(found) - 3} more" if len(found) > 3 else ""
    return NewerRecord(
        f"crew {crew!r} was defined by a newer version of Watchbill than this ({__version__}), or its definition "
        f"is damaged: {sentence('; '.join(reasons[:3]) + more)} Upgrade this one, or define the crew again"
    )


async def identity(client: redis.asyncio.Redis, keys: CrewKeys) -> Identity:
    """Returns the owner of the crew in the store."""
    (found,) = await identities(client, [keys])
    return found


async def identities(client: redis.asyncio.Redis, crews: Sequence[CrewKeys]) -> list[Identity]:
    """The identities of many crews, as `identity` reads them."""
    found: list[Identity] = []
    with outages.translated():
        for start in range(0, len(crews), _BATCH):
            async with client.pipeline(transaction=False) as pipe:
                for keys in crews[start : start + _BATCH]:
                    pipe.hmget(keys.meta, _IDENTITY)
                found += [Identity(*(str(value or "") for value in reply)) for reply in await pipe.execute()]
    return found


async def delete(client: redis.asyncio.Redis, keys: CrewKeys, uid: str) -> bool:
    """Removes the crew of this uid with all that belongs to it. False when the crew there is another.

    May be called again after an interruption, which `Identity.leaving` tells: it goes on where it was.
    """
    with outages.translated():
        if not await _step(client, keys, uid, "begin"):
            return False
        meta = {str(k): str(v) for k, v in (await client.hgetall(keys.meta)).items()}
        beats = [f.removeprefix("heartbeat:") for f in meta if f.startswith("heartbeat:")]
        doomed = [key for name in beats for key in (keys.heartbeat(name), keys.fired(name))]
        doomed += await _feeds(client, keys, meta.get("def", ""))
        for start in range(0, len(doomed), _BATCH):
            await _step(client, keys, uid, "records", doomed[start : start + _BATCH])
        while await delete_records(client, keys, uid):
            pass
        await _delete_deliveries(client, keys, uid)
        await _delete_shared_streams(client, keys, uid)
        await _delete_sessions(client, keys, uid)
        await _step(client, keys, uid, "records", [keys.spending, keys.reserved(0), keys.reserved(1), *keys.batch])
        digests = {meta.get("def", ""), *(f.removeprefix("ref:") for f in meta if f.startswith("ref:"))}
        digests.update(packed.ids(meta.get("unused", "")))
        await _step(client, keys, uid, "records", [keys.definition(digest) for digest in digests if digest])
        return await _step(client, keys, uid, "end")


async def _delete_deliveries(client: redis.asyncio.Redis, keys: CrewKeys, uid: str) -> None:
    """Removes the delivery queue of a crew that leaves."""
    queue = keys.deliveries()
    await _step(client, queue, uid, "begin")
    while await delete_records(client, queue, uid):
        pass
    await _step(client, queue, uid, "records", [queue.ids, keys.circuits, keys.mover])


async def _delete_shared_streams(client: redis.asyncio.Redis, keys: CrewKeys, uid: str) -> None:
    """Removes the streams that the crew's agents have made, and last the list of them. No new ones come: a script that
    makes one refuses to for a crew that leaves."""
    streams = [str(stream) async for stream in client.sscan_iter(keys.shared_streams, count=_BATCH)]
    for start in range(0, len(streams), _BATCH):
        doomed = [key for stream in streams[start : start + _BATCH] for key in (stream, stream_dead(stream))]
        await _step(client, keys, uid, "records", doomed)
    await _step(client, keys, uid, "records", [keys.shared_streams])


async def _delete_sessions(client: redis.asyncio.Redis, keys: CrewKeys, uid: str) -> None:
    """Removes what the crew's agents remember. No new session comes: the script that makes one refuses to for a crew
    that leaves."""
    while names := [str(name) for name in await client.zrange(keys.sessions, 0, _BATCH - 1)]:
        await _step(client, keys, uid, "records", [keys.session(name) for name in names])
        await client.zrem(keys.sessions, *names)


async def delete_records(client: redis.asyncio.Redis, keys: CrewKeys, uid: str) -> bool:
    """Removes some tasks and runs of a crew that leaves. False when none were left."""
    ids = [str(i) for i in await client.zrange(keys.ids, 0, _RECORDS - 1)]
    return bool(ids) and await _step(client, keys, uid, "records", [k for i in ids for k in keys.of_id(i)], ids)


async def _step(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    uid: str,
    step: Literal["begin", "records", "end"],
    doomed: Sequence[str] = (),
    ids: Sequence[str] = (),
) -> bool:
    return bool(await scripts.run(client, "delete", [*keys.fixed, *doomed], [uid, step, *ids]) == "ok")


async def _feeds(client: redis.asyncio.Redis, keys: CrewKeys, digest: str) -> list[str]:
    """The event streams of agents and destinations. A definition that can't be read leaves them to expire, within a
    day; so do those of destinations that only a submission had."""
    content = await client.get(keys.definition(digest)) if digest else None
    try:
        crew = CrewDefinition.model_validate_json(content or "", extra="ignore")
    except ValidationError:
        return []
    queue = keys.deliveries()
    return [
        *(keys.agent_events(name) for name in (*(agent.agent_id for agent in crew.agents), UNTIL, SYNTHESIS)),
        *(keys.agent_events(ROLE + role) for agent in crew.agents for role in agent.roles),
        *(queue.agent_events(RECEIVER + destination.name) for destination in crew.delivery),
    ]
