"""Changes of a crew that a Kubernetes Event tells people of. Pure.

Each function compares a state with the one before, so that a change is told once. A crew that goes between no worker
and one is not told: it does so with each task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from watchbill.api.conditions import ConditionType, Reason
from watchbill.plan import references
from watchbill.plan.crew import Observed, Plan, summary

NOTE_MAX_BYTES: Final = 1024
"""The bound of the API server."""


@dataclass(frozen=True, slots=True)
class Told:
    """The content of an Event."""

    reason: str
    """One word for programs, such as `Scaled`."""
    action: str
    """The action of the operator, in one word."""
    note: str
    """A sentence for people."""
    warning: bool = False


def of_plan(seen: Observed, planned: Plan) -> list[Told]:
    """Returns what a plan that was carried out has changed: the number of workers, or the template that they have."""
    told = []
    children = [child for child in seen.children if child.owner in ("", seen.uid)]
    before, now = sum(child.replicas for child in children), planned.scaled
    if now is not None and now.replicas != before and max(now.replicas, before) > 1:
        told.append(Told("Scaled", "Scale", f"{now.replicas} workers instead of {before} ({now.why}){_figures(seen)}"))
    revisions = {child.revision for child in children}
    is_new = planned.revision not in revisions
    if revisions and is_new and any(kind == "deployments" for kind, _ in planned.applies):
        others = ", ".join(sorted(revisions))
        why = f", for a change of {references.described(planned.replaced)}" if planned.replaced else ""
        note = f"workers of template revision {planned.revision} take the place of those of {others}{why}"
        told.append(Told("RolloutStarted", "RollOut", note))
    left = {child.revision for child in children if child not in planned.deletes}
    if left == {planned.revision} and len(revisions) > 1:
        note = f"all workers are of template revision {planned.revision}"
        told.append(Told("RolloutFinished", "RollOut", note))
    return told + _of_drain(seen, planned, "a rollout" if len(revisions | {planned.revision}) > 1 else "scale-in")


def of_status(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Told]:
    """Returns what a status that was written says newly: that somebody must act, or need no longer; that the store is
    away, or back."""
    told = []
    was, now = (_of(status, ConditionType.STALLED) for status in (before, after))
    if now and now.get("reason") != was.get("reason"):
        told.append(Told(str(now["reason"]), "Reconcile", str(now["message"]), warning=True))
    if was and not now:
        told.append(Told("Recovered", "Reconcile", f"it is no longer stalled ({was['reason']})"))
    was_suspended, is_suspended = (_has(status, ConditionType.SUSPENDED) for status in (before, after))
    if is_suspended and not was_suspended:
        told.append(Told("Suspended", "Suspend", "no task begins until spec.suspend is false"))
    if was_suspended and not is_suspended:
        told.append(Told("Resumed", "Resume", "tasks begin again"))
    was_spent, is_spent = (_of(status, ConditionType.BUDGET_EXHAUSTED) for status in (before, after))
    if is_spent and not was_spent:
        told.append(Told("BudgetExhausted", "Spend", str(is_spent["message"]), warning=True))
    if was_spent and not is_spent:
        told.append(Told("BudgetAvailable", "Spend", "the budgets have room for requests to models again"))
    was_away, is_away = (summary(status).get("reason") == Reason.STORE_UNAVAILABLE for status in (before, after))
    if is_away and not was_away:
        told.append(Told("StoreUnavailable", "Reconcile", str(summary(after)["message"]), warning=True))
    if was_away and not is_away:
        told.append(Told("StoreAvailable", "Reconcile", "the store answers again"))
    return told


def status_refused(message: str) -> Told:
    """Returns that the API server refuses the status of a resource, which therefore tells of an earlier time."""
    return Told("StatusRefused", "Reconcile", f"the status can't be written, and is outdated: {message}", warning=True)


def of_dead(crew: str, before: int | None, now: int) -> list[Told]:
    """Returns that a crew without dead letters has some. `before`: their number at the last reading; None: unknown."""
    if before != 0 or not now:
        return []
    note = f"tasks have failed for good: {now} dead letters (watchbill dead list {crew})"
    return [Told("DeadLetters", "Run", note, warning=True)]


def of_missed(seen: Mapping[str, Any], before: int | None, now: int) -> list[Told]:
    """Returns that slots of this Heartbeat were missed. `before`, `now`: their numbers at the last reading and at this
    one; None: the status says what was known last. The note has no figures, so that one series tells of all."""
    known = before if before is not None else (seen.get("status") or {}).get("missedSlots", 0)
    if now <= known:
        return []
    crew = f"{seen['metadata']['namespace']}/{seen['spec']['crewRef']['name']}"
    note = (
        f"slots were missed: status.missedSlots says how many, the crew's feed which and why (watchbill events {crew})"
    )
    return [Told("SlotsMissed", "Fire", note, warning=True)]


def _of_drain(seen: Observed, planned: Plan, cause: str) -> list[Told]:
    """The notes name no workers, so that many drains are one series."""
    told = []
    if planned.drain:
        note = f"workers drain for {cause}: they claim no more, and leave once what they run has ended"
        told.append(Told("DrainStarted", "Drain", note))
    if planned.undrain:
        told.append(Told("DrainCancelled", "Drain", "work has come, and workers that drained claim again"))
    draining = [worker for worker in (seen.fleet.workers if seen.fleet else ()) if worker.draining == "scaling"]
    if planned.shrinks and draining and not planned.drain and all(worker.is_empty for worker in draining):
        told.append(Told("DrainFinished", "Drain", f"the workers that drained for {cause} have ended what they ran"))
    return told


def _figures(seen: Observed) -> str:
    if seen.load is None:
        return ""
    deliveries = f", {seen.load.deliveries} deliveries" if seen.load.deliveries else ""
    concurrency = seen.crew.spec.workers.concurrency
    return f": {seen.load.waiting} tasks wait, {seen.load.running} run{deliveries}; each worker runs {concurrency}"


def _has(status: Mapping[str, Any], kind: ConditionType) -> bool:
    return bool(_of(status, kind))


def _of(status: Mapping[str, Any], kind: ConditionType) -> Mapping[str, Any]:
    """The condition of this type, if it is true; else empty."""
    found = (c for c in status.get("conditions") or [] if c["type"] == kind and c["status"] == "True")
    return next(found, {})
