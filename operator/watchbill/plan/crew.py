"""The plan of a reconciliation: from the observed state of a Crew to its changes and its status. Pure.

Level-based: it looks at what is there, never at what happened, so that any event, a lost one included, leads to the
same end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from watchbill.api import Crew
from watchbill.api.conditions import ConditionType, Reason
from watchbill.plan import budget, drain, explained, limits, manifests, quotas, replicas, revisions, scaling
from watchbill.plan.children import Child, compared
from watchbill.plan.crew_conditions import conditions_of, trouble_of
from watchbill.plan.scaling import Scaling

Object = dict[str, Any]
Fault = tuple[Reason, str]
Watch = Literal["", "changes", "rarely", "closely"]
"""The way in which the store is to be looked at, which tells of no change of a crew's tasks and workers: not at all,
because it has none; so that the crew is reconciled once they change; also now and then, because it waits for its first
worker; or each time, because its workers move."""

FIGURES: Final = ("waiting", "running", "dead", "delayed")
"""Fields of the status that change all the time."""
AGAIN_SECONDS: Final = 5.0
"""After so long a crew is reconciled again whose trouble somebody else must mend."""
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
    template: Object
    """The pods' template, in its newest version."""
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
    budgets: budget.Seen = budget.Seen()  # noqa: RUF009 - it is frozen
    hold: quotas.Hold | None = None
    """The reason why the namespace has no room for the crew."""
    share: quotas.Share | None = None
    """The workers that the namespace's quota leaves to the crew; None: as many as it wants."""

    @property
    def is_at_rest(self) -> bool:
        """True if no task of the crew is to begin."""
        return self.crew.spec.suspend or self.hold is not None


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
    wish: int | None = field(default=None, compare=False)
    """Number of workers that the crew would have without its namespace's quota; None: unknown."""


def plan(seen: Observed, *, now: datetime, defaults: manifests.Defaults) -> Plan:
    """One step towards what is wanted."""
    crew = seen.crew
    # Those of a former crew of that name go with it; that they go first keeps their workers out of the new one's count.
    former = tuple(c for c in seen.children if c.owner not in ("", seen.uid))
    children = [c for c in seen.children if c not in former]
    wanted = revisions.choose(seen.template, crew, seen.namespace, defaults, children, seen.config)
    revision = wanted.made.name
    current = next((c for c in children if c.revision == revision), None)
    blocked = _blocked(seen, revision)
    serving = current
    if serving is None and blocked is not None:  # what there was goes on, until there is something better
        serving = max(children, key=lambda c: (c.created, c.name), default=None)
    old = tuple(c for c in children if c is not serving)
    before = drain.wanted_before(serving, old, seen.fleet, seen.past.size)
    wish = _scale(seen, wanted, serving, before, drain.claiming(children, seen.fleet))
    most = 0 if seen.hold else seen.share.most if seen.share else wish.replicas
    decision = replicas.at_most(wish, most, before, seen.past, seen.at)
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
    trouble, trouble_in = trouble_of(serving, now)
    there = sum(c.replicas for c in children) if serving is not None else step.size
    told = explained.of(crew, seen.load, decision, step, [(c, c is serving) for c in children], seen.fleet, now)
    told = explained.within_quota(told, seen.hold, seen.share, wish.replicas)
    conditions = conditions_of(seen, wanted, serving, blocked, trouble, now)
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
        wish=wish.replicas if wish.why != "unknown" else None,
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
        limits.at_once(seen.crew.spec),
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
        long_in = left if seen.load.waiting and left > 0 and not seen.is_at_rest else None
    works = seen.load is not None and seen.load.waiting + seen.load.running > 0
    spends_in = budget.again(seen.budgets, works=works)
    is_taken = seen.fault is not None and seen.fault[0] is Reason.OWNER_CONFLICT
    is_stuck = seen.store_error is not None or not seen.has_redis_secret or bool(wanted.missing) or is_taken
    return [due, long_in, spends_in, AGAIN_SECONDS if is_stuck else None]


def _watch(seen: Observed, children: Sequence[Child], *, is_moving: bool) -> Watch:
    load, spec = seen.load, seen.crew.spec
    if load is None:
        return ""
    waiting = 0 if seen.is_at_rest else load.waiting
    if waiting + load.running + load.beside == 0 and not any(child.replicas for child in children):
        return ""
    waits_long = waiting and load.oldest_seconds >= spec.workers.scaling.up.wait_seconds
    ends = seen.is_at_rest and load.running  # what dead workers hold has to be returned
    drains = seen.fleet is None or any(worker.draining for worker in seen.fleet.workers)
    pods = sum(child.replicas for child in children)
    starts = any(child.ready != child.replicas or child.there != child.replicas for child in children)
    is_known = drain.claiming(children, seen.fleet) == pods
    if is_moving or ends or drains:
        return "closely"
    if waits_long or starts or not is_known:  # of a crew without any worker, only what changes can bring it on
        return "closely" if seen.fleet is None or seen.fleet.workers else "rarely"
    return "changes"


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
