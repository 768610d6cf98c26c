"""The operator on a bare control plane: etcd, API server, controllers and scheduler, but no pods.

Measures its memory, what it writes, and how soon a crew at zero that gets work has a worker asked for. Store, operator
and control plane are its own, and gone afterwards.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import operator_phases, operator_plane
from bench.operator_phases import Changes, Outage
from bench.operator_plane import NAMESPACE
from bench.operator_watch import Watch, condition, store_version
from e2e.cluster import control_plane as planes
from e2e.cluster import machine, recipe
from e2e.cluster.control_plane import ControlPlane
from e2e.control_plane import operator_process
from e2e.control_plane.operator_process import Process, Store

from watchbill import cluster_names
from watchbill.client import Client

BARE_NAMESPACE = "bench-bare"
ACCOUNT = "operator"
USER = operator_plane.user(ACCOUNT)

CREATORS = 5
"""Processes that create crews: one alone holds itself to 50 requests per second."""
READY_SECONDS = 1800.0
SCALE_SECONDS = 60.0
QUIET_SECONDS = 5.0
"""Settled: the operator has written nothing for that long."""


@dataclass
class Found:
    """The measurements. Times in ms unless named otherwise, memory in MiB."""

    crews: int
    environment: dict[str, Any] = field(default_factory=dict)
    submit_begin_to_scale: list[float] = field(default_factory=list)
    submit_return_to_scale: list[float] = field(default_factory=list)
    submit_call: list[float] = field(default_factory=list)
    created_to_ready: list[float] = field(default_factory=list)
    creating_seconds: float = 0.0
    cpu_creating: dict[str, float] = field(default_factory=dict)
    """CPU time of each program, in s, from the first crew on until the operator's last write."""
    cpu_writing: dict[str, float] = field(default_factory=dict)
    """CPU time of each program, in ms for each write, while writes alone were measured."""
    reconciles: float = 0.0
    """Reconciliations, in the same time."""
    all_ready_seconds: float = 0.0
    memory_empty: dict[str, float] = field(default_factory=dict)
    memory_full: dict[str, float] = field(default_factory=dict)
    writes_creating: dict[str, int] = field(default_factory=dict)
    writes_scaling: dict[str, int] = field(default_factory=dict)
    bare_writes_per_second: float = 0.0
    writes_at_rest: dict[str, int] = field(default_factory=dict)
    rest_seconds: float = 0.0
    changed_to_ready: list[float] = field(default_factory=list)
    writes_after_restart: dict[str, int] = field(default_factory=dict)
    outage: Outage | None = None
    wrong: list[str] = field(default_factory=list)
    """Findings that must not be."""


async def measure(crews: int, samples: int, rest_seconds: float, resync_seconds: float) -> Found:
    """`samples` of the `crews` are given work, each once, after `rest_seconds` in which nobody asks for anything."""
    found = Found(crews)
    with tempfile.TemporaryDirectory(prefix="wb-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "store").mkdir()
        store = Store(folder / "store")
        machine.say("starting a control plane and a store")
        try:
            store.start()
            with planes.running(folder / "plane", controller_manager_flags=operator_plane.CONTROLLER_FLAGS) as plane:
                (kubeconfig,) = operator_plane.prepare(plane, store, ACCOUNT)
                found.environment = {
                    "Kubernetes": recipe.KUBERNETES,
                    "store": store_version(store.client.info("server")),
                    "controller manager": " ".join(operator_plane.CONTROLLER_FLAGS),
                    "operator's resync, s": resync_seconds,
                }
                machine.say("measuring the API server's writes alone")
                plane.kubectl("create", "namespace", BARE_NAMESPACE)
                bare = await operator_phases.bare_rate(kubeconfig, BARE_NAMESPACE, plane)
                found.bare_writes_per_second, found.cpu_writing = bare
                plane.kubectl("delete", "namespace", BARE_NAMESPACE, timeout=READY_SECONDS)
                port = operator_plane.free_port()
                settings = {"health_port": str(port), "resync_seconds": str(resync_seconds)}
                with operator_process.operator(kubeconfig, store.url, folder, **settings) as operator:
                    operator.start()
                    operator_plane.until_ready(operator, port)
                    await _measure(found, plane, store, operator, port, samples, rest_seconds)
                    if code := operator.terminate():
                        found.wrong.append(f"the operator ended with exit code {code}")
        finally:
            store.client.close()
            store.kill()
    return found


async def _measure(
    found: Found, plane: ControlPlane, store: Store, operator: Process, port: int, samples: int, rest_seconds: float
) -> None:
    await asyncio.sleep(2 * QUIET_SECONDS)
    found.memory_empty = operator_plane.memory(operator)
    async with (
        Watch(plane.kubectl, operator_plane.path("crews")) as crews,
        Watch(plane.kubectl, operator_plane.deployments_path()) as deployments,
    ):
        await _creating(found, plane, store, operator, port, crews, deployments)
        machine.say("restarting the operator")
        began = plane.audit_position()
        if code := operator.terminate():
            found.wrong.append(f"the operator ended with exit code {code}")
        operator.start()
        await asyncio.sleep(2 * QUIET_SECONDS)
        await _quiet(plane)
        found.writes_after_restart = operator_plane.counted(plane.writes(began, user=USER))
        if found.writes_after_restart:
            found.wrong.append(f"writes after a restart: {found.writes_after_restart}")

        machine.say(f"at rest for {rest_seconds:g} s")
        began = plane.audit_position()
        start = time.perf_counter()
        await asyncio.sleep(rest_seconds)
        found.rest_seconds = time.perf_counter() - start
        found.writes_at_rest = operator_plane.counted(plane.writes(began, user=USER))
        if found.writes_at_rest:
            found.wrong.append(f"writes at rest: {found.writes_at_rest}")

        machine.say(f"giving work to {samples} of them, one after the other")
        chosen = random.sample(sorted(map(_crew_of, deployments.objects.values())), samples + 1)
        async with Client(store.url) as client:
            await _sample(Found(0), client, deployments, chosen[0])  # connects, and loads the scripts
            await _quiet(plane)
            began = plane.audit_position()
            for crew in chosen[1:]:
                await _sample(found, client, deployments, crew)
                await asyncio.sleep(
                    0.3 + 0.4 * random.random()
                )  # what follows from it is done; no timer is met in step
            await _quiet(plane)
            found.writes_scaling = operator_plane.counted(plane.writes(began, user=USER))
            await _check(found, client, deployments, chosen)
        await _quiet(plane)
        found.outage = await operator_phases.outage(plane, USER, NAMESPACE, store, crews, deployments)


async def _creating(
    found: Found, plane: ControlPlane, store: Store, operator: Process, port: int, crews: Watch, deployments: Watch
) -> None:
    machine.say(f"creating {found.crews} crews")
    began, cpu = plane.audit_position(), operator_plane.cpu_of(plane, operator, store)
    reconciles = operator_plane.reconciles(port)
    await _create(found, plane, crews)
    await deployments.until(
        lambda: len(deployments.objects) == found.crews and all(map(_is_observed, deployments.objects.values())),
        within=READY_SECONDS,
        what="every Deployment was seen by its controller",
        every=0.5,
    )
    await _quiet(plane)
    found.writes_creating = operator_plane.counted(plane.writes(began, user=USER))
    used = operator_plane.cpu_of(plane, operator, store)
    found.cpu_creating = {program: seconds - cpu[program] for program, seconds in used.items()}
    found.reconciles = operator_plane.reconciles(port) - reconciles
    found.memory_full = operator_plane.memory(operator)


async def _create(found: Found, plane: ControlPlane, crews: Watch) -> None:
    manifests = [operator_plane.crew(f"crew-{number:05d}") for number in range(found.crews)]
    first, manifests = manifests[: operator_phases.CHANGED], manifests[operator_phases.CHANGED :]
    plane.kubectl.apply(*first, namespace=NAMESPACE)
    await crews.until(
        lambda: sum(map(operator_phases.is_ready, crews.objects.values())) == len(first),
        within=READY_SECONDS,
        what="the first crews are Ready",
    )
    changes = Changes()
    names = [one["metadata"]["name"] for one in first]
    changing = asyncio.create_task(operator_phases.change_beside(plane, NAMESPACE, crews, names, changes))
    begin = time.perf_counter()
    lists = [{"apiVersion": "v1", "kind": "List", "items": manifests[first::CREATORS]} for first in range(CREATORS)]
    words = ("create", "--filename=-", "--validate=false", "--output=name", f"--namespace={NAMESPACE}")
    creating = [
        asyncio.to_thread(plane.kubectl, *words, stdin=json.dumps(one), timeout=READY_SECONDS)
        for one in lists
        if one["items"]
    ]
    await asyncio.gather(*creating)
    found.creating_seconds = time.perf_counter() - begin
    created: dict[str, float] = {}
    ready: dict[str, float] = {}
    position = 0

    def all_ready() -> bool:
        nonlocal position
        for seen in crews.events[position:]:
            name = seen.object["metadata"]["name"]
            created.setdefault(name, seen.at)
            if condition(seen.object, "Ready") == "True":
                ready.setdefault(name, seen.at)
        position = len(crews.events)
        return len(ready) == found.crews or changing.done()

    await crews.until(all_ready, within=READY_SECONDS, what=f"{found.crews} crews are Ready", every=0.05)
    changing.cancel()
    await asyncio.wait([changing])
    if not changing.cancelled():
        changing.result()  # raises what ended it
    found.changed_to_ready = [1000 * seconds for seconds in changes.seconds]
    found.all_ready_seconds = max(ready.values()) - begin
    found.created_to_ready = [1000 * (ready[name] - created[name]) for name in ready]


async def _sample(found: Found, client: Client, deployments: Watch, crew: str) -> None:
    since = len(deployments.events)
    begin = time.perf_counter()
    await client.submit(f"{NAMESPACE}/{crew}", "hello", agent="echo")
    returned = time.perf_counter()
    stored = await deployments.first(
        lambda one: _crew_of(one) == crew and one["spec"]["replicas"] == 1,
        since=since,
        within=SCALE_SECONDS,
        what=f"{crew} has one replica",
    )
    found.submit_call.append(1000 * (returned - begin))
    found.submit_begin_to_scale.append(1000 * (stored.at - begin))
    found.submit_return_to_scale.append(1000 * (stored.at - returned))


async def _check(found: Found, client: Client, deployments: Watch, chosen: Sequence[str]) -> None:
    """Checks that a crew with work has one replica and still has its task, and that no other was touched."""
    for seen in deployments.events:
        crew, replicas = _crew_of(seen.object), seen.object["spec"]["replicas"]
        if replicas > (crew in chosen):
            found.wrong.append(f"{crew} had {replicas} replicas")
    for one in deployments.objects.values():
        crew, replicas = _crew_of(one), one["spec"]["replicas"]
        if replicas != (crew in chosen):
            found.wrong.append(f"{crew} ends with {replicas} replicas")
    for crew in chosen:
        figures = await client.figures(f"{NAMESPACE}/{crew}")
        if (figures.waiting, figures.running) != (1, 0):
            found.wrong.append(f"{crew} has {figures.waiting} tasks waiting and {figures.running} running, not 1 and 0")


def _crew_of(deployment: dict[str, Any]) -> str:
    return str(deployment["metadata"]["labels"][cluster_names.LABEL_CREW])


def _is_observed(deployment: dict[str, Any]) -> bool:
    return bool(deployment.get("status", {}).get("observedGeneration") == deployment["metadata"]["generation"])


async def _quiet(plane: ControlPlane) -> None:
    """Returns when the operator has written nothing for a while."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        position = plane.audit_position()
        await asyncio.sleep(QUIET_SECONDS)
        if not plane.writes(position, user=USER):
            return
    raise TimeoutError(f"the operator writes on and on, for {READY_SECONDS:g} s")
