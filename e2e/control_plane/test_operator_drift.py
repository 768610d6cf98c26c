"""Changes by others of the workers' Deployments, and revisions of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from e2e.cluster import machine
from e2e.cluster.control_plane import ControlPlane, Write
from e2e.cluster.kubectl import KubectlError
from e2e.control_plane import operator_team
from e2e.control_plane.operator_process import hold
from e2e.control_plane.operator_team import OPERATOR, SOON, Team, crew
from watchbill.controller.statuses import FIGURES_SECONDS

team = operator_team.team
store = operator_team.store
installed = operator_team.installed


def test_hand_edited_deployments_are_put_right_and_what_is_foreign_stays(team: Team) -> None:
    team.operator()
    team.apply(crew(minReplicas=2))
    team.until_ready()
    name = team.deployments()[0]["metadata"]["name"]
    image = team.deployments()[0]["spec"]["template"]["spec"]["containers"][0]["image"]
    team.kubectl("label", "deployment", name, "theirs=label")
    team.kubectl("annotate", "deployment", name, "theirs=annotation")
    team.kubectl("set", "image", f"deployment/{name}", "worker=hacked")
    team.kubectl("scale", f"deployment/{name}", "--replicas=0")

    def right() -> bool:
        (seen,) = team.deployments()
        return (
            seen["spec"]["replicas"] == 2
            and seen["spec"]["template"]["spec"]["containers"][0]["image"] == image
            and seen["metadata"]["labels"].get("theirs") == "label"
            and seen["metadata"]["annotations"].get("theirs") == "annotation"
        )

    machine.until(right, within=SOON, what="image and replicas are put right, the rest stays")
    hold(2, right, "it did not stay so")


def test_a_paused_crew_is_left_as_others_change_it_and_put_right_afterwards(
    team: Team,
    control_plane: ControlPlane,
    audit_writes: Callable[..., list[Write]],
    until_rest: Callable[..., int],
) -> None:
    team.operator(resync_seconds="1")
    since = control_plane.audit_position()
    team.apply(crew(minReplicas=1))
    team.until_ready()
    writes = [write for write in audit_writes(since, user=OPERATOR) if write.subresource == "status"]
    first, *later = [datetime.fromisoformat(write.at) for write in writes]
    # A figure that changes may be written so long afterwards.
    assert all((at - first).total_seconds() > FIGURES_SECONDS / 2 for at in later), "one status"
    team.kubectl("annotate", "crew", "echo", "watchbill.dev/paused=true")
    team.kubectl("wait", "crew/echo", "--for=condition=Paused", "--timeout=120s")
    since = until_rest(OPERATOR, 2)
    team.kubectl("scale", "deployment", team.deployments()[0]["metadata"]["name"], "--replicas=0")
    team.submit(count=30)
    hold(4, lambda: team.replicas() == 0 and not audit_writes(since, user=OPERATOR), "it acts on a paused crew")
    assert team.conditions()["Ready"][0] == "True"
    team.kubectl("annotate", "crew", "echo", "watchbill.dev/paused-")
    machine.until(lambda: team.replicas() == 3, within=SOON, what="three workers for 30 tasks")
    machine.until(lambda: "Paused" not in team.conditions(), within=SOON, what="it says so no longer")


def test_a_deleted_deployment_is_made_anew(team: Team) -> None:
    team.operator()
    team.apply(crew(minReplicas=1))
    team.until_ready()
    old = team.deployments()[0]["metadata"]["uid"]
    team.kubectl("delete", "deployment", team.deployments()[0]["metadata"]["name"])
    machine.until(
        lambda: [d for d in team.deployments() if d["metadata"]["uid"] != old], within=SOON, what="a new Deployment"
    )


def test_a_deleted_service_account_is_made_anew_by_resync(team: Team) -> None:
    team.operator(resync_seconds="1")
    team.apply(crew())
    team.until_ready()
    team.kubectl("delete", "serviceaccount", "echo-worker")
    machine.until(
        lambda: team.kubectl("get", "serviceaccount", "echo-worker"),
        within=SOON,
        what="a new one",
        ignoring=(KubectlError,),
    )


def test_a_new_image_makes_a_new_revision_and_the_old_one_goes_when_idle(team: Team) -> None:
    team.operator()
    team.apply(crew())
    team.until_ready()
    old = team.deployments()[0]["metadata"]["uid"]
    team.apply(crew(image="mine:2"))

    def renewed() -> bool:
        seen = team.deployments()
        return len(seen) == 1 and seen[0]["metadata"]["uid"] != old

    machine.until(renewed, within=SOON, what="only the new revision")
    assert team.deployments()[0]["spec"]["template"]["spec"]["containers"][0]["image"] == "mine:2"
