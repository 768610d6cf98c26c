"""etcd, API server and store go away, also together: workers stay as they are, and all goes on later, within a minute.

AWAY_SECONDS=30 has them stay away for that long. DROPPED_SECONDS=900 has packets dropped for a quarter of an hour; then
no connection is told that it is dead.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from e2e.cluster import machine
from e2e.cluster.control_plane import ControlPlane
from e2e.control_plane import operator_team
from e2e.control_plane.operator_process import hold
from e2e.control_plane.operator_team import NARROW, RELEASE, SOON, Team, crew, heartbeat
from e2e.control_plane.tcp_proxy import Proxy, before_api_server
from watchbill.names import CrewKeys

team = operator_team.team
store = operator_team.store
installed = operator_team.installed

AWAY_SECONDS = float(os.environ.get("AWAY_SECONDS", "2"))
DROPPED_SECONDS = float(os.environ.get("DROPPED_SECONDS", "2"))
SILENT_FROM = 100.0
"""Packets that are dropped for so long, or longer, leave connections of which neither end hears any more: a watch takes
70 seconds to give such a one up, and CI has no time for that."""


def test_without_etcd_without_an_api_server_and_without_both_api_server_and_store_workers_are_held(
    team: Team, control_plane: ControlPlane
) -> None:
    team.may_be_forbidden = True  # in its first moments the API server doesn't know the roles yet
    running = team.operator()
    team.apply(crew(idleSeconds=1), crew("beats"), heartbeat("beat", intervalSeconds=1, crewRef={"name": "beats"}))
    team.until_ready("echo", "beats")
    team.submit(count=15)
    machine.until(lambda: team.replicas() == 2, within=SOON, what="two workers")
    (before,) = team.deployments()
    keys = CrewKeys(team.namespace, "beats")

    def fires(what: str) -> None:
        fired = team.store.client.zcard(keys.ids)
        machine.until(lambda: team.store.client.zcard(keys.ids) >= fired + 2, within=SOON, what=what)

    def goes_on(after: str) -> None:
        """With the same process, and with the Deployment as it was."""
        team.apply(crew(after))
        team.until_ready(after, "echo", "beats")
        (seen,) = team.deployments()
        assert seen["metadata"]["generation"] == before["metadata"]["generation"], "its workers were touched"
        fires(f"heartbeats fire {after}")
        assert running.exit_code() is None

    control_plane.restart_etcd()
    goes_on("after-etcd")

    control_plane.stop_api_server(kill=True)
    try:
        fires("heartbeats fire without an API server")
        team.store.kill()
        hold(AWAY_SECONDS, lambda: running.exit_code() is None, "it has ended")
        team.store.start()
        fires("heartbeats fire with a store alone")
        team.store.kill()
        hold(AWAY_SECONDS - 2, lambda: running.exit_code() is None, "it has ended")
    finally:
        control_plane.start_api_server()
    hold(1, lambda: running.exit_code() is None, "it has ended")
    team.store.start()
    goes_on("after-both")
    team.submit(count=10)
    machine.until(lambda: team.replicas() == 3, within=SOON, what="three workers for 25 tasks")


def test_an_operator_that_is_cut_off_from_the_store_holds_workers_which_go_on_without_it(team: Team) -> None:
    with Proxy(team.store.url) as proxy:
        running = team.operator(redis_url=proxy.url)
        team.apply(crew(idleSeconds=1))
        team.until_ready()
        team.submit(agent="a", count=15)
        machine.until(lambda: team.replicas() == 2, within=SOON, what="two workers")
        proxy.drop()
        with team.worker("echo").start():
            machine.until(lambda: len(team.results()) == 15, within=SOON, what="work goes on")
            machine.until(
                lambda: team.conditions()["Ready"][:2] == ("False", "StoreUnavailable"), within=SOON, what="it says so"
            )
            assert team.replicas() == 2, "nobody knows that all is done"
            proxy.heal()
            machine.until(lambda: team.replicas() == 0, within=SOON, what="none, once idle")
        team.until_ready()
        team.submit()
        machine.until(lambda: team.replicas() == 1, within=SOON, what="work that comes now is heard")
        assert running.exit_code() is None


@pytest.mark.timeout(900 + DROPPED_SECONDS)
def test_what_happens_while_packets_to_the_api_server_are_dropped_is_taken_up_later(
    team: Team, control_plane: ControlPlane, tmp_path: Path
) -> None:
    kubeconfig = tmp_path / "kubeconfig-proxy"
    with before_api_server(control_plane.service_account_kubeconfig(NARROW, RELEASE), kubeconfig) as proxy:
        running = team.operator(kubeconfig=kubeconfig)
        team.apply(crew(), *(crew(name) for name in ("changed", "deleted", "beats")))
        team.apply(heartbeat("beat", intervalSeconds=1, crewRef={"name": "beats"}))
        team.until_ready("echo", "changed", "deleted", "beats")
        team.submit()
        machine.until(lambda: team.replicas() == 1, within=SOON, what="a worker")

        proxy.drop()
        team.apply(crew("changed", image="mine:2"), crew("made"))
        team.kubectl("delete", "crew", "deleted")
        team.submit(count=14)
        hold(DROPPED_SECONDS, lambda: running.exit_code() is None, "it has ended")
        fired = team.store.client.zcard(CrewKeys(team.namespace, "beats").ids)
        machine.until(
            lambda: team.store.client.zcard(CrewKeys(team.namespace, "beats").ids) > fired,
            within=SOON,
            what="heartbeats go on",
        )
        assert team.replicas() == 1, "it hears of the API server"

        proxy.heal(resets=DROPPED_SECONDS < SILENT_FROM)
        began = time.monotonic()
        machine.until(lambda: team.replicas() == 2, within=4 * SOON, what="two workers for 15 tasks")
        team.until_ready("made", within=4 * SOON)

        def images() -> list[str]:
            found = team.deployments("changed")
            return [one["spec"]["template"]["spec"]["containers"][0]["image"] for one in found]

        machine.until(lambda: images() == ["mine:2"], within=4 * SOON, what="the change is taken up")
        machine.until(lambda: not team.stored("deleted"), within=4 * SOON, what="the store forgets the deleted crew")
        print(f"all is right {time.monotonic() - began:.1f} s after {DROPPED_SECONDS:g} s of dropped packets")
        team.apply(crew("later"))
        team.until_ready("later", within=4 * SOON)  # by the watch: the next listing of the operator's own is far
        assert running.exit_code() is None
