"""`watchbill why` in a cluster: the scheduler's own words for why no worker runs."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from e2e.cluster import machine
from e2e.cluster.control_plane import ControlPlane
from e2e.control_plane import operator_team
from e2e.control_plane.operator_team import RARELY, SOON, Team, crew, heartbeat

team = operator_team.team
store = operator_team.store
installed = operator_team.installed


def test_a_task_without_a_worker_tells_why_its_pod_is_not_scheduled(team: Team, control_plane: ControlPlane) -> None:
    team.operator()
    team.apply(crew(), heartbeat("beat", intervalSeconds=RARELY, agent="a"))
    team.until_ready()
    machine.until(lambda: "nextFireTime" in team.heartbeat().get("status", {}), within=SOON, what="it is stored")
    team.submit()

    def unscheduled() -> str:
        found = [c for pod in team.items("pods") for c in pod["status"].get("conditions", [])]
        return next((c["message"] for c in found if c["type"] == "PodScheduled" and c["status"] == "False"), "")

    message = machine.until(unscheduled, within=SOON, what="the scheduler has looked at the pod")
    (task_id,) = team.store.client.zrange(f"wb:{{{team.namespace}/echo}}:ids", 0, -1)
    command = (sys.executable, "-m", "watchbill", "why", f"{team.namespace}/echo", str(task_id), "--output=json")
    environment = {"KUBECONFIG": str(control_plane.kubeconfig), "WATCHBILL_REDIS_URL": team.store.url}

    def said(*words: str) -> str:
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=SOON, check=True)
        return done.stdout + done.stderr

    def answered() -> dict[str, Any]:
        told: dict[str, Any] = json.loads(said(*command))
        return {} if "can't be asked" in str(told["pods"]) else told  # the command waits four seconds for a cluster

    told = machine.until(answered, within=SOON, what="the cluster is asked")
    assert (told["kind"], told["step"]["state"], told["step"]["reason"]) == ("run", "waiting", "no-worker")
    assert told["pods"] == [f"a pod can't be scheduled (Unschedulable): {message}"]
    assert not told["paused"]

    team.kubectl("annotate", "crew", "echo", "watchbill.dev/paused=true")
    remedy = f"until: kubectl annotate crew echo -n {team.namespace} watchbill.dev/paused-"
    for words in (("why", str(task_id)), ("heartbeats",)):
        command = (sys.executable, "-m", "watchbill", words[0], f"--namespace={team.namespace}", *words[1:])
        machine.until(lambda command=command: remedy in said(*command), within=SOON, what=f"{words}: {remedy}")  # type: ignore[misc]
