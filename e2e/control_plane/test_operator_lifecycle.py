"""A crew's life between its creation and its end: suspended, resumed, changed."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest

from e2e.cluster import machine
from e2e.cluster.control_plane import ControlPlane
from e2e.control_plane import operator_team
from e2e.control_plane.operator_process import hold
from e2e.control_plane.operator_team import SOON, Team, crew, heartbeat
from e2e.control_plane.test_operator_drain import Pods
from watchbill.errors import Closed

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
        timeout=300,
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
    team.kubectl("wait", "crew/echo", "--for=condition=Suspended", "--timeout=120s")
    machine.until(lambda: team.replicas() == 0, within=SOON, what="no worker, whatever its minimum says")
    waiting = len(team.store.client.keys(f"wb:{{{team.namespace}/echo}}:task:*"))
    team.submit(agent="a", count=3)
    with team.worker("echo").start() as worker:
        hold(3, lambda: not team.results(), "a task of a suspended crew ran")
        assert worker.exit_code() is None
        assert team.replicas() == 0
        tasks = len(team.store.client.keys(f"wb:{{{team.namespace}/echo}}:task:*"))
        assert tasks == waiting + 3, "its heartbeat does not fire"
        machine.until(
            lambda: team.conditions()["Ready"][:2] == ("True", "Suspended"), within=SOON, what="it is as it should be"
        )
        machine.until(
            lambda: "its crew is suspended" in team.conditions("beat", "heartbeat")["Ready"][2],
            within=SOON,
            what="the heartbeat says why it does not fire",
        )
        task = str(team.store.client.keys(f"wb:{{{team.namespace}/echo}}:task:*")[0]).rpartition(":")[2]
        assert "its crew is suspended" in watchbill(team, cluster, "why", "echo", task)

        assert watchbill(team, cluster, "resume", "echo").startswith("resumed\n")
        machine.until(lambda: len(team.results()) >= 3, within=SOON, what="what waited runs")
    machine.until(lambda: "Suspended" not in team.conditions(), within=SOON, what="it says so no longer")
    machine.until(lambda: team.replicas() >= 1, within=SOON, what="its minimum again, and more for what waits")

    def told() -> bool:
        return {"Suspended", "Resumed"} <= {event["reason"] for event in team.items("events.events.k8s.io")}

    machine.until(told, within=SOON, what="Events tell of both")


def test_a_deleted_crew_keeps_its_keys_until_its_work_has_ended_and_a_new_one_of_its_name_starts_clean(
    team: Team, cluster: ControlPlane
) -> None:
    team.operator()
    with ExitStack() as stack:
        pods = Pods(team, stack)
        spec = {"agents": [{"name": "a", "class": "gate:Gate"}]}
        team.apply(crew(spec=spec), crew("cancelled", spec={**spec, "deletionPolicy": "Cancel"}))
        team.until_ready("echo", "cancelled")
        pods.start_worker("")
        former = pods.start_worker("", "cancelled")
        for name in ("echo", "cancelled"):
            team.submit(name, agent="a")
            machine.until(lambda name=name: pods.running(name) == 1, within=SOON, what="the task runs")  # type: ignore[misc]
        team.submit("cancelled", agent="a", scheduled_at=datetime.now(UTC) + timedelta(hours=1))
        team.kubectl("delete", "crew", "echo", "cancelled", "--wait=false")
        machine.until(lambda: "closed" in team.meta(), within=SOON, what="it is closed")
        team.apply(crew("cancelled"))
        team.until_ready("cancelled")
        assert "closed" not in team.meta("cancelled"), "a new crew of that name starts clean"
        assert team.results("cancelled") == []
        uid = team.crew("cancelled")["metadata"]["uid"]
        assert team.meta("cancelled")["uid"] == uid
        pods.open("hi")
        machine.until(lambda: not team.stored("echo"), within=SOON, what="all is removed once the work has ended")

        # The worker of the former crew takes nothing of the new one, and what it did is no result there: it ends.
        team.submit("cancelled", prompt="new", agent="a")
        machine.until(lambda: former.exit_code() is not None, within=SOON, what="the former worker ends")
        assert team.results("cancelled") == []
        pods.start_worker("", "cancelled")
        machine.until(lambda: team.results("cancelled"), within=SOON, what="a new worker runs what is new")
        (result,) = team.results("cancelled")
        assert "new" in result


def test_a_crew_is_deleted_in_the_cluster_once_its_work_has_ended(team: Team, cluster: ControlPlane) -> None:
    team.operator()
    drain = ("delete", "crew", "echo", "--drain")
    with ExitStack() as stack:
        pods = Pods(team, stack)
        team.apply(pods.crew())
        team.until_ready()
        for prompt in ("runs", "waits"):
            team.submit(prompt=prompt, agent="a")
        (revision,) = pods.sizes()
        pods.start_worker(revision)
        machine.until(lambda: pods.running() == 1, within=SOON, what="a task runs")
        late = watchbill(team, cluster, *drain, "--running-only", "--timeout", "0.1", code=1)
        assert "nothing was deleted: crew 'echo' has 1 running\n" in late
        assert "suspended" not in team.meta(), "the suspension is taken back"
        assert team.crew()["spec"]["suspend"] is False
        late = watchbill(team, cluster, *drain, "--timeout", "0.1", code=1)
        assert "nothing was deleted: crew 'echo' has 1 running, 1 waiting\n" in late
        with ThreadPoolExecutor(1) as aside:
            deleting = aside.submit(watchbill, team, cluster, *drain)
            machine.until(lambda: "closing" in team.meta(), within=SOON, what="it is closed")
            team.kubectl("patch", "crew", "echo", "--type=merge", '--patch={"spec":{"workers":{"idleSeconds":77}}}')
            generation = str(team.crew()["metadata"]["generation"])
            machine.until(lambda: team.meta()["generation"] == generation, within=SOON, what="the change is stored")
            with pytest.raises(Closed):
                team.submit(agent="a")
            pods.open("runs", "waits")
            assert deleting.result().startswith("crew/echo deleted\n")
    assert team.items("crews.watchbill.dev") == []
    machine.until(lambda: not team.stored(), within=SOON, what="it has gone from the store")
