"""Finds the quotas of namespaces that are used up, from the Crews as the API server has them. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from watchbill.controller.quotas import max_queued
from watchbill.doctor.findings import Finding, Severity
from watchbill.plan import quotas
from watchbill.plan.quotas import Hard
from watchbill.plan.scaling import REASONS


def findings(crews: Sequence[Mapping[str, Any]], hard: Callable[[str], Hard]) -> list[Finding]:
    """`hard(namespace)`: its bounds, as the operator has them. Nothing where no namespace with crews has any."""
    of: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for crew in crews:
        if not crew["metadata"].get("deletionTimestamp"):
            of[crew["metadata"]["namespace"]].append(crew)
    bounded = {namespace: bounds for namespace in sorted(of) if (bounds := hard(namespace)).bounds_any}
    found = []
    for namespace, bounds in bounded.items():
        if spent := _spent(namespace, bounds, of[namespace]):
            told = ", ".join(f"{resource} ({used} of {most})" for resource, used, most in spent)
            message = f"the quota of namespace {namespace} ({bounds.setting}) has nothing left of {told}"
            values = ",".join(f"{bounds.setting}.{resource}={2 * most or 1}" for resource, _, most in spent)
            fix = f"helm upgrade watchbill charts/watchbill --reuse-values --set {values}"
            found.append(Finding("quotas", Severity.WARNING, message, fix))
    if bounded and not found:
        message = f"no quota of Watchbill's own is used up, in {len(bounded)} namespaces with one"
        found.append(Finding("quotas", Severity.OK, message))
    return found


def _spent(namespace: str, hard: Hard, crews: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, int]]:
    """The resources of which nothing is left, or too little for a crew, each with what is used and the bound."""
    tally = quotas.Tally()
    refused: set[str] = set()
    for crew in sorted(crews, key=lambda one: (one["metadata"]["creationTimestamp"], one["metadata"]["uid"])):
        tally, hold = quotas.count(hard, namespace, tally, max_queued(crew))
        if hold is not None:
            refused.add(hold.resource)
        elif ((crew.get("status") or {}).get("scaling") or {}).get("reason") == REASONS["quota"]:
            refused.add("workers")
    workers = sum((crew.get("status") or {}).get("replicas") or 0 for crew in crews)
    rows = {
        "crews": (tally.admitted, hard.crews),
        "workers": (workers, hard.workers),
        "queued": (tally.queued, hard.queued),
    }
    return [
        (resource, used, most)
        for resource, (used, most) in rows.items()
        if most is not None and (used >= most or resource in refused)
    ]
