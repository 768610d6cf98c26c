"""Pods that Kubernetes takes away, from the first instant on, and what agents leave in a pod that stays."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from e2e.cluster import machine
from e2e.kind import crews
from e2e.kind.team import NAMESPACE, SOON, Team, connected
from watchbill.client import Client
from watchbill.names import CrewKeys
from watchbill.plan.manifests import GRACE_SECONDS, SAFE_TO_EVICT

BRIEF = {"env": [{"name": "WATCHBILL_GRACE_SECONDS", "value": "2"}]}
"""A worker hands back after two seconds, and not after 55."""

# The container's processes but this one, as [parent, state, command, bytes].
PROCESSES = """
import json, os
found = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    if int(pid) == os.getpid():
        continue
    try:
        command, _, rest = open(f"/proc/{pid}/stat").read().partition("(")[2].rpartition(")")
    except OSError:  # it has ended
        continue
    fields = rest.split()
    found.append([int(fields[1]), fields[0], command, int(fields[21]) * os.sysconf("SC_PAGESIZE")])
print(json.dumps(sorted(found)))
"""
DEAF_SECONDS = 6
"""For so long Python starts before it runs a line of ours."""
TASKS = 500
SLOTS = 5
GROWTH = 30 * 2**20
"""Bytes by which 500 tasks may make a worker larger: less than 64 KiB for each."""


def test_a_pod_that_is_deleted_or_evicted_finishes_what_it_runs(team: Team, name: str) -> None:
    team.apply(*crews.sample(name, "Gated", lease_seconds=60, minReplicas=2, concurrency=1))
    pods = {pod["metadata"]["name"]: pod for pod in team.until_pods(name, 2)}
    assert {pod["metadata"]["annotations"][SAFE_TO_EVICT] for pod in pods.values()} == {"false"}
    keys = CrewKeys(NAMESPACE, name)
    with team.store() as url, connected(url) as store:
        tasks = team.with_client(lambda client: client.submit_many(name, "one", ["one", "other"]))
        machine.until(lambda: store.hlen(keys.holders) == 2, within=SOON, what="both run")
        one, other = pods
        team.kubectl("delete", "pod", one, "--wait=false")
        evict(team, other)
        machine.until(lambda: told_to_end(team) >= set(pods), within=SOON, what="both are told to end")
        store.xadd(f"{keys.root}stream:gate", {"open": "yes"})

    ended = [team.wait(name, task).output for task in tasks]
    assert sorted(output["pod"] for output in ended) == sorted(pods)
    assert [output["attempt"] for output in ended] == [1, 1]


def test_a_five_minute_task_is_handed_on_when_its_pod_is_evicted_or_its_node_drained(team: Team, name: str) -> None:
    workers: dict[str, Any] = {"minReplicas": 1, "maxReplicas": 1, "concurrency": 1}
    team.apply(*crews.sample(name, "LongOn", container=BRIEF, lease_seconds=60, **workers))
    with team.pod_events(name) as events:
        evicted, task = begun(team, name)
        evict(team, evicted["metadata"]["name"])
        elsewhere(team, name, task, evicted)

        drained, task = begun(team, name)
        node = drained["spec"]["nodeName"]
        # This crew's pods alone: what else runs on a single node could go to no other.
        words = (f"--pod-selector=watchbill.dev/crew={name}", "--delete-emptydir-data", f"--timeout={SOON:.0f}s")
        try:
            team.kubectl("drain", node, *words)
            assert drained["metadata"]["uid"] not in {pod["metadata"]["uid"] for pod in team.pods(name)}
        finally:
            team.kubectl("uncordon", node)
        elsewhere(team, name, task, drained)
        ended = {pod["metadata"]["name"] for pod in (evicted, drained)}
        machine.until(lambda: exit_codes(events()).keys() >= ended, within=SOON, what="the watch tells of both ends")
        codes = exit_codes(events())
    assert [codes[pod] for pod in ended] == [0, 0], "killed"


def test_a_pod_that_is_deleted_the_moment_it_starts_ends_long_before_it_would_be_killed(team: Team, name: str) -> None:
    """It prints in how many seconds: less than three on a machine that is not busy, of which the kubelet needs most."""
    took: list[float] = []
    with team.pod_events(name) as events:
        files, crew = crews.sample(name, "Sleeper", minReplicas=1, maxReplicas=1)
        files["data"]["sitecustomize.py"] = f"import time\ntime.sleep({DEAF_SECONDS})\n"
        team.apply(files, crew)
        seen: set[str] = set()

        def deleted(moment: Callable[[Any], object]) -> float:
            victim = machine.until(partial(newest, events, seen, moment), within=SOON, what="a new pod", every=0.05)
            seen.add(victim)
            return ends_in(team, victim)

        took += map(deleted, (is_placed, has_started, has_started, is_placed, has_started))
        seen |= {pod["metadata"]["name"] for pod in team.until_pods(name, 1)}
        # The kernel drops a signal that PID 1 can't hear yet, and nobody says it again.
        (worker,) = crew["spec"]["workers"]["template"]["spec"]["containers"]
        worker["env"] = [{"name": "PYTHONPATH", "value": "/agents"}]
        team.apply(crew)
        took.append(deleted(has_started) - DEAF_SECONDS)
        codes = exit_codes(events())
    print("seconds in Terminating:", ", ".join(f"{seconds:.1f}" for seconds in took))
    assert set(codes.values()) <= {0}, "killed"
    assert max(took) < GRACE_SECONDS - DEAF_SECONDS, "one waited until it was killed"


def test_what_five_hundred_tasks_leave_behind_fills_no_pod(team: Team, name: str) -> None:
    manifests = crews.sample(name, "Parent", minReplicas=1, maxReplicas=1, concurrency=SLOTS)
    manifests[1]["spec"]["agents"].append({"name": "two", "class": "sample_agents:ProcessParent"})
    team.apply(*manifests)
    (pod,) = team.until_pods(name, 1)

    def without_dead() -> list[list[Any]]:
        """All processes, once those that agents have left behind have ended, and been waited for."""
        found = json.loads(team.kubectl("exec", pod["metadata"]["name"], "--", "python3", "-c", PROCESSES))
        there = any(state == "Z" or command == "sleep" for _, state, command, _ in found)
        return [] if there else list(found)

    async def work(client: Client, one: int, two: int) -> None:
        for agent, number in (("one", one), ("two", two)):
            ids = await client.submit_many(name, agent, ["go on"] * number)
            assert all([(await client.wait(name, task, timeout=5 * SOON)).success for task in ids])

    team.with_client(lambda client: work(client, 20, SLOTS))
    before = machine.until(without_dead, within=SOON, what="nothing is left of the first tasks", every=0.3)
    team.with_client(lambda client: work(client, TASKS - 100, 100))
    after = machine.until(without_dead, within=SOON, what="nothing is left of the tasks", every=0.3)

    # PID 1, the worker, and for each slot a process for agents, with another one that watches the worker's lease.
    assert len(after) <= 2 + 2 * SLOTS, after
    assert memory_of_worker(after) - memory_of_worker(before) < GROWTH
    (same,) = team.pods(name)
    assert same["status"]["containerStatuses"][0]["restartCount"] == 0


# ---------------------------------------------------------------- helpers


def begun(team: Team, crew: str) -> tuple[dict[str, Any], str]:
    """The crew's pod, and a task that has begun on it, to last for five minutes."""
    (pod,) = team.until_pods(crew, 1)
    task = team.with_client(lambda client: client.submit(crew, pod["metadata"]["name"]))
    assert team.until_runs(crew) == pod["metadata"]["name"]
    return pod, task


def elsewhere(team: Team, crew: str, task: str, pod: dict[str, Any]) -> None:
    """The task is done on another pod, and its first attempt does not count."""
    output = team.wait(crew, task).output
    assert output["pod"] != pod["metadata"]["name"]
    assert output["attempt"] == 1


def evict(team: Team, pod: str) -> None:
    """Asks for an eviction, as `kubectl drain` and a cluster's autoscaler do."""
    where = {"name": pod, "namespace": NAMESPACE}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": where}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
    team.kubectl("create", f"--raw={path}", "--filename=-", stdin=json.dumps(eviction))


def told_to_end(team: Team) -> set[str]:
    """The pods whose containers the kubelet has sent SIGTERM."""
    events = team.get("events", "--field-selector=reason=Killing")["items"]
    return {event["involvedObject"]["name"] for event in events}


def ends_in(team: Team, pod: str) -> float:
    """The seconds from the deletion of a pod until it is gone."""
    began = time.monotonic()
    team.kubectl("delete", "pod", pod)
    return time.monotonic() - began


def newest(events: Callable[[], list[Any]], seen: set[str], moment: Callable[[Any], object]) -> str:
    """The name of a pod that is not among `seen`, once it has come to that moment; empty before."""
    pods = {event["object"]["metadata"]["name"]: event["object"] for event in events()}
    return next((name for name, pod in pods.items() if name not in seen and moment(pod)), "")


def is_placed(pod: Any) -> bool:
    return bool(pod["spec"].get("nodeName"))


def has_started(pod: Any) -> bool:
    return any("running" in one["state"] for one in pod["status"].get("containerStatuses", []))


def exit_codes(events: list[Any]) -> dict[str, int]:
    """Pod → the exit code of its worker, where the kubelet told one. It tells 137 of a container that never was."""
    states = {
        event["object"]["metadata"]["name"]: one["state"]["terminated"]
        for event in events
        for one in event["object"]["status"].get("containerStatuses", [])
        if "terminated" in one["state"] and one["state"]["terminated"].get("reason") != "ContainerStatusUnknown"
    }
    return {name: int(state["exitCode"]) for name, state in states.items()}


def memory_of_worker(processes: list[list[Any]]) -> int:
    """The bytes of the largest child of PID 1."""
    return max(int(memory) for parent, _, _, memory in processes if parent == 1)
