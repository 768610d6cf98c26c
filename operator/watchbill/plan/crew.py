"""What is seen of a Crew → what is to be done about it, and what its status says. Pure.

Level-based: it looks at what is there, never at what happened, so that any event, a lost one included, leads to the
same end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from watchbill import names
from watchbill.api import Crew
from watchbill.api.conditions import Reason
from watchbill.plan import manifests, replicas

Object = dict[str, Any]

_STATUS_FIELDS: Final = ("waiting", "running")


@dataclass(frozen=True, slots=True)
class Child:
    """A worker Deployment, as small as it can be kept."""

    name: str
    uid: str
    resource_version: str
    revision: str
    replicas: int
    ready: int
    content: str
    """Labels, owners and spec as JSON, for comparison."""


@dataclass(frozen=True, slots=True)
class Observed:
    """All that a plan depends on."""

    crew: Crew
    namespace: str
    uid: str
    generation: int
    status: Mapping[str, Any]
    """As it is at the API server."""
    children: Sequence[Child]
    has_service_account: bool
    has_redis_secret: bool
    load: replicas.Load | None
    """None: the store can't say."""
    store_error: str | None
    idle_for: float | None
    unavailable: int
    """Tasks that wait for a worker that has their agent."""
    fault: tuple[Reason, str] | None
    """What the crew's own definition, or its template, was refused for."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, in this order, and when to look again."""

    applies: tuple[tuple[str, Object], ...] = ()
    """(kind, manifest)"""
    deletes: tuple[Child, ...] = ()
    status: Object | None = None
    """None: it says already what it should."""
    again_seconds: float | None = None
    scaled: replicas.Decision | None = field(default=None)


def plan(seen: Observed, *, now: datetime, default_image: str) -> Plan:
    """One step towards what is wanted."""
    applies: list[tuple[str, Object]] = []
    crew = seen.crew
    template = manifests.pod_template(crew, seen.namespace, default_image)
    current = next((c for c in seen.children if c.revision == manifests.revision(template)), None)
    old = [c for c in seen.children if c is not current]
    decision = _scale(seen, current)
    if seen.fault is None or seen.fault[0] is not Reason.TEMPLATE_INVALID:
        if not seen.has_service_account:
            applies.append(("serviceaccounts", manifests.service_account(crew, seen.namespace, seen.uid)))
        desired = manifests.deployment(crew, seen.namespace, seen.uid, template, decision.replicas)
        if current is None or not manifests.contains(json.loads(current.content), _compared(desired)):
            if current is not None:
                desired["metadata"]["resourceVersion"] = current.resource_version
            applies.append(("deployments", desired))
    # An old revision goes once the new one is up, and nothing is left that its pods could be running.
    is_up = current is not None and (current.ready > 0 or current.replicas == 0)
    gone = tuple(old) if is_up and seen.load is not None and not seen.load.running else ()
    status = _status(seen, current, decision, now)
    return Plan(
        applies=tuple(applies),
        deletes=gone,
        status=None if manifests.contains(seen.status, status) and _no_more(seen.status, status) else status,
        again_seconds=decision.again_seconds if not old or gone else 2.0,
        scaled=decision if current is not None and decision.replicas != current.replicas else None,
    )


def project(deployment: Mapping[str, Any]) -> Child:
    """The part of a Deployment that plans depend on."""
    metadata, spec = deployment["metadata"], deployment.get("spec", {})
    return Child(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        revision=metadata.get("labels", {}).get(names.LABEL_REVISION, ""),
        replicas=spec.get("replicas", 1),
        ready=deployment.get("status", {}).get("readyReplicas") or 0,
        content=json.dumps(_compared(deployment)),
    )


def _compared(deployment: Mapping[str, Any]) -> Object:
    metadata = deployment["metadata"]
    return {
        "labels": metadata.get("labels", {}),
        "ownerReferences": metadata.get("ownerReferences", []),
        "spec": deployment.get("spec", {}),
    }


def _scale(seen: Observed, current: Child | None) -> replicas.Decision:
    workers = seen.crew.spec.workers
    bounds = replicas.Bounds(
        workers.min_replicas, workers.max_replicas, workers.concurrency, float(workers.idle_seconds)
    )
    # A new revision begins with as many as the old one has: a rollout is not a reason to do less.
    have = current.replicas if current is not None else max((c.replicas for c in seen.children), default=0)
    if workers.scaling.mode == "External":
        return replicas.Decision(min(max(workers.replicas, bounds.min_replicas), bounds.max_replicas), "external")
    if not seen.has_redis_secret and current is None:
        return replicas.Decision(0, "hold")  # its pods could not even start
    return replicas.decide(bounds, seen.load, have, seen.idle_for)


def _status(seen: Observed, current: Child | None, decision: replicas.Decision, now: datetime) -> Object:
    status: Object = {
        "observedGeneration": seen.generation,
        "conditions": _conditions(seen, current, decision, now),
        "replicas": sum(c.replicas for c in seen.children) if current is not None else decision.replicas,
        "selector": manifests.selector(seen.crew.name),
    }
    if seen.load is not None:
        status |= {"waiting": seen.load.waiting, "running": seen.load.running}
    else:
        status |= {key: seen.status[key] for key in _STATUS_FIELDS if key in seen.status}
    return status


def _conditions(seen: Observed, current: Child | None, decision: replicas.Decision, now: datetime) -> list[Object]:
    stalled = _stalled(seen)
    said: list[tuple[str, str, Reason, str]] = []
    if stalled is not None:
        said.append(("Ready", "False", *stalled))
        said.append(("Stalled", "True", *stalled))
    elif seen.load is None:
        reason = f"the store doesn't answer; workers are held as they are: {seen.store_error}"
        said.append(("Ready", "False", Reason.STORE_UNAVAILABLE, reason))
    elif current is None:
        said.append(("Ready", "False", Reason.PROGRESSING, "the workers' Deployment is being made"))
        said.append(("Reconciling", "True", Reason.PROGRESSING, "the workers' Deployment is being made"))
    else:
        # At zero replicas there is nothing to wait for: work that comes starts workers.
        said.append(("Ready", "True", Reason.AVAILABLE, "the crew takes work"))
    before = {c["type"]: c for c in seen.status.get("conditions", [])}
    conditions = []
    for kind, value, reason_, message in said:
        last = before.get(kind)
        since = last["lastTransitionTime"] if last and last["status"] == value else _stamp(now)
        conditions.append(
            {
                "type": kind,
                "status": value,
                "reason": reason_.value,
                "message": message[:32768],
                "lastTransitionTime": since,
                "observedGeneration": seen.generation,
            }
        )
    return conditions


def _stalled(seen: Observed) -> tuple[Reason, str] | None:
    if seen.fault is not None:
        return seen.fault
    if not seen.has_redis_secret:
        name = seen.crew.spec.workers.redis_secret_ref.name
        return (
            Reason.REDIS_SECRET_MISSING,
            f"there is no Secret {name!r} in namespace {seen.namespace!r}. Create it with the store's URL as its key "
            f"{names.REDIS_SECRET_KEY!r}, or name another in workers.redisSecretRef",
        )
    if seen.unavailable:
        return (
            Reason.AGENT_UNAVAILABLE,
            f"{seen.unavailable} tasks wait for a worker that can load their agent. Its events say why "
            f"(watchbill events {seen.namespace}/{seen.crew.name}); build it into workers.image, or mend its class",
        )
    return None


def _no_more(observed: Mapping[str, Any], desired: Mapping[str, Any]) -> bool:
    """Whether the status says nothing that it should no longer say."""
    return len(observed.get("conditions", [])) == len(desired["conditions"]) and set(observed) <= set(desired)


def _stamp(now: datetime) -> str:
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")
