"""Many crews shrink under partial load beside the real ReplicaSet controller, which chooses the pods that go. No
kubelet runs: in this process, each pod has a worker, whose readiness is told to the API server.

A round is one crew that shrinks. ROUNDS=250 runs so many, 20 beside each other:

    ROUNDS=250 pytest e2e/control_plane/test_operator_rounds.py
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import secrets
import time
from collections import Counter
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self

import pytest

from e2e.cluster.control_plane import ControlPlane
from e2e.control_plane import operator_team
from e2e.control_plane.crds_server import Server
from e2e.control_plane.operator_team import SOON, Team, crew
from watchbill import connection
from watchbill.agents.loading import AgentLoader
from watchbill.client import Client
from watchbill.cluster_names import LABEL_CREW, LABEL_REVISION
from watchbill.names import CrewKeys
from watchbill.plan.drain import PROBED_SECONDS
from watchbill.store import incarnations
from watchbill.worker.worker import Worker

team = operator_team.team
store = operator_team.store
installed = operator_team.installed

AGENT = """
import asyncio, pathlib

class Gate:
    async def run(self, context):
        while not (pathlib.Path({folder!r}) / context.prompt).exists():
            await asyncio.sleep(0.5)  # eighty look beside each other
        return context.prompt
"""

ROUNDS = int(os.environ.get("ROUNDS", "20"))
AT_ONCE = 20
"""Crews that shrink beside each other. They have new tasks in each batch of rounds."""
WORKERS = 4

POD: ContextVar[str] = ContextVar("pod")


class Kubelet:
    """Runs a worker for each pod of the namespace, until the pod is deleted."""

    def __init__(self, server: Server, team: Team) -> None:
        self._server = server
        self._team = team
        self._pods = f"/api/v1/namespaces/{team.namespace}/pods"
        self.workers: dict[str, tuple[str, Worker, asyncio.Task[None]]] = {}
        """Pod → its crew, its worker, and the worker's run."""
        self._ended: list[asyncio.Task[None]] = []
        """Runs of workers whose pods are gone."""
        self._ready: set[str] = set()
        self.killed: list[str] = []
        """Pods that were deleted though their workers could have had a task."""
        self._looked = time.monotonic()
        self.slowest = 0.0
        """Seconds from the end of one look to that of the next, at most."""

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for pod in list(self.workers):
            self._stop(pod)
        await asyncio.wait_for(asyncio.gather(*self._ended), SOON)

    def of_crews(self) -> Counter[str]:
        return Counter(of for of, _, _ in self.workers.values())

    def running(self) -> int:
        return sum(worker.running for _, worker, _ in self.workers.values())

    def ready(self) -> int:
        return len(self._ready)

    async def until(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + 5 * SOON
        while not condition():
            assert not self._task.done(), self._task.exception()
            assert time.monotonic() < deadline, f"never: {what}\n{self}\n{self._objects()}"
            await asyncio.sleep(0.1)
        print(what)

    def __str__(self) -> str:
        def told(pod: str, worker: Worker) -> str:
            said = [f"runs {worker.running}", *["drained"] * worker.drained, *["ready"] * (pod in self._ready)]
            return f"{pod}: {', '.join(said)}"

        looked = f"the last look ended {time.monotonic() - self._looked:.1f} s ago; killed: {self.killed}"
        return "\n".join([looked, *(told(pod, worker) for pod, (_, worker, _) in sorted(self.workers.items()))])

    def _objects(self) -> str:
        """Returns what the API server has of crews, their Deployments, ReplicaSets and pods."""
        return self._team.kubectl("get", "crews,deployments,replicasets,pods", "--output=wide")

    async def _keep(self) -> None:
        while True:
            found = (await asyncio.to_thread(self._server.send, "GET", self._pods)).body["items"]
            pods = {pod["metadata"]["name"]: pod for pod in found if "deletionTimestamp" not in pod["metadata"]}
            for name in self.workers.keys() - pods.keys():
                _, worker, _ = self.workers[name]
                if worker.running or not worker.drained:
                    self.killed.append(name)
                self._stop(name)
            for name in pods.keys() - self.workers.keys():
                await self._start(name, pods[name]["metadata"]["labels"])
            for name, (_, worker, running) in self.workers.items():
                assert not running.done(), running.exception()
                if worker.drained is (name in self._ready):
                    await self._tell(name, ready=not worker.drained)
            now = time.monotonic()
            self.slowest, self._looked = max(self.slowest, now - self._looked), now
            await asyncio.sleep(0.2)

    async def _start(self, pod: str, labels: dict[str, str]) -> None:
        POD.set(pod)
        stack = contextlib.AsyncExitStack()
        own = await stack.enter_async_context(connection.Store(self._team.store.url))
        loader, keys = AgentLoader([self._team.folder]), CrewKeys(self._team.namespace, labels[LABEL_CREW])
        worker = Worker(own, keys, loader, grace_seconds=0, revision=labels[LABEL_REVISION])

        async def run() -> None:
            async with stack:
                await worker.run()

        self.workers[pod] = labels[LABEL_CREW], worker, asyncio.create_task(run())

    def _stop(self, pod: str) -> None:
        _, worker, running = self.workers.pop(pod)
        self._ready.discard(pod)
        worker.stop(now=True)
        self._ended.append(running)

    async def _tell(self, pod: str, *, ready: bool) -> None:
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]}
        path = f"{self._pods}/{pod}/status"
        await asyncio.to_thread(self._server.send, "PATCH", path, {"status": status}, as_="merge-patch+json")
        (self._ready.add if ready else self._ready.discard)(pod)


@pytest.mark.timeout(900 + 60 * ROUNDS)
async def test_under_partial_load_no_busy_pod_goes(
    team: Team, installed: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"{ROUNDS} rounds, seed {seed}")
    chance = random.Random(seed)
    monkeypatch.setattr(incarnations, "fresh", lambda: f"{POD.get()}.{secrets.token_hex(4)}")
    (team.folder / "gates").mkdir()
    (team.folder / "rounds_gate.py").write_text(AGENT.format(folder=str(team.folder / "gates")))
    names = [f"crew-{i}" for i in range(min(AT_ONCE, ROUNDS))]
    gates: dict[str, list[Path]] = {}
    spec = {"agents": [{"name": "a", "class": "rounds_gate:Gate"}]}
    workers: dict[str, Any] = {
        "maxReplicas": WORKERS,
        "concurrency": 1,
        "idleSeconds": 1,
        "scaling": {"down": {"stabilizationWindowSeconds": 0}},
    }
    await asyncio.to_thread(team.operator)
    await asyncio.to_thread(team.apply, *(crew(name, spec=spec, **workers) for name in names))
    await asyncio.to_thread(team.kubectl, "wait", "crew", "--all", "--for=condition=Ready", "--timeout=170s")
    with contextlib.closing(Server(installed)) as server:
        async with Kubelet(server, team) as kubelet, Client(team.store.url) as client:
            done, batches = 0, itertools.count()
            while done < ROUNDS:
                if kubelet.workers:
                    await end_all(kubelet, gates)
                batch = next(batches)
                gates = {
                    name: [team.folder / "gates" / f"{batch}.{name}.{i}" for i in range(WORKERS)]
                    for name in names[: ROUNDS - done]
                }
                if await shrink(team, kubelet, client, gates, chance):
                    done += len(gates)
                print(f"{done} rounds")


async def shrink(
    team: Team, kubelet: Kubelet, client: Client, gates: dict[str, list[Path]], chance: random.Random
) -> bool:
    """Has the crews grow from nothing, and shrink under partial load. `gates`: crew → a file for each of its tasks,
    which ends when it is made.

    Returns whether that proves anything: not on a machine so busy that the readiness of pods is told later than the
    operator may suppose."""
    for name, own in gates.items():
        for gate in own:
            await client.submit(f"{team.namespace}/{name}", gate.name, agent="a", id=gate.name)
    total = len(gates) * WORKERS
    await kubelet.until(lambda: kubelet.running() == kubelet.ready() == total, "each pod is ready, and has a task")
    kubelet.slowest = 0.0

    left = {name: chance.randint(1, WORKERS - 1) for name in gates}
    for name, own in gates.items():
        for gate in chance.sample(own, WORKERS - left[name]):
            gate.touch()
    await kubelet.until(lambda: kubelet.of_crews() == left, "so many have left as were idle")
    if kubelet.slowest > PROBED_SECONDS / 2:
        print(f"a look at the pods took {kubelet.slowest:.1f} s: these rounds don't count")
        return False
    assert kubelet.killed == []
    assert kubelet.running() == sum(left.values())
    return True


async def end_all(kubelet: Kubelet, gates: dict[str, list[Path]]) -> None:
    """Has all tasks end. Of a crew without work all workers go at once, and need not be drained."""
    for own in gates.values():
        for gate in own:
            gate.touch()
    await kubelet.until(lambda: not kubelet.workers, "no crew has a worker")
    kubelet.killed.clear()
