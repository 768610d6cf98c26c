"""Stores a crew's definition, record and heartbeats, and reads how its queue stands.

All of it can be made anew from the resources. The record is written before the crew's place in the queue and removed
after it, and both name their owner, so that a sweep finds whatever an interruption left. What another operator, or
nobody, owns is never touched. This module knows nothing of Kubernetes beyond the resources that it is given.

A process that no longer leads, or sees old resources, does no harm: nothing is removed before the API server has said,
after it was found in the store, that its uid is gone; and the store keeps a later generation of a definition.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis.asyncio

from watchbill import cluster_names, metrics, names
from watchbill.clock import SYSTEM, Clock
from watchbill.controller import beats_now, farewell, fleet, load, spending, stuck, suspension
from watchbill.controller.beats_stored import Heartbeats, StoredHeartbeats
from watchbill.controller.cache import Key
from watchbill.controller.memory import CrewMemory
from watchbill.errors import InvalidInput, NameTaken, NotFound, StaleObject
from watchbill.plan import budget, replicas
from watchbill.plan import heartbeat as beat
from watchbill.plan.drain import Fleet
from watchbill.plan.scaling import Scaling
from watchbill.records import CrewDefinition
from watchbill.store import control, definitions, scaling
from watchbill.store import suspension as store_suspension
from watchbill.store.crews import CrewRedis
from watchbill.store.definitions import Identity
from watchbill.store.figures import Figures, figures
from watchbill.store.queue import Queue
from watchbill.store.sweep import Whole
from watchbill.store.workers import workers

logger = logging.getLogger("watchbill.operator")

Living = Callable[[Key], Awaitable[tuple[str, int] | None]]
"""Asks the API server for the (uid, generation) of a Crew. None: it is gone, or is being deleted."""

UNKNOWN_LEASE_SECONDS: Final = 60.0
"""The lease that workers are supposed to have whose crew can't be read."""
EXPLAINED_SECONDS: Final = 10.0
"""Seconds between two writes of why a crew has so many workers, where only its figures have changed."""
PARKED_SECONDS: Final = 10.0
"""Seconds between two reads of the agents whose tasks are parked."""


@dataclass(frozen=True, slots=True)
class StoreState:
    """The state of a crew in the store."""

    load: replicas.Load
    unavailable: Sequence[str]
    """Agents whose tasks wait for a worker that can load them."""
    agents_loaded: bool
    """A worker has loaded all agents under the current definition."""
    verdicts: Mapping[str, beat.Verdict]
    """Heartbeat → whether it fires."""
    beats: Mapping[str, beat.Observed]
    """Heartbeat → when it fired last and fires next, and what became of that."""
    dead: int = 0
    """Number of dead letters of its tasks."""
    delayed: int = 0
    is_run_now_left: bool = False
    """A heartbeat could not be fired, as somebody asks for by its annotation, because the queue is full."""
    fleet: Fleet = Fleet()  # noqa: RUF009 - it is frozen
    is_swept: bool = False
    """It was read by the autoscaler, up to a second ago."""
    budgets: budget.Seen = budget.Seen()  # noqa: RUF009 - it is frozen
    help_in: float | None = None
    """Seconds until help may have to be asked for; None: ready work makes progress."""
    parked_in: float | None = None
    """Seconds until `unavailable` is to be read again; None: it is as of now."""


class Stored:
    """The crews of one operator in one store. `owner` tells the operator from all others that may use the store."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        scheduler: Heartbeats,
        owner: str,
        living: Living,
        *,
        check: Callable[[], object] = lambda: None,
        clock: Clock = SYSTEM,
    ) -> None:
        """`check` is called before writes. It raises NotLeader when this process may no longer write."""
        self._client = client
        self._beats = StoredHeartbeats(client, scheduler)
        self._farewell = farewell.Farewell(client, clock)
        self._owner = owner
        self._living = living
        self._check = check
        self._clock = clock

    async def sync(
        self,
        key: Key,
        seen: Mapping[str, Any],
        definition: CrewDefinition | None,
        beats: Sequence[Mapping[str, Any]],
        memory: CrewMemory,
        has_pods: bool = True,
        hold: str = "",
    ) -> StoreState | None:
        """Stores what is not stored yet, and reads how the crew stands. None: it was never stored.

        `seen`, `beats`: the Crew and its Heartbeats as the API server has them. `definition`: None where the Crew
        can't run; then what was stored before stays. `has_pods`: there may be workers to read of. `hold`: why the crew
        is to take no work, and none of it to begin; empty: it is. Raises StoreUnavailable; NameTaken when another owns
        the crew of that name; InvalidInput for what can't be stored; StaleObject when `seen` is old; NotLeader.
        """
        keys, uid, generation = names.CrewKeys(*key), str(seen["metadata"]["uid"]), seen["metadata"]["generation"]
        generations = sorted((b["metadata"]["name"], b["metadata"]["uid"], b["metadata"]["generation"]) for b in beats)
        suspended = _suspends(seen) or bool(hold)
        wanted = json.dumps([uid, definition is not None and generation, suspended, hold, generations])
        reading = memory.take(self._clock.monotonic())
        held = reading.identity if reading else await definitions.identity(self._client, keys)
        is_ours = (held.uid, held.owner) == (uid, self._owner)
        current, queue = held.definition, Queue(self._client, keys, uid)
        if memory.synced != wanted or not is_ours:  # not ours: the store was flushed, or the crew deleted by hand
            memory.synced, reading = "", None
            self._check()
            if definition is not None:
                # The figures of a crew that was stored are in its status from then on.
                was_there = "waiting" in (seen.get("status") or {})
                await self._store(keys, definition, seen, held, was_there=was_there, hold=hold)
                current = definition.digest()
            elif not is_ours:
                return None
            else:
                await store_suspension.suspend(self._client, keys, uid, on=suspended, hold=hold)
            await self._beats.store(keys, uid, definition, beats, memory, beat.at_rest(suspended=suspended, hold=hold))
            if definition is not None and (seen.get("status") or {}).get("observedGeneration") != generation:
                await self._try_parked(queue)
            memory.synced = wanted
        is_left = False
        if asked := beats_now.asked(beats, memory):
            self._check()
            is_left = await beats_now.fire(self._client, keys, asked, memory, now=self._clock.now())
        now = await self._figures(keys, uid, reading)
        if now.suspended and now.running:
            lease_seconds = definition.tasks.lease_seconds if definition else UNKNOWN_LEASE_SECONDS
            if await suspension.return_dead(self._client, keys, uid, memory, lease_seconds, self._clock):
                now = await figures(self._client, keys)
        metrics.QUEUES.show(keys.crew, now)
        if not has_pods:
            memory.drained_at.clear()  # nobody saw the ends of these drains
        return StoreState(
            load=load.of(now),
            **await self._parked(queue, memory, now.parked_by.get("agent", 0)),
            agents_loaded=current == held.loaded,
            verdicts=dict(memory.verdicts),
            beats=await beats_now.observed(self._client, keys, suspended=suspended) if memory.verdicts else {},
            dead=now.dead,
            delayed=now.delayed,
            is_run_now_left=is_left,
            fleet=await self._fleet(keys, uid, reading, memory) if has_pods else Fleet(),
            is_swept=reading is not None,
            budgets=await spending.read(self._client, keys, definition),
            help_in=await stuck.ask(self._client, keys, uid, now, memory, self._clock),
        )

    async def _fleet(self, keys: names.CrewKeys, uid: str, reading: Whole | None, memory: CrewMemory) -> Fleet:
        at_work = reading.workers if reading else await workers(self._client, keys, uid)
        return fleet.of(at_work, memory, self._clock)

    async def _figures(self, keys: names.CrewKeys, uid: str, reading: Whole | None) -> Figures:
        """Returns the figures once what is due is on the queues."""
        now = reading.figures if reading else await figures(self._client, keys)
        to_deliver = now.deliveries
        if now.due_in_ms is not None:  # there may be no worker, which moves what is due, and minds the store's clock
            await Queue(self._client, keys, uid).move_due()
        if to_deliver and to_deliver.due_in_ms is not None:
            await Queue(self._client, keys.deliveries(), uid).move_due()
        if now.due_in_ms is not None or (to_deliver and to_deliver.due_in_ms is not None):
            now = await figures(self._client, keys)
        return now

    async def drain(self, key: Key, uid: str, names_of: Sequence[str], *, on: bool) -> None:
        """Has these workers claim no more, or again. Raises CrewGone when the crew was replaced, NotLeader."""
        self._check()
        await control.drain_for_scaling(self._client, names.CrewKeys(*key), uid, names_of, on=on)

    async def explain(self, key: Key, uid: str, told: Scaling, memory: CrewMemory) -> None:
        """Keeps why the crew has as many workers as it has: when that has changed, and its figures now and then."""
        now = self._clock.monotonic()
        last, at = memory.explained or (None, -math.inf)
        if last != told.key or now - at >= EXPLAINED_SECONDS:
            self._check()
            await scaling.keep(self._client, names.CrewKeys(*key), uid, told)
            memory.explained = (told.key, now)

    async def remove(self, key: Key, uid: str | None, memory: CrewMemory) -> float | None:
        """Removes all that this operator stored of the crew; without a uid, of any crew of that name that is gone.

        `memory`: what was remembered of the crew. Returns in how many seconds to call again: its work has not ended
        yet; None: nothing of it is left. Raises StaleObject when the crew is alive, NotLeader.
        """
        keys = names.CrewKeys(*key)
        metrics.QUEUES.remove(keys.crew)
        metrics.BUDGETS.remove(keys.crew)
        held = await definitions.identity(self._client, keys)
        there = held.uid or held.leaving
        owner, record_uid = await self._record_owner(key)
        doomed = {u for u, o in ((there, held.owner), (record_uid, owner)) if o == self._owner and uid in (None, u)}
        await self._check_gone(key, *doomed)
        self._check()
        for name in memory.verdicts:
            await self._beats.remove(keys, held.uid if held.owner == self._owner else "", name)
        if there:
            if held.owner != self._owner or (uid is not None and there != uid):
                return None
            if held.uid and (pause := await self._farewell.pause(keys, held.uid)) is not None:
                return pause
            if not await definitions.delete(self._client, keys, there):
                return None
        if await self._remove_record(key, uid) or there:
            logger.info("%s/%s: removed", *key)
        return None

    async def _check_gone(self, key: Key, *uids: str | None) -> None:
        """Raises StaleObject when the crew that the API server has is one of these."""
        if (living := await self._living(key)) is not None and living[0] in uids:
            raise StaleObject(f"{key[0]}/{key[1]}: the crew of uid {living[0]} is alive")

    async def follow(self, key: Key, beats: Sequence[Mapping[str, Any]]) -> bool:
        """Has the scheduler fire the crew's heartbeats as they are stored, for a process that does not lead.

        `beats`: the Heartbeats as the API server has them. Returns whether the store has these specs. Writes nothing.
        """
        keys = names.CrewKeys(*key)
        held = await definitions.identity(self._client, keys)
        return held.owner == self._owner and await self._beats.follow(keys, held.uid, beats)

    async def strays(self, namespaces: Collection[str], living: Mapping[Key, str]) -> list[Key]:
        """The crews that this operator stored and that are no more, or that it did not remove to the end.

        `namespaces`: the ones to search; none: all. `living`: crew → uid.
        """
        found: list[Key] = []
        for namespace in sorted(map(str, await self._client.smembers(names.crew_tenants()))):
            if namespaces and namespace not in namespaces:
                continue
            try:
                records = CrewRedis(client=self._client, tenant=namespace, strict=True)
                crews = [(namespace, name) for name in await records.list_crews()]
            except InvalidInput as error:  # keys of another program
                logger.warning("the crews of %r can't be swept: %s", namespace, error)
                continue
            for key, held in zip(crews, await self._identities(crews), strict=True):
                if held.uid or held.leaving:
                    is_stray = held.owner == self._owner and (bool(held.leaving) or living.get(key) != held.uid)
                else:
                    is_stray = key not in living and (await self._record_owner(key))[0] == self._owner
                found += [key] if is_stray else []
        return found

    # ------------------------------------------------------------ definition and record

    async def _store(
        self,
        keys: names.CrewKeys,
        definition: CrewDefinition,
        seen: Mapping[str, Any],
        held: Identity,
        *,
        was_there: bool,
        hold: str,
    ) -> None:
        """`seen`: the Crew that `definition` was made from."""
        key, uid, generation = _key(keys), str(seen["metadata"]["uid"]), int(seen["metadata"]["generation"])
        over: int | None = None
        if held.uid and held.owner == self._owner and held.uid != uid:
            await self._check_gone(key, held.uid)
            await definitions.delete(self._client, keys, held.uid)  # the former crew of that name
        elif held.uid and (held.uid != uid or held.owner not in ("", self._owner)):
            raise NameTaken(self._taken(keys, held.owner))
        elif not held.uid and not held.leaving:
            owner, record_uid = await self._record_owner(key)
            if record_uid is not None and record_uid != uid and owner != self._owner:
                raise NameTaken(self._taken(keys, owner))
        elif held.uid and int(held.generation or 0) > generation:
            if await self._living(key) != (uid, generation):
                raise StaleObject(f"{keys.crew}: generation {held.generation} is stored, and {generation} was seen")
            over = int(held.generation)  # the API server's own data are older again: a backup was restored
        metadata = {**definition.metadata}
        metadata["annotations"] = {**metadata.get("annotations", {}), cluster_names.ANNOTATION_OWNER: self._owner}
        record = definition.model_copy(update={"metadata": metadata, "crew_id": uid})
        await CrewRedis(client=self._client, tenant=key[0], strict=True).save_crew(record)
        await definitions.apply(
            self._client,
            keys,
            definition,
            uid=uid,
            owner=self._owner,
            was_there=was_there,
            generation=generation,
            over=over,
            suspended=_suspends(seen) or bool(hold),
            hold=hold,
            deletion=farewell.policy_of(seen.get("spec", {})),
        )

    def _taken(self, keys: names.CrewKeys, owner: str) -> str:
        whose = f"the operator {owner!r} keeps" if owner else "was stored by hand"
        return (
            f"the store has a crew {keys.crew!r} that {whose}, and we are {self._owner!r}. Delete it there, "
            "or give one of the two another Redis database"
        )

    async def _record_owner(self, key: Key) -> tuple[str, str | None]:
        """(owner, crew id) of the record; ('', None) where there is none, ('', '') for one that can't be read."""
        records = CrewRedis(client=self._client, tenant=key[0], strict=True)
        try:
            record = await records.load_crew(key[1]) if await records.crew_exists(key[1]) else None
        except NotFound:
            return "", None
        except InvalidInput:
            return "", ""
        annotations = record.metadata.get("annotations") if record else None
        owner = annotations.get(cluster_names.ANNOTATION_OWNER) if isinstance(annotations, dict) else None
        return str(owner or ""), record.crew_id if record else None

    async def _remove_record(self, key: Key, uid: str | None) -> bool:
        owner, record_uid = await self._record_owner(key)
        if owner != self._owner or (uid is not None and record_uid != uid):
            return False
        return bool(await CrewRedis(client=self._client, tenant=key[0], strict=True).delete_crew(key[1]))

    async def _identities(self, crews: Sequence[Key]) -> list[Identity]:
        return await definitions.identities(self._client, [names.CrewKeys(*key) for key in crews])

    # ------------------------------------------------------------ parked work

    async def _try_parked(self, queue: Queue) -> None:
        """Moves parked tasks back onto the queue: the crew has changed, and may now have the agents that were missing.

        Workers do the same, but there may be none, and parked tasks start none.
        """
        for members in (await queue.parked_agents()).values():
            await queue.unpark(members)

    async def _parked(self, queue: Queue, memory: CrewMemory, count: int) -> dict[str, Any]:
        """Returns what a StoreState says of so many parked tasks."""
        known, at, _ = memory.parked
        now = self._clock.monotonic()
        if count == 0:
            memory.parked = (0, 0.0, ())
        elif known == 0 or (count != known and now - at >= PARKED_SECONDS):
            memory.parked = (count, now, sorted(await queue.parked_agents()))
        known, at, agents = memory.parked
        return {"unavailable": agents, "parked_in": None if count == known else max(at + PARKED_SECONDS - now, 0.0)}


def _suspends(seen: Mapping[str, Any]) -> bool:
    """Returns whether the Crew says that no task of it is to begin, be the rest of it sound or not."""
    return bool(seen.get("spec", {}).get("suspend"))


def _key(keys: names.CrewKeys) -> Key:
    namespace, _, name = keys.crew.partition("/")
    return namespace, name
