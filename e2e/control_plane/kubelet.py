"""A kubelet for pods that nobody runs: each pod has a worker in this process, whose readiness the API server is told.

A worker that is asked to end while it could have a task is noted, as the mistake of whoever chose the pod.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self

import pytest

from e2e.control_plane.crds_server import Server
from e2e.control_plane.operator_team import SOON, Team
from watchbill import connection
from watchbill.agents.loading import AgentLoader
from watchbill.cluster_names import LABEL_CREW, LABEL_REVISION
from watchbill.names import CrewKeys
from watchbill.store import incarnations
from watchbill.worker.worker import Worker

AGENT = """
import asyncio, pathlib

class Gate:
    async def run(self, context):
        while not (pathlib.Path({folder!r}) / context.prompt).exists():
            await asyncio.sleep(0.5)  # eighty look beside each other
        return context.prompt
"""

POD: ContextVar[str] = ContextVar("pod")


def gated(team: Team, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """Returns an agent's class, each of whose tasks ends when there is a file named as its prompt, and the folder of
    these files. Workers are named after their pods from now on."""
    monkeypatch.setattr(incarnations, "fresh", lambda: f"{POD.get()}.{secrets.token_hex(4)}")
    gates = team.folder / "gates"
    gates.mkdir()
    module = f"gate_{secrets.token_hex(4)}"  # this process has those of other tests
    (team.folder / f"{module}.py").write_text(AGENT.format(folder=str(gates)))
    return f"{module}:Gate", gates


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
