"""Explains why a crew has as many workers as it has, from the values that its last plan was made of. Pure.

The operator keeps these values in the store, for `watchbill explain`, and tells of what holds the number in the crew's
status.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Final, Literal

HeldBy = Literal[
    "",
    "window",
    "policy",
    "waits",
    "critical",
    "quota",
    "drains",
    "controller",
    "probes",
    "not-ready",
    "older-release",
    "unknown",
]

REASONS: Final[dict[HeldBy, str]] = {
    "window": "StabilizationWindow",
    "policy": "ScalingPolicy",
    "waits": "TaskWaits",
    "critical": "CriticalTaskWaits",
    "quota": "NamespaceQuota",
    "drains": "WorkersDrain",
    "controller": "DeploymentLags",
    "probes": "ReadinessUnseen",
    "not-ready": "WorkersNotReady",
    "older-release": "OlderWorkers",
    "unknown": "FiguresUnknown",
}
"""The bound that holds the number of workers → the reason in a status."""


@dataclass(frozen=True, slots=True)
class Pods:
    """The pods of one template revision."""

    deployment: str
    replicas: int
    ready: int
    is_serving: bool
    """False: they are of an old revision, and leave."""


@dataclass(frozen=True, slots=True)
class Draining:
    """A worker that claims no more."""

    worker: str
    holds: int
    """Tasks and deliveries that it has yet to end."""
    by: str
    """The one that drained it: person or scaling."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """The values of one plan."""

    at: str
    """The time of the plan, in UTC."""
    mode: str
    """Auto or External."""
    why: str
    """The reason for the number: scale-up, scale-down, idle, bounds, hold, unknown, external or suspended."""
    wanted: int
    """Workers that the tasks ask for, within the bounds."""
    replicas: int
    """Workers that are to claim now."""
    held: HeldBy = ""
    """The bound by which more or fewer than the wanted workers are there."""
    until: str = ""
    """The time at which that may end by itself; empty: it doesn't."""
    waiting: int | None = None
    """None: the figures are unknown."""
    running: int | None = None
    deliveries: int | None = None
    has_batches: bool = False
    oldest_seconds: float = 0.0
    min_replicas: int = 0
    max_replicas: int = 0
    concurrency: int = 1
    idle_seconds: float = 0.0
    up_window_seconds: float = 0.0
    down_window_seconds: float = 0.0
    wait_seconds: float = 0.0
    pods: tuple[Pods, ...] = ()
    draining: tuple[Draining, ...] = ()
    victims: tuple[str, ...] = ()
    """Workers that this plan began to drain."""
    undrained: tuple[str, ...] = ()
    """Workers whose drain it took back."""
    quota: int | None = None
    """The number of workers that all crews of the namespace may have together, where that may be too few."""
    quota_wanted: int = 0
    """The number that they want together."""
    quota_setting: str = ""
    hold: str = ""
    """The reason why the namespace has no room for the crew."""

    @property
    def key(self) -> Any:
        """The part whose change is worth telling: all but times and figures."""
        times = {"at": "", "until": "", "oldest_seconds": 0.0}
        unlike = {**times, "waiting": 0, "running": 0, "deliveries": 0, "quota_wanted": 0}
        return dataclasses.replace(self, **unlike)  # type: ignore[arg-type]

    def pack(self) -> str:
        """Returns the values as JSON, without those that are as usual: each idle crew has some."""
        said = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                said[field.name] = value
        return json.dumps(said, separators=(",", ":"), default=dataclasses.asdict)  # pods and workers that drain

    @classmethod
    def unpack(cls, text: str) -> Scaling | None:
        """Returns the values; None for a text that another version wrote in another form."""
        try:
            said = json.loads(text)
            known = {field.name: said[field.name] for field in dataclasses.fields(cls) if field.name in said}
            known["pods"] = tuple(Pods(**pods) for pods in known.get("pods", ()))
            known["draining"] = tuple(Draining(**one) for one in known.get("draining", ()))
            for name in ("victims", "undrained"):
                known[name] = tuple(known.get(name, ()))
            return cls(**known)
        except (ValueError, TypeError, AttributeError):
            return None


def hold(seen: Scaling) -> str:
    """Returns what holds the number of workers, as a sentence; empty where nothing does."""
    until = f" until {seen.until}" if seen.until else ""
    if seen.hold:
        return f"no worker runs, because {seen.hold}"
    match seen.held:
        case "":
            return ""
        case "window" if seen.wanted < seen.replicas:
            return (
                f"{seen.replicas} workers stay{until}: that many were wanted within the last "
                f"{seen.down_window_seconds:g} s (scaling.down.stabilizationWindowSeconds)"
            )
        case "window":
            return (
                f"there are no more than {seen.replicas} workers{until}: more must have been wanted for "
                f"{seen.up_window_seconds:g} s (scaling.up.stabilizationWindowSeconds)"
            )
        case "policy":
            which = "down" if seen.wanted < seen.replicas else "up"
            return f"the policies of scaling.{which} allow {seen.replicas} workers{until}"
        case "waits":
            return f"no worker leaves while a task has waited for {seen.wait_seconds:g} s (scaling.up.waitSeconds)"
        case "critical":
            return "no worker leaves while a task of the priority CRITICAL waits"
        case "quota":
            return (
                f"this crew's share is {_count(seen.replicas, 'worker')}: the crews of its namespace want "
                f"{seen.quota_wanted} in all, and may have {seen.quota} ({seen.quota_setting})"
            )
        case "drains":
            busy = sum(1 for worker in seen.draining if worker.holds)
            return f"{_count(busy, 'worker')} {_drain(busy)}, and go once what they run has ended"
        case "controller":
            return "the controller of the Deployment has yet to follow its last change"
        case "probes":
            return (
                "drained workers go once the API server knows that they are not ready and that those that work are: "
                "after some seconds, or a minute where kubelets ask something else than /readyz"
            )
        case "not-ready":
            return "no pod goes, because one that works is not ready, and would be chosen first"
        case "older-release":
            return (
                "no pod goes while a busy worker has not said in which pod it is: it starts, or is of an older release"
            )
        case "unknown":
            return (
                "the store does not tell how much there is to do, or which workers are busy: the number of workers "
                "stays as it is"
            )


def sentences(seen: Scaling) -> list[str]:
    """Returns the explanation, one sentence each."""
    told = [_desired(seen)]
    if sentence := hold(seen):
        told.append(sentence[0].upper() + sentence[1:] + ".")
    for pods in seen.pods:
        which = "" if pods.is_serving else " of an old template revision, which leaves"
        told.append(f"Deployment {pods.deployment}: {_count(pods.replicas, 'pod')}{which}, {pods.ready} ready.")
    for worker in seen.draining:
        by = "a person" if worker.by == "person" else "scaling"
        what = f"holds {_count(worker.holds, 'task')}" if worker.holds else "is empty"
        told.append(f"Worker {worker.worker} was drained by {by}, and {what}.")
    if seen.victims:
        told.append(f"This plan drained {', '.join(seen.victims)}: of all that claimed they held least.")
    if seen.undrained:
        told.append(f"This plan has {', '.join(seen.undrained)} claim again.")
    return told


def _desired(seen: Scaling) -> str:
    if seen.waiting is None or seen.running is None:
        return f"{_count(seen.replicas, 'worker')} stay, because the figures are unknown."
    each = f"each worker runs {seen.concurrency}"
    load = f"tasks that wait: {seen.waiting}, that run: {seen.running}; {each}"
    if seen.deliveries:
        load += f"; {_count(seen.deliveries, 'result')} are to be delivered"
    if seen.has_batches:
        load += "; requests wait for batches of their models' providers"
    bounds = f"between {seen.min_replicas} (minReplicas) and {seen.max_replicas} (maxReplicas)"
    match seen.why:
        case "external" | "quota" if seen.mode == "External":
            return f"{_count(seen.wanted, 'worker')}: workers.replicas says so, {bounds}, as scaling.mode is External."
        case "suspended":
            return f"{_count(seen.replicas, 'worker')}: the crew is suspended, and only results are delivered."
        case "idle":
            return (
                f"{_count(seen.replicas, 'worker')}: nothing was to be done for {seen.idle_seconds:g} s (idleSeconds)."
            )
    are = "is" if seen.wanted == 1 else "are"
    return f"{_count(seen.wanted, 'worker')} {are} wanted, {bounds}: {load}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _drain(number: int) -> str:
    return "drains" if number == 1 else "drain"
