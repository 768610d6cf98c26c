"""Reconciles one crew: observe, plan, act, report."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import redis.asyncio
from pydantic import ValidationError

from watchbill import api, metrics, names
from watchbill.api import Crew
from watchbill.api.conditions import ConditionType, Reason, stated
from watchbill.connection import outages
from watchbill.controller.cache import Cache, Key, Object
from watchbill.controller.eviction import Eviction
from watchbill.controller.statuses import Statuses
from watchbill.controller.stored import Stored, StoreState
from watchbill.errors import Conflict, InvalidInput, RetryLater, UserActionRequired, WatchbillError
from watchbill.kubernetes_api import Forbidden, Kind, KubernetesApi, Refused
from watchbill.plan import crew as plan
from watchbill.plan import heartbeat as beat
from watchbill.plan import manifests, prompts, replicas
from watchbill.records import CrewDefinition, from_crew
from watchbill.store.definitions import Taken

logger = logging.getLogger("watchbill.operator")

AGAIN_SECONDS: Final = 5.0
"""After so long a crew is reconciled again whose trouble somebody else must mend."""
ACTIVE_AGAIN_SECONDS: Final = 2.0
DENIED_SECONDS: Final = 60.0
"""At most this long before something that was forbidden is tried again."""
SECRET_SECONDS: Final = 60.0
"""How long a Secret that was there is taken to be there."""
PROBE_SECONDS: Final = 1.0
"""How often a store that is away is asked whether it is back: by one reconciliation, for all crews."""


@dataclass(slots=True)
class _Memory:
    """What is remembered of a crew between reconciliations; all of it may be lost."""

    idle_since: float | None = None
    refusal: tuple[int, str, str] | None = None
    """(generation, template revision, message) that was refused last; after a restart the status says it."""
    has_service_account: bool = False
    denied: str | None = None
    """What the API server forbade last: tried again, because a right or a quota may come."""
    protested: int | None = None
    """The generation of which we said that it is another's: once, or two operators would say their parts in turns."""
    denials: int = 0
    denied_until: float = 0.0


class StoreGate:
    """Knows whether the store answers. While it does not, one reconciliation a second asks it, for all crews."""

    def __init__(self, on_back: Callable[[], None]) -> None:
        self._on_back = on_back
        self._since: float | None = None
        self._probe_at = 0.0
        self.error = ""
        metrics.STORE_UP.set(1)

    @property
    def down_for(self) -> float | None:
        return None if self._since is None else time.monotonic() - self._since

    def may_ask(self) -> bool:
        if self._since is None:
            return True
        now = time.monotonic()
        if now < self._probe_at:
            return False
        self._probe_at = now + PROBE_SECONDS
        return True

    def failed(self, error: Exception) -> None:
        if self._since is None:
            logger.warning("the store is away: %s", error)
            self._since, self.error = time.monotonic(), str(error)
            metrics.STORE_UP.set(0)
        self._probe_at = time.monotonic() + PROBE_SECONDS

    def answered(self) -> None:
        if self._since is not None:
            logger.warning("the store is back after %.0f s", self.down_for or 0)
            self._since = None
            metrics.STORE_UP.set(1)
            self._on_back()


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
        *,
        workers: manifests.Defaults,
    ) -> None:
        self._kubernetes = kubernetes
        self._cache = cache
        self._stored = stored
        self._statuses = statuses
        self._gate = gate
        self._eviction = eviction
        self._workers = workers
        self._memories: dict[Key, _Memory] = {}
        self._secrets: dict[tuple[str, str], tuple[bool, float]] = {}
        """(namespace, name) of Secrets with a store's URL → whether it was there, and until when that is believed."""

    def invalidate(self) -> None:
        """What was stored or seen long ago may be gone: the next reconciliation makes sure."""
        self._stored.invalidate()
        self._secrets.clear()
        for memory in self._memories.values():
            memory.has_service_account = False

    def reset_idle(self, key: Key) -> None:
        """Work has come to the crew, and may be done before the crew is reconciled."""
        if memory := self._memories.get(key):
            memory.idle_since = None

    async def reconcile(self, key: Key) -> float | None:
        """Returns in how many seconds to reconcile again, or None. An error: reconcile again soon."""
        with metrics.RECONCILE_SECONDS.time():
            try:
                again = await self._reconcile(key)
            except Exception:
                metrics.RECONCILES.labels("failed").inc()
                raise
        metrics.RECONCILES.labels("ok" if again is None else "again").inc()
        return again

    async def _reconcile(self, key: Key) -> float | None:
        seen = self._cache.crews.get(key)
        if seen is None and (found := await self._kubernetes.get("crews", *key)) is not None:
            # what is removed can't be brought back, so the API server is asked before
            self._cache.take("crews", "ADDED", found)
            seen = self._cache.crews.get(key)
        if seen is None or seen["metadata"].get("deletionTimestamp"):
            return await self._remove(key, seen)
        memory = self._memories.setdefault(key, _Memory())
        crew, definition, fault = read(seen)
        stored, store_error, fault = await self._sync_store(key, seen, definition, fault)
        if fault is not None and fault[0] is Reason.OWNER_CONFLICT:
            if memory.protested == seen["metadata"]["generation"]:
                return AGAIN_SECONDS
            logger.warning("%s/%s: %s", *key, fault[1])
            memory.protested = seen["metadata"]["generation"]
        elif stored is not None:
            memory.protested = None
        verdict = fault if stored is None and store_error is None else None
        pauses = [await self._write_heartbeat_statuses(key, stored, verdict)]
        if crew is None:
            pauses.append(await self._write_unreadable_status(key, seen, fault))
            return min((p for p in pauses if p is not None), default=None)
        load = stored.load if stored else None
        observed = plan.Observed(
            crew=crew,
            namespace=key[0],
            uid=seen["metadata"]["uid"],
            generation=int(seen["metadata"]["generation"]),
            status=seen.get("status") or {},
            children=self._cache.deployments.of(key),
            has_service_account=memory.has_service_account or await self._has_service_account(key, memory),
            has_redis_secret=await self._has_secret(key[0], crew.spec.workers.redis_secret_ref.name),
            load=load,
            store_error=store_error,
            idle_for=_idle_for(memory, load),
            unavailable=stored.unavailable if stored else (),
            agents_loaded=stored is None or stored.agents_loaded,
            fault=fault,
            refusal=memory.refusal[1:]
            if memory.refusal and memory.refusal[0] == seen["metadata"]["generation"]
            else None,
            denied=memory.denied if time.monotonic() < memory.denied_until else None,
            evicts=self._eviction.message,
        )
        planned = await self._carry_out(key, observed, memory)
        pauses.append(await self._statuses.write("crews", seen, planned.status, key, self._gate.down_for))
        pauses.append(planned.again_seconds)
        if load is not None and (not load.none or any(c.replicas for c in observed.children)):
            pauses.append(ACTIVE_AGAIN_SECONDS)
        if load is not None and load.due_in is not None:
            pauses.append(max(load.due_in, 0.0))
        if store_error is not None or not observed.has_redis_secret or memory.protested is not None:
            pauses.append(AGAIN_SECONDS)
        if memory.denied is not None:
            pauses.append(max(memory.denied_until - time.monotonic(), 0.0))
        return min((p for p in pauses if p is not None), default=None)

    async def _remove(self, key: Key, seen: Object | None) -> float | None:
        """The crew is gone, or going. Its children go with their owner."""
        self._memories.pop(key, None)
        self._statuses.forget("crews", key)
        message = f"there is no Crew {key[1]!r} in namespace {key[0]!r}. Create it, or mend crewRef"
        again = await self._write_heartbeat_statuses(key, None, (Reason.CREW_NOT_FOUND, message))
        await self._stored.remove(key, str(seen["metadata"]["uid"]) if seen else None)
        return again

    # ------------------------------------------------------------ the store

    async def _sync_store(
        self, key: Key, seen: Object, definition: CrewDefinition | None, fault: plan.Fault | None
    ) -> tuple[StoreState | None, str | None, plan.Fault | None]:
        """(how the crew stands, why the store can't say, what is wrong with the crew)."""
        if not self._gate.may_ask():
            return None, self._gate.error, fault
        try:
            stored = await self._stored.sync(key, seen, definition, self._cache.heartbeats.of(key))
        except Taken as error:
            fault = fault or (Reason.OWNER_CONFLICT, str(error))
        except InvalidInput as error:
            fault = fault or (Reason.INVALID_SPEC, str(error))
        except UserActionRequired as error:  # a right that is missing, keys of another program
            logger.warning("%s/%s: %s", *key, error)
            return None, str(error), fault
        except (RetryLater, redis.exceptions.RedisError, OSError) as error:
            known = error if isinstance(error, RetryLater) else outages.unavailable(error)
            if known is None:  # it refuses this crew, and may well answer others
                logger.warning("%s/%s: the store refuses: %s", *key, error)
                return None, str(error), fault
            self._gate.failed(known)
            return None, self._gate.error, fault
        else:
            self._gate.answered()
            return stored, None, fault
        self._gate.answered()
        return None, None, fault

    # ------------------------------------------------------------ Kubernetes

    async def _has_service_account(self, key: Key, memory: _Memory) -> bool:
        found = await self._kubernetes.get("serviceaccounts", key[0], names.worker_service_account(key[1]))
        memory.has_service_account = found is not None
        return memory.has_service_account

    async def _has_secret(self, namespace: str, name: str) -> bool:
        """Asked once for all crews of the namespace."""
        found, until = self._secrets.get((namespace, name), (False, 0.0))
        if time.monotonic() >= until:
            found = await self._kubernetes.secret_exists(namespace, name)
            until = time.monotonic() + (SECRET_SECONDS if found else AGAIN_SECONDS / 2)
            self._secrets[namespace, name] = found, until
        return found

    async def _carry_out(self, key: Key, observed: plan.Observed, memory: _Memory) -> plan.Plan:
        """Does what is planned. Returns the plan as it is in the light of what was refused."""
        planned = self._plan(observed)
        was_denied, memory.denied = observed.denied is not None, observed.denied
        try:
            await self._apply(planned)
        except Forbidden as error:
            memory.denials += 1
            memory.denied = str(error)
            pause = min(AGAIN_SECONDS * 2 ** (memory.denials - 1), DENIED_SECONDS)
            memory.denied_until = time.monotonic() + pause
            planned = self._plan(dataclasses.replace(observed, denied=memory.denied))
        except Refused as error:
            memory.refusal = (observed.generation, planned.revision, str(error))
            planned = self._plan(dataclasses.replace(observed, refusal=memory.refusal[1:]))
        else:
            memory.denials = memory.denials if was_denied else 0
        if planned.resize is not None:
            child, size = planned.resize
            try:
                scaled = await self._kubernetes.scale(key[0], child.name, size, resource_version=child.resource_version)
            except Conflict as error:
                raise Stale(str(error)) from error
            except Refused as error:
                logger.warning("%s/%s: can't be scaled: %s", *key, error)
            else:
                self._cache.take("deployments", "MODIFIED", scaled)
        for child in planned.deletes:
            await self._kubernetes.delete("deployments", key[0], child.name, uid=child.uid)
        if planned.scaled is not None:
            metrics.SCALE_DECISIONS.labels(planned.scaled.why).inc()
            logger.info("%s/%s: %d workers (%s)", *key, planned.scaled.replicas, planned.scaled.why)
        return planned

    async def _apply(self, planned: plan.Plan) -> None:
        for kind, manifest in planned.applies:
            try:
                applied = await self._kubernetes.apply(_kind(kind), manifest)
            except Conflict as error:
                raise Stale(str(error)) from error
            if kind == "deployments":
                self._cache.take("deployments", "MODIFIED", applied)

    def _plan(self, observed: plan.Observed) -> plan.Plan:
        return plan.plan(observed, now=_now(), defaults=self._workers)

    # ------------------------------------------------------------ what is said

    async def _write_heartbeat_statuses(
        self, key: Key, stored: StoreState | None, fault: plan.Fault | None
    ) -> float | None:
        """`fault`: why nothing of the crew is stored. Without either nothing is known, and nothing said."""
        pauses = []
        for seen in self._cache.heartbeats.of(key):
            name = seen["metadata"]["name"]
            state = stored.times.get(name) if stored else None
            if stored is not None and name in stored.verdicts:
                verdict = stored.verdicts[name]
            elif fault is not None:
                verdict = _not_stored(key, fault)
            else:
                continue
            status = beat.status(
                seen, verdict, last=state.last if state else None, following=state.next if state else None, now=_now()
            )
            pauses.append(await self._statuses.write("heartbeats", seen, status, key, self._gate.down_for))
        return min((p for p in pauses if p is not None), default=None)

    async def _write_unreadable_status(self, key: Key, seen: Object, fault: plan.Fault | None) -> float | None:
        reason, message = fault or (Reason.INVALID_SPEC, "the spec can't be read")
        before, generation = seen.get("status") or {}, int(seen["metadata"]["generation"])
        conditions = stated(
            [(ConditionType.READY, False, reason, message), (ConditionType.STALLED, True, reason, message)],
            before.get("conditions", []),
            generation=generation,
            now=_now(),
        )
        unchanged = {k: v for k, v in before.items() if k in ("replicas", "selector", *plan.FIGURES)}
        status = {**unchanged, "observedGeneration": generation, "conditions": conditions}
        return await self._statuses.write("crews", seen, status, key, self._gate.down_for)


class Stale(RetryLater):
    """The object has changed since it was seen: reconcile again."""


def read(seen: Mapping[str, Any]) -> tuple[Crew | None, CrewDefinition | None, plan.Fault | None]:
    """The crew, what is to be stored of it, and what is wrong with it.

    Fields that a later version added are ignored, so that one can go back to this one.
    """
    try:
        crew = Crew.model_validate({k: v for k, v in seen.items() if k != "status"}, extra="ignore")
    except ValidationError as error:
        return None, None, (Reason.INVALID_SPEC, str(error))
    try:
        if problems := api.check(crew):
            return crew, None, (Reason.FLOW_CYCLE, _lines(problems))
        definition = from_crew(crew)
        if problems := prompts.check(definition):
            return crew, None, (Reason.INVALID_PROMPT, _lines(problems))
    except WatchbillError as error:
        return crew, None, (Reason.INVALID_SPEC, str(error))
    return crew, definition, None


def _not_stored(key: Key, fault: plan.Fault) -> beat.Verdict:
    if fault[0] is Reason.CREW_NOT_FOUND:
        return fault
    return Reason.CREW_NOT_STORED, f"crew {key[1]!r} is stalled ({fault[0]}), and its heartbeats with it"


def _lines(problems: Sequence[object]) -> str:
    return "\n".join(map(str, problems))


def _kind(kind: str) -> Kind:
    return "deployments" if kind == "deployments" else "serviceaccounts"


def _idle_for(memory: _Memory, load: replicas.Load | None) -> float | None:
    """Seconds without work, as far as this process has seen; None where that is unknown."""
    if load is None or not load.none:
        memory.idle_since = None
        return None
    if memory.idle_since is None:
        memory.idle_since = time.monotonic()
    return time.monotonic() - memory.idle_since


def _now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - shell
