"""`watchbill why` in a cluster: the scheduler's own words for why no worker runs."""

from __future__ import annotations

import json
import subprocess
import sys

from e2e.cluster import machine
from e2e.cluster.control_plane import ControlPlane
from e2e.control_plane import operator_team
from e2e.control_plane.operator_team import SOON, Team, crew

team = operator_team.team
store = operator_team.store
installed = operator_team.installed


def test_a_task_without_a_worker_tells_why_its_pod_is_not_scheduled(team: Team, control_plane: ControlPlane) -> None:
    team.operator()
    team.apply(crew())
    team.until_ready()
    team.submit()

    def unscheduled() -> str:
        found = [c for pod in team.items("pods") for c in pod["status"].get("conditions", [])]
        return next((c["message"] for c in found if c["type"] == "PodScheduled" and c["status"] == "False"), "")

    message = machine.until(unscheduled, within=SOON, what="the scheduler has looked at the pod")
    (task_id,) = team.store.client.zrange(f"wb:{{{team.namespace}/echo}}:ids", 0, -1)
    command = (sys.executable, "-m", "watchbill", "why", f"{team.namespace}/echo", str(task_id), "--output=json")
    environment = {"KUBECONFIG": str(control_plane.kubeconfig), "WATCHBILL_REDIS_URL": team.store.url}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SOON, check=True)
    told = json.loads(done.stdout)
    assert (told["kind"], told["step"]["state"], told["step"]["reason"]) == ("run", "waiting", "no-worker")
    assert told["pods"] == [f"a pod can't be scheduled (Unschedulable): {message}"]
