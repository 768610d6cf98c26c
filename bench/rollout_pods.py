"""Stands in for a kubelet: where a control plane has no nodes, a worker process of this machine acts each pod.

As with a kubelet, the worker has the pod's own environment, readiness is what its /readyz says (each two seconds; no
longer after three failures), and a pod that goes gets SIGTERM and its grace period. Other than there, a pod that is
deleted is gone from the API server at once, because it was never on a node.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import ssl
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from bench import operator_plane
from bench.environments import ROOT
from bench.operator_watch import Object, Watch
from e2e.cluster.control_plane import ControlPlane
from e2e.control_plane.operator_process import Process

PROBE_SECONDS = 2.0
FAILURES = 3


class Pods:
    """The pods of a namespace that match a selector, each with its worker. An async context manager."""

    def __init__(
        self, plane: ControlPlane, namespace: str, selector: str, folder: Path, environment: Mapping[str, str]
    ) -> None:
        """`environment`: what the workers have beside the variables of their pods."""
        self._url = f"{plane.url}/api/v1/namespaces/{namespace}/pods"
        self._watch = Watch(plane.kubectl, f"/api/v1/namespaces/{namespace}/pods", selector=selector)
        self._kubeconfig = plane.kubeconfig
        self._folder = folder
        self._environment = {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
            **environment,
        }
        self._acts: dict[str, asyncio.Task[None]] = {}
        self.wrong: list[str] = []
        """Findings that must not be: workers that ended by themselves, or did not end when they were told."""

    async def __aenter__(self) -> Self:
        config = json.loads(self._kubeconfig.read_text())
        context = ssl.create_default_context(cafile=config["clusters"][0]["cluster"]["certificate-authority"])
        headers = {"Authorization": f"Bearer {config['users'][0]['user']['token']}"}
        self._session = aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(ssl=context))
        await self._watch.__aenter__()
        self._following = asyncio.create_task(self._follow())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [self._following, *self._acts.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._watch.__aexit__(kind, error, trace)
        await self._session.close()

    async def _follow(self) -> None:
        def is_new() -> bool:
            return any(name not in self._acts for name in self._watch.objects)

        while True:
            await self._watch.until(is_new, within=math.inf, what="a pod is made")
            for name, pod in list(self._watch.objects.items()):
                if name not in self._acts:
                    self._acts[name] = asyncio.create_task(self._act(pod))

    def _is_there(self, name: str) -> bool:
        pod = self._watch.objects.get(name)
        return pod is not None and "deletionTimestamp" not in pod["metadata"]

    async def _act(self, pod: Object) -> None:
        name, port = str(pod["metadata"]["name"]), operator_plane.free_port()
        variables = {
            **{one["name"]: one["value"] for one in pod["spec"]["containers"][0]["env"] if "value" in one},
            "WATCHBILL_REVISION": pod["metadata"]["labels"]["watchbill.dev/revision"],
            "WATCHBILL_HEALTH_HOST": "127.0.0.1",
            "WATCHBILL_HEALTH_PORT": str(port),
            **self._environment,
        }
        worker = Process(["watchbill.worker"], self._folder, name, variables).start()
        try:
            is_ready, failures = False, 0
            while self._is_there(name):
                if (code := worker.exit_code()) is not None:
                    self.wrong.append(f"the worker of {name} ended by itself with exit code {code}")
                    return
                failures = 0 if await self._answers(port) else failures + 1
                if is_ready != (failures == 0) and failures in (0, FAILURES):
                    is_ready = failures == 0
                    await self._report(name, is_ready=is_ready)
                await self._while_there(name, PROBE_SECONDS)
            if code := await asyncio.to_thread(worker.terminate):
                self.wrong.append(f"the worker of {name} ended with exit code {code}")
        except subprocess.TimeoutExpired:
            self.wrong.append(f"{name} went while its worker was busy")
        finally:
            worker.kill()

    async def _while_there(self, name: str, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await self._watch.until(lambda: not self._is_there(name), within=seconds, what="it goes", every=0.05)

    async def _answers(self, port: int) -> bool:
        try:
            kubelet = {"User-Agent": "kube-probe/1.35"}
            async with self._session.get(f"http://127.0.0.1:{port}/readyz", headers=kubelet) as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def _report(self, name: str, *, is_ready: bool) -> None:
        """Says whether the pod is ready, as a kubelet does."""
        conditions: list[Any] = [{"type": "Ready", "status": str(is_ready)}]
        patch = {"status": {"phase": "Running", "conditions": conditions}}
        headers = {"Content-Type": "application/merge-patch+json"}
        async with self._session.patch(f"{self._url}/{name}/status", json=patch, headers=headers) as answer:
            if answer.status not in (200, 404):
                raise RuntimeError(f"the status of {name} can't be written: {answer.status} {await answer.text()}")
