"""A namespace with a quota: crews without room, workers that are shared out, and what tells of it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from e2e.cluster import machine
from e2e.cluster.control_plane import ControlPlane, free_ports
from e2e.control_plane import operator_team
from e2e.control_plane.operator_team import SOON, Team, crew, heartbeat
from watchbill.client import Client
from watchbill.errors import QuotaExceeded

team = operator_team.team
store = operator_team.store
installed = operator_team.installed


def doctor(team: Team, cluster: ControlPlane, quotas: str) -> list[str]:
    """Returns its sentences about quotas."""
    words = (sys.executable, "-m", "watchbill", "doctor", "--cluster", "--output=json")
    environment = {"KUBECONFIG": str(cluster.kubectl.kubeconfig), "WATCHBILL_REDIS_URL": team.store.url}
    environment |= {"WATCHBILL_QUOTAS": quotas, "WATCHBILL_WATCH_NAMESPACES": team.namespace}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=SOON, check=False)
    return [found["message"] for found in json.loads(done.stdout) if found["check"] == "quotas"]


def test_the_youngest_crew_has_no_room_until_another_goes_and_workers_are_shared_out(
    team: Team, control_plane: ControlPlane
) -> None:
    own = {"crews": 2, "queued": 200, "workers": 5}
    quotas = json.dumps({"default": {"hard": {"crews": 0}}, "namespaces": {team.namespace: {"hard": own}}})
    (port,) = free_ports(1)
    team.operator(quotas=quotas, health_port=str(port))
    small = {"tasks": {"maxQueued": 100}}
    for name in ("echo", "second", "third"):
        team.apply(crew(name, spec=small, minReplicas=1))
        team.until_ready(name) if name != "third" else None
        machine.until(lambda name=name: team.meta(name), within=SOON, what="it is stored")  # type: ignore[misc]
        made = datetime.fromisoformat(team.crew(name)["metadata"]["creationTimestamp"])
        over = made + timedelta(seconds=1)  # of crews made in the same second, the uid decides
        machine.until(lambda over=over: datetime.now(UTC) >= over, within=SOON, what="another second")  # type: ignore[misc]
    team.apply(heartbeat("beat", crewRef={"name": "third"}, intervalSeconds=1, agent="a"))

    message = team.until_stalled("third", "QuotaExceeded")
    assert f"allows 2 crews (quotas.namespaces.{team.namespace}.hard.crews)" in message
    assert "its crew is stalled" in team.until_stalled("beat", "QuotaExceeded", kind="heartbeat")
    assert [team.replicas(name) for name in ("echo", "second", "third")] == [1, 1, 0]
    with pytest.raises(QuotaExceeded, match="as many are older"):
        team.submit("third", agent="a")
    assert not team.store.client.keys(f"wb:{{{team.namespace}/third}}:task:*"), "nor does its heartbeat fire"
    events = machine.until(
        lambda: [e for e in team.items("events.events.k8s.io") if e["reason"] == "QuotaExceeded"],
        within=SOON,
        what="an Event tells of it",
    )
    assert any("allows 2 crews" in event["note"] for event in events)
    told = doctor(team, control_plane, quotas)
    assert any("nothing left of crews (2 of 2), queued (200 of 200)" in one for one in told), told
    team.kubectl("delete", "heartbeat", "beat")

    shares_its_workers_out(team, port)

    # One goes: the third has room at once, takes work, and gets a share.
    team.kubectl("delete", "crew", "echo", "--wait=false")
    machine.until(lambda: "Stalled" not in team.conditions("third"), within=SOON, what="the third has room")
    team.submit("third", agent="a", count=40)
    machine.until(lambda: (team.replicas("second"), team.replicas("third")) == (3, 2), within=SOON, what="its share")
    with team.worker("third").start():
        machine.until(lambda: len(team.results("third")) >= 40, within=SOON, what="it works")

    # An older crew that wants more of the queue takes the room of a younger one, which keeps what it had queued.
    team.submit("third", agent="a", count=3)
    team.kubectl("patch", "crew", "second", "--type=merge", '--patch={"spec":{"tasks":{"maxQueued":150}}}')
    message = team.until_stalled("third", "QuotaExceeded")
    assert "may queue 150 of them, and this one has tasks.maxQueued = 100" in message
    machine.until(lambda: team.replicas("third") == 0, within=SOON, what="it loses its workers")

    async def figures() -> int:
        async with Client(team.store.url) as client:
            return (await client.figures(f"{team.namespace}/third")).waiting

    assert asyncio.run(figures()) == 3


def held_by_quota(crew: dict[str, Any]) -> dict[str, str]:
    """Returns the words of its status on that; empty while something else holds its number."""
    scaling: dict[str, str] = crew["status"].get("scaling", {})
    return scaling if scaling.get("reason") == "NamespaceQuota" else {}


def shares_its_workers_out(team: Team, port: int) -> None:
    """There is work for more workers than the namespace may have."""
    team.submit("echo", agent="a", count=40)
    team.submit("second", agent="a", count=40)
    machine.until(lambda: (team.replicas("echo"), team.replicas("second")) == (3, 2), within=SOON, what="fair shares")
    scaling = machine.until(lambda: held_by_quota(team.crew("second")), within=SOON, what="it says so")
    assert f"and may have 5 (quotas.namespaces.{team.namespace}.hard.workers)" in scaling["message"]
    of = f'watchbill_operator_quota{{namespace="{team.namespace}"'
    rows = (("crews", "wanted", 3), ("workers", "used", 5), ("workers", "wanted", 8))
    wanted = {f'{of},resource="{resource}",type="{kind}"}} {number}.0' for resource, kind, number in rows}

    def told() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=120) as reply:
            return wanted <= set(reply.read().decode().splitlines())

    machine.until(told, within=SOON, what="its metrics say so")
