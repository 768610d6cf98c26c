"""The number of workers of a crew that others scale, and what a crew tells of a number that is held."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster import machine, recipe
from e2e.cluster.control_plane import CONTROLLERS, ControlPlane, Write
from e2e.cluster.kubectl import Kubectl, KubectlError
from e2e.control_plane import metrics_server, operator_team
from e2e.control_plane.crds_server import Server
from e2e.control_plane.kubelet import Kubelet, gated
from e2e.control_plane.operator_team import OPERATOR, SOON, Team, crew
from watchbill import client
from watchbill.names import CrewKeys
from watchbill.plan.drain import PROBED_SECONDS

team = operator_team.team
store = operator_team.store
installed = operator_team.installed


class Watch:
    """Every version of the crew `echo` since it began, as (resourceVersion, workers.replicas)."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def seen(self) -> list[tuple[str, int]]:
        lines = self._log.read_text().splitlines(keepends=True)
        pairs = (line.split() for line in lines if line.endswith("\n"))
        return [(version, int(replicas)) for version, replicas in pairs]

    def values(self, team: Team) -> list[int]:
        """The values of replicas up to now, each once per change."""
        now = team.crew()["metadata"]["resourceVersion"]
        machine.until(lambda: now in dict(self.seen()), within=SOON, what="the watch has seen the last version")
        return [value for value, _ in groupby(replicas for _, replicas in self.seen())]


@contextmanager
def watching(team: Team, kubectl: Kubectl) -> Iterator[Watch]:
    log = team.folder / "crew.watch"
    columns = r'jsonpath={.metadata.resourceVersion} {.spec.workers.replicas}{"\n"}'
    command = [str(kubectl.program), "get", "crew", "echo", "--watch", f"--namespace={team.namespace}", "-o", columns]
    with log.open("wb") as out:
        process = subprocess.Popen([*command, f"--kubeconfig={kubectl.kubeconfig}"], stdout=out)
    try:
        watch = Watch(log)
        machine.until(watch.seen, within=SOON, what="the watch has begun")
        yield watch
    finally:
        process.kill()
        process.wait()


def from_git(team: Team, **workers: Any) -> None:
    """Applies the manifest of a repository, which says nothing of replicas, as a GitOps tool does: twice."""
    manifest = json.dumps(crew(maxReplicas=5, scaling={"mode": "External"}, **workers))
    for _ in range(2):
        team.kubectl("apply", "--server-side", "--field-manager=gitops", "--filename=-", stdin=manifest)


def autoscaler(least: int, **more: Any) -> dict[str, Any]:
    """An HPA of the crew `echo`, from `least` workers to four. `more`: of its spec; without metrics none reach it."""
    target = {"apiVersion": "watchbill.dev/v1alpha1", "kind": "Crew", "name": "echo"}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "echo"},
        "spec": {"scaleTargetRef": target, "minReplicas": least, "maxReplicas": 4, **more},
    }


def conditions(team: Team) -> dict[str, tuple[str, str, str]]:
    """Returns what the HPA says: status, reason and message of each condition."""
    (hpa,) = team.items("hpa")
    found = hpa.get("status", {}).get("conditions", [])
    return {c["type"]: (c["status"], c["reason"], c["message"]) for c in found}


def explained(team: Team, plane: ControlPlane) -> dict[str, Any]:
    """The answer of `watchbill explain crew`, which asks the store."""
    command = (sys.executable, "-m", "watchbill", "explain", "crew", f"{team.namespace}/echo", "--output=json")
    environment = {"KUBECONFIG": str(plane.kubeconfig), "WATCHBILL_REDIS_URL": team.store.url}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SOON, check=True)
    return dict(json.loads(done.stdout))


def until_explained(team: Team, plane: ControlPlane, **expected: Any) -> dict[str, Any]:
    """The answer, once it has these values: they are stored after the change that they explain."""

    def told() -> dict[str, Any]:
        found = explained(team, plane)
        assert {name: found[name] for name in expected} == expected
        return found

    return machine.until(told, within=SOON, what="it is explained", ignoring=(AssertionError,))


def test_a_person_and_an_hpa_scale_a_crew_and_its_manifest_in_git_changes_nothing_of_that(
    team: Team, kubectl: Kubectl, control_plane: ControlPlane
) -> None:
    def until_workers(count: int) -> None:
        machine.until(lambda: team.replicas() == count, within=SOON, what=f"{count} workers")

    team.operator()
    from_git(team)
    team.until_ready()
    until_workers(1)
    with watching(team, kubectl) as watch:
        team.kubectl("scale", "crew/echo", "--replicas=3")
        from_git(team)
        until_workers(3)
        told = until_explained(team, control_plane, mode="External", why="external", replicas=3)
        assert "workers.replicas says so" in told["sentences"][0]
        machine.until(lambda: team.crew()["status"]["replicas"] == 3, within=SOON, what="the status has them")
        scale = kubectl.json("get", "--subresource=scale", "crew/echo", f"--namespace={team.namespace}")
        assert scale["status"]["replicas"] == 3
        pods = ("pods", f"--selector={scale['status']['selector']}")
        machine.until(lambda: len(team.items(*pods)) == 3, within=SOON, what="three pods of its selector")

        # The HPA leaves a crew without workers alone: for it, zero means that scaling is off.
        team.kubectl("scale", "crew/echo", "--replicas=0")
        until_workers(0)
        team.apply(autoscaler(2))

        def is_off() -> bool:
            return conditions(team).get("ScalingActive", ("",) * 3)[1] == "ScalingDisabled"

        machine.until(is_off, within=SOON, what="the HPA tells that")
        from_git(team)
        assert watch.values(team) == [1, 3, 0]

        # From 1 up it scales, also without metrics: to its own minimum here.
        team.kubectl("scale", "crew/echo", "--replicas=1")
        until_workers(2)
        from_git(team)
        from_git(team, image="other:2")  # a commit that changes something else
        machine.until(lambda: len(team.deployments()) == 2, within=SOON, what="a Deployment of the new revision")
        team.kubectl("scale", "crew/echo", "--replicas=5")
        machine.until(lambda: watch.values(team)[-1] == 4, within=SOON, what="the HPA keeps its maximum")
        from_git(team, image="other:2")
        assert watch.values(team) == [1, 3, 0, 1, 2, 5, 4]


def test_the_hpa_of_the_page_finds_the_crew_and_asks_for_its_metric(team: Team) -> None:
    page = (recipe.HERE.parent.parent / "docs" / "scaling.md").read_text().replace("namespace: team", "namespace: NS")
    blocks = re.findall(r"^```yaml\n(.*?)^```", page.replace("NS", team.namespace), re.MULTILINE | re.DOTALL)
    found = {one.get("kind"): one for one in map(yaml.safe_load, blocks)}
    team.operator()
    team.apply(found["Crew"])
    team.until_ready("blog")
    team.apply(found["HorizontalPodAutoscaler"])

    what = "the HPA asks for what nobody serves"
    machine.until(lambda: "ScalingActive" in conditions(team), within=SOON, what=what)
    _, reason, message = conditions(team)["ScalingActive"]
    assert conditions(team)["AbleToScale"][1] == "SucceededGetScale"
    assert reason == "FailedGetExternalMetric"
    assert f"{team.namespace}/watchbill_tasks" in message
    assert "crew: blog" in message


def turns(values: list[int]) -> list[int]:
    """Returns the values at which the way goes from up to down or back, with the first and the last."""
    inner = zip(values, values[1:], values[2:], strict=False)
    return [values[0], *(now for before, now, after in inner if (now > before) is (now > after)), values[-1]]


ACTIVE = ("True", "ValidMetricFound")
BATCHES = 3
"""So many are tried until one was seen in time."""


@pytest.mark.timeout(900)  # a busy machine may need several batches
async def test_an_hpa_scales_a_crew_by_its_tasks_up_and_down_and_no_busy_worker_goes(
    team: Team,
    kubectl: Kubectl,
    installed: ControlPlane,
    audit_writes: Callable[..., list[Write]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The workers run in this process, and what waits runs in threads."""

    def tasks(namespace: str, crew: str) -> int:
        """As KEDA counts them: the entry of a task that has ended is deleted."""
        return sum(team.store.client.xlen(stream) for stream in CrewKeys(namespace, crew).streams)

    agent, gates = gated(team, monkeypatch)
    spec = {"agents": [{"name": "a", "class": agent}]}
    await asyncio.to_thread(team.operator)
    await asyncio.to_thread(team.apply, crew(maxReplicas=4, concurrency=1, scaling={"mode": "External"}, spec=spec))
    await asyncio.to_thread(team.until_ready)
    with (
        metrics_server.serving(installed, team.namespace, tasks),
        watching(team, kubectl) as watch,
        contextlib.closing(Server(installed)) as server,
    ):
        async with Kubelet(server, team) as kubelet:
            metric = {"name": metrics_server.METRIC, "selector": {"matchLabels": {"crew": "echo"}}}
            external = {"metric": metric, "target": {"type": "AverageValue", "averageValue": "1"}}
            at_once = {"scaleDown": {"stabilizationWindowSeconds": 0}}
            hpa = autoscaler(1, metrics=[{"type": "External", "external": external}], behavior=at_once)
            await asyncio.to_thread(team.apply, hpa)
            await asyncio.to_thread(until_active, team)
            await kubelet.until(lambda: kubelet.ready() == 1, "one worker, and no task")
            batch = 1
            while not await up_and_down(team, kubelet, gates, batch) and batch < BATCHES:
                batch += 1
            await asyncio.to_thread(until_active, team)
        values = watch.values(team)

    # Nobody but the HPA writes the number, and it writes each but once.
    assert turns(values) == [1, *[4, 1] * batch]
    scaled = [w for w in audit_writes(user=CONTROLLERS) if (w.resource, w.namespace) == ("crews", team.namespace)]
    assert {w.subresource for w in scaled} == {"scale"}
    assert len([w for w in scaled if w.code == 200]) == len(values) - 1
    assert {w.subresource for w in audit_writes(user=OPERATOR) if w.resource == "crews"} == {"status"}
    found = kubectl.json("get", "crew", "echo", f"--namespace={team.namespace}", "--show-managed-fields")
    owners = {
        (entry["manager"], entry.get("subresource", ""))
        for entry in found["metadata"]["managedFields"]
        if "f:replicas" in entry["fieldsV1"].get("f:spec", {}).get("f:workers", {})
    }
    assert owners == {("kube-controller-manager", "scale")}


def until_active(team: Team) -> None:
    what = "the HPA has its metric"
    machine.until(lambda: conditions(team).get("ScalingActive", ())[:2] == ACTIVE, within=SOON, what=what)


async def up_and_down(team: Team, kubelet: Kubelet, gates: Path, batch: int) -> bool:
    """Has tasks come for four workers, and end: two of them first.

    Returns whether that proves anything: not on a machine so busy that the readiness of pods is told later than the
    operator may suppose."""
    prompts = [f"{batch}.{i}" for i in range(4)]
    async with client.Client(team.store.url) as own:
        for prompt in prompts:
            await own.submit(f"{team.namespace}/echo", prompt, agent="a")
    await kubelet.until(lambda: kubelet.running() == kubelet.ready() == 4, "a worker for each task")
    kubelet.killed.clear()
    kubelet.slowest = 0.0
    for prompt in prompts[:2]:
        (gates / prompt).touch()
    await kubelet.until(lambda: len(kubelet.workers) == 2, "the idle ones have left")
    counts = kubelet.slowest < PROBED_SECONDS / 2
    assert not counts or (kubelet.killed, kubelet.running()) == ([], 2)
    for prompt in prompts[2:]:
        (gates / prompt).touch()
    await kubelet.until(lambda: len(kubelet.workers) == 1, "one worker once all is done")
    return counts


def test_in_auto_a_scale_is_refused_and_a_held_number_of_workers_is_told_alike_by_status_and_explain(
    team: Team, control_plane: ControlPlane
) -> None:
    def made(window: int) -> dict[str, Any]:
        down = {"stabilizationWindowSeconds": window}
        return crew(maxReplicas=3, concurrency=1, scaling={"up": {"waitSeconds": 3600}, "down": down})

    team.operator()
    team.apply(made(3600))
    team.until_ready()
    with pytest.raises(KubectlError, match=r"scaling\.mode is Auto\. Set scaling\.mode: External, or change min"):
        team.kubectl("scale", "crew/echo", "--replicas=2")
    team.submit(count=3)
    machine.until(lambda: team.replicas() == 3, within=SOON, what="a worker for each task")
    tasks = [str(task) for task in team.store.client.zrange(f"wb:{{{team.namespace}/echo}}:ids", 0, -1)]
    with client.SyncClient(team.store.url) as own:
        for task in tasks[1:]:
            own.cancel(f"{team.namespace}/echo", task)

    def held() -> dict[str, str]:
        return dict(team.crew()["status"].get("scaling", {}))

    def told_alike() -> tuple[str, str]:
        """The status's message and the explanation's time. Each is written again within a minute, the time in whole
        seconds as it is then."""
        told, status = explained(team, control_plane), held()
        assert status.get("reason") == "StabilizationWindow"
        assert (told["held"], told["wanted"], told["replicas"]) == ("window", 1, 3)
        assert told["sentences"][1] == f"{status['message']}."
        return status["message"], told["until"]

    what = "status and explanation tell alike what holds the workers"
    message, until = machine.until(told_alike, within=2 * SOON, what=what, ignoring=(AssertionError,))
    assert message.startswith(f"3 workers stay until {until}:")
    assert "(scaling.down.stabilizationWindowSeconds)" in message
    assert team.replicas() == 3

    team.apply(made(0))
    machine.until(lambda: team.replicas() == 1, within=SOON, what="two leave without the window")
    machine.until(lambda: not held(), within=SOON, what="the status tells of no hold")
    until_explained(team, control_plane, held="", wanted=1, replicas=1)
