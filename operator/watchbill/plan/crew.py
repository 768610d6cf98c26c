"""The plan of a reconciliation: from the observed state of a Crew to its changes and its status. Pure.

Level-based: it looks at what is there, never at what happened, so that any event, a lost one included, leads to the
same end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from watchbill import names
from watchbill.api import Crew
from watchbill.api.conditions import ConditionType, Reason, Said, stated
from watchbill.plan import manifests, replicas

Object = dict[str, Any]
Fault = tuple[Reason, str]

FIGURES: Final = ("waiting", "running")
"""Fields of the status that change all the time."""
AGAIN_SECONDS: Final = 5.0
"""After so long a crew is reconciled again whose trouble somebody else must mend."""
ACTIVE_AGAIN_SECONDS: Final = 2.0
"""After so long a crew is reconciled again that has work or workers."""
OLD_AGAIN_SECONDS: Final = 2.0
"""After so long a crew is reconciled again that has workers of an old revision."""
_POD_NAME: Final = re.compile(r'^pods "[^"]*"')


@dataclass(frozen=True, slots=True)
class Child:
    """A worker Deployment, as small as it can be kept."""

    name: str
    uid: str
    resource_version: str
    revision: str
    owner: str
    """The uid of the crew whose it is; empty where none is named."""
    created: str
    replicas: int
    ready: int
    trouble: str
    """The reason why its pods can't be made, or don't become ready, as its controller says; empty where it says
    none."""
    unavailable_since: datetime | None
    """Since when it has too few ready workers; None: it has enough, or that is not known."""
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
    """The status at the API server."""
    children: Sequence[Child]
    has_service_account: bool
    has_redis_secret: bool
    load: replicas.Load | None
    """None: the store can't say."""
    store_error: str | None
    idle_for: float | None
    unavailable: Sequence[str] = ()
    """Agents whose tasks wait for a worker that has them."""
    fault: Fault | None = None
    """The fault for which the crew's own definition is refused."""
    refusal: tuple[str, str] | None = None
    """(template revision, message) that the API server has just refused. What it refused before, the status says."""
    denied: str | None = None
    """The message with which the API server has just forbidden a write."""
    agents_loaded: bool = True
    """A worker has loaded all agents under the current definition."""
    evicts: str = ""
    """The reason why the store may delete work, and the fix; empty where it doesn't."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes to make, in this order, and the time until the next reconciliation."""

    revision: str
    """Revision of the desired template."""
    applies: tuple[tuple[str, Object], ...] = ()
    """(kind, manifest)"""
    resize: tuple[Child, int] | None = None
    """An old revision that stands in for one that can't be made, and its new size."""
    deletes: tuple[Child, ...] = ()
    status: Object | None = None
    """None: it says already what it should."""
    again_seconds: float | None = None
    scaled: replicas.Decision | None = None


def plan(seen: Observed, *, now: datetime, defaults: manifests.Defaults) -> Plan:
    """One step towards what is wanted."""
    crew = seen.crew
    template = manifests.pod_template(crew, seen.namespace, defaults)
    revision = manifests.revision(template)
    # Those of a former crew of that name go with it; that they go first keeps their workers out of the new one's count.
    former = tuple(c for c in seen.children if c.owner not in ("", seen.uid))
    children = [c for c in seen.children if c not in former]
    current = next((c for c in children if c.revision == revision), None)
    blocked = _blocked(seen, revision)
    serving = current
    if serving is None and blocked is not None:  # what there was goes on, until there is something better
        serving = max(children, key=lambda c: (c.created, c.name), default=None)
    decision = _scale(seen, serving, children)
    changes = serving is not None and decision.replicas != serving.replicas
    applies: tuple[tuple[str, Object], ...] = ()
    if seen.fault is not None and seen.fault[0] is Reason.OWNER_CONFLICT:
        changes = False  # workers of this name would do another's work
    elif blocked is None and not former:
        applies = _applies(
            seen, current, manifests.deployment(crew, seen.namespace, seen.uid, template, decision.replicas)
        )
    # An old revision goes once the new one is up, and nothing is left that its pods could be running.
    old = tuple(c for c in children if c is not serving)
    is_up = serving is not None and (serving.ready > 0 or serving.replicas == 0)
    gone = old if is_up and seen.load is not None and not seen.load.running else ()
    trouble, trouble_in = _trouble(serving, now)
    there = sum(c.replicas for c in children) if serving is not None else decision.replicas
    status = _status(seen, there, _conditions(seen, serving, blocked, trouble, now))
    old_again = OLD_AGAIN_SECONDS if former or (old and not gone) else None
    return Plan(
        revision=revision,
        applies=applies,
        resize=(serving, decision.replicas) if blocked is not None and changes and serving is not None else None,
        deletes=former + gone,
        status=None if says(seen.status, status) else status,
        again_seconds=shortest([decision.again_seconds, trouble_in, old_again, *_pauses(seen)]),
        scaled=decision if changes else None,
    )


def shortest(pauses: Iterable[float | None]) -> float | None:
    """The shortest of the pauses that there are; None: there is none."""
    return min((pause for pause in pauses if pause is not None), default=None)


def project(deployment: Mapping[str, Any]) -> Child:
    """The part of a Deployment that plans depend on."""
    metadata, spec, status = deployment["metadata"], deployment.get("spec", {}), deployment.get("status", {})
    conditions = {c["type"]: c for c in status.get("conditions") or []}
    return Child(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        revision=metadata.get("labels", {}).get(names.LABEL_REVISION, ""),
        owner=next((o["uid"] for o in metadata.get("ownerReferences") or [] if o.get("controller")), ""),
        created=metadata.get("creationTimestamp") or "",
        replicas=spec.get("replicas", 1),
        ready=status.get("readyReplicas") or 0,
        trouble=_message_if(conditions.get("ReplicaFailure"), "True")
        or _message_if(conditions.get("Progressing"), "False"),
        unavailable_since=_since(conditions.get("Available")),
        content=json.dumps(_compared(deployment)),
    )


def refused_message(revision: str, message: str) -> str:
    """Returns the message with which a status says that a template was refused, so that it is known after a restart."""
    return f"template revision {revision}: {message}"


def says(observed: Mapping[str, Any], desired: Mapping[str, Any]) -> bool:
    """Returns whether a status has every desired field, and no field of ours that it should no longer have."""
    ours = {kind.value for kind in ConditionType}
    there, wanted = ({c["type"]: c for c in status.get("conditions", [])} for status in (observed, desired))
    return (
        set(there) & ours == set(wanted)
        and manifests.contains(there, wanted)
        and {k: v for k, v in observed.items() if k != "conditions"}
        == {k: v for k, v in desired.items() if k != "conditions"}
    )


def summary(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """The condition that sums up; empty where there is none."""
    return next((c for c in status.get("conditions", []) if c["type"] == ConditionType.READY), {})


# -------------------------------------------------------------------- within


def _applies(seen: Observed, current: Child | None, desired: Object) -> tuple[tuple[str, Object], ...]:
    applies: list[tuple[str, Object]] = []
    if not seen.has_service_account:
        applies.append(("serviceaccounts", manifests.service_account(seen.crew, seen.namespace, seen.uid)))
    if current is None or not manifests.contains(json.loads(current.content), _compared(desired)):
        if current is not None:
            desired["metadata"]["resourceVersion"] = current.resource_version
        applies.append(("deployments", desired))
    return tuple(applies)


def _compared(deployment: Mapping[str, Any]) -> Object:
    metadata = deployment["metadata"]
    return {
        "labels": metadata.get("labels", {}),
        "ownerReferences": metadata.get("ownerReferences", []),
        "spec": deployment.get("spec", {}),
    }


def _blocked(seen: Observed, revision: str) -> Fault | None:
    """Returns why the desired Deployment can't be made now; None if it can."""
    if seen.denied is not None:
        return Reason.FORBIDDEN, seen.denied
    if seen.refusal is not None and seen.refusal[0] == revision:
        return Reason.TEMPLATE_INVALID, refused_message(*seen.refusal)
    for condition in seen.status.get("conditions", []):
        if (
            (condition["type"], condition["reason"]) == (ConditionType.STALLED, Reason.TEMPLATE_INVALID)
            and condition.get("observedGeneration") == seen.generation
            and condition["message"].startswith(refused_message(revision, ""))
        ):
            return Reason.TEMPLATE_INVALID, condition["message"]
    return None


def _scale(seen: Observed, serving: Child | None, children: Sequence[Child]) -> replicas.Decision:
    workers = seen.crew.spec.workers
    bounds = replicas.Bounds(
        workers.min_replicas, workers.max_replicas, workers.concurrency, float(workers.idle_seconds)
    )
    # A new revision begins with as many as the old one has: a rollout is not a reason to do less.
    have = serving.replicas if serving is not None else max((c.replicas for c in children), default=0)
    if workers.scaling.mode == "External":
        return replicas.Decision(min(max(workers.replicas, bounds.min_replicas), bounds.max_replicas), "external")
    if not seen.has_redis_secret and serving is None:
        return replicas.Decision(0, "hold")  # its pods could not even start
    return replicas.decide(bounds, seen.load, have, seen.idle_for)


def _pauses(seen: Observed) -> list[float | None]:
    """After how many seconds what was seen may have changed, with no event to tell of it."""
    active = due = None
    if seen.load is not None:
        active = ACTIVE_AGAIN_SECONDS if not seen.load.none or any(c.replicas for c in seen.children) else None
        due = None if seen.load.due_in is None else max(seen.load.due_in, 0.0)
    is_taken = seen.fault is not None and seen.fault[0] is Reason.OWNER_CONFLICT
    is_stuck = seen.store_error is not None or not seen.has_redis_secret or is_taken
    return [active, due, AGAIN_SECONDS if is_stuck else None]


def _trouble(serving: Child | None, now: datetime) -> tuple[str, float | None]:
    """Returns why no worker starts, and in how many seconds that may have to be reported."""
    if serving is None or serving.replicas == 0:
        return "", None
    if serving.trouble:
        return serving.trouble, None
    if serving.ready > 0 or serving.unavailable_since is None:
        return "", None
    left = (serving.unavailable_since + timedelta(seconds=manifests.START_SECONDS) - now).total_seconds()
    if left > 0:
        return "", left
    since = f"{serving.unavailable_since:%Y-%m-%dT%H:%M:%SZ}"
    return f"Deployment {serving.name!r} wants {serving.replicas} workers, and none has been ready since {since}", None


def _message_if(condition: Mapping[str, Any] | None, status: str) -> str:
    if condition is None or condition["status"] != status:
        return ""
    # Each attempt is a pod of another name, and would be another message.
    return _POD_NAME.sub("pods", condition.get("message") or condition.get("reason") or "unknown")


def _since(available: Mapping[str, Any] | None) -> datetime | None:
    if available is None or available["status"] != "False" or not available.get("lastTransitionTime"):
        return None
    return datetime.fromisoformat(available["lastTransitionTime"]).astimezone(UTC)


def _status(seen: Observed, there: int, conditions: list[Object]) -> Object:
    status: Object = {
        "observedGeneration": seen.generation,
        "conditions": conditions,
        "replicas": there,
        "selector": manifests.selector(seen.crew.name),
    }
    if seen.load is not None:
        status |= {"waiting": seen.load.waiting, "running": seen.load.running}
    else:
        status |= {key: seen.status[key] for key in FIGURES if key in seen.status}
    return status


def _conditions(
    seen: Observed, serving: Child | None, blocked: Fault | None, trouble: str, now: datetime
) -> list[Object]:
    stalled = seen.fault or blocked or _stalled(seen, trouble)
    said: list[Said]
    if stalled is not None:
        said = [(ConditionType.READY, False, *stalled), (ConditionType.STALLED, True, *stalled)]
    elif seen.load is None:
        message = f"the store doesn't answer; workers are held as they are: {seen.store_error}"
        said = [(ConditionType.READY, False, Reason.STORE_UNAVAILABLE, message)]
    elif serving is None:
        message = "the workers' Deployment is being made"
        said = [
            (ConditionType.READY, False, Reason.PROGRESSING, message),
            (ConditionType.RECONCILING, True, Reason.PROGRESSING, message),
        ]
    elif seen.evicts:
        said = [(ConditionType.READY, True, Reason.STORE_EVICTS, f"the crew takes work, but {seen.evicts}")]
    elif not seen.agents_loaded:
        message = (
            "the crew takes work; no worker has loaded all of its agents yet. One that tried in vain has logged why"
        )
        said = [(ConditionType.READY, True, Reason.AGENTS_UNCHECKED, message)]
    else:
        # At zero replicas there is nothing to wait for: work that comes starts workers.
        said = [(ConditionType.READY, True, Reason.AVAILABLE, "the crew takes work")]
    return stated(said, seen.status.get("conditions", []), generation=seen.generation, now=now)


def _stalled(seen: Observed, trouble: str) -> Fault | None:
    if not seen.has_redis_secret:
        name = seen.crew.spec.workers.redis_secret_ref.name
        return (
            Reason.REDIS_SECRET_MISSING,
            f"there is no Secret {name!r} in namespace {seen.namespace!r}. Create it with the store's URL as its key "
            f"{names.REDIS_SECRET_KEY!r}, or name another in workers.redisSecretRef",
        )
    if seen.unavailable:
        agents = ", ".join(repr(agent) for agent in seen.unavailable[:10])
        more = f" and {len(seen.unavailable) - 10} more" if len(seen.unavailable) > 10 else ""
        return (
            Reason.AGENT_UNAVAILABLE,
            f"tasks wait for a worker that can load the agents {agents}{more}. The crew's events say why "
            f"(watchbill events {seen.namespace}/{seen.crew.name}); build them into workers.image, or mend their class",
        )
    if trouble:
        return Reason.WORKERS_UNAVAILABLE, f"workers don't start: {trouble}"
    return None
