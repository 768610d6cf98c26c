"""Secrets and ConfigMaps that a crew refers to: their change rolls its workers, and stops none with a task."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from e2e.cluster import machine
from e2e.cluster.control_plane import ControlPlane
from e2e.control_plane import access, operator_team
from e2e.control_plane.operator_process import hold
from e2e.control_plane.operator_team import NARROW, OPERATOR, SOON, Team, crew
from e2e.control_plane.test_operator_drain import Pods

team = operator_team.team
store = operator_team.store
installed = operator_team.installed

SOURCES = [{"secretRef": {"name": "keys"}}]
VOLUMES = [
    {"name": "conf", "configMap": {"name": "conf"}},
    {"name": "maybe", "projected": {"sources": [{"configMap": {"name": "maybe", "optional": True}}]}},
]
REFERS: dict[str, Any] = {"envFrom": SOURCES, "template": {"spec": {"volumes": VOLUMES}}}


def test_what_a_crew_refers_to_rolls_its_workers_when_it_changes_and_no_busy_one_is_stopped(
    team: Team, until_rest: Callable[..., int]
) -> None:
    team.operator(references_seconds="1", resync_seconds="2")
    with ExitStack() as stack:
        pods = Pods(team, stack)
        kept = crew("kept", minReplicas=1, rolloutOnChange=False, **REFERS)
        team.apply(pods.crew(minReplicas=1, **REFERS), crew("idle", **REFERS), kept)

        # What is missing is named, with what is optional left out, and no pod is made that could not start.
        said = team.until_stalled("echo", "ReferenceMissing")
        assert "Secret 'keys'" in said
        assert "ConfigMap 'conf'" in said
        assert "maybe" not in said
        assert team.replicas() == 0
        team.kubectl("create", "secret", "generic", "keys", "--from-literal=a=1")
        team.kubectl("create", "configmap", "conf", "--from-literal=a=1")
        team.until_ready("echo", "idle", "kept")
        machine.until(lambda: team.replicas() == 1 == team.replicas("kept"), within=SOON, what="the first workers")
        (old,), (idles,), (keeps,) = pods.sizes(), team.deployments("idle"), team.deployments("kept")
        team.submit(prompt="t1", agent="a")
        pods.start_worker(old)
        machine.until(lambda: pods.running() == 1, within=SOON, what="the task runs")
        pods.is_ready(*machine.until(lambda: pods.of(old), within=SOON, what="the pod"), ready=True)
        machine.until(lambda: team.crew()["status"].get("running") == 1, within=SOON, what="the status says so")
        until_rest(OPERATOR, 5)

        team.kubectl("patch", "secret", "keys", "--type=merge", '--patch={"stringData": {"a": "2"}}')
        machine.until(lambda: len(pods.sizes()) == 2, within=SOON, what="a Deployment of another revision")
        new = next(revision for revision in pods.sizes() if revision != old)
        pods.start_worker(new)
        machine.until(pods.draining, within=SOON, what="the busy worker drains")
        hold(3, lambda: pods.sizes().get(old) == 1 and pods.running() == 1, "a busy worker's pod went")
        message = machine.until(lambda: outdated(team, "kept"), within=SOON, what="what is kept says so")
        assert "Secret 'keys'" in message
        assert [d["metadata"]["uid"] for d in team.deployments("kept")] == [keeps["metadata"]["uid"]]
        pods.open("t1")
        machine.until(lambda: pods.running() == 0, within=SOON, what="the task has ended")
        machine.until(lambda: list(pods.sizes()) == [new], within=SOON, what="the old revision is gone")
        results: Any = team.store.client.xrange(f"wb:{{{team.namespace}/echo}}:results")
        assert [fields["state"] for _, fields in results] == ["completed"]

        # Without pods the Deployment only notes it. An object made anew counts, and so does an optional one that comes.
        assert [d["metadata"]["uid"] for d in team.deployments("idle")] == [idles["metadata"]["uid"]]
        machine.until(
            lambda: config(team, "idle")["Secret/keys"] != read(idles)["Secret/keys"], within=SOON, what="it is noted"
        )
        before = config(team, "idle")
        team.kubectl("delete", "configmap", "conf")
        team.kubectl("create", "configmap", "conf", "--from-literal=a=1")
        team.kubectl("create", "configmap", "maybe", "--from-literal=a=1")
        machine.until(lambda: is_noted(team, before), within=SOON, what="the idle crew notes both")
        machine.until(lambda: list(pods.sizes()) != [new], within=SOON, what="another rollout")


def test_without_the_right_to_read_them_crews_work_as_ever_and_say_so(team: Team, installed: ControlPlane) -> None:
    team.may_be_forbidden = True
    role = f"{operator_team.RELEASE}-{NARROW}"
    rules = json.loads(team.kubectl("get", "role", role, "--output=json"))["rules"]
    left = [rule for rule in rules if rule["resources"] not in (["secrets"], ["configmaps"])]
    assert len(left) == len(rules) - 2
    team.kubectl("patch", "role", role, "--type=merge", f"--patch={json.dumps({'rules': left})}")
    access.until_allowed(installed, OPERATOR, team.namespace, "", "secrets", "get", allowed=False)
    team.kubectl("create", "secret", "generic", "keys", "--from-literal=a=1")
    running = team.operator(references_seconds="1")
    team.apply(crew(minReplicas=1, envFrom=SOURCES))
    team.until_ready()
    said = team.conditions()["Ready"][2]
    assert "Secret 'keys'" in said
    assert "rbac.readSecrets" in said
    (before,) = team.deployments()
    team.kubectl("patch", "secret", "keys", "--type=merge", '--patch={"stringData": {"a": "2"}}')
    hold(3, lambda: len(team.deployments()) == 1, "workers were replaced")
    assert len([line for line in running.said() if "not replaced when a Secret changes" in line]) == 1
    # Once it may read them, what is there is taken for what the workers have.
    team.kubectl("patch", "role", role, "--type=merge", f"--patch={json.dumps({'rules': rules})}")
    machine.until(lambda: config(team, "echo").get("Secret/keys"), within=SOON, what="the Secret is noted")
    machine.until(lambda: "Secret" not in team.conditions()["Ready"][2], within=SOON, what="it says so no longer")
    assert [d["metadata"]["uid"] for d in team.deployments()] == [before["metadata"]["uid"]]
    team.kubectl("patch", "secret", "keys", "--type=merge", '--patch={"stringData": {"a": "3"}}')
    machine.until(lambda: len(team.deployments()) == 2, within=SOON, what="workers are replaced")


def outdated(team: Team, name: str) -> str:
    """The message of a crew whose workers run with older Secrets or ConfigMaps; empty if they don't."""
    _, reason, message = team.conditions(name).get("Ready", ("", "", ""))
    return message if reason == "ConfigOutdated" else ""


def config(team: Team, name: str) -> dict[str, str]:
    """The states that the crew's only Deployment names."""
    (deployment,) = team.deployments(name)
    return read(deployment)


def read(deployment: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = json.loads(deployment["metadata"]["annotations"]["watchbill.dev/config"])
    return found


def is_noted(team: Team, before: dict[str, str]) -> bool:
    """Both ConfigMaps are others than before, and the Deployment without pods is the same."""
    now = config(team, "idle")
    return all(now[key] != before[key] for key in ("ConfigMap/conf", "ConfigMap/maybe"))
