"""One look at one crew: observe, plan, carry out. And what of a crew is kept in Redis, and removed from it."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import redis.asyncio
from pydantic import ValidationError

from watchbill import api, names
from watchbill.api import Crew, Heartbeat
from watchbill.api.conditions import Reason
from watchbill.cluster import Cluster, Forbidden, Refused
from watchbill.connection import unavailable
from watchbill.errors import Conflict, InvalidInput, RetryLater, StoreUnavailable, WatchbillError
from watchbill.plan import crew as plan
from watchbill.plan import replicas
from watchbill.records import from_crew
from watchbill.store import definitions
from watchbill.store.crews import CrewRedis
from watchbill.store.queue import Queue

logger = logging.getLogger("watchbill.operator")

Key = tuple[str, str]
"""(namespace, name) of a crew."""

FIGURES_SECONDS: Final = 10.0
"""How often changing queue figures are written to a status, other than when they begin or cease to be zero."""
STORE_AGAIN_SECONDS: Final = 5.0
ACTIVE_AGAIN_SECONDS: Final = 2.0
SECRET_SECONDS: Final = 60.0
"""How long a Secret that was there is taken to be there."""


class Heartbeats(Protocol):
    """Fires heartbeats (scheduler.Scheduler, which this layer may not import)."""

    async def add(self, keys: names.CrewKeys, uid: str, heartbeat: Heartbeat) -> None: ...
    async def remove(self, keys: names.CrewKeys, uid: str, name: str) -> None: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...


@dataclass
class Cache:
    """What the API server last said, kept small."""

    crews: dict[Key, Mapping[str, Any]] = field(default_factory=dict)
    heartbeats: dict[Key, Mapping[str, Any]] = field(default_factory=dict)
    """By their own names."""
    beats: dict[Key, set[str]] = field(default_factory=dict)
    """Crew → names of its heartbeats."""
    children: dict[Key, dict[str, plan.Child]] = field(default_factory=dict)
    """Crew → its worker Deployments by name."""

    def children_of(self, key: Key) -> list[plan.Child]:
        return list(self.children.get(key, {}).values())

    def heartbeats_of(self, key: Key) -> list[Mapping[str, Any]]:
        return [self.heartbeats[key[0], name] for name in sorted(self.beats.get(key, ()))]

    def put_heartbeat(self, obj: Mapping[str, Any]) -> set[Key]:
        """Returns the crews that this concerns: the heartbeat's, and its former one."""
        concerned = self.drop_heartbeat(obj)
        namespace, name = obj["metadata"]["namespace"], obj["metadata"]["name"]
        crew = (namespace, str(obj["spec"]["crewRef"]["name"]))
        self.heartbeats[namespace, name] = obj
        self.beats.setdefault(crew, set()).add(name)
        return concerned | {crew}

    def drop_heartbeat(self, obj: Mapping[str, Any]) -> set[Key]:
        namespace, name = obj["metadata"]["namespace"], obj["metadata"]["name"]
        former = self.heartbeats.pop((namespace, name), None)
        if former is None:
            return set()
        crew = (namespace, str(former["spec"]["crewRef"]["name"]))
        self.beats[crew].discard(name)
        return {crew}


@dataclass
class _Memory:
    """What is remembered of a crew between looks; all of it may be lost."""

    applied: str = ""
    """What was last stored: (uid, generation) and heartbeats."""
    idle_since: float | None = None
    fault_of: tuple[int, tuple[Reason, str]] | None = None
    """A refused template: not tried again for the same generation."""
    has_service_account: bool = False
    secret_seen: tuple[str, float] = ("", -math.inf)
    """The Secret with the store's URL, and when it was last there."""
    denied: str | None = None
    """What the API server forbade last: tried again, because a right or a quota may come."""
    figures_written: float = 0.0
    heartbeats: frozenset[str] = frozenset()


class Reconciler:
    """Brings one crew to where it should be."""

    def __init__(
        self,
        cluster: Cluster,
        client: redis.asyncio.Redis,
        scheduler: Heartbeats,
        cache: Cache,
        *,
        worker_image: str,
        owner: str,
    ) -> None:
        self._cluster = cluster
        self._client = client
        self._scheduler = scheduler
        self._cache = cache
        self._worker_image = worker_image
        self._owner = owner
        self._memories: dict[Key, _Memory] = {}

    def doubt(self) -> None:
        """What was stored or seen long ago may be gone: the next look makes sure."""
        for memory in self._memories.values():
            memory.applied = ""
            memory.has_service_account = False

    async def look(self, key: Key) -> float | None:
        """Returns in how many seconds to look again. Raises RetryLater and the like: look again soon."""
        seen = self._cache.crews.get(key)
        if seen is None and (seen := await self._cluster.get("crews", *key)) is not None:
            # born while a listing was under way, which is older than that: nothing of it may be swept up
            self._cache.crews[key] = seen
        if seen is None or seen["metadata"].get("deletionTimestamp"):
            for heartbeat in self._cache.heartbeats_of(key):
                fix = f"there is no Crew {key[1]!r} in namespace {key[0]!r}. Create it, or mend crewRef"
                await self._say_of_heartbeat(heartbeat, "False", Reason.CREW_NOT_FOUND, fix)
            await self.remove(key, str(seen["metadata"]["uid"]) if seen else None)
            return None
        memory = self._memories.setdefault(key, _Memory())
        crew, fault = _read(seen)
        if crew is None:
            await self._say_invalid(key, seen, fault)
            return None
        load, store_error, parked = None, None, 0
        try:
            if fault is None:
                figures = await self._store(key, crew, seen, memory)
                load, parked = replicas.Load(figures.waiting, figures.running), figures.parked_agent
        except (StoreUnavailable, redis.exceptions.RedisError, OSError) as error:
            if not isinstance(error, StoreUnavailable) and unavailable(error) is None:
                logger.warning("%s/%s: the store refuses: %s", *key, error)
            store_error = str(error)
            memory.applied = ""
        except InvalidInput as error:
            fault = (Reason.INVALID_SPEC, str(error))
        generation = int(seen["metadata"]["generation"])
        if fault is None and memory.fault_of is not None and memory.fault_of[0] == generation:
            fault = memory.fault_of[1]
        if fault is None and memory.denied is not None:
            fault = (Reason.FORBIDDEN, memory.denied)
        observed = plan.Observed(
            crew=crew,
            namespace=key[0],
            uid=seen["metadata"]["uid"],
            generation=generation,
            status=seen.get("status") or {},
            children=self._cache.children_of(key),
            has_service_account=memory.has_service_account or await self._has_service_account(key, memory),
            has_redis_secret=await self._has_secret(key, crew, memory),
            load=load,
            store_error=store_error,
            idle_for=_idle_for(memory, load),
            unavailable=parked,
            fault=fault,
        )
        planned = plan.plan(observed, now=datetime.now(UTC), default_image=self._worker_image)  # noqa: TID251 - shell
        await self._carry_out(key, seen, observed, planned, memory)
        if store_error is not None or not observed.has_redis_secret or memory.denied is not None:
            return STORE_AGAIN_SECONDS
        busy = load is not None and (not load.none or any(c.replicas for c in observed.children))
        pauses = [planned.again_seconds] if planned.again_seconds is not None else []
        pauses += [ACTIVE_AGAIN_SECONDS] if busy else []
        return min(pauses, default=None)

    async def remove(self, key: Key, uid: str | None) -> None:
        """Nothing of the crew stays in the store, unless it is another's. Its children go with their owner."""
        self._memories.pop(key, None)
        keys = names.CrewKeys(*key)
        stored, owner = await definitions.identity(self._client, keys)
        if stored and (owner != self._owner or (uid is not None and stored != uid)):
            return
        for heartbeat in list(self._cache.beats.get(key, ())):
            await self._scheduler.remove(keys, stored, heartbeat)
        if stored and await definitions.delete(self._client, keys, stored):
            await CrewRedis(client=self._client, tenant=key[0]).delete_crew(key[1])
            logger.info("%s/%s: removed", *key)

    # ------------------------------------------------------------ the store

    async def _store(self, key: Key, crew: Crew, seen: Mapping[str, Any], memory: _Memory) -> _Figures:
        keys = names.CrewKeys(*key)
        uid = str(seen["metadata"]["uid"])
        beats = {h["metadata"]["name"]: h for h in self._cache.heartbeats_of(key)}
        wanted = json.dumps(
            [uid, seen["metadata"]["generation"], [[n, h["metadata"]["generation"]] for n, h in sorted(beats.items())]]
        )
        if memory.applied != wanted:
            await self._store_definition(keys, crew, uid)
            await self._store_heartbeats(keys, uid, beats, memory)
            memory.applied = wanted
        elif (await definitions.identity(self._client, keys))[0] != uid:  # flushed, or deleted by hand
            memory.applied = ""
            return await self._store(key, crew, seen, memory)
        figures = await Queue(self._client, keys, uid).figures()
        return _Figures(figures.waiting, figures.running, int(await self._client.zcard(keys.parked_agent)))

    async def _store_definition(self, keys: names.CrewKeys, crew: Crew, uid: str) -> None:
        stored, owner = await definitions.identity(self._client, keys)
        if stored and stored != uid:
            if owner != self._owner:
                raise Conflict(f"crew {keys.crew!r} in the store belongs to {owner or 'nobody that we know'!r}")
            await definitions.delete(self._client, keys, stored)  # the former crew of that name
        await definitions.apply(self._client, keys, from_crew(crew), uid=uid, owner=self._owner)
        namespace = keys.crew.partition("/")[0]
        await CrewRedis(client=self._client, tenant=namespace, strict=True).save_crew(from_crew(crew, crew_id=uid))

    async def _store_heartbeats(
        self, keys: names.CrewKeys, uid: str, beats: Mapping[str, Mapping[str, Any]], memory: _Memory
    ) -> None:
        for seen in beats.values():
            try:
                heartbeat = Heartbeat.model_validate(_without_status(seen))
                problems = api.check(heartbeat)
                if problems:
                    raise InvalidInput(problems)
                await self._scheduler.add(keys, uid, heartbeat)
                said = ("True", Reason.AVAILABLE, "it fires")
            except (ValidationError, InvalidInput) as error:
                said = ("False", Reason.INVALID_SCHEDULE, str(error))
            await self._say_of_heartbeat(seen, *said)
        for name in memory.heartbeats - set(beats):
            await self._scheduler.remove(keys, uid, name)
        memory.heartbeats = frozenset(beats)

    # ------------------------------------------------------------ the cluster

    async def _has_service_account(self, key: Key, memory: _Memory) -> bool:
        found = await self._cluster.get("serviceaccounts", key[0], names.worker_service_account(key[1]))
        memory.has_service_account = found is not None
        return memory.has_service_account

    async def _has_secret(self, key: Key, crew: Crew, memory: _Memory) -> bool:
        name, (known, at) = crew.spec.workers.redis_secret_ref.name, memory.secret_seen
        if name == known and time.monotonic() - at < SECRET_SECONDS:
            return True
        found = await self._cluster.secret_exists(key[0], name)
        memory.secret_seen = (name, time.monotonic() if found else -math.inf)
        return found

    async def _carry_out(
        self, key: Key, seen: Mapping[str, Any], observed: plan.Observed, planned: plan.Plan, memory: _Memory
    ) -> None:
        before, memory.denied = memory.denied, None
        for kind, manifest in planned.applies:
            try:
                applied = await self._cluster.apply(kind, manifest)  # type: ignore[arg-type]
            except Forbidden as error:
                memory.denied = str(error)
                if memory.denied != before:
                    raise Denied(f"{key[0]}/{key[1]}: {error}") from error
                break
            except Refused as error:
                if memory.fault_of != (observed.generation, (Reason.TEMPLATE_INVALID, str(error))):
                    memory.fault_of = (observed.generation, (Reason.TEMPLATE_INVALID, str(error)))
                    raise TemplateRefused(f"{key[0]}/{key[1]}: {error}") from error
                return
            except Conflict as error:
                raise Stale(str(error)) from error
            if kind == "deployments":
                child = plan.project(applied)
                self._cache.children.setdefault(key, {})[child.name] = child
        for child in planned.deletes:
            await self._cluster.delete("deployments", key[0], child.name, uid=child.uid)
        if planned.scaled is not None:
            logger.info("%s/%s: %d workers (%s)", *key, planned.scaled.replicas, planned.scaled.why)
        if planned.status is not None and self._worth_writing(observed.status, planned.status, memory):
            await self._write_status("crews", "Crew", seen, planned.status)

    def _worth_writing(self, before: Mapping[str, Any], after: Mapping[str, Any], memory: _Memory) -> bool:
        """Figures that merely change wait for their turn; everything else is written at once."""
        figures = ("waiting", "running")
        if any(bool(before.get(f)) != bool(after.get(f)) for f in figures) or {
            k: v for k, v in before.items() if k not in figures
        } != {k: v for k, v in after.items() if k not in figures}:
            memory.figures_written = time.monotonic()
            return True
        if time.monotonic() - memory.figures_written < FIGURES_SECONDS:
            return False
        memory.figures_written = time.monotonic()
        return True

    async def _write_status(self, kind: Any, name: str, seen: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        metadata = seen["metadata"]
        written = await self._cluster.apply_status(
            kind,
            {
                "apiVersion": f"{names.API_GROUP}/{names.API_VERSION}",
                "kind": name,
                "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"]},
                "status": dict(status),
            },
        )
        known = self._cache.crews if name == "Crew" else self._cache.heartbeats
        key = (metadata["namespace"], metadata["name"])
        if key in known and known[key]["metadata"]["uid"] == metadata["uid"]:
            known[key] = {**known[key], "status": written.get("status", {})}

    async def _say_invalid(self, key: Key, seen: Mapping[str, Any], fault: tuple[Reason, str] | None) -> None:
        reason, message = fault or (Reason.INVALID_SPEC, "the spec can't be read")
        await self._say(seen, "crews", "Crew", "False", reason, message)

    async def _say_of_heartbeat(self, seen: Mapping[str, Any], ready: str, reason: Reason, message: str) -> None:
        await self._say(seen, "heartbeats", "Heartbeat", ready, reason, message)

    async def _say(
        self, seen: Mapping[str, Any], plural: str, kind: str, ready: str, reason: Reason, message: str
    ) -> None:
        generation = seen["metadata"]["generation"]
        before = {c["type"]: c for c in (seen.get("status") or {}).get("conditions", [])}
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")  # noqa: TID251 - shell
        conditions = []
        for name, value in (("Ready", ready), *([("Stalled", "True")] if ready == "False" else [])):
            last = before.get(name)
            since = last["lastTransitionTime"] if last and last["status"] == value else now
            conditions.append(
                {
                    "type": name,
                    "status": value,
                    "reason": reason.value,
                    "message": message[:32768],
                    "lastTransitionTime": since,
                    "observedGeneration": generation,
                }
            )
        status = {"observedGeneration": generation, "conditions": conditions}
        if (seen.get("status") or {}) != status:
            await self._write_status(plural, kind, seen, status)


@dataclass(frozen=True, slots=True)
class _Figures:
    waiting: int
    running: int
    parked_agent: int


class Stale(RetryLater):
    """The object has changed since it was seen: look again."""


class Denied(RetryLater):
    """The API server forbids a write: look again, to say so."""


class TemplateRefused(RetryLater):
    """The API server refused a template: look again, to say so."""


def _read(seen: Mapping[str, Any]) -> tuple[Crew | None, tuple[Reason, str] | None]:
    """The crew, and what is wrong with it. None for one that can't even be read."""
    try:
        crew = Crew.model_validate(_without_status(seen))
    except ValidationError as error:
        return None, (Reason.INVALID_SPEC, str(error))
    try:
        if problems := api.check(crew):
            return crew, (Reason.FLOW_CYCLE, "\n".join(map(str, problems)))
    except WatchbillError as error:
        return crew, (Reason.INVALID_SPEC, str(error))
    return crew, None


def _without_status(seen: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in seen.items() if k in ("apiVersion", "kind", "metadata", "spec")}


def _idle_for(memory: _Memory, load: replicas.Load | None) -> float | None:
    """Seconds without work, as far as this process has seen; None where that is unknown."""
    if load is None or not load.none:
        memory.idle_since = None
        return None
    if memory.idle_since is None:
        memory.idle_since = time.monotonic()
    return time.monotonic() - memory.idle_since
