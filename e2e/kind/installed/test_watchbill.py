"""Watchbill on a cluster, as its users have it: the chart over a store, crews by kubectl, work done in pods.

The namespace enforces the restricted Pod Security Standard. What is asserted: results, what the store holds, which pods
there are.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import docker, install, machine
from e2e.cluster.kubectl import KubectlError
from e2e.kind import crews
from e2e.kind.crews import crew
from e2e.kind.team import NAMESPACE, SOON, Team, connected
from watchbill.client import Client
from watchbill.names import CrewKeys

EXAMPLE = install.ROOT / "examples" / "log-triage"

# ---------------------------------------------------------------- a crew comes, works and goes


def test_the_example_is_done_by_a_pod_that_comes_for_it_and_goes_after_it(team: Team) -> None:
    team.kubectl("create", "configmap", "log-triage", f"--from-file={EXAMPLE}")
    try:
        team.kubectl("apply", "--filename", EXAMPLE)
        team.until_ready("log-triage")
        assert team.pods("log-triage") == []

        words = ("submit", "--namespace", NAMESPACE, "log-triage", "What broke?", "--input", "log=@-", "--wait")
        with team.pod_events("log-triage") as events:
            said = team.watchbill(*words, stdin=(EXAMPLE / "app.log").read_text())
            assert "Most likely cause: out of memory" in said
            machine.until(events, within=SOON, what="a pod has come")
            assert len({event["object"]["metadata"]["name"] for event in events()}) == 1
        assert team.keys("log-triage")
        machine.until(lambda: team.pods("log-triage") == [], within=2 * SOON, what="no pods once idle", every=1)
        machine.until(lambda: team.workers("log-triage") == 0, within=SOON, what="the status says so")
        listed = team.kubectl("get", "crews", "log-triage")
        assert listed.split()[:8] == ["NAME", "READY", "MODE", "WORKERS", "WAITING", "RUNNING", "DEAD", "AGE"]
        assert listed.splitlines()[1].split()[:6] == ["log-triage", "True", "sequential", "0", "0", "0"]
    finally:
        team.kubectl("delete", "crew", "log-triage")
        team.kubectl("delete", "configmap", "log-triage")

    machine.until(lambda: not team.keys("log-triage"), within=SOON, what="the store has nothing of it", every=1)
    kinds = "deployments,replicasets,pods,serviceaccounts"

    def children() -> list[str]:
        return [i["metadata"]["name"] for i in team.get(kinds)["items"] if "log-triage" in i["metadata"]["name"]]

    machine.until(lambda: not children(), within=SOON, what="nothing of it is left in the cluster", every=1)


def test_kubectl_shows_what_a_crew_does_while_it_does_it(team: Team, name: str) -> None:
    team.apply(*crews.sample(name, "Opened", concurrency=1, maxReplicas=2))
    team.until_ready(name)
    ids = team.with_client(lambda client: client.submit_many(name, "one", ["go on"] * 3))
    assert len(set(ids)) == 3

    def shown() -> tuple[int, int, int]:
        status = team.get("crew", name)["status"]
        return status["replicas"], status.get("waiting", 0), status.get("running", 0)

    # Not exact: while figures merely change, they are written every 10 s.
    machine.until(lambda: shown()[0] == 2 and shown()[2], within=SOON, what="2 workers, and that something runs")
    with team.store() as url, connected(url) as client:
        client.set("gate:one", "open")

    async def wait_for_all(client: Client) -> None:
        await asyncio.gather(*(client.wait(name, i, timeout=SOON) for i in ids))

    team.with_client(wait_for_all)
    machine.until(lambda: shown()[1:] == (0, 0), within=SOON, what="nothing waits or runs")
    with team.store() as url, connected(url) as client:
        client.delete("gate:one")


# ---------------------------------------------------------------- by Helm


def test_the_doctor_finds_nothing_wrong_as_helm_test_runs_it(team: Team) -> None:
    said = install.helm(team.cluster, "test", install.RELEASE, f"--namespace={NAMESPACE}", "--logs")
    assert "Succeeded" in said
    _, log, found = said.partition("POD LOGS")
    assert log, said
    assert re.search(r"^ok +store ", found, re.MULTILINE), said
    assert "error" not in found.lower(), said


def test_a_crew_that_helm_installs_works_and_goes_with_its_release(team: Team, name: str) -> None:
    chart, values = install.ROOT / "charts" / "crew", {"agents": [{"name": "one", "class": "EchoAgent"}]}
    install.helm(team.cluster, "install", name, chart, f"--namespace={NAMESPACE}", values=values)
    try:
        team.until_ready(name)
        assert team.result(name, "hello") == "hello"
    finally:
        install.helm(team.cluster, "uninstall", name, f"--namespace={NAMESPACE}")
    machine.until(lambda: not team.keys(name), within=SOON, what="the store has nothing of it", every=1)


# ---------------------------------------------------------------- agents of one's own


def test_an_image_made_from_ours_brings_its_agents(team: Team, name: str, tmp_path: Path) -> None:
    if not team.cluster.kind_name:
        pytest.skip("an image can only be put on the nodes of a kind cluster")
    shutil.copy(crews.AGENTS, tmp_path)
    (tmp_path / "Dockerfile").write_text(f"FROM {team.images.worker}\nCOPY {crews.AGENTS.name} /agents/\n")
    mine = f"watchbill-e2e/mine:{secrets.token_hex(4)}"
    docker.build(mine, dockerfile=tmp_path / "Dockerfile", context=tmp_path)
    try:
        team.cluster.load(mine)
        team.apply(crew(name, "sample_agents:Sleeper", image=mine))
        team.until_ready(name)

        done = team.result(name, "0")

        (pod,) = team.pods(name)
        assert done == {"pod": pod["metadata"]["name"], "attempt": 1}
        assert pod["spec"]["containers"][0]["image"] == mine
    finally:
        docker.docker("image", "rm", "--force", mine)


def test_an_agent_that_no_worker_has_is_named_and_its_task_is_done_once_it_comes(team: Team, name: str) -> None:
    team.apply(crew(name, "sample_agents:Sleeper"))
    team.until_ready(name)
    task = team.submit(name, "0")

    def stalled() -> dict[str, Any] | None:
        found = [c for c in team.get("crew", name)["status"]["conditions"] if c["type"] == "Stalled"]
        return found[0] if found and found[0]["reason"] == "AgentUnavailable" else None

    machine.until(stalled, within=SOON, what="the crew says that its agent is missing")

    team.apply(*crews.sample(name, "Sleeper"))

    ended = team.with_client(lambda client: client.wait(name, task, timeout=SOON))
    assert ended.output["attempt"] == 1
    machine.until(lambda: not stalled(), within=SOON, what="it says so no longer")


# ---------------------------------------------------------------- pods that end


def test_what_a_killed_worker_ran_is_done_by_another_once(team: Team, name: str) -> None:
    # Otherwise the worker is its container's first process, which nobody in it can kill.
    team.apply(*crews.sample(name, "Gated", minReplicas=2, concurrency=1, pod={"shareProcessNamespace": True}))
    pods = {pod["metadata"]["name"] for pod in team.until_pods(name, 2)}
    task = team.submit(name, "wait")
    victim = machine.until(lambda: team.runner(name), within=SOON, what="somebody runs it")
    assert victim in pods
    kill = """
import os, signal
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        words = open(f"/proc/{pid}/cmdline").read().split("\\0")
    except OSError:  # it has ended
        continue
    if "watchbill.worker" in words:
        os.kill(int(pid), signal.SIGKILL)
"""
    with suppress(KubectlError):  # its own process may go with the container
        team.kubectl("exec", victim, "--", "python3", "-c", kill)
    with team.store() as url, connected(url) as client:
        client.xadd(f"{CrewKeys(NAMESPACE, name).root}stream:gate", {"open": "yes"})

    ended = team.with_client(lambda client: client.wait(name, task, timeout=SOON))

    assert ended.output["attempt"] == 2
    with team.store() as url, connected(url) as client:
        results: Any = client.xrange(f"wb:{{{NAMESPACE}/{name}}}:results")
        assert sorted(fields["id"] for _, fields in results) == [task, f"{task}/one"]

    def restarts() -> dict[str, int]:
        return {p["metadata"]["name"]: p["status"]["containerStatuses"][0]["restartCount"] for p in team.pods(name)}

    machine.until(lambda: restarts()[victim] == 1, within=SOON, what="the kubelet tells of the restart")
    # by another pod, or by the victim's next life
    assert ended.output["pod"] in restarts()


# ---------------------------------------------------------------- what a worker's pod is


def test_a_worker_has_no_token_and_no_kubernetes_and_answers_its_probes(team: Team, name: str) -> None:
    team.apply(crew(name, minReplicas=1))
    (pod,) = team.until_pods(name, 1)
    look = """
import importlib.util, json, os, urllib.request
def get(path):
    with urllib.request.urlopen(f"http://127.0.0.1:{os.environ['WATCHBILL_HEALTH_PORT']}{path}", timeout=60) as answer:
        return answer.read().decode()
print(json.dumps({
    "token": os.path.exists("/var/run/secrets/kubernetes.io"),
    "kubernetes": [name for name in ("kubernetes", "kopf") if importlib.util.find_spec(name)],
    "root": os.getuid() == 0 or os.access("/", os.W_OK) or os.access("/opt/watchbill", os.W_OK),
    "metrics": "watchbill_build_info" in get("/metrics"),
    "probes": [bool(get("/healthz")), bool(get("/readyz"))],
}))
"""
    seen = json.loads(team.kubectl("exec", pod["metadata"]["name"], "--", "python3", "-c", look))
    assert seen == {"token": False, "kubernetes": [], "root": False, "metrics": True, "probes": [True, True]}


def test_a_heartbeat_wakes_a_crew_that_has_no_workers(team: Team, name: str) -> None:
    beat = {
        "apiVersion": "watchbill.dev/v1alpha1",
        "kind": "Heartbeat",
        "metadata": {"name": name},
        "spec": {"crewRef": {"name": name}, "intervalSeconds": 5, "prompt": "wake up"},
    }
    team.apply(crew(name, maxReplicas=1), beat)  # else what came while its first pod started would want another
    try:
        team.until_pods(name, 1)

        def results() -> Any:
            with team.store() as url, connected(url) as client:
                return client.xlen(f"wb:{{{NAMESPACE}/{name}}}:results")

        machine.until(lambda: results() >= 2, within=SOON, what="two results", every=1)
    finally:
        team.kubectl("delete", "heartbeat", name)
