"""A crew's life between its creation and its end: suspended, resumed, changed."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

from e2e.cluster import machine
from e2e.cluster.control_plane import ControlPlane
from e2e.control_plane import operator_team
from e2e.control_plane.operator_process import hold
from e2e.control_plane.operator_team import SOON, Team, crew, heartbeat

team = operator_team.team
store = operator_team.store
installed = operator_team.installed


def watchbill(team: Team, cluster: ControlPlane, *words: str, code: int = 0) -> str:
    """Runs the command with a person's kubeconfig. Returns what it printed on both streams."""
    environment = {"KUBECONFIG": str(cluster.kubectl.kubeconfig), "WATCHBILL_REDIS_URL": team.store.url}
    own = {key: value for key, value in os.environ.items() if not key.startswith(("WATCHBILL_", "KUBE"))}
    done = subprocess.run(
        [sys.executable, "-m", "watchbill", *words],
        env={**own, **environment, "WATCHBILL_NAMESPACE": team.namespace},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_a_suspended_crew_loses_its_workers_keeps_its_work_and_goes_on_when_it_is_resumed(
    team: Team, cluster: ControlPlane
) -> None:
    team.operator()
    team.apply(crew(minReplicas=1), heartbeat("beat", intervalSeconds=1, agent="a"))
    team.until_ready()
    machine.until(lambda: team.replicas() == 1, within=SOON, what="its minimum")

    assert watchbill(team, cluster, "suspend", "echo").startswith("suspended\n")
    assert "suspended" in team.meta(), "when the command ends, the store knows"
    team.kubectl("wait", "crew/echo", "--for=condition=Suspended", "--timeout=60s")
    machine.until(lambda: team.replicas() == 0, within=SOON, what="no worker, whatever its minimum says")
    waiting = len(team.store.client.keys(f"wb:{{{team.namespace}/echo}}:task:*"))
    team.submit(agent="a", count=3)
    with team.worker("echo").start() as worker:
        hold(3, lambda: not team.results(), "a task of a suspended crew ran")
        assert worker.exit_code() is None
        assert team.replicas() == 0
        tasks = len(team.store.client.keys(f"wb:{{{team.namespace}/echo}}:task:*"))
        assert tasks == waiting + 3, "its heartbeat does not fire"
        assert team.conditions()["Ready"][:2] == ("True", "Suspended")
        machine.until(
            lambda: "its crew is suspended" in team.conditions("beat", "heartbeat")["Ready"][2],
            within=SOON,
            what="the heartbeat says why it does not fire",
        )
        task = str(team.store.client.keys(f"wb:{{{team.namespace}/echo}}:task:*")[0]).rpartition(":")[2]
        assert "its crew is suspended" in watchbill(team, cluster, "why", "echo", task)

        assert watchbill(team, cluster, "resume", "echo") == "resumed\n"
        machine.until(lambda: len(team.results()) >= 3, within=SOON, what="what waited runs")
    machine.until(lambda: "Suspended" not in team.conditions(), within=SOON, what="it says so no longer")
    machine.until(lambda: team.replicas() == 1, within=SOON, what="its minimum again")
    events = {event["reason"] for event in team.items("events.events.k8s.io")}
    assert {"Suspended", "Resumed"} <= events


def test_a_deleted_crew_keeps_its_keys_until_its_work_has_ended_and_a_new_one_of_its_name_starts_clean(
    team: Team, cluster: ControlPlane
) -> None:
    team.operator()
    slow = {"agents": [{"name": "a", "class": "EchoAgent", "config": {"delay_seconds": 8}}]}
    team.apply(crew(spec=slow), crew("cancelled", spec={**slow, "deletionPolicy": "Cancel"}))
    team.until_ready("echo", "cancelled")
    holders = f"wb:{{{team.namespace}/echo}}:holders"
    with team.worker("echo").start(), team.worker("cancelled").start():
        for name in ("echo", "cancelled"):
            team.submit(name, agent="a")
        machine.until(lambda: team.store.client.hlen(holders), within=SOON, what="the task runs")
        team.submit("cancelled", agent="a", scheduled_at=datetime.now(UTC) + timedelta(hours=1))
        team.kubectl("delete", "crew", "echo", "cancelled", "--wait=false")
        machine.until(lambda: "closed" in team.meta(), within=SOON, what="it is closed")
        team.apply(crew("cancelled"))
        machine.until(lambda: not team.stored("echo"), within=SOON, what="all is removed once the work has ended")
        team.until_ready("cancelled")
        assert "closed" not in team.meta("cancelled"), "a new crew of that name starts clean"
        assert team.results("cancelled") == []
        uid = team.crew("cancelled")["metadata"]["uid"]
        assert team.meta("cancelled")["uid"] == uid
