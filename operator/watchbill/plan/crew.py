"""The plan of a reconciliation: from the observed state of a Crew to its changes and its status. Pure.

Level-based: it looks at what is there, never at what happened, so that any event, a lost one included, leads to the
same end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from watchbill import cluster_names
from watchbill.api import Crew
from watchbill.api.conditions import ConditionType, Reason, Said, stated
from watchbill.plan import drain, explained, manifests, references, replicas, revisions, scaling
from watchbill.plan.children import Child, compared
from watchbill.plan.scaling import Scaling

Object = dict[str, Any]
Fault = tuple[Reason, str]
Watch = Literal["", "changes", "closely"]
"""The way in which the store is to be looked at, which tells of no change of a crew's tasks and workers: not at all,
because it has none; so that the crew is reconciled once they change; or each time, because its workers move."""

FIGURES: Final = ("waiting", "running", "dead", "delayed")
"""Fields of the status that change all the time."""
AGAIN_SECONDS: Final = 5.0
"""After so long a crew is reconciled again whose trouble somebody else must mend."""
_SUSPENDED: Final = "tasks are taken, and none begins while spec.suspend is true"
OLD_AGAIN_SECONDS: Final = 2.0
"""After so long a crew is reconciled again that has workers of an old revision."""


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
    """None: the store can't say. Then the next two are not known either."""
    store_error: str | None
    idle_for: float | None
    dead: int = 0
    """Number of dead letters."""
    delayed: int = 0
    """Number of delayed tasks."""
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
    no_user: Fault | None = None
    """The reason why the crew can't have its own user of the store."""
    evicts: str = ""
    """The reason why the store may delete work, and the fix; empty where it doesn't."""
    fleet: drain.Fleet | None = None
    """The workers, as the store knows them; None: it can't say."""
    config: Mapping[str, str] | None = None
    """Secrets and ConfigMaps that the template refers to → the state of each, where it may be read
    (plan/references.py). None: nothing was looked at."""
    past: replicas.Past = replicas.Past()  # noqa: RUF009 - it is frozen
    at: float = 0.0
    """The time of `past` and of this observation, by a monotonic clock."""
    is_swept: bool = False
    """The store's answers are up to a second old."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes to make, in this order, and the time until the next reconciliation."""

    revision: str
    """Revision of the desired template."""
    applies: tuple[tuple[str, Object], ...] = ()
    """(kind, manifest)"""
    undrain: tuple[str, ...] = ()
    """Workers that are to claim again. This comes first."""
    drain: tuple[str, ...] = ()
    """Workers that are to claim no more."""
    sizes: tuple[tuple[Child, int], ...] = ()
    """Deployments that are not applied, since they are of another template revision, and their new sizes."""
    deletes: tuple[Child, ...] = ()
    status: Object | None = None
    """None: it says already what it should."""
    again_seconds: float | None = None
    scaled: replicas.Decision | None = None
    replaced: tuple[str, ...] = ()
    """Secrets and ConfigMaps for whose change other workers are started."""
    past: replicas.Past = field(default=replicas.Past(), compare=False)
    """The memory for the next decision."""
    watch: Watch = ""
    shrinks: bool = False
    """A pod goes."""
    scaling: Scaling | None = field(default=None, compare=False)
    """The explanation of the number of workers."""


def plan(seen: Observed, *, now: datetime, defaults: manifests.Defaults) -> Plan:
    """One step towards what is wanted."""
    crew = seen.crew
    # Those of a former crew of that name go with it; that they go first keeps their workers out of the new one's count.
    former = tuple(c for c in seen.children if c.owner not in ("", seen.uid))
    children = [c for c in seen.children if c not in former]
    wanted = revisions.choose(crew, seen.namespace, defaults, children, seen.config)
    revision = wanted.made.name
    current = next((c for c in children if c.revision == revision), None)
    blocked = _blocked(seen, revision)
    serving = current
    if serving is None and blocked is not None:  # what there was goes on, until there is something better
        serving = max(children, key=lambda c: (c.created, c.name), default=None)
    old = tuple(c for c in children if c is not serving)
    before = drain.wanted_before(serving, old, seen.fleet, seen.past.size)
    decision = _scale(seen, wanted, serving, before, drain.claiming(children, seen.fleet))
    step = drain.step(decision.replicas, serving, old, seen.fleet)
    applies: tuple[tuple[str, Object], ...] = ()
    if (seen.fault is not None and seen.fault[0] is Reason.OWNER_CONFLICT) or former:
        step = drain.Step(serving.replicas if serving else 0)  # workers of this name would do another's work
    elif blocked is None:
        desired = manifests.deployment(crew, seen.namespace, seen.uid, wanted.template, step.size, wanted.made)
        applies = _applies(seen, current, desired)
    sizes = step.sizes
    resized = serving is not None and step.size != serving.replicas
    if blocked is not None and resized and serving is not None:
        sizes = ((serving, step.size), *sizes)
    trouble, trouble_in = _trouble(serving, now)
    there = sum(c.replicas for c in children) if serving is not None else step.size
    told = explained.of(crew, seen.load, decision, step, [(c, c is serving) for c in children], seen.fleet, now)
    conditions = _conditions(seen, wanted, serving, blocked, trouble, now)
    status = _status(seen, wanted, there, serving, conditions) | _held(told)
    old_again = OLD_AGAIN_SECONDS if former or len(old) > len(step.gone) else None
    moves = resized or bool(step.drain or step.undrain or step.sizes)
    held_in = decision.held.seconds if decision.held else None
    sized = [*step.sizes, *([(serving, step.size)] if serving else [])]
    return Plan(
        revision=revision,
        applies=applies,
        undrain=step.undrain,
        drain=step.drain,
        sizes=sizes,
        deletes=former + step.gone,
        status=None if says(seen.status, status) else status,
        again_seconds=shortest([decision.again_seconds, held_in, trouble_in, old_again, *_pauses(seen, wanted)]),
        scaled=decision if moves and decision.replicas != before else None,
        replaced=wanted.replaced if current is None else (),
        past=decision.past,
        watch=_watch(seen, children, is_moving=moves or bool(old) or decision.replicas != before),
        scaling=told,
        shrinks=any(size < child.replicas for child, size in sized),
    )


def shortest(pauses: Iterable[float | None]) -> float | None:
    """The shortest of the pauses that there are; None: there is none."""
    return min((pause for pause in pauses if pause is not None), default=None)


def refused_message(revision: str, message: str) -> str:
    """Returns the message with which a status says that a template was refused, so that it is known after a restart."""
    return f"template revision {revision}: {message}"


def says(observed: Mapping[str, Any], desired: Mapping[str, Any]) -> bool:
    """Returns whether a status has every desired field, and no field of ours that it should no longer have."""
    ours = {kind.value for kind in ConditionType}
    there, wanted = ({c["type"]: c for c in status.get("conditions", [])} for status in (observed, desired))
    reasons = [(status.get("scaling") or {}).get("reason") for status in (observed, desired)]  # its message only ages
    rest = [{k: v for k, v in status.items() if k not in ("conditions", "scaling")} for status in (observed, desired)]
    return (
        set(there) & ours == set(wanted)
        and manifests.contains(there, wanted)
        and reasons[0] == reasons[1]
        and rest[0] == rest[1]
    )


def summary(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """The condition that sums up; empty where there is none."""
    return next((c for c in status.get("conditions", []) if c["type"] == ConditionType.READY), {})


# -------------------------------------------------------------------- within


def _applies(seen: Observed, current: Child | None, desired: Object) -> tuple[tuple[str, Object], ...]:
    applies: list[tuple[str, Object]] = []
    if not seen.has_service_account:
        applies.append(("serviceaccounts", manifests.service_account(seen.crew, seen.namespace, seen.uid)))
    if current is None or not manifests.contains(json.loads(current.content), compared(desired)):
        if current is not None:
            desired["metadata"]["resourceVersion"] = current.resource_version
        applies.append(("deployments", desired))
    return tuple(applies)


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


def _scale(
    seen: Observed, wanted: revisions.Wanted, serving: Child | None, before: int, claiming: int | None
) -> replicas.Decision:
    workers = seen.crew.spec.workers
    bounds = replicas.Bounds(
        workers.min_replicas,
        workers.max_replicas,
        workers.concurrency,
        float(workers.idle_seconds),
        workers.scaling.up,
        workers.scaling.down,
    )
    if seen.crew.spec.suspend:
        return replicas.of_suspended(bounds, seen.load, before, seen.past, seen.at)
    if workers.scaling.mode == "External":
        number = bounds.clamp(workers.replicas)
        return replicas.Decision(number, "external", past=seen.past.changed(seen.at, number, 0))
    if (serving is None or not serving.replicas) and (not seen.has_redis_secret or wanted.missing):
        return replicas.Decision(0, "hold")  # its pods could not even start
    return replicas.decide(bounds, seen.load, before, seen.idle_for, up=claiming, past=seen.past, now=seen.at)


def _pauses(seen: Observed, wanted: revisions.Wanted) -> list[float | None]:
    """After how many seconds what was seen may have changed, with no event to tell of it."""
    due = long_in = None
    if seen.load is not None:
        due = None if seen.load.due_in is None else max(seen.load.due_in, 0.0)
        left = seen.crew.spec.workers.scaling.up.wait_seconds - seen.load.oldest_seconds
        long_in = left if seen.load.waiting and left > 0 and not seen.crew.spec.suspend else None
    is_taken = seen.fault is not None and seen.fault[0] is Reason.OWNER_CONFLICT
    is_stuck = seen.store_error is not None or not seen.has_redis_secret or bool(wanted.missing) or is_taken
    return [due, long_in, AGAIN_SECONDS if is_stuck else None]


def _watch(seen: Observed, children: Sequence[Child], *, is_moving: bool) -> Watch:
    load, spec = seen.load, seen.crew.spec
    if load is None:
        return ""
    waiting = 0 if spec.suspend else load.waiting
    if waiting + load.running + load.deliveries == 0 and not any(child.replicas for child in children):
        return ""
    waits_long = waiting and load.oldest_seconds >= spec.workers.scaling.up.wait_seconds
    ends = spec.suspend and load.running  # what dead workers hold has to be returned
    drains = seen.fleet is None or any(worker.draining for worker in seen.fleet.workers)
    pods = sum(child.replicas for child in children)
    starts = any(child.ready != child.replicas or child.there != child.replicas for child in children)
    is_known = drain.claiming(children, seen.fleet) == pods
    return "closely" if is_moving or waits_long or ends or drains or starts or not is_known else "changes"


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


def _status(
    seen: Observed, wanted: revisions.Wanted, there: int, serving: Child | None, conditions: list[Object]
) -> Object:
    status: Object = {
        "observedGeneration": seen.generation,
        "conditions": conditions,
        "replicas": there,
        "selector": manifests.selector(seen.crew.name),
        "agents": len(seen.crew.spec.agents),
        **({"revision": serving.revision} if serving is not None else {}),
        "templateVersion": wanted.version,
    }
    if seen.load is not None:
        figures = (seen.load.waiting, seen.load.running, seen.dead, seen.delayed)
        status |= dict(zip(FIGURES, figures, strict=True))
    else:
        status |= {key: seen.status[key] for key in FIGURES if key in seen.status}
    return status


def _held(told: Scaling) -> Object:
    """The part of the status that says why there are more or fewer workers than are wanted, where there are."""
    return {"scaling": {"reason": scaling.REASONS[told.held], "message": scaling.hold(told)}} if told.held else {}


def _conditions(
    seen: Observed, wanted: revisions.Wanted, serving: Child | None, blocked: Fault | None, trouble: str, now: datetime
) -> list[Object]:
    stalled = seen.fault or blocked or _stalled(seen, wanted, trouble)
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
    elif seen.crew.spec.suspend:
        said = [(ConditionType.READY, True, Reason.SUSPENDED, _SUSPENDED)]
    elif seen.evicts:
        said = [(ConditionType.READY, True, Reason.STORE_EVICTS, f"the crew takes work, but {seen.evicts}")]
    elif wanted.outdated:
        said = [(ConditionType.READY, True, Reason.CONFIG_OUTDATED, _outdated(wanted))]
    elif not seen.agents_loaded:
        message = (
            "the crew takes work; no worker has loaded all of its agents yet. One that tried in vain has logged why"
        )
        said = [(ConditionType.READY, True, Reason.AGENTS_UNCHECKED, message + _unread(wanted))]
    else:
        # At zero replicas there is nothing to wait for: work that comes starts workers.
        said = [(ConditionType.READY, True, Reason.AVAILABLE, "the crew takes work" + _unread(wanted))]
    before = seen.status.get("conditions", [])
    was_suspended = any(c["type"] == ConditionType.SUSPENDED for c in before)
    if seen.crew.spec.suspend and (seen.load is not None or was_suspended):
        said.append((ConditionType.SUSPENDED, True, Reason.SUSPENDED, _SUSPENDED))
    return stated(said, before, generation=seen.generation, now=now)


def _outdated(wanted: revisions.Wanted) -> str:
    return (
        f"the crew takes work; its workers run with an older {references.described(wanted.outdated)}, because "
        "workers.rolloutOnChange is false. To replace them, set or change an annotation in workers.template.metadata"
    )


def _unread(wanted: revisions.Wanted) -> str:
    if not wanted.unread:
        return ""
    return (
        f"; a change of {references.described(wanted.unread)} replaces no workers, because the operator lacks the "
        "right to get it (rbac.readSecrets and rbac.readConfigMaps of its chart)"
    )


def _stalled(seen: Observed, wanted: revisions.Wanted, trouble: str) -> Fault | None:
    if seen.no_user is not None:
        return seen.no_user
    if not seen.has_redis_secret:
        name = seen.crew.spec.workers.redis_secret_ref.name
        return (
            Reason.REDIS_SECRET_MISSING,
            f"there is no Secret {name!r} in namespace {seen.namespace!r}. Create it with the store's URL as its key "
            f"{cluster_names.REDIS_SECRET_KEY!r}, or name another in workers.redisSecretRef",
        )
    if seen.unavailable:
        agents = ", ".join(repr(agent) for agent in seen.unavailable[:10])
        more = f" and {len(seen.unavailable) - 10} more" if len(seen.unavailable) > 10 else ""
        return (
            Reason.AGENT_UNAVAILABLE,
            f"tasks wait for a worker that can load the agents {agents}{more}. The crew's events say why "
            f"(watchbill events {seen.namespace}/{seen.crew.name}); build them into workers.image, or mend their class",
        )
    if wanted.missing:
        return (
            Reason.REFERENCE_MISSING,
            f"namespace {seen.namespace!r} lacks {references.described(wanted.missing)}, without which no worker can "
            "start. Create it, or mend its name in spec.workers; those that run go on",
        )
    if trouble:
        return Reason.WORKERS_UNAVAILABLE, f"workers don't start: {trouble}"
    return None
