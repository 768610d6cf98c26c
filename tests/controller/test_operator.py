"""The whole operator over HTTP: an API server that keeps what it is sent, and a real store."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.config import kube_config
from prometheus_client import REGISTRY

from waiting import until
from watchbill import connection, metrics
from watchbill.clock import SYSTEM
from watchbill.controller import autoscaler, wakeups, watch
from watchbill.controller.cache import Key
from watchbill.controller.controller import Controller
from watchbill.controller.operator import Operator
from watchbill.kubernetes_api import KubernetesApi
from watchbill.names import CrewKeys
from watchbill.scheduler import Scheduler
from watchbill.settings import Settings
from watchbill.store import definitions, submissions
from watchbill.store.submissions import Submission

CREW: dict[str, Any] = {
    "apiVersion": "watchbill.dev/v1alpha1",
    "kind": "Crew",
    "metadata": {"name": "echo", "namespace": "team", "uid": "u", "generation": 1, "resourceVersion": "1"},
    "spec": {"agents": [{"name": "a", "class": "EchoAgent"}]},
}

CREWS = "/apis/watchbill.dev/v1alpha1/namespaces/team/crews"

GROUPS = [
    {"name": name, "versions": [{"version": version}], "preferredVersion": {"version": version}}
    for name, version in (("watchbill.dev", "v1alpha1"), ("apps", "v1"))
]


class ApiServer:
    """As much of the Kubernetes API as the operator uses, for one namespace."""

    def __init__(self, cluster: str = "cluster") -> None:
        """`cluster`: the uid of its namespace kube-system."""
        self.cluster = cluster
        self.objects: dict[str, dict[str, Any]] = {f"{CREWS}/echo": CREW}
        self.listed = 0
        """How often its crews were listed."""
        self.serves_crews = False
        self.version = 1
        self.watches: dict[str, asyncio.Queue[dict[str, Any]]] = {}
        self.failures = 0
        """How often it fails yet when kopf asks for what it serves."""
        self.forgets = False
        """The moment of a listing is over when our own client asks for its second page."""

    async def start(self, folder: Path) -> Callable[[], Awaitable[None]]:
        """Writes a kubeconfig into the folder. Returns what ends it."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        cluster = {"name": "c", "cluster": {"server": f"http://{host}:{port}"}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        config = {"clusters": [cluster], "users": [{"name": "u", "user": {"token": "t"}}], "contexts": [context]}
        (folder / "config").write_text(json.dumps({**config, "current-context": "c"}))

        async def end() -> None:
            for events in self.watches.values():
                events.put_nowait({})
            await runner.cleanup()

        return end

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removesuffix("/status")
        if request.query.get("watch"):
            return await self._watch(path, request)
        if self.forgets and path == CREWS and "kopf" not in request.headers["User-Agent"]:
            return self._forgotten(request.query.get("continue", ""))
        if request.method == "PATCH":
            self.version += 1
            sent = json.loads(await request.text())
            before = self.objects.get(path, {})
            metadata = {"uid": "made", **before.get("metadata", {}), **sent["metadata"]}
            metadata["resourceVersion"] = str(self.version)
            self.objects[path] = {**before, **sent, "metadata": metadata}
            if events := self.watches.get(path.rpartition("/")[0]):
                events.put_nowait({"type": "MODIFIED", "object": self.objects[path]})
            return web.json_response(self.objects[path])
        return self._read(path)

    async def _watch(self, path: str, request: web.Request) -> web.StreamResponse:
        events = self.watches[path] = asyncio.Queue()
        for obj in self._items(path):
            if int(obj["metadata"]["resourceVersion"]) > int(request.query["resourceVersion"]):
                events.put_nowait({"type": "MODIFIED", "object": obj})
        response = web.StreamResponse()
        await response.prepare(request)
        while event := await events.get():
            await response.write(json.dumps(event).encode() + b"\n")
        return response

    def _read(self, path: str) -> web.Response:
        kinds = {"crews": "Crew", "heartbeats": "Heartbeat"}
        if path == "/apis/watchbill.dev/v1alpha1":
            served = kinds if self.serves_crews else {}
            return web.json_response({"resources": [resource(*kind) for kind in served.items()]})
        if path == "/api/v1":
            return web.json_response({"resources": [resource("namespaces", "Namespace")]})
        if path == "/apis/apps/v1":
            return web.json_response({"resources": [resource("deployments", "Deployment")]})
        if path == "/apis" and self.failures:
            self.failures -= 1
            return web.json_response({"message": "not served yet"}, status=404)
        if path in ("/api", "/apis"):
            return web.json_response({"versions": [], "groups": GROUPS} if path == "/apis" else {"versions": ["v1"]})
        if path == "/api/v1/namespaces/kube-system":
            return web.json_response({"metadata": {"uid": self.cluster}})
        if path == "/api/v1/namespaces/team/secrets/watchbill-redis":
            return web.json_response({"metadata": {"uid": "s", "resourceVersion": "1"}})
        if path in self.objects:
            return web.json_response(self.objects[path])
        self.listed += path == CREWS
        if path.rpartition("/")[2] in ("crews", "heartbeats", "deployments"):
            version = {"resourceVersion": str(self.version)}
            return web.json_response({"metadata": version, "items": self._items(path)})
        return web.json_response({"message": f"there is no {path}"}, status=404)

    def _forgotten(self, token: str) -> web.Response:
        """Lists no crews on the first page, and all on the second, as of a later moment."""
        if token == "then":
            return web.json_response({"message": "too old", "metadata": {"continue": "now"}}, status=410)
        self.listed += token == "now"
        items, more = (self._items(CREWS), "") if token else ([], "then")
        version = {"resourceVersion": str(self.version), "continue": more}
        return web.json_response({"metadata": version, "items": items})

    def _items(self, path: str) -> list[dict[str, Any]]:
        return [obj for name, obj in self.objects.items() if name.rpartition("/")[0] == path]

    def replicas(self) -> int | None:
        for path, obj in self.objects.items():
            if "/deployments/" in path:
                return int(obj["spec"]["replicas"])
        return None

    def ready(self) -> str:
        (crew,) = (obj for path, obj in self.objects.items() if path.endswith("/crews/echo"))
        conditions = crew.get("status", {}).get("conditions", [])
        return next((c["reason"] for c in conditions if c["type"] == "Ready"), "")


def resource(plural: str, kind: str) -> dict[str, Any]:
    verbs = ["list", "watch", "patch"]
    return {"name": plural, "kind": kind, "singularName": kind.lower(), "namespaced": True, "verbs": verbs}


@pytest.fixture
async def api_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiServer]:
    server = ApiServer()
    end = await server.start(tmp_path)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
    yield server
    await end()


async def test_an_operator_starts_workers_for_work_that_comes_and_ends_when_it_is_told(
    api_server: ApiServer, private_redis: Callable[[], Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watchbill.controller.operator.START_SECONDS", 0.01)
    store, began = await private_redis(), time.time()
    operator = Operator(Settings(watch_namespaces="team"), store.url, Scheduler)
    running = asyncio.create_task(operator.run())
    await asyncio.sleep(0)
    assert not operator.is_ready, "the API server serves no crews yet"
    await operator.observe()
    api_server.serves_crews = True
    await until(lambda: api_server.ready() == "AgentsUnchecked")
    assert operator.is_ready
    assert api_server.replicas() == 0
    await until(lambda: len(api_server.watches) == 3)

    async with connection.connected(store.url) as client:
        keys = CrewKeys("team", "echo")
        identity = await definitions.identity(client, keys)
        assert identity.owner.endswith("@cluster")
        await submissions.submit(client, keys, identity.uid, [Submission("t", "a", "{}")], max_queued=9)
    await until(lambda: api_server.replicas() == 1)

    async def shows_the_task() -> bool:
        await operator.observe()
        waits = 'watchbill_queue_depth{crew="echo",namespace="team",state="waiting"} 1.0\n'
        return waits in metrics.QUEUES.text(is_open_metrics=False)

    await until(shows_the_task)
    assert REGISTRY.get_sample_value("watchbill_operator_workqueue_oldest_seconds") is not None
    event = REGISTRY.get_sample_value("watchbill_operator_watch_event_timestamp_seconds", {"kind": "crews"})
    assert event is not None
    assert began <= event <= time.time()

    operator.stop()
    async with asyncio.timeout(180):
        await running
    assert not operator.is_ready


async def test_work_starts_workers_though_no_message_tells_of_it(
    api_server: ApiServer, private_redis: Callable[[], Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deaf(_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(wakeups.WakeUps, "run", deaf)
    monkeypatch.setattr(autoscaler, "SWEEP_SECONDS", 0.01)
    api_server.serves_crews = True
    store = await private_redis()
    operator = Operator(Settings(watch_namespaces="team"), store.url, Scheduler)
    running = asyncio.create_task(operator.run())
    await until(lambda: api_server.ready() == "AgentsUnchecked")
    async with connection.connected(store.url) as client:
        keys = CrewKeys("team", "echo")
        uid = (await definitions.identity(client, keys)).uid
        await submissions.submit(client, keys, uid, [Submission("t", "a", "{}")], max_queued=9)
    await until(lambda: api_server.replicas() == 1)
    operator.stop()
    async with asyncio.timeout(180):
        await running


async def test_an_operator_that_waits_for_the_api_server_can_be_stopped(
    api_server: ApiServer, private_redis: Callable[[], Awaitable[Any]]
) -> None:
    operator = Operator(Settings(), (await private_redis()).url, Scheduler)
    running = asyncio.create_task(operator.run())
    operator.stop()
    async with asyncio.timeout(180):
        await running


async def test_a_watch_that_ends_is_started_again_and_what_it_missed_is_found(
    api_server: ApiServer, private_redis: Callable[[], Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch.Restarts, "pause", lambda _: 0.01)
    api_server.serves_crews, api_server.failures = True, 1
    operator = Operator(Settings(watch_namespaces="team"), (await private_redis()).url, Scheduler)
    before = REGISTRY.get_sample_value("watchbill_operator_watch_restarts_total") or 0
    running = asyncio.create_task(operator.run())
    await until(lambda: len(api_server.watches) == 3)
    assert REGISTRY.get_sample_value("watchbill_operator_watch_restarts_total") == before + 1
    await until(lambda: api_server.ready() == "AgentsUnchecked")
    operator.stop()
    async with asyncio.timeout(180):
        await running


@pytest.mark.parametrize("how", ["half open", "expired"])
async def test_a_watch_that_hears_nothing_or_is_too_old_is_made_anew_and_loses_nothing(
    api_server: ApiServer, private_redis: Callable[[], Awaitable[Any]], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Long before the next listing of our own."""
    made = watch.settings()
    assert made.watching.inactivity_timeout <= 90, "bookmarks come each minute"
    assert made.queueing.idle_timeout < 1, "kopf keeps each object of a listing for so long"
    if how == "half open":
        made.watching.inactivity_timeout = 0.5
        monkeypatch.setattr(watch, "settings", lambda: made)
    api_server.serves_crews = True
    operator = Operator(Settings(watch_namespaces="team"), (await private_redis()).url, Scheduler)
    running = asyncio.create_task(operator.run())
    await until(lambda: api_server.ready() == "AgentsUnchecked")
    await until(lambda: len(api_server.watches) == 3)

    standing = api_server.watches[CREWS]
    api_server.version += 1
    metadata = {**CREW["metadata"], "name": "after", "uid": "v", "resourceVersion": str(api_server.version)}
    api_server.objects[f"{CREWS}/after"] = {**CREW, "metadata": metadata}  # and no event of it is sent
    if how == "expired":
        standing.put_nowait({"type": "ERROR", "object": {"code": 410, "message": "too old resource version"}})
    await until(lambda: "status" in api_server.objects[f"{CREWS}/after"])
    assert api_server.watches[CREWS] is not standing
    operator.stop()
    async with asyncio.timeout(180):
        await running


async def test_the_operator_of_another_cluster_refuses_the_crews_of_the_first_and_sweeps_none(
    tmp_path: Path, private_redis: Callable[[], Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have a namespace `team` and a crew `echo`; the second knows nothing of the first one's crew `alone`."""
    store = await private_redis()
    first, second = ApiServer("one"), ApiServer("two")
    first.objects[f"{CREWS}/alone"] = {**CREW, "metadata": {**CREW["metadata"], "name": "alone", "uid": "w"}}
    second.objects[f"{CREWS}/echo"] = {**CREW, "metadata": {**CREW["metadata"], "uid": "v"}}
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    async with AsyncExitStack() as stack, connection.connected(store.url) as client:
        for server in (first, second):
            server.serves_crews = True
            folder = tmp_path / server.cluster
            folder.mkdir()
            stack.push_async_callback(await server.start(folder))
            monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(folder / "config"))
            operator = Operator(Settings(watch_namespaces="team", resync_seconds=0.3), store.url, Scheduler)
            running = asyncio.create_task(operator.run())
            stack.push_async_callback(asyncio.wait_for, running, 180)
            stack.callback(operator.stop)
            await until(lambda: server.ready() and len(server.watches) == 3)  # noqa: B023 - awaited here
        await until(lambda: second.ready() == "OwnerConflict")
        seen = second.listed
        await until(lambda: second.listed >= seen + 3)  # and each was followed by a sweep, but for the last
        for name in ("echo", "alone"):
            assert (await definitions.identity(client, CrewKeys("team", name))).owner.endswith("@one")
        assert first.ready() == "AgentsUnchecked"
        assert second.replicas() is None, "no worker of the one does the other's work"


async def test_nothing_is_swept_after_a_listing_of_several_moments(
    api_server: ApiServer, private_redis: Callable[[], Awaitable[Any]]
) -> None:
    api_server.serves_crews = True
    store = await private_redis()

    async def run(until_then: Callable[[], Awaitable[object]]) -> None:
        operator = Operator(Settings(watch_namespaces="team", resync_seconds=1), store.url, Scheduler)
        running = asyncio.create_task(operator.run())
        await until_then()
        operator.stop()
        async with asyncio.timeout(180):
            await running

    await run(lambda: until(lambda: api_server.ready() == "AgentsUnchecked"))
    api_server.objects = {f"{CREWS}/other": {**CREW, "metadata": {**CREW["metadata"], "name": "other", "uid": "o"}}}
    api_server.forgets = True
    async with connection.connected(store.url) as client:

        async def uid() -> str:
            return (await definitions.identity(client, CrewKeys("team", "echo"))).uid

        async def then() -> None:
            before = api_server.listed
            await until(lambda: api_server.listed >= before + 3)
            assert await uid() == "u"
            assert (await definitions.identity(client, CrewKeys("team", "other"))).uid == "o"
            api_server.forgets = False
            await until(lambda: is_gone())

        async def is_gone() -> bool:
            return not await uid()

        await run(then)


async def test_the_listing_with_which_a_watch_begins_waits_behind_changes(
    api_server: ApiServer, private_redis: Callable[[], Awaitable[Any]]
) -> None:
    """At a start it is of all crews there are."""
    store, seen = await private_redis(), list[str]()

    async def reconcile(key: Key) -> None:
        seen.append(key[1])

    async with connection.connected(store.url) as client, await KubernetesApi.connect() as kubernetes:
        controller = Controller(Settings(), client, kubernetes, Scheduler(client, SYSTEM), "me", "replica")
        told, queue = vars(vars(controller)["_watch"])["_sink"], vars(controller)["_queue"]
        for name, kind in (("one", ""), ("two", ""), ("changed", "MODIFIED"), ("new", "ADDED")):
            status = {} if name == "new" else {"observedGeneration": 1}
            told("crews", kind, {**CREW, "metadata": {**CREW["metadata"], "name": name}, "status": status})
        running = asyncio.create_task(queue.run(reconcile, 1))
        await until(lambda: len(seen) == 4)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert seen == ["changed", "new", "one", "two"]
