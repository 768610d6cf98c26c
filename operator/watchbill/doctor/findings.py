"""Findings as values: what was examined, how bad it is, why, and the command that mends it. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from watchbill.plan import manifests

SKEW_SECONDS: Final = 5.0
"""Difference of two clocks above which logs, ages and times of heartbeats can't be compared."""
WAIT_SECONDS: Final = 60.0
"""Age of waiting work above which a crew without workers counts as stuck. A cold node needs less for a pod."""


class Severity(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    SKIPPED = "skipped"
    """It couldn't be examined, and may be right or wrong."""
    WARNING = "warning"
    """It works, and may cost work later."""
    ERROR = "error"
    """Something doesn't work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    check: str
    """The name of the check: `crds`, `store`, …"""
    severity: Severity
    message: str
    """One sentence, without its full stop."""
    fix: str = ""
    """A command for a shell; empty where nothing is to be done."""

    @property
    def is_bad(self) -> bool:
        return self.severity in (Severity.WARNING, Severity.ERROR)


def skew(check: str, other: str, told: float, asked: float, answered: float, uncertain: float = 0.0) -> Finding:
    """The finding about a clock that told this time, give or take `uncertain`, between two times of this machine's:
    both in seconds since 1970."""
    seconds = told - min(max(told, asked), answered)
    if abs(seconds) <= SKEW_SECONDS + uncertain:
        return Finding(check, Severity.OK, f"the clocks of {other} and of this machine agree")
    way = "ahead of" if seconds > 0 else "behind"
    message = f"the clock of {other} is {abs(seconds):.0f} s {way} this machine's"
    return Finding(check, Severity.WARNING, message, "timedatectl set-ntp true   # on the machine that is wrong")


def crd_version(kind: str, served: set[str], known: set[str]) -> Finding:
    """Compares the fields that the API server knows of a kind with those that this program knows."""
    upgrade = "watchbill crds | kubectl apply --server-side --force-conflicts -f -"
    if missing := sorted(known - served):
        message = f"the CRD of {kind} is older than this program: it lacks {_some(missing)}"
        return Finding("crds", Severity.ERROR, message, upgrade)
    if more := sorted(served - known):
        message = f"the CRD of {kind} is newer than this program, which ignores {_some(more)}"
        return Finding("crds", Severity.WARNING, message, "helm upgrade watchbill charts/watchbill --reuse-values")
    return Finding("crds", Severity.OK, f"the CRD of {kind} is that of this program")


def crew_findings(crews: Sequence[Mapping[str, Any]], worker_image: str, now: datetime) -> list[Finding]:
    """Reads the resources of crews: which are Stalled, which no operator has seen, whose image is not pinned.

    `worker_image`: of crews that name none; empty: unknown.
    """
    found: list[Finding] = []
    loose: dict[str, Mapping[str, Any]] = {}
    for crew in crews:
        metadata, status = crew["metadata"], crew.get("status") or {}
        name = f"{metadata['namespace']}/{metadata['name']}"
        for condition in status.get("conditions") or ():
            if condition["type"] == "Stalled" and condition["status"] == "True":
                said = f"{condition['reason']}: {condition.get('message', '')}".rstrip(" .")
                message = f"crew {name} is Stalled: {said}"
                found.append(Finding("crews", Severity.ERROR, message, describe("crew", metadata)))
        age = (now - datetime.fromisoformat(metadata["creationTimestamp"])).total_seconds()
        if status.get("observedGeneration", -1) == -1 and age > WAIT_SECONDS:
            message = f"no operator has taken up crew {name} in {age:.0f} s"
            fix = "kubectl get pods -A -l app.kubernetes.io/component=operator"
            found.append(Finding("crews", Severity.ERROR, message, fix))
        image = crew["spec"].get("workers", {}).get("image") or worker_image
        if image and "@" not in image and image.rpartition("/")[2].partition(":")[2] in ("", "latest"):
            loose.setdefault(image, metadata)
    for image, metadata in loose.items():
        message = f"the workers' image {image} of crew {metadata['namespace']}/{metadata['name']} has no fixed tag"
        patch = '{"spec":{"workers":{"image":"NAME:TAG"}}}'
        fix = f"kubectl patch crew {metadata['name']} -n {metadata['namespace']} --type merge -p '{patch}'"
        found.append(Finding("image", Severity.WARNING, message, fix))
    return found or [Finding("crews", Severity.OK, f"none of {len(crews)} crews is Stalled")]


def overlaps(operators: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Reads the Deployments of operators: which of them watch the same namespaces, and undo each other's work."""
    watched: dict[str, set[str]] = {}
    """Installation → its namespaces; none: all."""
    for operator in operators:
        for container in operator["spec"]["template"]["spec"]["containers"]:
            env = {entry["name"]: entry.get("value") or "" for entry in container.get("env") or ()}
            if installation := env.get("WATCHBILL_INSTALLATION"):
                namespaces = env.get("WATCHBILL_WATCH_NAMESPACES", "").split(",")
                watched[installation] = {name for part in namespaces if (name := part.strip())}
    found = []
    for one, other in itertools.combinations(sorted(watched), 2):
        both = watched[one] & watched[other] or watched[one] or watched[other]
        if watched[one] and watched[other] and not watched[one] & watched[other]:
            continue
        which = ", ".join(sorted(both)) or "all namespaces"
        message = f"the releases {one} and {other} both watch {which}, and undo each other's work"
        namespace, _, release = other.partition("/")
        fix = f"helm upgrade {release} charts/watchbill -n {namespace} --reuse-values --set watchNamespaces={{...}}"
        found.append(Finding("overlap", Severity.ERROR, message, f"{fix}   # without {which}"))
    return found


def describe(kind: str, metadata: Mapping[str, Any]) -> str:
    """The command that shows an object of the cluster."""
    return f"kubectl describe {kind} {metadata['name']} -n {metadata['namespace']}"


def used_up(quota: Mapping[str, Any]) -> Sequence[str]:
    """The resources of a ResourceQuota of which nothing is left, each as `pods (10 of 10)`."""
    status = quota.get("status") or {}
    hard, used = status.get("hard") or {}, status.get("used") or {}
    return [
        f"{name} ({used[name]} of {limit})"
        for name, limit in sorted(hard.items())
        if (most := manifests.amount(limit)) is not None and (manifests.amount(used.get(name, "")) or 0) >= most
    ]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
