"""Makes the explanation of a crew's number of workers from what its plan was made of. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime, timedelta

from watchbill.api import Crew
from watchbill.api.conditions import stamp
from watchbill.plan import drain, quotas, replicas
from watchbill.plan.children import Child
from watchbill.plan.scaling import Draining, HeldBy, Pods, Scaling


def of(
    crew: Crew,
    load: replicas.Load | None,
    decision: replicas.Decision,
    step: drain.Step,
    children: Sequence[tuple[Child, bool]],
    fleet: drain.Fleet | None,
    now: datetime,
) -> Scaling:
    """`children`: Deployments, and whether each serves."""
    workers, held = crew.spec.workers, decision.held
    drained = [worker for worker in (fleet.workers if fleet else ()) if worker.draining]
    until = held.seconds if held is not None else None
    return Scaling(
        at=stamp(now),
        mode=workers.scaling.mode,
        why=decision.why,
        wanted=held.wanted if held is not None else decision.replicas,
        replicas=decision.replicas,
        held=_held(load, decision, step, children, None if fleet is None else drained),
        until=stamp(now + timedelta(seconds=until)) if until is not None else "",
        waiting=load.waiting if load else None,
        running=load.running if load else None,
        deliveries=load.deliveries if load else None,
        has_batches=load.has_batches if load else False,
        oldest_seconds=load.oldest_seconds if load else 0.0,
        min_replicas=workers.min_replicas,
        max_replicas=workers.max_replicas,
        concurrency=workers.concurrency,
        idle_seconds=workers.idle_seconds,
        up_window_seconds=workers.scaling.up.stabilization_window_seconds,
        down_window_seconds=workers.scaling.down.stabilization_window_seconds,
        wait_seconds=workers.scaling.up.wait_seconds,
        pods=tuple(Pods(child.name, child.replicas, child.ready, serves) for child, serves in children),
        draining=tuple(Draining(worker.name, worker.holds, worker.draining) for worker in drained),
        victims=step.drain,
        undrained=step.undrain,
    )


def within_quota(told: Scaling, hold: quotas.Hold | None, share: quotas.Share | None, wish: int) -> Scaling:
    """Returns the explanation with what the namespace's quota says. `wish`: number of workers without it."""
    if hold is not None:
        return dataclasses.replace(told, hold=hold.why)
    if share is not None:
        known = {"quota": share.hard, "quota_wanted": share.others + wish, "quota_setting": f"{share.setting}.workers"}
        return dataclasses.replace(told, **known)  # type: ignore[arg-type]
    return told


def _held(
    load: replicas.Load | None,
    decision: replicas.Decision,
    step: drain.Step,
    children: Sequence[tuple[Child, bool]],
    drained: Sequence[drain.Worker] | None,
) -> HeldBy:
    if load is None and decision.why != "quota":
        return "unknown"
    if decision.held is not None:
        return decision.held.by
    if sum(child.replicas for child, _ in children) <= decision.replicas:
        return ""
    if drained is None:
        return "unknown"
    if step.waits:
        return step.waits
    return "drains" if any(worker.holds for worker in drained) else ""
