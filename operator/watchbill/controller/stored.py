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
from dataclasses import dataclass, replace
from typing import Any, Final

import redis.asyncio

from watchbill import cluster_names, metrics, names
from watchbill.clock import SYSTEM, Clock
from watchbill.controller import beats_now, farewell, fleet, load, parked, spending, stuck, suspension
from watchbill.controller.beats_stored import Heartbeats, StoredHeartbeats
from watchbill.controller.cache import Key
from watchbill.controller.memory import CrewMemory
from watchbill.errors import InvalidInput, NameTaken, NotFound, StaleObject
from watchbill.plan import budget, replicas
from watchbill.plan import heartbeat as beat
from watchbill.plan.drain import Fleet
from watchbill.plan.scaling import Scaling
from watchbill.records import CrewDefinition
from watchbill.store import control, definitions, scaling, sweep
from watchbill.store import suspension as store_suspension
from watchbill.store.crews import CrewRedis
from watchbill.store.definitions import Identity
from watchbill.store.figures import Figures, figures
from watchbill.store.queue import Queue, crew_gone
from watchbill.store.sweep import Whole
from watchbill.store.workers import workers

logger = logging.getLogger("watchbill.operator")

Living = Callable[[Key], Awaitable[tuple[str, int] | None]]
"""Asks the API server for the (uid, generation) of a Crew. None: it is gone, or is being deleted."""

UNKNOWN_LEASE_SECONDS: Final = 60.0
"""The lease that workers are supposed to have whose crew can't be read."""
EXPLAINED_SECONDS: Final = 10.0
"""Seconds between two writes of why a crew has so many workers, where only its figures have changed."""


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
    fleet: Fleet | None = Fleet()  # noqa: RUF009 - it is frozen
    """None: the store has lost its workers, and not all are back."""
    is_swept: bool = False
    """It was read by the autoscaler, up to a second ago."""
    budgets: budget.Seen = budget.Seen()  # noqa: RUF009 - it is frozen
    help_in: float | None = None
    """Seconds until help may have to be asked for; None: ready work makes progress."""
    parked_in: float | None = None
    """Seconds until `unavailable` is to be read again; None: it is as of now."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One crew as Kubernetes has it."""

    seen: Mapping[str, Any]
    definition: CrewDefinition | None
    beats: Sequence[Mapping[str, Any]]
    hold: str

    @property
    def uid(self) -> str:
        return str(self.seen["metadata"]["uid"])

    @property
    def generation(self) -> int:
        return int(self.seen["metadata"]["generation"])

    @property
    def was_stored(self) -> bool:
        return "waiting" in self.status  # which it has from then on

    @property
    def status(self) -> Mapping[str, Any]:
        return self.seen.get("status") or {}

    @property
    def is_suspended(self) -> bool:
        """No task of it is to begin, be the rest of it sound or not."""
        return bool(self.seen.get("spec", {}).get("suspend") or self.hold)

    @property
    def token(self) -> str:
        """All that tells what is to be stored from what was."""
        beats = sorted((b["metadata"]["name"], b["metadata"]["uid"], b["metadata"]["generation"]) for b in self.beats)
        is_sound = self.definition is not None
        return json.dumps([self.uid, is_sound and self.generation, self.is_suspended, self.hold, beats])


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
        self._beats = StoredHeartbeats(client, scheduler, check)
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
        ready: int = 0,
    ) -> StoreState | None:
        """Stores what is not stored yet, and reads how the crew stands. None: it was never stored.

        `seen`, `beats`: the Crew and its Heartbeats as the API server has them. `definition`: None where the Crew
        can't run; then what was stored before stays. `has_pods`: there may be workers to read of; `ready`: so many of
        their pods are ready. `hold`: why the crew is to take no work, and none of it to begin; empty: it is. Raises
        StoreUnavailable; NameTaken when another owns the crew of that name; InvalidInput for what can't be stored;
        StaleObject when `seen` is old; CrewGone when the crew was replaced meanwhile; NotLeader.
        """
        keys, wanted = names.CrewKeys(*key), _Wanted(seen, definition, beats, hold)
        swept = reading = memory.take(self._clock.monotonic())
        token = wanted.token
        if reading is None and memory.synced == token:
            reading = await sweep.one(self._client, keys)
        held = reading.identity if reading else await definitions.identity(self._client, keys)
        is_ours = (held.uid, held.owner) == (wanted.uid, self._owner)
        if memory.synced != token or not is_ours:  # not ours: the store was flushed, or the crew deleted by hand
            memory.synced = ""
            if definition is None and not is_ours:
                return None
            reading = await self._write(keys, wanted, held, memory)
            memory.synced = token
        is_left = False
        if asked := beats_now.asked(beats, memory):
            now, check = self._clock.now(), self._check
            is_left = await beats_now.fire(self._client, keys, wanted.uid, asked, memory, check=check, now=now)
            reading = None  # it is older than the work that this has made
        reading = reading or await self._read(keys, wanted.uid)
        memory.swept = reading.substance
        state = await self._state(keys, wanted, reading, memory, ready * wanted.was_stored if has_pods else None)
        return replace(state, is_swept=reading is swept, is_run_now_left=is_left)

    async def _write(self, keys: names.CrewKeys, wanted: _Wanted, held: Identity, memory: CrewMemory) -> Whole | None:
        """Stores the crew, if it can run, and its heartbeats. Returns how it stands then, where that was read."""
        uid, definition = wanted.uid, wanted.definition
        was_there = held.uid == uid
        self._check()
        if definition is not None:
            await self._store(keys, definition, wanted, held)
        else:
            await store_suspension.suspend(self._client, keys, uid, on=wanted.is_suspended, hold=wanted.hold)
        at_rest = beat.at_rest(suspended=wanted.is_suspended, hold=wanted.hold)
        await self._beats.store(keys, uid, definition, wanted.beats, memory, at_rest, is_new=not was_there)
        is_changed = was_there and wanted.status.get("observedGeneration") != wanted.generation
        found = await self._read(keys, uid) if is_changed and definition is not None else None
        if found is None or not found.figures.parked_by.get("agent"):
            return found
        await parked.try_again(Queue(self._client, keys, uid))
        return None

    async def _read(self, keys: names.CrewKeys, uid: str) -> Whole:
        """Reads how the crew stands, in one call where that is possible."""
        found = await sweep.one(self._client, keys)
        if found is None:  # its keys move to another server, where its own scripts follow them
            held, now = await definitions.identity(self._client, keys), await figures(self._client, keys)
            found = Whole(held, now, await workers(self._client, keys, uid), None)
        if found.identity.uid != uid:
            raise crew_gone(keys)
        return found

    async def _state(
        self, keys: names.CrewKeys, wanted: _Wanted, reading: Whole, memory: CrewMemory, ready: int | None
    ) -> StoreState:
        """Returns how the crew stands once what is due is on its queues, and reads what only some crews have."""
        uid, held = wanted.uid, reading.identity
        now = await self._returned(keys, wanted, await self._moved(keys, uid, reading.figures), memory)
        metrics.QUEUES.show(keys.crew, now)
        waits = await parked.read(Queue(self._client, keys, uid), memory, now.parked_by.get("agent", 0), self._clock)
        shown = bool(memory.verdicts)
        return StoreState(
            load=load.of(now),
            unavailable=waits.agents,
            agents_loaded=held.definition == held.loaded,
            verdicts=dict(memory.verdicts),
            beats=await beats_now.observed(self._client, keys, suspended=wanted.is_suspended) if shown else {},
            dead=now.dead,
            delayed=now.delayed,
            fleet=await fleet.read(self._client, keys, reading.workers, memory, self._clock, ready),
            budgets=await spending.read(self._client, keys, wanted.definition),
            help_in=await stuck.ask(self._client, keys, uid, now, memory, self._clock),
            parked_in=waits.again_in,
        )

    async def _moved(self, keys: names.CrewKeys, uid: str, now: Figures) -> Figures:
        """Returns the figures once what is due is on the queues."""
        dues = [(keys, now.due_in_ms), (keys.deliveries(), now.deliveries.due_in_ms if now.deliveries else None)]
        queues = [of for of, due_in_ms in dues if due_in_ms is not None]
        for of in queues:  # there may be no worker, which moves what is due, and minds the store's clock
            await Queue(self._client, of, uid).move_due()
        return await figures(self._client, keys) if queues else now

    async def _returned(self, keys: names.CrewKeys, wanted: _Wanted, now: Figures, memory: CrewMemory) -> Figures:
        """Returns the figures once a suspended crew has back what its dead workers held."""
        if not (now.suspended and now.running):
            return now
        lease_seconds = wanted.definition.tasks.lease_seconds if wanted.definition else UNKNOWN_LEASE_SECONDS
        if not await suspension.return_dead(self._client, keys, wanted.uid, memory, lease_seconds, self._clock):
            return now
        return await figures(self._client, keys)

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

    async def _store(self, keys: names.CrewKeys, definition: CrewDefinition, wanted: _Wanted, held: Identity) -> None:
        key, uid, generation = _key(keys), wanted.uid, wanted.generation
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
            was_there=wanted.was_stored,
            generation=generation,
            over=over,
            suspended=wanted.is_suspended,
            hold=wanted.hold,
            deletion=farewell.policy_of(wanted.seen.get("spec", {})),
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


def _key(keys: names.CrewKeys) -> Key:
    namespace, _, name = keys.crew.partition("/")
    return namespace, name
