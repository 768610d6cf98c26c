"""Over HTTP: a write to the API server starts only while it may, and ends when it must; reads go on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.config import kube_config

from watchbill.errors import Conflict, KubernetesUnavailable, NotLeader
from watchbill.kubernetes_api import KubernetesApi

LEASES = "/apis/coordination.k8s.io/v1/namespaces/ops/leases"


class Server:
    """Keeps one Lease, as the API server does; all else has one answer. `goes_on` is cleared to hang."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.lease: dict[str, Any] | None = None
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.path))
        await self.goes_on.wait()
        if not request.path.startswith(LEASES):
            return web.json_response({"metadata": {"name": "echo"}})
        if request.method == "GET":
            return web.json_response(self.lease or {"message": "none"}, status=200 if self.lease else 404)
        sent = await request.json()
        version = int(self.lease["metadata"]["resourceVersion"]) if self.lease else 0
        if int(sent["metadata"].get("resourceVersion", 0)) != version:
            return web.json_response({"message": "it has been modified"}, status=409)
        sent["metadata"]["resourceVersion"] = str(version + 1)
        self.lease = sent
        return web.json_response(sent)


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    made, app = Server(), web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    cluster = {"name": "c", "cluster": {"server": f"http://{host}:{port}"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    config = {"clusters": [cluster], "users": [{"name": "u", "user": {"token": "t"}}], "contexts": [context]}
    (tmp_path / "config").write_text(json.dumps({**config, "current-context": "c"}))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
    yield made
    made.goes_on.set()
    await runner.cleanup()


async def test_no_write_starts_while_writes_are_forbidden_and_reads_and_leases_go_on(server: Server) -> None:
    def forbid() -> float:
        raise NotLeader("another leads")

    manifest = {"metadata": {"namespace": "team", "name": "echo"}}
    async with await KubernetesApi.connect() as kubernetes:
        kubernetes.seconds_to_write = forbid
        for write in (
            kubernetes.apply("deployments", manifest),
            kubernetes.apply_status("crews", manifest),
            kubernetes.scale("team", "echo", 1, resource_version="1"),
            kubernetes.delete("deployments", "team", "echo", uid="u"),
        ):
            with pytest.raises(NotLeader):
                await write
        assert server.asked == []
        assert await kubernetes.get("crews", "team", "echo")
        assert await kubernetes.lease("ops", "it", timeout=5) is None
        made = await kubernetes.write_lease({"namespace": "ops", "name": "it"}, {"holderIdentity": "a"}, timeout=5)
        taken = await kubernetes.write_lease(made["metadata"], {"holderIdentity": "b"}, timeout=5)
        with pytest.raises(Conflict):
            await kubernetes.write_lease(made["metadata"], {"holderIdentity": "c"}, timeout=5)
        assert await kubernetes.lease("ops", "it", timeout=5) == taken
        assert taken["spec"]["holderIdentity"] == "b"


async def test_a_write_that_gets_no_answer_is_given_up_in_time(server: Server) -> None:
    server.goes_on.clear()
    async with await KubernetesApi.connect() as kubernetes:
        kubernetes.seconds_to_write = lambda: 0.05
        with pytest.raises(KubernetesUnavailable):
            await kubernetes.apply("deployments", {"metadata": {"namespace": "team", "name": "echo"}})
