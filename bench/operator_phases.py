"""Phases of the operator's bench on a bare control plane: one change beside thousands of new crews, a restart, and an
outage of the store.

The times of changes are between two events of one watch, so they hold no start of kubectl.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from bench import operator_plane
from bench.operator_watch import Object, Seen, Watch, condition
from e2e.cluster import machine
from e2e.cluster.control_plane import ControlPlane, Write
from e2e.cluster.machine import ClusterError
from e2e.control_plane.operator_process import Store

from watchbill.kubernetes_api import KubernetesApi

CHANGED = 10
"""Crews that are changed, by turns, while others are made."""
PAUSE_SECONDS = 1.0
BARE_SECONDS = 10.0
BARE_WRITERS = 16
DOWN_SECONDS = 30.0
HEALED_SECONDS = 300.0
STATUS_WRITES_GOAL = 20
"""Status writes in any second while the store goes away and comes back."""


@dataclass
class Outage:
    """The measurements of an outage of the store."""

    down_seconds: float = 0.0
    told: int = 0
    """Crews whose status said that the store was away."""
    healed_seconds: float = 0.0
    """From the store's return until every crew is Ready and the change that was made meanwhile is taken up."""
    status_writes: int = 0
    status_writes_in_worst_second: int = 0
    replicas_changed: int = 0
    """Deployments whose number of workers changed meanwhile: none may."""


@dataclass
class Changes:
    """Changes of one crew's spec, each from the event that shows it to the event that shows it Ready."""

    seconds: list[float] = field(default_factory=list)


async def bare_rate(kubeconfig: Path, namespace: str, plane: ControlPlane) -> tuple[float, dict[str, float]]:
    """Returns how many writes per second the API server takes from the operator's own client when nobody has to decide
    anything: a ServiceAccount and a Deployment without replicas by turns; and the CPU time of each program, in ms for
    each write. `bench` is the client."""
    before = operator_plane.cpu_of(plane)
    process = await asyncio.create_subprocess_exec(  # a process of its own, as the operator is
        *(sys.executable, "-m", "bench.operator_phases", namespace),
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise ClusterError("the API server's writes could not be measured")
    rate, count = map(float, said.split())
    used = operator_plane.cpu_of(plane)
    return rate, {program: 1000 * (seconds - before[program]) / count for program, seconds in used.items()}


async def _write_alone(namespace: str) -> tuple[float, int]:
    """Returns the number of writes in a second, and in all."""
    kubernetes = await KubernetesApi.connect()
    end = time.perf_counter() + BARE_SECONDS
    count = 0

    async def write(lane: int) -> None:
        nonlocal count
        for number in itertools.count():
            name = {"name": f"bare-{lane}-{number}", "namespace": namespace}
            if time.perf_counter() > end:
                return
            await kubernetes.apply("serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": name})
            await kubernetes.apply("deployments", _deployment(name))
            count += 2

    async with kubernetes:
        start = time.perf_counter()
        await asyncio.gather(*map(write, range(BARE_WRITERS)))
        return count / (time.perf_counter() - start), count


def _deployment(name: Object) -> Object:
    labels = {"app": name["name"]}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "worker", "image": "none"}]}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": name, "spec": spec}


async def change_beside(
    plane: ControlPlane, namespace: str, crews: Watch, names: Sequence[str], found: Changes
) -> None:
    """Changes the crews by turns until it is cancelled."""
    number = 0
    while True:
        name = names[number % len(names)]
        number += 1
        found.seconds.append(await _change(plane, namespace, crews, name, 100 + number))
        await asyncio.sleep(PAUSE_SECONDS)


async def _change(plane: ControlPlane, namespace: str, crews: Watch, name: str, seconds: int) -> float:
    since = len(crews.events)
    await asyncio.to_thread(patch_idle_seconds, plane, namespace, name, seconds)

    def is_changed(one: Object) -> bool:
        return bool(one["metadata"]["name"] == name and idle_seconds(one) == seconds)

    changed = await crews.first(is_changed, since=since, within=HEALED_SECONDS, what=f"{name} is changed")
    ready = await crews.first(
        lambda one: is_changed(one) and is_ready(one), since=since, within=HEALED_SECONDS, what=f"{name} is Ready again"
    )
    return ready.at - changed.at


def patch_idle_seconds(plane: ControlPlane, namespace: str, name: str, seconds: int) -> None:
    """Changes a field that no Deployment depends on."""
    change = json.dumps({"spec": {"workers": {"idleSeconds": seconds}}})
    plane.kubectl("patch", "crew", name, f"--namespace={namespace}", "--type=merge", f"--patch={change}")


def idle_seconds(crew: Object) -> Any:
    return crew["spec"].get("workers", {}).get("idleSeconds")


def is_ready(crew: Object) -> bool:
    """True if the crew's current spec is taken up, and works."""
    observed = crew.get("status", {}).get("observedGeneration")
    return observed == crew["metadata"]["generation"] and condition(crew, "Ready") == "True"


async def outage(
    plane: ControlPlane, user: str, namespace: str, store: Store, crews: Watch, deployments: Watch
) -> Outage:
    """Kills the store, changes a crew, and starts the store again. Returns when every crew is right."""
    found = Outage()
    began, position, since = plane.audit_position(), len(deployments.events), len(crews.events)
    before = {name: one["spec"]["replicas"] for name, one in deployments.objects.items()}
    machine.say(f"the store is away for {DOWN_SECONDS:g} s")
    store.kill()
    start = time.perf_counter()
    await asyncio.sleep(DOWN_SECONDS / 2)
    changed = sorted(crews.objects)[0]
    await asyncio.to_thread(patch_idle_seconds, plane, namespace, changed, 99)
    await asyncio.sleep(DOWN_SECONDS / 2)
    await asyncio.to_thread(store.start)
    back = time.perf_counter()
    found.down_seconds = back - start
    await crews.until(
        lambda: idle_seconds(crews.objects[changed]) == 99 and all(map(is_ready, crews.objects.values())),
        within=HEALED_SECONDS,
        what="every crew is Ready after the outage",
        every=0.1,
    )
    found.healed_seconds = time.perf_counter() - back
    found.told = len({_name(seen) for seen in crews.events[since:] if condition(seen.object, "Ready") == "False"})
    statuses = [write for write in plane.writes(began, user=user) if write.subresource == "status"]
    found.status_writes = len(statuses)
    found.status_writes_in_worst_second = worst_second(statuses)
    found.replicas_changed = sum(
        seen.object["spec"]["replicas"] != before.get(_name(seen)) for seen in deployments.events[position:]
    )
    return found


def worst_second(writes: Sequence[Write]) -> int:
    """Returns the largest number of writes in any second."""
    times = sorted(datetime.fromisoformat(write.at).timestamp() for write in writes)
    window: collections.deque[float] = collections.deque()
    most = 0
    for at in times:
        window.append(at)
        while window[0] <= at - 1:
            window.popleft()
        most = max(most, len(window))
    return most


def _name(seen: Seen) -> str:
    return str(seen.object["metadata"]["name"])


if __name__ == "__main__":
    print(*asyncio.run(_write_alone(sys.argv[1])))
