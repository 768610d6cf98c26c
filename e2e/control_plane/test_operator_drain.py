"""Workers that leave, on a bare control plane: its controllers choose the pods that go. No kubelet runs: workers are
processes of the test, which also says which pods are ready."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from e2e.cluster import machine
from e2e.cluster.control_plane import free_ports
from e2e.control_plane import operator_team
from e2e.control_plane.operator_process import Process, hold
from e2e.control_plane.operator_team import SOON, Team, crew
from watchbill.plan.drain import PROBED_SECONDS, UNPROBED_SECONDS
from watchbill.worker.probes import FAILURES

team = operator_team.team
store = operator_team.store
installed = operator_team.installed

AGENT = """
import asyncio, pathlib

class Gate:
    async def run(self, context):
        while not (pathlib.Path({folder!r}) / context.prompt).exists():
            await asyncio.sleep(0.1)
        return context.prompt
"""


class Pods:
    """The crew's pods and workers, as a kubelet would keep them."""

    def __init__(self, team: Team, stack: ExitStack) -> None:
        self.team = team
        self._stack = stack
        (team.folder / "gates").mkdir()
        (team.folder / "agents").mkdir()
        (team.folder / "agents" / "gate.py").write_text(AGENT.format(folder=str(team.folder / "gates")))

    def crew(self, **workers: Any) -> dict[str, Any]:
        made = crew(
            maxReplicas=3,
            concurrency=1,
            scaling={"down": {"stabilizationWindowSeconds": 0}},
            **workers,
        )
        made["spec"]["agents"] = [{"name": "a", "class": "gate:Gate"}]
        return made

    def start_worker(self, revision: str, crew: str = "echo", **settings: str) -> Process:
        folders = str(self.team.folder / "agents")
        made = self.team.worker(crew, revision=revision, folders=folders, allow_modules="gate", **settings)
        self._stack.enter_context(made)
        return made.start()

    def of(self, revision: str) -> list[str]:
        pods = self.team.items("pods", f"--selector=watchbill.dev/revision={revision}")
        return [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def is_ready(self, *pods: str, ready: bool) -> None:
        conditions = [{"type": "Ready", "status": str(ready)}]
        patch = json.dumps({"status": {"phase": "Running", "conditions": conditions}})
        for pod in pods:
            self.team.kubectl("patch", "pod", pod, "--subresource=status", "--type=merge", f"--patch={patch}")

    def probe(self, port: int) -> int:
        """Asks as a kubelet does. Returns the worker's answer."""
        kubelet = {"User-Agent": "kube-probe/1.35"}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(f"http://127.0.0.1:{port}/readyz", headers=kubelet), timeout=SOON
            ) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def open(self, *prompts: str) -> None:
        for prompt in prompts:
            (self.team.folder / "gates" / prompt).touch()

    def running(self, crew: str = "echo") -> int:
        return int(self.team.store.client.hlen(f"wb:{{{self.team.namespace}/{crew}}}:holders"))

    def draining(self) -> set[str]:
        return {field for field in self.team.meta() if field.startswith("drain:")}

    def told(self) -> list[str]:
        """The reasons of the Events of the crew `echo`."""
        found = self.team.items("events.v1.events.k8s.io")
        return sorted(event["reason"] for event in found if event["regarding"]["name"] == "echo")

    def until_told(self, *reasons: str) -> None:
        machine.until(lambda: set(reasons) <= set(self.told()), within=SOON, what=f"{reasons} are told")

    def sizes(self) -> dict[str, int]:
        return {
            d["metadata"]["labels"]["watchbill.dev/revision"]: d["spec"]["replicas"] for d in self.team.deployments()
        }


@pytest.fixture
def pods(team: Team) -> Iterator[Pods]:
    with ExitStack() as stack:
        yield Pods(team, stack)


def test_workers_leave_under_load_and_by_a_rollout_and_none_of_them_with_a_task(team: Team, pods: Pods) -> None:
    first = team.operator()
    team.apply(pods.crew())
    team.until_ready()
    for prompt in ("t1", "t2", "t3"):
        team.submit(prompt=prompt, agent="a")
    machine.until(lambda: team.replicas() == 3, within=SOON, what="a worker for each task")
    (old,) = pods.sizes()
    machine.until(lambda: len(pods.of(old)) == 3, within=SOON, what="the pods")
    for _ in range(3):
        pods.start_worker(old)
    machine.until(lambda: pods.running() == 3, within=SOON, what="all tasks run")
    pods.is_ready(*pods.of(old), ready=True)

    # One has nothing more to do: it is drained, and its Deployment stays while the controller could take a busy one.
    pods.open("t1")
    (flag,) = machine.until(pods.draining, within=SOON, what="the idle one is drained")
    assert team.meta()[flag].endswith(" scaling")
    pods.until_told("DrainStarted")
    first.kill()
    victim = pods.of(old)[1]
    second = team.operator()
    hold(3, lambda: pods.sizes() == {old: 3}, "a pod went that may have been busy")
    pods.is_ready(victim, ready=False)
    machine.until(lambda: pods.sizes() == {old: 2}, within=SOON, what="the Deployment is smaller")
    machine.until(lambda: len(pods.of(old)) == 2, within=SOON, what="a pod goes")
    assert victim not in pods.of(old)
    assert pods.running() == 2

    # A new template: its first worker claims, and only then one of the two busy ones is drained, and ends its task.
    team.apply(pods.crew(image="other:2"))
    machine.until(lambda: len(pods.sizes()) == 2, within=SOON, what="a Deployment of the new revision")
    new = next(revision for revision in pods.sizes() if revision != old)
    assert pods.sizes() == {old: 2, new: 1}, "one more than are wanted"
    hold(3, lambda: pods.draining() == {flag}, "drained without a worker in its place")
    pods.start_worker(new)
    machine.until(lambda: len(pods.draining()) == 2, within=SOON, what="one of the old revision drains")
    pods.until_told("RolloutStarted")
    second.kill()  # half way
    team.operator()
    machine.until(lambda: pods.sizes() == {old: 2, new: 2}, within=SOON, what="the next of the new revision")
    pods.start_worker(new)
    machine.until(lambda: len(pods.draining()) == 3, within=SOON, what="the other one drains")
    team.submit(prompt="t4", agent="a")
    machine.until(lambda: pods.running() == 3, within=SOON, what="a new worker takes it")
    hold(3, lambda: pods.sizes().get(old) == 2, "a busy worker's pod went")
    pods.open("t2", "t3", "t4")
    machine.until(lambda: old not in pods.sizes(), within=SOON, what="the old revision is gone")
    machine.until(lambda: pods.running() == 0, within=SOON, what="all tasks have ended")
    results: Any = team.store.client.xrange(f"wb:{{{team.namespace}/echo}}:results")
    assert [fields["state"] for _, fields in results] == ["completed"] * 4
    pods.until_told("RolloutFinished", "DrainFinished", "Scaled")
    assert pods.told().count("RolloutStarted") == 1, "it was begun anew after the restart"


def test_a_drain_is_taken_back_when_work_comes_and_no_pod_more_is_made(team: Team, pods: Pods) -> None:
    team.operator()
    team.apply(pods.crew())
    team.until_ready()
    for prompt in ("t1", "t2"):
        team.submit(prompt=prompt, agent="a")
    machine.until(lambda: team.replicas() == 2, within=SOON, what="a worker for each task")
    (revision,) = pods.sizes()
    machine.until(lambda: len(pods.of(revision)) == 2, within=SOON, what="the pods")
    for _ in range(2):
        pods.start_worker(revision)
    machine.until(lambda: pods.running() == 2, within=SOON, what="both tasks run")
    pods.is_ready(*pods.of(revision), ready=True)
    pods.open("t1")
    machine.until(pods.draining, within=SOON, what="the idle one is drained")
    team.submit(prompt="t3", agent="a")
    machine.until(lambda: pods.running() == 2, within=SOON, what="the drained one claims again")
    assert not pods.draining()
    assert pods.sizes() == {revision: 2}
    pods.until_told("DrainStarted", "DrainCancelled")


def test_a_slow_kubelet_costs_no_young_worker_its_pod(team: Team, pods: Pods) -> None:
    """Nobody has asked the youngest yet whether it is ready, and the drained one still counts as ready: the controller
    would take the busy one."""
    team.operator()
    team.apply(pods.crew())
    team.until_ready()
    for prompt in ("t1", "t2"):
        team.submit(prompt=prompt, agent="a")
    machine.until(lambda: team.replicas() == 2, within=SOON, what="a worker for each task")
    (revision,) = pods.sizes()
    machine.until(lambda: len(pods.of(revision)) == 2, within=SOON, what="the pods")
    *ports, last = free_ports(3)
    for port in ports:
        pods.start_worker(revision, health_port=str(port))
    machine.until(lambda: pods.running() == 2, within=SOON, what="both tasks run")
    assert [pods.probe(port) for port in ports] == [200, 200]
    old = pods.of(revision)
    pods.is_ready(*old, ready=True)
    team.submit(prompt="t3", agent="a")
    machine.until(lambda: len(pods.of(revision)) == 3, within=SOON, what="the young pod")
    (young,) = set(pods.of(revision)) - set(old)
    began = time.monotonic()
    pods.start_worker(revision, health_port=str(last))
    machine.until(lambda: pods.running() == 3, within=SOON, what="the young one works")

    def is_late() -> bool:
        return time.monotonic() > began + UNPROBED_SECONDS

    pods.open("t1")
    machine.until(pods.draining, within=SOON, what="the idle one is drained")
    hold(PROBED_SECONDS + 4, lambda: pods.sizes() == {revision: 3} or is_late(), "the young one's pod may have gone")
    if not is_late():  # else its pod may be gone
        assert pods.probe(last) == 200
        pods.is_ready(young, ready=True)
    if is_late():
        pytest.skip("the machine stood still for so long that the operator waits for no probe any more")
    drained = machine.until(
        lambda: next((port for port in ports if pods.probe(port) == 503), 0), within=SOON, what="it is not ready"
    )
    assert {pods.probe(drained) for _ in range(FAILURES - 1)} == {503}
    pods.is_ready(old[0], ready=False)
    machine.until(
        lambda: pods.of(revision) == sorted({*old[1:], young}), within=SOON, what="the drained one's pod goes"
    )
    assert pods.running() == 2
