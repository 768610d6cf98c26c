"""Operators of two clusters over one store: a crew is that of the cluster which stored it first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster import control_plane, machine
from e2e.cluster.control_plane import ControlPlane
from e2e.control_plane import operator_process, operator_team
from e2e.control_plane.crds_server import NAMES, until_served
from e2e.control_plane.operator_process import hold
from e2e.control_plane.operator_team import RARELY, ROOT, SOON, Team, crew, heartbeat

team = operator_team.team
store = operator_team.store
installed = operator_team.installed


@pytest.fixture
def elsewhere(team: Team, tmp_path: Path) -> Iterator[Team]:
    """The namespace of the same name in another cluster, and its operator over the same store."""
    with control_plane.running(tmp_path / "elsewhere") as plane:
        yield _moved(team, plane, tmp_path)


def _moved(team: Team, plane: ControlPlane, folder: Path) -> Team:
    plane.kubectl("apply", "--server-side", *(f"--filename={file}" for file in sorted((ROOT / "crds").glob("*.yaml"))))
    plane.kubectl("wait", "--for=condition=Established", "--timeout=120s", *(f"crd/{name}" for name in NAMES))
    until_served(plane)
    plane.kubectl("create", "namespace", team.namespace)
    url = team.store.url
    plane.kubectl("create", "secret", "generic", "watchbill-redis", f"--from-literal=url={url}", f"-n={team.namespace}")

    def operator() -> operator_process.Process:
        settings = {"watch_namespaces": team.namespace, "resync_seconds": "1", "name": "elsewhere"}
        return operator_process.operator(plane.kubeconfig, url, folder, **settings)

    return Team(plane.kubectl, team.namespace, team.store, folder, operator)


def test_the_second_cluster_is_refused_what_the_first_stored_and_sweeps_none_of_it(team: Team, elsewhere: Team) -> None:
    first = team.operator()
    team.apply(crew(), crew("alone"), heartbeat("beat", intervalSeconds=RARELY))
    team.until_ready("echo", "alone")
    team.submit(count=3)
    before = {name: (team.meta(name)["uid"], team.meta(name)["owner"]) for name in ("echo", "alone")}

    def is_kept() -> bool:
        assert {name: (team.meta(name)["uid"], team.meta(name)["owner"]) for name in before} == before
        assert any(":heartbeat:beat" in key for key in team.stored())
        return team.store.client.xlen(f"wb:{{{team.namespace}/echo}}:tasks:5") == 3

    with elsewhere.operator() as second:
        second.start()
        elsewhere.apply(crew(), crew("own"))
        elsewhere.until_ready("own")
        said = elsewhere.until_stalled("echo", "OwnerConflict")
        assert before["echo"][1] in said
        hold(4, is_kept, "the second cluster has touched what is of the first")  # it lists and sweeps each second
        assert elsewhere.deployments() == []
        assert elsewhere.meta("own")["owner"] != before["echo"][1]
        elsewhere.kubectl("delete", "crew", "echo", "own")
        machine.until(lambda: not elsewhere.stored("own"), within=SOON, what="its own crew is removed")
        hold(3, is_kept, "with its own crew it has removed the first one's")

        elsewhere.apply(crew("own"))
        elsewhere.until_ready("own")
        elsewhere.submit("own")
        own = elsewhere.meta("own")["uid"]

    # and the first one does not sweep what is of the second, which does not run to restore it
    def is_left_alone() -> bool:
        is_its_own = elsewhere.meta("own").get("uid") == own
        return is_its_own and team.store.client.xlen(f"wb:{{{team.namespace}/own}}:tasks:5") == 1

    assert is_left_alone()
    first.kill()
    team.kubectl("delete", "crew", "alone")
    first.start()
    machine.until(lambda: not team.stored("alone"), within=SOON, what="the first one has swept")
    hold(3, is_left_alone, "the first cluster has touched what is of the second")
