"""Plans the next step of a crew from what was observed, and does it at the API server and in the store.

What the API server refuses or forbids is planned for anew, so that the status tells of it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Final

from watchbill import metrics
from watchbill.clock import Clock
from watchbill.controller import faults
from watchbill.controller.cache import Cache, Key
from watchbill.controller.memory import CrewMemory
from watchbill.controller.stored import Stored
from watchbill.errors import Conflict, KubernetesForbids, KubernetesRefuses, StaleObject
from watchbill.kubernetes_api import Kind, KubernetesApi
from watchbill.plan import crew as plan
from watchbill.plan import manifests
from watchbill.plan.children import Child

logger = logging.getLogger("watchbill.operator")

DENIED_AGAIN_SECONDS: Final = 5.0
"""The first pause before something that was forbidden is tried again; it doubles with each denial."""
DENIED_MOST_SECONDS: Final = 60.0


class Outdated(Exception):
    """The crew is to be observed anew: a pod is to go, because of what the autoscaler read some time ago, and a worker
    may have begun something since; or a Deployment was not seen."""


class Actor:
    """Carries plans out."""

    def __init__(
        self, kubernetes: KubernetesApi, cache: Cache, stored: Stored, workers: manifests.Defaults, clock: Clock
    ) -> None:
        """`workers`: what their Deployments have where a crew's template says nothing."""
        self._kubernetes = kubernetes
        self._cache = cache
        self._stored = stored
        self._workers = workers
        self._clock = clock

    async def act(self, key: Key, observed: plan.Observed, memory: CrewMemory) -> plan.Plan:
        """Does what is planned. Returns the plan, made anew if the API server refused it.

        Raises Outdated when the store must be asked first, StaleObject when an object has changed since it was
        observed, CrewGone when the crew was replaced in the store, KubernetesUnavailable, StoreUnavailable, NotLeader.
        """
        planned = self._plan(observed)
        if planned.shrinks and observed.is_swept:
            raise Outdated
        if planned.undrain:  # before their Deployment gets larger: it may not have to
            await self._drain(key, observed.uid, planned.undrain, memory, on=False)
        was_denied, memory.denied = observed.denied is not None, observed.denied
        try:
            await self._apply(key, observed, planned, memory)
        except KubernetesForbids as error:
            faults.count(error)
            memory.denials += 1
            memory.denied = str(error)
            pause = min(DENIED_AGAIN_SECONDS * 2 ** (memory.denials - 1), DENIED_MOST_SECONDS)
            memory.denied_until = self._clock.monotonic() + pause
            planned = self._plan(dataclasses.replace(observed, denied=memory.denied))
        except KubernetesRefuses as error:
            faults.count(error)
            memory.refusal = (observed.generation, planned.revision, str(error))
            planned = self._plan(dataclasses.replace(observed, refusal=memory.refusal[1:]))
        else:
            memory.denials = memory.denials if was_denied else 0
            if planned.applies:  # the status that is written is that of what has just been made
                made = dataclasses.replace(observed, children=self._cache.deployments.of(key), has_service_account=True)
                planned = dataclasses.replace(planned, status=self._plan(made).status)
        for child, size in planned.sizes:
            await self._resize(key, child, size)
        if planned.drain:
            await self._drain(key, observed.uid, planned.drain, memory, on=True)
        memory.past = planned.past
        if planned.scaling is not None and observed.load is not None:
            await self._stored.explain(key, observed.uid, planned.scaling, memory)
        for child in planned.deletes:
            await self._delete(key, child)
        if planned.scaled is not None:
            metrics.SCALE_DECISIONS.labels(planned.scaled.why).inc()
            logger.info("%s/%s: %d workers (%s)", *key, planned.scaled.replicas, planned.scaled.why)
        return planned

    async def _drain(self, key: Key, uid: str, workers: Sequence[str], memory: CrewMemory, *, on: bool) -> None:
        logger.info("%s/%s: %s: %s", *key, "draining" if on else "no longer draining", ", ".join(workers))
        await self._stored.drain(key, uid, workers, on=on)
        for name in workers:
            memory.drained_at.pop(name, None)
            if on:
                memory.drained_at[name] = self._clock.monotonic()

    async def _apply(self, key: Key, observed: plan.Observed, planned: plan.Plan, memory: CrewMemory) -> None:
        for kind, manifest in planned.applies:
            try:
                applied = await self._write(key, observed, _kind(kind), manifest)
            except Conflict as error:
                raise StaleObject(str(error)) from error
            if kind == "deployments":
                self._cache.take("deployments", "MODIFIED", applied)
            else:
                memory.has_service_account = True

    async def _write(self, key: Key, observed: plan.Observed, kind: Kind, manifest: plan.Object) -> plan.Object:
        """Applies the manifest. One that was not seen, and is there, is taken over as it is now.

        Raises Conflict; Outdated if it is a Deployment of the crew not known yet, or not watched because somebody
        has changed its labels: it may have more workers than one that is made anew.
        """
        try:
            return await self._kubernetes.apply(kind, manifest)
        except Conflict:
            found = await self._kubernetes.get(kind, key[0], manifest["metadata"]["name"])
            if found is None or "resourceVersion" in manifest["metadata"]:
                raise
        if kind == "deployments" and self._cache.adopt(key, found, observed.uid):
            raise Outdated
        version = found["metadata"]["resourceVersion"]
        metadata = {**manifest["metadata"], "resourceVersion": version}
        return await self._kubernetes.apply(kind, {**manifest, "metadata": metadata})

    async def _resize(self, key: Key, child: Child, size: int) -> None:
        try:
            scaled = await self._kubernetes.scale(key[0], child.name, size, resource_version=child.resource_version)
        except Conflict as error:
            raise StaleObject(str(error)) from error
        except KubernetesRefuses as error:
            faults.count(error)
            logger.warning("%s/%s: can't be scaled: %s", *key, error)
        else:
            self._cache.take("deployments", "MODIFIED", scaled)

    async def _delete(self, key: Key, child: Child) -> None:
        """Deletes the Deployment as it was seen: one that was scaled up meanwhile, for a template that came back, may
        have busy workers."""
        version = child.resource_version
        try:
            await self._kubernetes.delete("deployments", key[0], child.name, uid=child.uid, resource_version=version)
        except Conflict as error:
            raise StaleObject(str(error)) from error

    def _plan(self, observed: plan.Observed) -> plan.Plan:
        return plan.plan(observed, now=self._clock.now(), defaults=self._workers)


def _kind(kind: str) -> Kind:
    return "deployments" if kind == "deployments" else "serviceaccounts"
