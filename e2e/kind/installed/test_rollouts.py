"""The operator, the workers and the whole release are replaced under load, and no task notices."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from functools import partial
from typing import Any

from e2e.cluster import machine
from e2e.cluster.kubectl import KubectlError
from e2e.kind import crews, ledger
from e2e.kind.team import SOON, Team
from watchbill.client import Client

# kill -9 of PID 1's only child, which does the work.
KILL = "import os; os.kill(int(open('/proc/1/task/1/children').read().split()[0]), 9)"
PROMPTS = ("0.2", "4", "1", "0.5", "2", "0.1")
"""Seconds of the tasks, which four slots share."""


def test_a_killed_leader_and_a_rolling_update_of_operator_and_workers_disturb_no_task(team: Team, name: str) -> None:
    team.apply(*crews.sample(name, "Noted", lease_seconds=60, minReplicas=2, maxReplicas=2, concurrency=2))
    old = uids(team.until_pods(name, 2))
    with team.pod_events(name) as events:
        with ledger.busy(team, name, PROMPTS) as tasks:
            killed = leader(team)
            began = time.monotonic()
            machine.until(partial(leads_on, team, killed), within=SOON, what="the standby leads", every=0.5)
            print(f"another replica led {time.monotonic() - began:.1f} s after the leader was killed")
            team.kubectl("patch", "crew", name, "--type=merge", '--patch={"spec": {"workers": {"idleSeconds": 100}}}')
            machine.until(lambda: is_observed(team, name), within=SOON, what="it acts")
            assert uids(team.pods(name)) == old, "the leader's end replaced a worker"

            team.kubectl("rollout", "restart", "deployment/watchbill")
            team.kubectl("rollout", "status", "deployment/watchbill", "--timeout=300s", timeout=360)
            before = len(tasks)
            machine.until(lambda: len(tasks) > before, within=SOON, what="work under the new operator")
            assert uids(team.pods(name)) == old, "the operator's update replaced a worker"

            annotations = {"example.com/changed": "yes"}
            patch = {"spec": {"workers": {"template": {"metadata": {"annotations": annotations}}}}}
            team.kubectl("patch", "crew", name, "--type=merge", f"--patch={json.dumps(patch)}")

            def replaced() -> bool:
                now = uids(team.pods(name))
                return len(now) == 2 and not now & old

            machine.until(replaced, within=3 * SOON, what="other workers alone", every=0.5)
        with team.store() as url:
            given = {name: tasks}
            ledger.until_ended(url, given, within=SOON)
            ledger.check(url, given, events())


def test_a_release_that_is_uninstalled_and_installed_again_loses_no_task(team: Team, name: str) -> None:
    other = f"{name}-later"
    team.apply(*crews.sample(name, "Noted", lease_seconds=60, maxReplicas=1, concurrency=2))
    team.apply(*crews.sample(other, "Noted", lease_seconds=60, maxReplicas=1))
    for crew in (name, other):
        team.until_ready(crew)

    async def queue(client: Client) -> list[str]:
        return await client.submit_many(name, "one", ["8"] * 5)

    async def queue_more(client: Client) -> dict[str, list[str]]:
        return {crew: await client.submit_many(crew, "one", ["0.5"] * 3) for crew in (name, other)}

    try:
        with team.pod_events(name, other) as events:
            given = {name: team.with_client(queue)}
            (worker,) = team.until_pods(name, 1)
            try:
                team.uninstall()
                assert team.get("deployments", "--selector=app.kubernetes.io/component=operator")["items"] == []
                more = team.with_client(queue_more)
                assert team.pods(other) == [], "nobody is there to start a worker"
            finally:
                team.install()
            given = {name: given[name] + more[name], other: more[other]}
            with team.store() as url:
                ledger.until_ended(url, given, within=2 * SOON)
                ledger.check(url, given, events())
        assert uids(team.pods(name)) == {worker["metadata"]["uid"]}, "the worker was replaced"
    finally:
        team.kubectl("delete", "crew,configmap", other, "--ignore-not-found")


def uids(pods: list[dict[str, Any]]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


def leader(team: Team) -> str:
    """The operator's pod that holds the Lease."""
    return str(team.get("lease", "watchbill")["spec"]["holderIdentity"]).partition("_")[0]


def leads_on(team: Team, pod: str) -> bool:
    """Kills the operator in that pod, again as soon as it is back. Returns whether another one leads."""
    with suppress(KubectlError):  # it is away
        team.kubectl("exec", pod, "--", "python3", "-c", KILL)
    return leader(team) not in ("", pod)


def is_observed(team: Team, crew: str) -> bool:
    """The operator has seen the newest spec."""
    seen = team.get("crew", crew)
    return bool(seen["status"]["observedGeneration"] == seen["metadata"]["generation"])
