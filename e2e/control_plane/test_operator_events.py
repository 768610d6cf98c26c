"""Kubernetes Events: what people see of a crew by `kubectl describe`, and how few writes that costs."""

from __future__ import annotations

import asyncio
import time

import pytest

from e2e.cluster import machine
from e2e.cluster.control_plane import ControlPlane, Write
from e2e.control_plane import operator_team
from e2e.control_plane.operator_team import NARROW, OPERATOR, RELEASE, SOON, Team, crew, heartbeat
from watchbill import background, connection
from watchbill.clock import SYSTEM
from watchbill.controller.events import BURST, Events
from watchbill.kubernetes_api import KubernetesApi
from watchbill.names import CrewKeys
from watchbill.plan.budget import Amount, binding
from watchbill.plan.events import Told
from watchbill.store import budgets as store_budgets
from watchbill.store import definitions
from watchbill.testing import FakeClock

team = operator_team.team
store = operator_team.store
installed = operator_team.installed


def told(team: Team, name: str) -> list[tuple[str, str, str]]:
    """For each Event of the crew its type, reason and note."""
    found = team.items("events.v1.events.k8s.io")
    return [(e["type"], e["reason"], e["note"]) for e in found if e["regarding"]["name"] == name]


def test_describe_tells_of_scaling_with_figures_of_refusals_and_of_their_end(team: Team) -> None:
    team.operator()
    template = {"spec": {"containers": [{"name": "worker", "imagge": "x"}]}}
    team.apply(crew("typo", template=template), crew())
    team.until_ready("echo")
    team.until_stalled("typo", "TemplateInvalid")
    machine.until(lambda: told(team, "typo"), within=SOON, what="the refusal is told")
    described = team.kubectl("describe", "crew", "typo")
    assert "TemplateInvalid" in described.partition("Events:")[2]
    assert "imagge" in described.partition("Events:")[2]
    team.apply(crew("typo"))
    machine.until(lambda: "Recovered" in str(told(team, "typo")), within=SOON, what="its end is told")
    assert sorted(kind for kind, *_ in told(team, "typo")) == ["Normal", "Warning"]

    team.submit()
    machine.until(lambda: team.replicas() == 1, within=SOON, what="one worker")
    team.submit(count=24)
    machine.until(lambda: team.replicas() == 3, within=SOON, what="three workers")
    machine.until(lambda: told(team, "echo"), within=SOON, what="the scaling is told")
    for kind, reason, note in told(team, "echo"):
        assert (kind, reason) == ("Normal", "Scaled")
        assert " workers instead of " in note
        assert "tasks wait, 0 run; each worker runs 10" in note
        assert not note.startswith("1 workers"), "one for each 0 to 1"


def test_a_heartbeat_tells_of_slots_that_were_missed(team: Team) -> None:
    """The slots go by while no operator runs."""
    settings = {"heartbeat_status_seconds": "1"}
    running = team.operator(**settings)
    team.apply(crew(), heartbeat("beat", intervalSeconds=3, agent="a", prompt="look"))
    machine.until(lambda: team.heartbeat().get("status", {}).get("lastSlot"), within=SOON, what="it fires")
    running.kill()
    last = team.store.client.hget(f"wb:{{{team.namespace}/echo}}:heartbeat:beat", "next")
    machine.until(lambda: time.time() * 1000 > float(str(last)) + 7000, within=SOON, what="three slots have passed")
    running.start()
    machine.until(lambda: told(team, "beat"), within=SOON, what="that they were missed is told")
    ((kind, reason, note),) = set(told(team, "beat"))
    assert (kind, reason) == ("Warning", "SlotsMissed")
    assert f"watchbill events {team.namespace}/echo" in note
    assert "SlotsMissed" in team.kubectl("describe", "heartbeat", "beat").partition("Events:")[2]
    machine.until(lambda: team.heartbeat()["status"].get("missedSlots"), within=SOON, what="the status says how many")


FAILS = """
class Fails:
    async def run(self, context):
        raise ValueError("no")
"""


def test_describe_tells_of_dead_letters_and_of_a_budget_that_is_spent(team: Team) -> None:
    (team.folder / "fails.py").write_text(FAILS)
    agents = [{"name": "a", "class": "fails:Fails"}]
    budgets = [{"name": "all", "tokens": 100}]
    team.operator()
    team.apply(crew(spec={"agents": agents, "tasks": {"maxAttempts": 1}, "budgets": budgets}))
    team.until_ready()
    with team.worker("echo", folders=str(team.folder), allow_modules="fails").start():
        team.submit(agent="a")
        machine.until(lambda: "DeadLetters" in str(told(team, "echo")), within=SOON, what="the dead letter is told")
    asyncio.run(spend(team, 90, 20))
    team.submit(agent="a")
    machine.until(lambda: "BudgetExhausted" in str(told(team, "echo")), within=SOON, what="the budget is told")
    described = team.kubectl("describe", "crew", "echo").partition("Events:")[2]
    assert f"watchbill dead list {team.namespace}/echo" in described
    assert {kind for kind, reason, _ in told(team, "echo") if reason in ("DeadLetters", "BudgetExhausted")} == {
        "Warning"
    }


async def spend(team: Team, *tokens: int) -> None:
    """Requests to a model that take so many, each that there is room for."""
    keys = CrewKeys(team.namespace, "echo")
    async with connection.connected(team.store.url) as client:
        definition = (await definitions.current(client, keys)).definition
        limits = list(binding(definition.budgets, "a", "", SYSTEM.now()))
        uid = team.meta()["uid"]
        for number, most in enumerate(map(Amount, tokens)):
            request = store_budgets.Request(f"{number}", "m", keys.task("t"), most, limits, keys.reserved(0))
            await store_budgets.reserve(client, keys, uid, definition.digest(), request)
            await store_budgets.settle(client, keys, uid, [store_budgets.Settlement(request, most)])


def test_a_hundred_changes_make_few_writes_and_the_series_counts_them(
    team: Team, control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    team.apply(crew())
    metadata = team.crew()["metadata"]
    kubeconfig = control_plane.service_account_kubeconfig(NARROW, RELEASE)
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
    since = control_plane.audit_position()

    def written() -> list[Write]:
        return [write for write in control_plane.writes(since, user=OPERATOR) if write.resource == "events"]

    async def change() -> None:
        clock = FakeClock()

        async def until_written(count: int, turn: float) -> None:
            """`turn`: seconds by which the clock is turned between two looks."""
            async with asyncio.timeout(SOON):
                while len(written()) < count:
                    clock.advance(turn)
                    await asyncio.sleep(0.02)

        async with await KubernetesApi.connect() as kubernetes:
            events = Events(kubernetes, "operator-0", clock)
            for i in range(100):
                events.tell("crews", metadata, [Told("Scaled", "Scale", f"{i} workers")])
            running = asyncio.create_task(events.run())
            await until_written(BURST, 0.02)  # slowly, or a late answer would let the time come to count up the series
            events.tell("crews", metadata, [Told("Scaled", "Scale", f"{BURST - 1} workers")])
            await until_written(BURST + 1, 1)
            await background.end(running)

    asyncio.run(change())
    assert [write.verb for write in written()] == ["create"] * BURST + ["patch"]
    found = [e.get("series", {}).get("count", 1) for e in team.items("events.v1.events.k8s.io")]
    assert sorted(found) == [1] * (BURST - 1) + [102 - BURST]
