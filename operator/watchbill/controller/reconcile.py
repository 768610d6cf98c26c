"""Reconciles one crew: observe, plan and act (acting.py), report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis.asyncio
from pydantic import ValidationError

from watchbill import cluster_names, logs, metrics
from watchbill.api import Crew
from watchbill.api.conditions import ConditionType, Reason, stated
from watchbill.clock import SYSTEM, Clock
from watchbill.connection import outages
from watchbill.controller import faults
from watchbill.controller.acting import Actor, Outdated
from watchbill.controller.cache import Cache, Key, Object
from watchbill.controller.events import Events
from watchbill.controller.eviction import Eviction
from watchbill.controller.memory import CrewMemory, Memory
from watchbill.controller.redis_users import RedisUsers
from watchbill.controller.references import References
from watchbill.controller.statuses import Statuses
from watchbill.controller.store_gate import StoreGate
from watchbill.controller.stored import Stored, StoreState
from watchbill.errors import (
    InvalidInput,
    KubernetesUnavailable,
    NameTaken,
    RetryLater,
    StaleObject,
    UserActionRequired,
)
from watchbill.kubernetes_api import KubernetesApi
from watchbill.plan import budget, declared, manifests, paused, references, replicas
from watchbill.plan import crew as plan
from watchbill.plan import events as tell
from watchbill.plan import heartbeat as beat
from watchbill.records import CrewDefinition, from_crew

logger = logging.getLogger("watchbill.operator")

PAUSED_AGAIN_SECONDS: Final = 60.0
"""Seconds after which the heartbeats of a paused crew are read again."""
RUN_NOW_SECONDS: Final = 2.0
"""The pause before a heartbeat is tried again that somebody wants fired now, and for which the queue had no room."""


@dataclass(frozen=True, slots=True)
class _Synced:
    """The outcome of storing a crew. Without `state` and `error`, nothing of the crew is stored."""

    state: StoreState | None
    error: str | None
    """The reason why the crew's state in the store is not known; None if it is."""
    fault: plan.Fault | None
    """The mistake in the crew, where there is one."""

    @property
    def is_conflict(self) -> bool:
        """The crew is another operator's."""
        return self.fault is not None and self.fault[0] is Reason.OWNER_CONFLICT


class Reconciler:
    """Brings one crew to where it should be."""

    def __init__(
        self,
        kubernetes: KubernetesApi,
        cache: Cache,
        stored: Stored,
        statuses: Statuses,
        gate: StoreGate,
        eviction: Eviction,
        memory: Memory,
        events: Events,
        states: References,
        *,
        workers: manifests.Defaults,
        users: RedisUsers | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        """`workers`: what their Deployments have where a crew's template says nothing. `users`: None if crews have no
        users of their own in the store."""
        self._kubernetes = kubernetes
        self._cache = cache
        self._stored = stored
        self._statuses = statuses
        self._gate = gate
        self._eviction = eviction
        self._memory = memory
        self._events = events
        self._states = states
        self._workers = workers
        self._actor = Actor(kubernetes, cache, stored, workers, clock)
        self._users = users
        self._clock = clock

    async def reconcile(self, key: Key) -> float | None:
        """Returns in how many seconds to reconcile again, or None. An error: reconcile again soon."""
        logs.bind({"crew": "/".join(key)})
        with metrics.RECONCILE_SECONDS.time():
            try:
                again = await self._reconcile(key)
            except Exception as error:
                metrics.RECONCILES.labels("failed").inc()
                faults.count(error)
                raise
        metrics.RECONCILES.labels("ok" if again is None else "again").inc()
        return again

    async def _reconcile(self, key: Key) -> float | None:
        seen = self._cache.crews.get(key)
        if seen is None and (found := await self._kubernetes.get("crews", *key)) is not None:
            # A removal can't be undone, so the API server is asked first.
            self._cache.take("crews", "ADDED", found)
            seen = self._cache.crews.get(key)
        if seen is None or seen["metadata"].get("deletionTimestamp"):
            return await self._remove(key, seen)
        memory = self._memory.of(key)
        memory.watch = ""
        if paused.is_paused(seen):
            return await self._leave_alone(key, seen, memory)
        try:
            return await self._bring(key, seen, memory)
        except Outdated:
            return await self._bring(key, seen, memory)  # which has no reading any more, and asks the store
        finally:
            memory.outdate()

    async def _bring(self, key: Key, seen: Object, memory: CrewMemory) -> float | None:
        crew, definition, fault = read(seen)
        synced = await self._sync_store(key, seen, definition, fault, memory)
        if _repeats_conflict(seen, synced, memory):
            return plan.AGAIN_SECONDS
        unstored = synced.fault if synced.state is None and synced.error is None else None
        pauses = await self._write_heartbeat_statuses(key, memory, synced.state, unstored)
        if crew is None:
            await self._keep_user(key, seen)
            pauses.append(await self._write_unreadable_status(key, seen, memory, synced.fault))
        else:
            observed = await self._observe(key, crew, seen, synced, memory)
            planned = await self._actor.act(key, observed, memory)
            told = tell.of_plan(observed, planned)
            if synced.state is not None:
                pauses += [synced.state.help_in, synced.state.parked_in]
                told += tell.of_dead("/".join(key), memory.dead, synced.state.dead)
                memory.dead = synced.state.dead
            self._events.tell("crews", seen["metadata"], told)
            pauses.append(await self._statuses.write("crews", seen, planned.status, key, memory))
            self._note_conflict(key, synced, memory)
            pauses.append(planned.again_seconds)
            if planned.wish is not None and planned.scaling is not None:
                self._cache.quotas.wants(key, planned.wish, planned.scaling.replicas)
            memory.watch = planned.watch
            if memory.denied is not None:
                pauses.append(max(memory.denied_until - self._clock.monotonic(), 0.0))
        return plan.shortest(pauses)

    async def _leave_alone(self, key: Key, seen: Object, memory: CrewMemory) -> float | None:
        """A paused crew: its status says so, and its heartbeats are fired as they are stored. Nothing else is done."""
        memory.synced = ""
        try:
            await self._stored.follow(key, self._cache.heartbeats.of(key))
        except (RetryLater, redis.exceptions.RedisError, OSError) as error:
            logger.info("%s/%s: the heartbeats can't be read: %s", *key, error)
        await self._keep_user(key, seen)
        status = paused.status(seen.get("status") or {}, now=self._clock.now())
        return plan.shortest([await self._statuses.write("crews", seen, status, key, memory), PAUSED_AGAIN_SECONDS])

    async def _keep_user(self, key: Key, seen: Object) -> None:
        """Has the store know the user of a crew of which nothing is changed: a server may forget it any time."""
        if self._users is not None:
            await self._users.ensure(key, seen, may_write=False)

    async def _remove(self, key: Key, seen: Object | None) -> float | None:
        """The crew is gone, or going. Its children go with their owner."""
        memory = self._memory.pop(key)
        self._statuses.turns.drop(("crews", *key))
        self._states.forget(key)
        message = f"there is no Crew {key[1]!r} in namespace {key[0]!r}. Create it, or mend crewRef"
        pauses = await self._write_heartbeat_statuses(key, memory, None, (Reason.CREW_NOT_FOUND, message))
        again = await self._stored.remove(key, str(seen["metadata"]["uid"]) if seen else None, memory)
        if again is None and self._users is not None:  # until then workers end their tasks
            await self._users.remove(key)
        pauses.append(again)
        return plan.shortest(pauses)

    # ------------------------------------------------------------ observe

    async def _sync_store(
        self,
        key: Key,
        seen: Object,
        definition: CrewDefinition | None,
        fault: plan.Fault | None,
        memory: CrewMemory,
    ) -> _Synced:
        if not self._gate.may_ask():
            return _Synced(None, self._gate.error, fault)
        state = None
        try:
            children = self._cache.deployments.of(key)
            has_pods, ready = any(c.replicas or c.there for c in children), sum(c.ready for c in children)
            beats = self._cache.heartbeats.of(key)
            hold = self._cache.quotas.hold(key)
            why = hold.why if hold else ""
            state = await self._stored.sync(key, seen, definition, beats, memory, has_pods, why, ready)
        except NameTaken as error:
            fault = fault or (Reason.OWNER_CONFLICT, str(error))
        except InvalidInput as error:
            fault = fault or (Reason.INVALID_SPEC, str(error))
        except UserActionRequired as error:  # a right that is missing, keys of another program
            logger.warning("%s/%s: %s", *key, error)
            faults.count(error)
            return _Synced(None, str(error), fault)
        except (StaleObject, KubernetesUnavailable):
            raise  # the store is not to blame
        except (RetryLater, redis.exceptions.RedisError, OSError) as error:
            known = error if isinstance(error, RetryLater) else outages.unavailable(error)
            if known is None:  # the store refuses this crew, and may well answer others
                logger.warning("%s/%s: the store refuses: %s", *key, error)
                faults.count(error)
                return _Synced(None, str(error), fault)
            self._gate.failed(known)
            return _Synced(None, self._gate.error, fault)
        self._gate.answered()
        return _Synced(state, None, fault)

    async def _observe(self, key: Key, crew: Crew, seen: Object, synced: _Synced, memory: CrewMemory) -> plan.Observed:
        state, generation = synced.state, int(seen["metadata"]["generation"])
        is_own, secret = self._workers.has_own_user(crew), self._workers.redis_secret(crew)
        may_write = state is not None  # else the crew may be another operator's
        no_user = await self._users.ensure(key, seen, may_write=may_write) if self._users and is_own else None
        load = state.load if state else None
        refused = memory.refusal is not None and memory.refusal[0] == generation
        status = seen.get("status") or {}
        template = manifests.pod_template(crew, key[0], self._workers)
        is_new = status.get("observedGeneration") != generation
        config = await self._states.states(key, references.of_template(template), changed=is_new)
        return plan.Observed(
            crew=crew,
            namespace=key[0],
            uid=seen["metadata"]["uid"],
            generation=generation,
            status=status,
            template=template,
            children=self._cache.deployments.of(key),
            has_service_account=memory.has_service_account or await self._has_service_account(key, crew, seen, memory),
            has_redis_secret=no_user is None and (is_own or config.get(f"Secret/{secret}") != references.MISSING),
            config=config,
            load=load,
            store_error=synced.error,
            idle_for=self._idle_for(memory, load),
            dead=state.dead if state else 0,
            delayed=state.delayed if state else 0,
            unavailable=state.unavailable if state else (),
            agents_loaded=state is None or state.agents_loaded,
            fault=synced.fault,
            refusal=memory.refusal[1:] if memory.refusal is not None and refused else None,
            denied=memory.denied if self._clock.monotonic() < memory.denied_until else None,
            no_user=no_user,
            evicts=self._eviction.message,
            fleet=state.fleet if state else None,
            past=memory.past,
            at=self._clock.monotonic(),
            is_swept=state is not None and state.is_swept,
            budgets=state.budgets if state else budget.Seen(),
            hold=self._cache.quotas.hold(key),
            share=self._cache.quotas.share(key, crew.spec.workers.max_replicas),
        )

    async def _has_service_account(self, key: Key, crew: Crew, seen: Object, memory: CrewMemory) -> bool:
        """Returns whether the workers' ServiceAccount is there, and says what it should."""
        if (seen.get("status") or {}).get("observedGeneration", -1) < 0:
            return False  # a new crew; to apply what is there already changes nothing
        found = await self._kubernetes.get("serviceaccounts", key[0], cluster_names.worker_service_account(key[1]))
        desired = manifests.service_account(crew, key[0], seen["metadata"]["uid"])
        memory.has_service_account = found is not None and manifests.contains(found, desired)
        return memory.has_service_account

    def _idle_for(self, memory: CrewMemory, load: replicas.Load | None) -> float | None:
        """Seconds without work, as far as this process has seen; None where that is unknown."""
        if load is None or not load.none:
            memory.idle_since = None
            return None
        now = self._clock.monotonic()
        memory.idle_since = now if memory.idle_since is None else memory.idle_since
        return now - memory.idle_since

    # ------------------------------------------------------------ report

    async def _write_heartbeat_statuses(
        self, key: Key, memory: CrewMemory, state: StoreState | None, fault: plan.Fault | None
    ) -> list[float | None]:
        """`fault`: why nothing of the crew is stored. With neither `state` nor `fault` nothing is known, or written.

        Returns in how many seconds to come again for each heartbeat.
        """
        pauses: list[float | None] = [RUN_NOW_SECONDS] if state and state.is_run_now_left else []
        for seen in self._cache.heartbeats.of(key):
            name = seen["metadata"]["name"]
            if state is not None and name in state.verdicts:
                verdict = state.verdicts[name]
            elif fault is not None:
                verdict = _not_stored(key, fault)
            else:
                continue
            observed, handled = state.beats.get(name) if state else None, memory.run_now.get(name)
            if observed is not None:
                missed = tell.of_missed(seen, memory.missed.get(name), observed.missed)
                self._events.tell("heartbeats", seen["metadata"], missed)
                memory.missed[name] = observed.missed
            status = beat.status(seen, verdict, observed, now=self._clock.now(), handled=handled)
            pauses.append(await self._statuses.write("heartbeats", seen, status, key, memory))
        return pauses

    def _note_conflict(self, key: Key, synced: _Synced, memory: CrewMemory) -> None:
        """Remembers that the status says that the crew is another operator's, once it does: its write may wait for a
        turn, or fail."""
        status = (self._cache.crews.get(key) or {}).get("status") or {}
        if synced.is_conflict and plan.summary(status).get("reason") == Reason.OWNER_CONFLICT:
            memory.conflict = status["observedGeneration"]
            logger.warning("%s/%s: %s", *key, synced.fault and synced.fault[1])

    async def _write_unreadable_status(
        self, key: Key, seen: Object, memory: CrewMemory, fault: plan.Fault | None
    ) -> float | None:
        reason, message = fault or (Reason.INVALID_SPEC, "the spec can't be read")
        before, generation = seen.get("status") or {}, int(seen["metadata"]["generation"])
        conditions = stated(
            [(ConditionType.READY, False, reason, message), (ConditionType.STALLED, True, reason, message)],
            before.get("conditions", []),
            generation=generation,
            now=self._clock.now(),
        )
        kept = ("replicas", "selector", "revision", "templateVersion", *plan.FIGURES)
        unchanged = {k: v for k, v in before.items() if k in kept}
        status = {**unchanged, "observedGeneration": generation, "conditions": conditions}
        return await self._statuses.write("crews", seen, status, key, memory)


def _repeats_conflict(seen: Object, synced: _Synced, memory: CrewMemory) -> bool:
    """Returns whether the crew is another operator's, and its status has said so for this generation."""
    if synced.state is not None:
        memory.conflict = None
    return synced.is_conflict and memory.conflict == seen["metadata"]["generation"]


def read(seen: Mapping[str, Any]) -> tuple[Crew | None, CrewDefinition | None, plan.Fault | None]:
    """Returns the crew, the definition to store, and the mistake in it: each of them None where there is none.

    Fields that a later version added are ignored, so that one can go back to this one.
    """
    try:
        crew = Crew.model_validate({k: v for k, v in seen.items() if k != "status"}, extra="ignore")
    except ValidationError as error:
        return None, None, (Reason.INVALID_SPEC, str(error))
    try:
        definition = from_crew(crew)
    except InvalidInput as error:
        circle = error.problems[0].path == "spec.flowRelations"
        return crew, None, (Reason.FLOW_CYCLE if circle else Reason.INVALID_SPEC, _lines(error.problems))
    if problems := declared.problems(definition):
        return crew, None, (Reason.INVALID_PROMPT, _lines(problems))
    return crew, definition, None


def _not_stored(key: Key, fault: plan.Fault) -> beat.Verdict:
    if fault[0] is Reason.CREW_NOT_FOUND:
        return fault
    return Reason.CREW_NOT_STORED, f"crew {key[1]!r} is stalled ({fault[0]}), and its heartbeats with it"


def _lines(problems: Sequence[object]) -> str:
    return "\n".join(map(str, problems))
