"""The API server goes and comes back; tokens end; namespaces are missing; what is watched, and by what right."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kopf
import pytest
from kopf.testing import KopfRunner
from kubernetes.aio.config import kube_config

from e2e.cluster import machine
from e2e.cluster.control_plane import ControlPlane, free_ports
from e2e.cluster.kubectl import Kubectl, KubectlError
from e2e.control_plane import operator_team
from e2e.control_plane.operator_process import hold
from e2e.control_plane.operator_team import NARROW, RARELY, RELEASE, SOON, Team, crew, heartbeat
from watchbill.controller import watch
from watchbill.controller.cache import Cache, Key
from watchbill.controller.workqueue import WorkQueue

team = operator_team.team
store = operator_team.store
installed = operator_team.installed


def test_a_crew_made_after_a_restart_of_the_api_server_is_handled_within_30_seconds(
    team: Team, control_plane: ControlPlane
) -> None:
    team.may_be_forbidden = True  # in its first moments the API server doesn't know the roles yet
    running = team.operator()
    team.apply(crew())
    team.until_ready()
    control_plane.restart_api_server(kill=True)
    team.apply(crew("after"))
    team.until_ready("after")
    team.submit()
    machine.until(lambda: team.replicas() == 1, within=SOON, what="a worker for the crew from before")
    assert running.exit_code() is None


def test_a_crew_refused_for_want_of_quota_heals_when_there_is_room(team: Team) -> None:
    team.may_be_forbidden = True
    team.forbid("count/deployments.apps", "create", "deployment", "probe", "--image=none")
    team.operator(resync_seconds="1")
    team.apply(crew())
    machine.until(lambda: team.conditions().get("Ready", ("",))[0] == "False", within=SOON, what="it isn't ready")
    team.kubectl("delete", "resourcequota", "none")
    team.until_ready()


def test_a_resync_never_takes_a_new_crew_for_a_deleted_one(team: Team) -> None:
    """A Crew that comes into being between a listing and its end is in the watch, and not in the listing."""
    team.operator(resync_seconds="0.01")
    names = [f"crew-{i}" for i in range(30)]
    for name in names:
        team.apply(crew(name))
        machine.until(lambda name=name: team.meta(name).get("def"), within=SOON, what=f"{name} is stored", every=0.005)  # type: ignore[misc]
        team.submit(name)
        assert any(":run:" in key for key in team.stored(name)), f"the work given to {name} was removed with it"
    lost = [name for name in names if not any(":run:" in key for key in team.stored(name))]
    assert not lost


# ---------------------------------------------------------------- credentials, namespaces


def test_a_token_that_was_replaced_is_read_anew_by_watch_and_writes(
    team: Team, control_plane: ControlPlane, kubectl: Kubectl, tmp_path: Path
) -> None:
    """Replaces the token as the kubelet does. A token that is bound to a Secret ends with it."""
    team.may_be_forbidden = True  # by an API server that has just started
    token, kubeconfig = tmp_path / "token", tmp_path / "kubeconfig"

    def new_token(name: str) -> str:
        where = f"--namespace={NARROW}"
        kubectl("create", "secret", "generic", name, where)
        bound = ("--bound-object-kind=Secret", f"--bound-object-name={name}", "--duration=1h")
        return kubectl("create", "token", RELEASE, where, *bound).strip()

    def works(value: str) -> bool:
        try:
            kubectl("auth", "whoami", f"--token={value}", "--kubeconfig=/dev/null", *server)
        except KubectlError:
            return False
        return True

    config = json.loads(control_plane.service_account_kubeconfig(NARROW, RELEASE).read_text())
    cluster = config["clusters"][0]["cluster"]
    server = (f"--server={cluster['server']}", f"--certificate-authority={cluster['certificate-authority']}")
    config["users"][0]["user"] = {"tokenFile": str(token)}
    kubeconfig.write_text(json.dumps(config))
    names = [f"{team.namespace}-{i}" for i in range(2)]
    try:
        first = new_token(names[0])
        token.write_text(first)
        running = team.operator(kubeconfig=kubeconfig)
        team.apply(crew())
        team.until_ready()
        assert works(first)

        token.write_text(new_token(names[1]))
        kubectl("delete", "secret", names[0], f"--namespace={NARROW}")
        machine.until(lambda: not works(first), within=180, what="the first token has ended")
        control_plane.restart_api_server(kill=True)  # a watch that stands is asked for no token
        team.apply(crew("after"))
        team.until_ready("after")
        team.submit()
        machine.until(lambda: team.replicas() == 1, within=SOON, what="a worker")
        assert running.exit_code() is None
    finally:
        for name in names:
            kubectl("delete", "secret", name, f"--namespace={NARROW}", "--ignore-not-found")


def test_a_namespace_that_is_not_there_disturbs_no_other_and_is_taken_up_when_it_comes(
    team: Team, kubectl: Kubectl
) -> None:
    team.may_be_forbidden = True
    later = f"{team.namespace}-later"
    running = team.operator(watch_namespaces=f"{later}, {team.namespace}", resync_seconds="2")
    team.apply(crew())
    team.until_ready()
    try:
        kubectl("create", "namespace", later)
        kubectl.apply(*(r for r in operator_team.rendered(NARROW, later) if r["kind"] in ("Role", "RoleBinding")))
        kubectl("create", "secret", "generic", "watchbill-redis", f"--from-literal=url={team.store.url}", f"-n={later}")
        kubectl.apply(crew(), namespace=later)
        kubectl("wait", "crew/echo", "--for=condition=Ready", "--timeout=120s", f"--namespace={later}")
        assert running.exit_code() is None
    finally:
        kubectl("delete", "namespace", later, "--wait=false")


def test_with_a_right_that_is_missing_nothing_of_another_namespace_is_swept(team: Team, kubectl: Kubectl) -> None:
    """Objects that can't be listed are not gone."""
    team.may_be_forbidden = True
    first = team.operator()
    team.apply(crew())
    team.until_ready()
    before = team.stored()
    first.kill()
    said = len(first.said())  # in the same log
    kubectl("delete", "rolebinding", "--all", f"--namespace={team.namespace}")
    second = team.operator(watch_namespaces=f"{NARROW},{team.namespace}", resync_seconds="1")
    machine.until(lambda: "orbidden" in str(second.said()[said:]), within=SOON, what="it lacks a right")
    hold(6, lambda: team.stored() == before, "it was swept")


# ---------------------------------------------------------------- kopf's own runner


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_what_kopf_sees_becomes_keys_on_the_queue(
    kubectl: Kubectl, installed: ControlPlane, namespace: str, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handlers as `kopf run` drives them, with the operator's rights; no operator runs."""
    account = str(installed.service_account_kubeconfig(NARROW, RELEASE))
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", account)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    loop, cache = asyncio.get_running_loop(), Cache()
    reconciled: list[Key] = []

    async def reconcile(key: Key) -> None:
        reconciled.append(key)

    queue: WorkQueue[Key] = WorkQueue()

    def take(plural: str, kind: str, obj: Any) -> None:
        for key in cache.take(plural, kind, obj):
            queue.add(key)

    async def until(what: str, *keys: str, seen: Callable[[], bool] = lambda: True) -> None:
        """Exactly these were reconciled since the last time, however often. `seen`: where a change is told in several
        events, whether the last of them has come."""
        wanted = {(namespace, key) for key in keys}
        async with asyncio.timeout(SOON):
            while not (seen() and wanted <= set(reconciled) and not queue.oldest_seconds):
                await asyncio.sleep(0.05)
        assert set(reconciled) == wanted, what
        reconciled.clear()

    async def to(function: Any, *args: Any, **more: Any) -> None:
        await asyncio.to_thread(function, *args, **more)

    await to(team.apply, crew("before"))

    def tell(*event: Any) -> None:
        loop.call_soon_threadsafe(take, *event)

    registry, deployments = watch.registry(tell), set[str]()

    @kopf.on.event("apps", "v1", "deployments", registry=registry)
    async def see(name: str | None, **_: Any) -> None:
        deployments.add(str(name))

    runner = KopfRunner(
        ["run", "--standalone", f"--namespace={namespace}"],
        registry=registry,
        settings=watch.settings(),
        timeout=SOON,
    )
    working = asyncio.create_task(queue.run(reconcile, 2))
    with runner:
        await until("what was there before is listed", "before")
        await to(team.apply, crew())
        await until("created", "echo")
        seen = cache.crews.get((namespace, "echo"))
        assert seen is not None
        assert seen["spec"]["workers"]["maxReplicas"] == 20
        await to(team.apply, crew(maxReplicas=7))
        await until("modified", "echo")
        seen = cache.crews.get((namespace, "echo"))
        assert seen is not None
        assert seen["spec"]["workers"]["maxReplicas"] == 7
        await to(team.apply, heartbeat("beat", intervalSeconds=60))
        await until("a heartbeat concerns its crew", "echo")
        await to(team.apply, heartbeat("beat", intervalSeconds=60, crewRef={"name": "other"}))
        await until("both its crews, if it changes", "echo", "other")
        await to(team.apply, _deployment("theirs", "somebody"), _deployment("ours", "watchbill"))
        await until("a worker Deployment concerns its crew", "worked")
        assert [child.name for child in cache.deployments.of((namespace, "worked"))] == ["ours"]
        await to(team.kubectl, "delete", "deployment", "ours", "theirs")
        await until("a deleted Deployment", "worked", seen=lambda: not cache.deployments.of((namespace, "worked")))
        await to(team.apply, _deployment("ours", "watchbill"))
        await until("it is made anew", "worked")
        await to(team.kubectl, "label", "deployment", "ours", "app.kubernetes.io/managed-by=other", "--overwrite")
        await until("it is no longer ours", "worked", seen=lambda: not cache.deployments.of((namespace, "worked")))
        assert deployments == {"ours"}, "those of others never come"
        await to(team.kubectl, "delete", "heartbeat", "beat")
        await until("a deleted heartbeat", "other")
        await to(team.kubectl, "delete", "crew", "echo")
        await until("a deleted crew", "echo")
        assert (namespace, "echo") not in cache.crews
    working.cancel()
    gc.collect()  # kopf leaves the connections of its watches open, which is to be said here and not at the very end
    assert runner.exit_code == 0
    made = await asyncio.to_thread(team.crew, "before")
    assert "finalizers" not in made["metadata"]
    assert "status" not in made or made["status"].get("conditions") is None
    assert not made["metadata"].get("annotations", {}).keys() - {"kubectl.kubernetes.io/last-applied-configuration"}


def _deployment(name: str, manager: str) -> dict[str, Any]:
    labels = {
        "app.kubernetes.io/managed-by": manager,
        "app.kubernetes.io/component": "worker",
        "watchbill.dev/crew": "worked",
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "one", "image": "some"}]},
            },
        },
    }


# ---------------------------------------------------------------- metrics


def test_its_metrics_say_what_it_does_and_name_no_crew(team: Team) -> None:
    (port,) = free_ports(1)

    def scraped() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=SOON) as answer:
            lines = answer.read().decode().splitlines()
        assert not [line for line in lines if "_created" in line]
        found = [line.rpartition(" ") for line in lines if line.startswith("watchbill_operator_")]
        return {name: float(value) for name, _, value in found}

    def value(name: str) -> float:
        return scraped().get(f"watchbill_operator_{name}", -1)

    began = time.monotonic()
    team.operator(health_port=str(port))
    team.apply(crew(), heartbeat("beat", intervalSeconds=RARELY))
    team.until_ready()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=SOON) as answer:
        assert answer.status == 200

    def until_value(name: str, least: float) -> None:
        """Waits, because an action is counted after others can see it."""
        machine.until(lambda: value(name) >= least, within=SOON, what=f"{name} is {least:g} or more")

    until_value("reconcile_seconds_count", 1)
    until_value('reconciles_total{result="ok"}', 1)
    until_value('status_writes_total{kind="heartbeats"}', 1)
    until_value('api_requests_total{code="200",verb="list"}', 2)
    until_value('api_requests_total{code="201",verb="patch"}', 2)  # a ServiceAccount and a Deployment are new
    until_value('api_requests_total{code="200",verb="patch"}', 2)  # two statuses
    assert value("store_up") == 1
    assert value("workqueue_depth") >= 0

    def have_waited() -> bool:
        """All that was reconciled has. What begins while the page is written may be on its later part alone."""
        now, waits = scraped(), "watchbill_operator_workqueue_wait_seconds_count"
        waited = sum(count for name, count in now.items() if name.startswith(waits))
        return waited >= now["watchbill_operator_reconcile_seconds_count"]

    machine.until(have_waited, within=SOON, what="what was reconciled has waited")
    seen = value('watch_event_timestamp_seconds{kind="heartbeats"}')
    assert 0 <= time.time() - seen < time.monotonic() - began
    assert value('scale_decisions_total{reason="scale-up"}') == -1
    team.submit()
    machine.until(lambda: value('scale_decisions_total{reason="scale-up"}') == 1, within=SOON, what="it is counted")
    assert value("watch_restarts_total") == 0
    team.store.kill()
    machine.until(lambda: value("store_up") == 0, within=SOON, what="the store is away")
    team.store.start()
    machine.until(lambda: value("store_up") == 1, within=SOON, what="the store is back")
    assert not [line for line in scraped() if team.namespace in line or "echo" in line]
