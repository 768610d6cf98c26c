"""Two replicas of the operator: one leads, the other takes over, and both fire heartbeats, each slot once."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import machine
from e2e.cluster.control_plane import ControlPlane, Write, free_ports
from e2e.cluster.kubectl import Kubectl
from e2e.control_plane import operator_team
from e2e.control_plane.operator_process import Process, hold, kept_lease
from e2e.control_plane.operator_team import EVERYWHERE, NARROW, OPERATOR, RELEASE, SOON, Team, crew, heartbeat
from e2e.control_plane.tcp_proxy import before_api_server
from watchbill.names import CrewKeys

team = operator_team.team
store = operator_team.store
installed = operator_team.installed

LEASE = f"{NARROW}/{RELEASE}"
LOOKS = 5


class Replica:
    """An operator that takes part in the election, and what it says of itself over HTTP."""

    def __init__(self, team: Team, **settings: Any) -> None:
        (port,) = free_ports(1)
        self._url = f"http://127.0.0.1:{port}"
        name = f"operator-{port}"
        self.process: Process = team.operator(lease=LEASE, health_port=str(port), name=name, forked=False, **settings)

    @property
    def leads(self) -> bool:
        return "watchbill_operator_leader 1.0" in self._get("/metrics")

    @property
    def leads_on(self) -> bool:
        """Says that it leads, again and again: where the process is busy, a page shows what was true before."""
        return all(self.leads for _ in range(LOOKS))

    @property
    def is_ready(self) -> bool:
        return self._get("/readyz") == "ready\n"

    def _get(self, path: str) -> str:
        try:
            with urllib.request.urlopen(self._url + path, timeout=SOON) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, OSError):
            return ""


@pytest.fixture(autouse=True)
def _no_lease(installed: ControlPlane, kubectl: Kubectl) -> None:
    """A killed operator of another test holds it yet."""
    kubectl("delete", "lease", RELEASE, f"--namespace={NARROW}", "--ignore-not-found")


def elected(*replicas: Replica, within: float = SOON) -> Replica:
    """The one that leads, once one does."""
    return machine.until(
        lambda: next((one for one in replicas if one.leads), None), within=within, what="one leads", every=0.05
    )  # type: ignore[return-value]


def test_another_replica_leads_soon_after_one_ends_or_dies_and_no_slot_is_missed_or_fired_twice(
    team: Team, kubectl: Kubectl, until_rest: Callable[..., int]
) -> None:
    replicas = [Replica(team) for _ in range(2)]
    # Slots that come while the machine stands still are made up for: they are no fault of the replicas.
    team.apply(crew(), heartbeat("beat", intervalSeconds=1, agent="a", prompt="look", missed="All"))
    team.until_ready()
    for one in replicas:
        machine.until(lambda one=one: one.is_ready, within=SOON, what="both are ready")  # type: ignore[misc]
    machine.until(lambda: sorted(one.leads for one in replicas) == [False, True], within=SOON, what="one leads")
    keys = CrewKeys(team.namespace, "echo")

    def fired() -> int:
        return int(team.store.client.zcard(keys.ids))

    def goes_on() -> None:
        """The crew and its heartbeat do, under whoever leads."""
        before = fired()
        machine.until(lambda: fired() >= before + 3, within=SOON, what="the heartbeat fires")

    first = elected(*replicas)
    (second,) = (one for one in replicas if one is not first)
    machine.until(lambda: fired() >= 3, within=SOON, what="the heartbeat fires")

    # it is told to end: the Lease is released, so nobody waits for its end after 15 s
    held = lease(kubectl)["holderIdentity"]
    assert first.process.terminate() == 0
    assert lease(kubectl)["holderIdentity"] != held or kept_lease(first.process), "it is not released"
    elected(second)
    team.apply(crew("second"))
    team.until_ready("second")
    goes_on()

    # it is killed: the other leads when it has seen no renewal for 15 s
    third = Replica(team)
    machine.until(lambda: third.is_ready, within=SOON, what="the new one is ready")
    assert not third.leads
    second.process.kill()
    killed, renewed = time.time(), _seconds(lease(kubectl)["renewTime"])
    elected(third)
    acquired = _seconds(lease(kubectl)["acquireTime"])
    assert acquired - renewed > 14  # bench/failover.py says how soon
    print(f"failover after kill -9: {acquired - killed:.1f} s")
    team.apply(crew("third"))
    team.until_ready("third")
    goes_on()

    entries: Any = team.store.client.xrange(keys.streams[3])
    times = [int(entry.partition("-")[0]) / 1000 for entry, _ in entries]
    assert [at for at in times if killed < at < acquired], "nobody fired while nobody led"
    slots = [int(fields["id"].removeprefix("hb-beat-")) for _, fields in entries]
    assert slots == list(range(slots[0], slots[0] + len(slots))), "each slot was fired once, in order"
    assert int(team.store.client.hget(keys.heartbeat("beat"), "missed") or 0) == 0

    # at rest nothing is written but the Lease
    team.kubectl("delete", "heartbeat", "beat")
    machine.until(lambda: team.crew()["status"].get("waiting") == fired(), within=SOON, what="the figures settle")
    until_rest(OPERATOR, 4, ignoring=("leases",))


def lease(kubectl: Kubectl) -> dict[str, str]:
    """Returns its spec."""
    found: dict[str, str] = kubectl.json("get", "lease", RELEASE, f"--namespace={NARROW}")["spec"]
    return found


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def test_a_leader_that_is_cut_off_from_the_api_server_stops_before_the_other_starts(
    team: Team, control_plane: ControlPlane, tmp_path: Path
) -> None:
    team.may_be_forbidden = True
    kubeconfig = tmp_path / "kubeconfig-proxy"
    with before_api_server(control_plane.service_account_kubeconfig(NARROW, RELEASE), kubeconfig) as proxy:
        cut_off = Replica(team, lease_seconds="5", kubeconfig=kubeconfig, resync_seconds="2")
        elected(cut_off)
        other = Replica(team, lease_seconds="5")
        team.apply(crew())
        team.until_ready()
        machine.until(lambda: other.is_ready, within=SOON, what="the other is ready")

        proxy.drop()
        deadline = time.monotonic() + SOON
        while not other.leads:
            assert time.monotonic() < deadline, "the other does not lead"
            time.sleep(0.02)
        assert not cut_off.leads_on, "two lead"
        assert cut_off.process.exit_code() is None
        team.apply(crew("after"))
        team.until_ready("after")
        team.submit("after")
        machine.until(lambda: team.replicas("after") == 1, within=SOON, what="a worker")

        proxy.heal()
        other.process.terminate()
        elected(cut_off)
        team.submit("after", count=10)
        machine.until(lambda: team.replicas("after") == 2, within=SOON, what="two workers for eleven tasks")


def test_a_leader_that_stood_still_changes_nothing_when_it_goes_on(
    team: Team, kubectl: Kubectl, audit_writes: Callable[..., list[Write]], control_plane: ControlPlane
) -> None:
    """Its account is another than the other's, so that the audit log tells whose a write is. The write that it was
    about to send when it was stopped may still come: that is given up or refused, or is a status, which the other
    corrects."""
    account = f"{EVERYWHERE}:{RELEASE}"
    binding = ("rolebinding", "other-account", f"--namespace={NARROW}")
    kubectl("create", *binding, f"--role={RELEASE}-leader", f"--serviceaccount={account}")
    try:
        frozen = Replica(team, everywhere=True, watch_namespaces=team.namespace)
        elected(frozen)
        team.apply(crew())
        team.until_ready()
        other = Replica(team)
        machine.until(lambda: other.is_ready, within=SOON, what="the other is ready")

        team.submit(count=5)
        frozen.process.stop()  # in the midst of what that asks of it
        elected(other)
        team.apply(crew(image="mine:2"))

        def images() -> list[str]:
            return [d["spec"]["template"]["spec"]["containers"][0]["image"] for d in team.deployments()]

        machine.until(lambda: "mine:2" in images(), within=SOON, what="the new revision")
        machine.until(lambda: team.crew()["status"]["observedGeneration"] == 2, within=SOON, what="the status")
        stored, since = team.meta(), control_plane.audit_position()
        frozen.process.go_on()
        machine.until(lambda: frozen.is_ready, within=SOON, what="it answers")

        def obeys() -> bool:
            late = audit_writes(since, user=f"system:serviceaccount:{account}")
            assert [write for write in late if write.code < 400 and write.subresource != "status"] == []
            assert len([write for write in late if write.resource != "leases"]) <= 1, "a crew is written in turn"
            assert not frozen.leads_on, "two lead"
            return other.leads

        hold(4, obeys, "the other no longer leads")
        machine.until(lambda: team.crew()["status"]["observedGeneration"] == 2, within=SOON, what="its own status")
        assert "mine:2" in images()
        assert {k: team.meta()[k] for k in ("uid", "def", "generation")} == {
            k: stored[k] for k in ("uid", "def", "generation")
        }
        assert frozen.process.exit_code() is None
    finally:
        kubectl("delete", *binding)
