"""The client of the API server, over HTTP: writes that may not start, and pauses that the API server asks for."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from kubernetes.aio.config import kube_config
from prometheus_client import REGISTRY

from waiting import until
from watchbill.errors import Conflict, KubernetesRefuses, KubernetesUnavailable, NotLeader
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
        self.says = "busy"
        self.body = b""
        """What was sent last."""
        self.pages: list[list[str]] = []
        """Names of the objects on each page of a listing."""
        self.expired: set[str] = set()
        """Continue tokens whose moment is over. `<token>-later` gives the same page, as of a later moment."""
        self.hopeless = False
        """Those of later moments are over, too."""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.path))
        self.body = await request.read()
        await self.goes_on.wait()
        if self.busy:
            status, after = self.busy.pop(0)
            return web.json_response(
                {"message": self.says}, status=status, headers={"Retry-After": after} if after else {}
            )
        if "limit" in request.query:
            return self._page(request.query.get("continue", "0"))
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

    def _page(self, token: str) -> web.Response:
        number, _, later = token.partition("-")
        if token in self.expired or (later and self.hopeless):
            said = {"message": "it is too old", "reason": "Expired", "metadata": {"continue": f"{number}-later"}}
            return web.json_response(said, status=410)
        more = str(int(number) + 1) + (later and "-later") if int(number) + 1 < len(self.pages) else ""
        items = [{"metadata": {"name": name}} for name in self.pages[int(number)]]
        version = "9" if later else "7"
        return web.json_response({"metadata": {"resourceVersion": version, "continue": more}, "items": items})


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


async def test_requests_go_through_the_proxy_that_the_environment_names_and_need_no_thread(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((tmp_path / "config").read_text())
    cluster = config["clusters"][0]["cluster"]
    monkeypatch.setenv("http_proxy", cluster["server"])
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    cluster["server"] = "http://kubernetes.invalid:6443"
    (tmp_path / "config").write_text(json.dumps(config))
    threads = set(threading.enumerate())
    async with await KubernetesApi.connect() as kubernetes:
        assert await kubernetes.get("crews", "team", "echo") == {"metadata": {"name": "echo"}}
    assert set(threading.enumerate()) == threads


async def test_what_is_applied_is_yaml_and_json_whatever_characters_it_has(server: Server) -> None:
    text = '😀 é \u0085 \u009f \u2028 \ufeff \uffff \x7f \x00 \\ud83d\\ude00 "'
    manifest = {"metadata": {**MANIFEST["metadata"], "resourceVersion": "7"}, "spec": {text: text}}
    async with await KubernetesApi.connect() as kubernetes:
        for apply in (kubernetes.apply("deployments", manifest), kubernetes.apply_status("crews", manifest)):
            await apply
            assert json.loads(server.body) == yaml.safe_load(server.body) == manifest
            assert "😀".encode() in server.body


@pytest.mark.parametrize(
    "says",
    [
        "failed to create typed patch object: .spec.x: field not declared in schema",
        "failed to convert new object to proper version: quantities must match",
        'strict decoding error: unknown field "spec.x"',
    ],
)
async def test_a_mistake_in_a_manifest_is_told_though_the_api_server_takes_it_for_its_own(
    server: Server, says: str
) -> None:
    async with await KubernetesApi.connect() as kubernetes:
        server.says, server.busy = says, [(500, None)]
        with pytest.raises(KubernetesRefuses, match=re.escape(says)):
            await kubernetes.apply("deployments", MANIFEST)
        server.says, server.busy = "etcdserver: request timed out", [(500, None)]
        with pytest.raises(KubernetesUnavailable, match="timed out"):
            await kubernetes.apply("deployments", MANIFEST)


async def test_a_write_that_gets_no_answer_is_given_up_in_time(server: Server) -> None:
    server.goes_on.clear()
    async with await KubernetesApi.connect() as kubernetes:
        kubernetes.seconds_to_write = lambda: 0.05
        with pytest.raises(KubernetesUnavailable):
            await kubernetes.apply("deployments", MANIFEST)


async def test_an_answer_that_came_while_this_process_stood_still_is_read_and_only_a_leaders_write_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stand_still() -> None:
        server.goes_on.set()
        time.sleep(1)

    monkeypatch.setattr("watchbill.kubernetes_api.REQUEST_TIMEOUT_SECONDS", 0.5)
    async with await KubernetesApi.connect() as kubernetes:
        calls: Any = (
            (lambda: kubernetes.get("crews", "team", "echo"), None, False),
            (lambda: kubernetes.apply("deployments", MANIFEST), None, False),
            (lambda: kubernetes.apply("deployments", MANIFEST), lambda: 0.5, True),
            (lambda: kubernetes.lease("ops", "it", timeout=0.5), None, True),
        )
        for call, seconds_to_write, is_given_up in calls:
            server.goes_on.clear()
            server.asked.clear()
            kubernetes.seconds_to_write = seconds_to_write
            asked = asyncio.ensure_future(call())
            await until(lambda: server.asked)
            stand_still()
            with pytest.raises(KubernetesUnavailable) if is_given_up else nullcontext():
                await asked


async def test_a_pause_that_the_api_server_asks_for_holds_for_all_requests_but_those_for_the_lease(
    server: Server,
) -> None:
    def counted() -> float:
        return REGISTRY.get_sample_value("watchbill_operator_api_server_busy_total") or 0.0

    clock, before = FakeClock(), counted()
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
        assert counted() - before == 3
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


async def test_what_has_changed_since_it_was_seen_is_not_deleted_and_another_object_of_the_name_is_none_of_ours(
    server: Server,
) -> None:
    async with await KubernetesApi.connect() as kubernetes:
        server.busy = [(409, None), (409, None)]
        await kubernetes.delete("deployments", "team", "echo", uid="u")
        assert json.loads(server.body)["preconditions"] == {"uid": "u"}
        with pytest.raises(Conflict):
            await kubernetes.delete("deployments", "team", "echo", uid="u", resource_version="7")
        assert json.loads(server.body)["preconditions"] == {"uid": "u", "resourceVersion": "7"}


async def test_what_was_not_seen_is_applied_with_a_version_that_no_object_has(server: Server) -> None:
    seen = {**MANIFEST, "metadata": {**MANIFEST["metadata"], "resourceVersion": "7"}}
    async with await KubernetesApi.connect() as kubernetes:
        for manifest, version in ((MANIFEST, "1"), (seen, "7")):
            await kubernetes.apply("deployments", manifest)
            assert json.loads(server.body)["metadata"]["resourceVersion"] == version
        await kubernetes.apply_status("crews", MANIFEST)
        assert "resourceVersion" not in json.loads(server.body)["metadata"]


async def test_requests_are_counted_by_verb_and_code_and_timed_when_they_are_answered(server: Server) -> None:
    def counted(verb: str, code: str) -> float:
        labels = {"verb": verb, "code": code}
        return REGISTRY.get_sample_value("watchbill_operator_api_requests_total", labels) or 0.0

    def timed(verb: str) -> float:
        return REGISTRY.get_sample_value("watchbill_operator_api_request_seconds_count", {"verb": verb}) or 0.0

    asked = [("get", "200"), ("get", "404"), ("patch", "200"), ("delete", "409"), ("create", "200"), ("patch", "none")]
    before, seconds = {one: counted(*one) for one in asked}, {verb: timed(verb) for verb, _ in asked}
    async with await KubernetesApi.connect() as kubernetes:
        await kubernetes.get("crews", "team", "echo")
        await kubernetes.lease("ops", "it", timeout=5)
        await kubernetes.apply("deployments", MANIFEST)
        server.busy = [(409, None)]
        await kubernetes.delete("deployments", "team", "echo", uid="u")
        await kubernetes.write_lease({"namespace": "ops", "name": "it"}, {"holderIdentity": "a"}, timeout=5)
        server.goes_on.clear()
        kubernetes.seconds_to_write = lambda: 0.05
        with pytest.raises(KubernetesUnavailable):
            await kubernetes.apply("deployments", MANIFEST)
    assert {one: counted(*one) - before[one] for one in asked} == dict.fromkeys(asked, 1)
    assert {verb: timed(verb) - seconds[verb] for verb in seconds} == {"get": 2, "patch": 1, "delete": 1, "create": 1}


async def test_a_page_of_a_listing_is_asked_for_when_the_one_before_it_was_used(server: Server) -> None:
    server.pages = [["a", "b"], ["c"]]
    async with await KubernetesApi.connect() as api:
        found = []
        async for page in api.pages("crews", "team"):
            found.append([one["metadata"]["name"] for one in page.objects])
            assert len(server.asked) == len(found)
            assert page.version == 7
        assert found == server.pages
        whole = await api.list("crews", "team")
        assert [one["metadata"]["name"] for one in whole.objects] == ["a", "b", "c"]


async def test_a_listing_that_outlives_its_moment_goes_on_with_what_is_left_and_tells_the_first_moment(
    server: Server,
) -> None:
    server.pages, server.expired = [["a", "b"], ["c"], ["d"]], {"1"}
    async with await KubernetesApi.connect() as api:
        pages = [page async for page in api.pages("crews", "team")]
        assert [[one["metadata"]["name"] for one in page.objects] for page in pages] == server.pages
        assert [(page.version, page.is_consistent) for page in pages] == [(7, True), (7, False), (7, False)]
        assert len(server.asked) == 4
        assert not (await api.list("crews", "team")).is_consistent


async def test_a_listing_whose_rest_can_not_be_read_either_fails(server: Server) -> None:
    server.pages, server.expired, server.hopeless = [["a"], ["b"]], {"1"}, True
    async with await KubernetesApi.connect() as api:
        with pytest.raises(KubernetesUnavailable, match="too old"):
            await api.list("crews", "team")
        assert len(server.asked) == 3
