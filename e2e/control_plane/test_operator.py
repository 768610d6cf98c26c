"""The operator as a process on a bare control plane, with a real store and the rights that the chart gives it. No pods
run: where work is to be done, a worker is started by the test.

Asserted is the state of the world: what the API server and the store have, and in the audit log, who wrote.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from e2e.cluster import machine
from e2e.cluster.control_plane import Write
from e2e.control_plane import operator_team
from e2e.control_plane.operator_process import Process, hold
from e2e.control_plane.operator_team import OPERATOR, RARELY, SOON, Team, crew, heartbeat
from watchbill import client

team = operator_team.team
store = operator_team.store
installed = operator_team.installed

IDLE_SECONDS = 8


def test_a_crew_gets_all_it_needs_and_becomes_ready(team: Team) -> None:
    team.operator(everywhere=True)
    team.apply(crew())
    team.kubectl("wait", "crew/echo", "--for=condition=Ready", f"--timeout={SOON:.0f}s")

    seen = team.crew()
    uid = seen["metadata"]["uid"]
    assert seen["status"]["observedGeneration"] == seen["metadata"]["generation"] == 1
    assert "finalizers" not in seen["metadata"]
    (deployment,) = team.deployments()
    assert deployment["spec"]["replicas"] == 0
    account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    accounts = team.items("serviceaccounts")
    (own,) = [a for a in accounts if a["metadata"]["name"] == account]
    for child in (deployment, own):
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == ("Crew", "echo", uid, True)
    assert own["automountServiceAccountToken"] is False
    assert team.meta()["uid"] == uid
    assert {f"crew:{{{team.namespace}}}:echo", f"crew:{{{team.namespace}}}:list"} <= team.stored()


def test_workers_get_what_the_operators_settings_say(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    team.operator(worker_resources='{"limits": {"memory": "1024Mi"}}', allow_modules="acme.agents, lib")
    own = {"name": "worker", "env": [{"name": "WATCHBILL_ALLOW_MODULES", "value": "subprocess"}]}
    team.apply(crew(), crew("own", template={"spec": {"containers": [{**own, "resources": {"limits": {"cpu": 1}}}]}}))
    team.until_ready("echo", "own")
    for name, limits in (("echo", {"memory": "1Gi"}), ("own", {"cpu": "1"})):
        (deployment,) = team.deployments(name)
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert container["resources"] == {"limits": limits}
        variables = [entry for entry in container["env"] if entry["name"] == "WATCHBILL_ALLOW_MODULES"]
        assert variables == [{"name": "WATCHBILL_ALLOW_MODULES", "value": "acme.agents,lib"}]
        assert {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"} in container["env"]
        assert pod["volumes"] == [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}]


def test_work_starts_workers_and_they_go_once_idle(team: Team) -> None:
    operator = team.operator(log_format="json")
    team.apply(crew(idleSeconds=3))
    team.until_ready()

    team.submit(count=25)
    machine.until(lambda: team.replicas() == 3, within=SOON, what="workers for 25 tasks of 10 at a time", every=0.05)
    machine.until(lambda: team.crew()["status"].get("waiting"), within=SOON, what="the status says what waits")
    hold(6, lambda: team.replicas() == 3, "workers went while work waited")

    with team.worker("echo").start():
        machine.until(lambda: team.replicas() == 0, within=SOON, what="no workers")
    machine.until(lambda: team.crew()["status"]["waiting"] == 0, within=SOON, what="the status says that none waits")
    machine.until(lambda: team.crew()["status"]["replicas"] == 0, within=SOON, what="the status says no workers")
    logged = [json.loads(line) for line in operator.said()]
    scaled = [line["message"] for line in logged if line.get("crew") == f"{team.namespace}/echo"]
    assert any(" 3 workers " in message for message in scaled), scaled
    # Where the watch lags, several writes in a row are refused. The third is told as a warning, and all are repeated.
    warned = [line for line in logged if line["level"] != "INFO" and ": StaleObject: " not in line["message"]]
    assert not warned


def test_a_crew_in_steady_use_keeps_its_workers(team: Team) -> None:
    team.operator()
    team.apply(crew(idleSeconds=IDLE_SECONDS))
    team.until_ready()
    with team.worker("echo").start() as worker, client.SyncClient(team.store.url) as own:

        def submit() -> None:
            own.submit(f"{team.namespace}/echo", "hi")

        what = "a time in which tasks come at short pauses"
        machine.until(lambda: was_used_steadily(team, worker, submit), within=3 * SOON, what=what)


def was_used_steadily(team: Team, worker: Process, submit: Callable[[], object]) -> bool:
    """Has tasks come for twice as long as the crew may be idle. Asserts that nothing touched its workers meanwhile.
    Returns False where that proves nothing: the machine stood still, so that the crew may have been idle."""
    worker.stop()  # else the task may be done before the operator has looked
    submit()
    machine.until(lambda: team.replicas() == 1, within=SOON, what="a worker")
    worker.go_on()
    began = last = time.monotonic()
    before = None
    while last - began < 2.5 * IDLE_SECONDS:
        if before is None and last - began > IDLE_SECONDS / 2:  # what came of a pause before this is over
            before = team.deployments()[0]["metadata"]["generation"]
        submit()
        now = time.monotonic()
        if now - last > IDLE_SECONDS / 2:  # a task comes at any moment of its call
            return False
        last = now
        time.sleep(0.2)
    (after,) = team.deployments()
    assert after["metadata"]["generation"] == before, "workers went while tasks came"
    return True


def test_a_deleted_crew_leaves_nothing(team: Team) -> None:
    team.operator()
    team.apply(crew(), heartbeat("beat", intervalSeconds=RARELY))
    team.until_ready()
    team.submit()
    assert team.stored()
    team.kubectl("delete", "crew", "echo")
    machine.until(lambda: not team.stored(), within=SOON, what="the store is clean")
    machine.until(lambda: not team.deployments(), within=SOON, what="the Deployment is gone")


def test_over_an_unchanged_cluster_a_killed_and_restarted_operator_writes_nothing(
    team: Team, audit_writes: Callable[..., list[Write]], until_rest: Callable[..., int]
) -> None:
    first = team.operator()
    team.apply(crew(idleSeconds=3600), crew("other", minReplicas=2), heartbeat("beat", intervalSeconds=RARELY))
    team.until_ready("echo", "other")
    team.submit()
    machine.until(lambda: team.replicas() == 1, within=SOON, what="a worker")
    machine.until(lambda: team.crew()["status"].get("replicas") == 1, within=SOON, what="the status says so")
    machine.until(lambda: team.conditions("beat", "heartbeat").get("Ready"), within=SOON, what="the beat's status")

    since = until_rest(OPERATOR, 4)
    before = [d["metadata"]["resourceVersion"] for d in team.deployments() + team.deployments("other")]
    first.kill()
    team.operator(resync_seconds="2")
    hold(11, lambda: not audit_writes(since, user=OPERATOR), "the restarted operator writes")
    assert [d["metadata"]["resourceVersion"] for d in team.deployments() + team.deployments("other")] == before

    # and it does its work
    team.submit(count=10)
    machine.until(lambda: team.replicas() == 2, within=SOON, what="two workers for eleven tasks")
    assert {w.resource for w in audit_writes(since, user=OPERATOR)} <= {"deployments", "crews"}


def test_a_crew_deleted_while_the_operator_is_down_is_swept_when_it_returns(team: Team) -> None:
    first = team.operator()
    team.apply(crew(), crew("other"), heartbeat("beat", intervalSeconds=RARELY))
    team.until_ready("echo", "other")
    team.submit()
    first.kill()
    team.kubectl("delete", "crew/echo", "heartbeat/beat")
    team.kubectl("delete", "deployments", "--selector=watchbill.dev/crew=echo")  # nothing but the store knows of it
    kept = team.stored("other")
    assert team.stored()
    team.operator()
    machine.until(lambda: not team.stored(), within=SOON, what="the store is clean")
    assert team.stored("other") == kept


@pytest.mark.parametrize("up", [True, False], ids=["operator up", "operator down"])
def test_a_crew_recreated_at_once_starts_clean(team: Team, up: bool) -> None:
    first = team.operator()
    team.apply(crew())
    team.until_ready()
    old = team.crew()["metadata"]["uid"]
    team.submit(count=3)
    if not up:
        first.kill()
    team.kubectl("delete", "crew", "echo", "--wait=true")
    team.apply(crew())
    if not up:
        team.operator()
    new = team.crew()["metadata"]["uid"]
    assert new != old
    machine.until(lambda: team.meta().get("uid") == new, within=SOON, what="the store has the new crew")
    team.until_ready()
    assert not [key for key in team.stored() if ":run:" in key or ":task:" in key], (
        "the former crew's work is still there"
    )

    def owners() -> set[str]:
        return {d["metadata"]["ownerReferences"][0]["uid"] for d in team.deployments()}

    machine.until(lambda: owners() == {new}, within=SOON, what="only the new crew's Deployment")
    machine.until(lambda: team.replicas() == 0, within=SOON, what="no workers for the former crew's work")


def test_the_operator_ends_by_sigterm_with_code_0(team: Team) -> None:
    running = team.operator(forked=False)
    team.apply(crew())
    team.until_ready()
    assert running.terminate() == 0
