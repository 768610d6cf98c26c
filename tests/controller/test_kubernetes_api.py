"""The client of the API server, over HTTP: writes that may not start, and pauses that the API server asks for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from kubernetes.aio.config import kube_config

from waiting import until
from watchbill.errors import Conflict, KubernetesUnavailable, NotLeader
from watchbill.kubernetes_api import KubernetesApi
from watchbill.testing import FakeClock

MANIFEST = {"metadata": {"namespace": "team", "name": "echo"}}
LEASES = "/apis/coordination.k8s.io/v1/namespaces/ops/leases"


class Server:
    """Keeps one Lease, as the API server does; all else has one answer. `goes_on` is cleared to hang."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.lease: dict[str, Any] | None = None
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.busy: list[tuple[int, str | None]] = []
        """(status, Retry-After) of the next answers."""
        self.body = b""
        """What was sent last."""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.path))
        self.body = await request.read()
        await self.goes_on.wait()
        if self.busy:
            status, after = self.busy.pop(0)
            return web.json_response(
                {"message": "busy"}, status=status, headers={"Retry-After": after} if after else {}
            )
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

    async with await KubernetesApi.connect() as kubernetes:
        kubernetes.seconds_to_write = forbid
        for write in (
            kubernetes.apply("deployments", MANIFEST),
            kubernetes.apply_status("crews", MANIFEST),
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


async def test_what_is_applied_is_yaml_and_json_whatever_characters_it_has(server: Server) -> None:
    text = '😀 é \u0085 \u009f \u2028 \ufeff \uffff \x7f \x00 \\ud83d\\ude00 "'
    manifest = {**MANIFEST, "spec": {text: text}}
    async with await KubernetesApi.connect() as kubernetes:
        for apply in (kubernetes.apply("deployments", manifest), kubernetes.apply_status("crews", manifest)):
            await apply
            assert json.loads(server.body) == yaml.safe_load(server.body) == manifest
            assert "😀".encode() in server.body


async def test_a_write_that_gets_no_answer_is_given_up_in_time(server: Server) -> None:
    server.goes_on.clear()
    async with await KubernetesApi.connect() as kubernetes:
        kubernetes.seconds_to_write = lambda: 0.05
        with pytest.raises(KubernetesUnavailable):
            await kubernetes.apply("deployments", MANIFEST)


async def test_a_pause_that_the_api_server_asks_for_holds_for_all_requests_but_those_for_the_lease(
    server: Server,
) -> None:
    clock = FakeClock()
    async with await KubernetesApi.connect(clock) as kubernetes:
        server.busy = [(429, "7")]
        first = asyncio.create_task(kubernetes.apply("deployments", MANIFEST))
        await until(lambda: clock.sleepers == [7])
        others = [asyncio.create_task(kubernetes.get("crews", "team", str(i))) for i in range(3)]
        await until(lambda: clock.sleepers == [7] * 4)
        assert len(server.asked) == 1
        assert await kubernetes.lease("ops", "it", timeout=5) is None
        server.busy = [(503, "2"), (429, None)]
        clock.advance(6.9)
        assert len(server.asked) == 2
        clock.advance(0.2)
        await until(lambda: len(server.asked) == 6)
        answered = asyncio.gather(first, *others)
        while not answered.done():
            await asyncio.sleep(0.01)
            clock.advance(1)
        assert len(server.asked) == 8, "each that was refused was sent again"
        assert first.result() == {"metadata": {"name": "echo"}}


async def test_a_write_that_waited_for_the_api_server_asks_again_whether_it_may_be_sent(server: Server) -> None:
    clock = FakeClock()
    leads = [True]

    def may() -> float:
        if not leads[0]:
            raise NotLeader("another leads")
        return 5

    async with await KubernetesApi.connect(clock) as kubernetes:
        kubernetes.seconds_to_write = may
        server.busy = [(429, "20")]
        write = asyncio.create_task(kubernetes.apply("deployments", MANIFEST))
        await until(lambda: clock.sleepers == [20])
        leads[0] = False
        clock.advance(20)
        with pytest.raises(NotLeader):
            await write
        assert len(server.asked) == 1


async def test_an_api_server_that_stays_busy_is_given_up_for_this_request(server: Server) -> None:
    async with await KubernetesApi.connect() as kubernetes:
        server.busy = [(429, "0")] * 10
        with pytest.raises(KubernetesUnavailable, match="busy"):
            await kubernetes.apply("deployments", MANIFEST)
        assert await kubernetes.get("crews", "team", "echo")
