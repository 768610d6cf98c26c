"""Heartbeats on a cluster: they fire, say when, and say why they do not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest

from e2e.cluster import machine
from e2e.cluster.control_plane import ControlPlane, Write
from e2e.control_plane import operator_team
from e2e.control_plane.operator_process import hold
from e2e.control_plane.operator_team import OPERATOR, RARELY, SOON, Team, crew, heartbeat
from otlp_collector import Collector

team = operator_team.team
store = operator_team.store
installed = operator_team.installed


def is_ready(team: Team, name: str) -> bool:
    return team.conditions(name, "heartbeat").get("Ready", ("",))[0] == "True"


def test_a_heartbeat_fires_with_a_span_each_time_and_stops_when_deleted(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Collector() as collector:
        for name, value in collector.variables().items():
            monkeypatch.setenv(name, value)
        _fires_and_stops(team, collector)


def _fires_and_stops(team: Team, collector: Collector) -> None:
    team.operator()
    team.apply(crew(), heartbeat("beat", intervalSeconds=1))
    team.until_ready()
    runs = f"wb:{{{team.namespace}/echo}}:run:*"

    def fired() -> int:
        return len([k for k in team.store.client.scan_iter(match=runs, count=1000) if str(k).count(":") == 4])

    machine.until(lambda: fired() >= 3, within=SOON, what="it fires")
    machine.until(lambda: len(collector.named("heartbeat beat")) >= 3, within=SOON, what="it says so in traces")
    for span in collector.named("heartbeat beat"):
        run = team.store.client.hget(
            f"wb:{{{team.namespace}/echo}}:run:{span.attributes['messaging.message.id']}", "payload"
        )
        assert f"00-{span.trace}-{span.id}-01" in str(run)
        assert span.resource["service.name"] == "watchbill-operator"
    machine.until(lambda: is_ready(team, "beat"), within=SOON, what="its status says that it is ready")
    machine.until(lambda: team.replicas() == 1, within=SOON, what="a worker for its work")
    team.kubectl("delete", "heartbeat", "beat")
    machine.until(lambda: not any(":heartbeat:" in k for k in team.stored()), within=SOON, what="the store forgot it")
    after = fired()
    hold(3, lambda: fired() == after, "it fired after it was deleted")


def test_a_schedule_that_is_none_is_said_and_does_not_stop_others(team: Team) -> None:
    team.operator()
    team.apply(crew(), heartbeat("bad", schedule="61 * * * *"), heartbeat("good", intervalSeconds=RARELY))
    assert "61" in team.until_stalled("bad", "InvalidSchedule", kind="heartbeat")
    team.until_ready()
    machine.until(lambda: is_ready(team, "good"), within=SOON, what="the good one is ready")
    team.apply(heartbeat("bad", schedule="1 * * * *"))
    machine.until(lambda: is_ready(team, "bad"), within=SOON, what="it is mended")
    assert "Stalled" not in team.conditions("bad", "heartbeat")


def test_a_heartbeat_that_lacks_an_input_of_its_crew_says_so_until_it_gives_it(team: Team) -> None:
    agents = [{"name": "a", "class": "EchoAgent", "prompt": "{inputs.notes}"}]
    team.operator()
    team.apply(crew(spec={"agents": agents}), heartbeat("beat", intervalSeconds=1))
    assert "Give it in spec.inputs.notes" in team.until_stalled("beat", "InvalidSpec", kind="heartbeat")
    assert not any(":heartbeat:" in key for key in team.stored())
    team.apply(heartbeat("beat", intervalSeconds=1, inputs={"notes": "of {slot}"}))
    machine.until(lambda: is_ready(team, "beat"), within=SOON, what="it is mended")
    with team.worker("echo").start():
        machine.until(lambda: any("of 20" in told for told in team.results()), within=SOON, what="its slot is told")


def test_a_heartbeat_whose_role_no_agent_has_says_so_until_one_has_it(team: Team) -> None:
    team.operator()
    team.apply(crew(), heartbeat("beat", intervalSeconds=1, role="guard"))
    assert "no agent of its crew has role 'guard'" in team.until_stalled("beat", "AgentUnavailable", kind="heartbeat")
    team.apply(crew(spec={"agents": [{"name": "a", "class": "EchoAgent", "roles": ["guard"]}]}))
    machine.until(lambda: is_ready(team, "beat"), within=SOON, what="it is mended")
    assert "Stalled" not in team.conditions("beat", "heartbeat")


def test_a_heartbeat_without_its_crew_says_so(team: Team) -> None:
    team.operator()
    team.apply(heartbeat("lost", intervalSeconds=RARELY))
    team.until_stalled("lost", "CrewNotFound", kind="heartbeat")


def test_a_heartbeat_says_when_it_fired_and_when_it_will(team: Team) -> None:
    team.operator(heartbeat_status_seconds="1")
    team.apply(crew(), heartbeat("beat", intervalSeconds=20), heartbeat("still", intervalSeconds=20, suspend=True))
    first = machine.until(
        lambda: (s := team.heartbeat().get("status", {})).get("nextFireTime") and s, within=SOON, what="it says when"
    )
    said = machine.until(
        lambda: (s := team.heartbeat()["status"]).get("lastFireTime") and s, within=SOON, what="it says that it fired"
    )
    after = _seconds(first["nextFireTime"], said["lastFireTime"])
    assert after % 20 == 0
    assert after >= 0 or "lastFireTime" in first  # whoever looks late sees a later firing
    assert _seconds(said["lastFireTime"], said["nextFireTime"]) == 20
    assert said["lastSlot"] == said["lastFireTime"]
    with team.worker("echo").start():
        machine.until(
            lambda: team.heartbeat()["status"].get("lastResult") == "completed",
            within=SOON,
            what="it says how it ended",
        )
    machine.until(
        lambda: "suspended" in team.conditions("still", "heartbeat").get("Ready", ("",) * 3)[2],
        within=SOON,
        what="the other one says that it is suspended",
    )
    assert not {"lastFireTime", "nextFireTime"} & set(team.heartbeat("still")["status"])

    def is_shown() -> bool:
        """Before or after kubectl, which may take its time."""
        before, shown = team.heartbeat(), team.kubectl("get", "heartbeat", "beat")
        return any(seen["status"]["nextFireTime"] in shown for seen in (before, team.heartbeat()))

    machine.until(is_shown, within=SOON, what="a column says when the next is")


def _seconds(since: str, until: str) -> float:
    return (datetime.fromisoformat(until) - datetime.fromisoformat(since)).total_seconds()


def test_a_heartbeat_of_a_second_is_written_every_ten_at_most_and_never_in_between_firings(
    team: Team, control_plane: ControlPlane, audit_writes: Callable[..., list[Write]]
) -> None:
    team.operator(resync_seconds="1", heartbeat_status_seconds="10")
    team.apply(crew(), heartbeat("fast", intervalSeconds=1), crew("other"))
    team.apply(heartbeat("slow", intervalSeconds=RARELY, crewRef={"name": "other"}))
    team.until_ready("echo", "other")
    machine.until(lambda: team.heartbeat("slow").get("status", {}).get("nextFireTime"), within=SOON, what="all is said")
    machine.until(lambda: is_ready(team, "fast"), within=SOON, what="but its figures")

    def written(name: str) -> list[Write]:
        return [w for w in audit_writes(since, user=OPERATOR) if w.resource == "heartbeats" and w.name == name]

    with team.worker("echo").start():
        since = control_plane.audit_position()
        before = team.heartbeat("fast")["status"].get("lastFireTime")
        machine.until(lambda: len(written("fast")) >= 3, within=2 * SOON, what="it is written again and again")
        first, _, third = (datetime.fromisoformat(write.at) for write in written("fast")[:3])
        # Between them are twice ten seconds. Where the machine stands still, the first may come late.
        assert (third - first).total_seconds() > 10, "it is written at every firing"
        assert not written("slow")
        assert team.heartbeat("fast")["status"]["lastFireTime"] != before


def test_a_heartbeat_that_was_deleted_while_the_operator_was_down_fires_no_more(team: Team) -> None:
    first = team.operator()
    team.apply(crew(), heartbeat("beat", intervalSeconds=RARELY))
    machine.until(lambda: any(":heartbeat:beat" in k for k in team.stored()), within=SOON, what="it is stored")
    first.kill()
    team.kubectl("delete", "heartbeat", "beat")
    team.operator()
    machine.until(lambda: not any(":heartbeat:" in k for k in team.stored()), within=SOON, what="the store forgot it")


def test_a_schedule_that_becomes_none_stops_firing(team: Team) -> None:
    team.operator()
    team.apply(crew(), heartbeat("beat", schedule="* * * * *"))
    machine.until(lambda: any(":heartbeat:beat" in k for k in team.stored()), within=SOON, what="it is stored")
    team.apply(heartbeat("beat", schedule="61 * * * *"))
    team.until_stalled("beat", "InvalidSchedule", kind="heartbeat")
    assert not any(":heartbeat:beat" in k for k in team.stored())
    assert "nextFireTime" not in team.heartbeat()["status"]


def test_an_annotation_has_a_heartbeat_fired_once_and_never_again_after_a_flush(team: Team) -> None:
    operator = team.operator(heartbeat_status_seconds="1")
    team.apply(crew(), heartbeat("beat", intervalSeconds=86400, suspend=True, concurrencyPolicy="Forbid"))
    team.until_ready()

    def annotate(token: str) -> str:
        team.kubectl("annotate", "heartbeat", "beat", f"watchbill.dev/run-now={token}", "--overwrite")
        said = machine.until(
            lambda: (s := team.heartbeat()["status"]).get("lastHandledRunNow") == token and s,
            within=SOON,
            what=f"{token} is handled",
        )
        return str(said["runNowMessage"])

    assert annotate("t1") == "fired hb-beat-now-t1"
    assert "'hb-beat-now-t1' has not ended" in annotate("t2"), "it counts like any other"
    assert "can't be a token" in annotate("a token")
    assert any(":run:hb-beat-now-t1" in key for key in team.stored())
    annotate("t1b")
    operator.kill()
    team.store.client.flushall()
    team.operator(heartbeat_status_seconds="1")
    machine.until(lambda: any(":heartbeat:beat" in k for k in team.stored()), within=SOON, what="it is stored again")
    hold(2, lambda: not any(":run:hb-beat" in key for key in team.stored()), "it was fired again")
