"""What a Heartbeat asks, and what its status says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from watchbill.api import Heartbeat
from watchbill.api.conditions import Reason
from watchbill.plan import heartbeat
from watchbill.records import AgentDefinition, CrewDefinition

pytestmark = pytest.mark.pure

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = datetime(2026, 3, 1, 13, tzinfo=UTC)


def seen(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "beat", "generation": 3}, "status": status}


def resource(**spec: Any) -> Heartbeat:
    return Heartbeat.model_validate(
        {"metadata": {"name": "beat"}, "spec": {"crewRef": {"name": "blog"}, "intervalSeconds": 60, **spec}}
    )


def observed(**fields: Any) -> heartbeat.Observed:
    known = {"last": NOW, "following": LATER, "slot": NOW, "work": "hb-1", "result": "running", "missed": 0}
    return heartbeat.Observed(**{**known, **fields})


FIRES = heartbeat.fires(resource())


def test_one_that_fires_is_ready_and_says_when() -> None:
    status = heartbeat.status(seen(), FIRES, observed(missed=2), now=NOW)
    assert (status["lastSlot"], status["lastWork"], status["lastResult"]) == ("2026-03-01T12:00:00Z", "hb-1", "running")
    assert status["missedSlots"] == 2
    assert [(c["type"], c["status"], c["reason"]) for c in status["conditions"]] == [("Ready", "True", "Available")]
    assert (status["lastFireTime"], status["nextFireTime"]) == ("2026-03-01T12:00:00Z", "2026-03-01T13:00:00Z")
    assert status["observedGeneration"] == 3


def test_what_is_not_known_is_left_out() -> None:
    status = heartbeat.status(seen(), FIRES, observed(last=None, following=None, slot=None, work=""), now=NOW)
    assert set(status) == {"observedGeneration", "conditions"}
    assert set(heartbeat.status(seen(), FIRES, None, now=NOW)) == {"observedGeneration", "conditions"}


def test_the_newest_slot_that_was_fired_outlives_a_store_that_lost_it() -> None:
    before = {"lastSlot": "2026-03-01T13:00:00Z", "nextFireTime": "2026-03-01T14:00:00Z"}
    assert heartbeat.last_slot(seen(**before)) == LATER
    assert heartbeat.last_slot(seen()) is None
    for now_known in (observed(), observed(slot=None), None):
        assert heartbeat.status(seen(**before), FIRES, now_known, now=NOW)["lastSlot"] == "2026-03-01T13:00:00Z"
    status = heartbeat.status(seen(lastSlot="2026-03-01T11:00:00Z"), FIRES, observed(), now=NOW)
    assert status["lastSlot"] == "2026-03-01T12:00:00Z"


def test_a_result_is_kept_when_its_record_has_expired_and_not_taken_for_that_of_other_work() -> None:
    before = {"lastWork": "hb-1", "lastResult": "failed"}
    assert heartbeat.status(seen(**before), FIRES, observed(result=""), now=NOW)["lastResult"] == "failed"
    assert "lastResult" not in heartbeat.status(seen(**before), FIRES, observed(work="hb-2", result=""), now=NOW)


def test_a_run_now_is_asked_for_once_by_each_value_of_its_annotation() -> None:
    asking = seen()
    assert heartbeat.run_now(asking) == ""
    asking["metadata"]["annotations"] = {"watchbill.dev/run-now": "t1"}
    assert heartbeat.run_now(asking) == "t1"
    status = heartbeat.status(asking, FIRES, None, now=NOW, handled=("t1", "fired x"))
    assert (status["lastHandledRunNow"], status["runNowMessage"]) == ("t1", "fired x")
    assert heartbeat.run_now({**asking, "status": status}) == ""
    again = heartbeat.status({**asking, "status": status}, FIRES, None, now=NOW)
    assert (again["lastHandledRunNow"], again["runNowMessage"]) == ("t1", "fired x"), "after a restart"
    asking["metadata"]["annotations"] = {"watchbill.dev/run-now": "t2"}
    assert heartbeat.run_now({**asking, "status": status}) == "t2"


def test_a_suspended_one_says_so() -> None:
    assert "suspend" in heartbeat.fires(resource(suspend=True))[1]
    assert "suspend" not in heartbeat.fires(resource())[1]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"agent": "nobody"}, "its crew has no agent 'nobody': each task that it fires fails"),
        ({"role": "guard"}, "no agent of its crew has role 'guard': its slots are missed until one has"),
    ],
)
def test_one_whose_agent_or_role_the_crew_has_no_more_says_so(spec: dict[str, Any], told: str) -> None:
    assert heartbeat.fires(resource(**spec), None, crew()) == (Reason.AGENT_UNAVAILABLE, told)
    assert heartbeat.fires(resource(**spec), None, None) == FIRES, "of a crew that can't run nothing is known"
    rest = heartbeat.at_rest(suspended=True)
    assert heartbeat.fires(resource(**spec), rest, crew()) == rest
    both = [AgentDefinition(agent_id="nobody", roles=["guard"])]
    assert heartbeat.fires(resource(**spec), None, CrewDefinition(name="blog", agents=both)) == FIRES


def test_one_that_does_not_fire_is_stalled_since_it_stopped() -> None:
    fired = heartbeat.status(seen(), FIRES, None, now=NOW)
    stalled = heartbeat.status(seen(**fired), (Reason.INVALID_SCHEDULE, "61"), None, now=LATER)
    assert [(c["type"], c["status"], c["reason"]) for c in stalled["conditions"]] == [
        ("Ready", "False", "InvalidSchedule"),
        ("Stalled", "True", "InvalidSchedule"),
    ]
    assert stalled["conditions"][0]["lastTransitionTime"] == "2026-03-01T13:00:00Z"
    again = heartbeat.status(seen(**stalled), (Reason.INVALID_SCHEDULE, "61"), None, now=NOW)
    assert again == stalled


def test_slot_and_now_stand_for_times_in_the_zone_of_the_heartbeat() -> None:
    text = "Since {slot}, at {now}. {{slot}} {slots} {{now}} {input}"
    asked = heartbeat.asked(text, slot=NOW, now=NOW.replace(second=3, microsecond=9), zone="Europe/Berlin")
    assert asked == ("Since 2026-03-01T13:00:00+01:00, at 2026-03-01T13:00:03+01:00. {slot} {slots} {now} {input}")


def crew(prompt: str | None = "{inputs.log}") -> CrewDefinition:
    agents = [AgentDefinition(agent_id="a", prompt=prompt), AgentDefinition(agent_id="b")]
    return CrewDefinition(name="blog", agents=agents)


def test_an_input_that_the_crew_cites_and_the_heartbeat_lacks_is_told() -> None:
    (found,) = heartbeat.lacks(resource(), crew())
    assert (found.path, found.fix) == ("spec.inputs.log", "Give it in spec.inputs.log.")
    assert [problem.path for problem in heartbeat.lacks(resource(agent="a"), crew())] == ["spec.inputs.log"]


@pytest.mark.parametrize(
    ("spec", "definition"),
    [
        ({"inputs": {"log": "text"}}, crew()),
        ({"agent": "b"}, crew()),
        ({"agent": "nobody"}, crew()),
        ({}, crew(None)),
        ({}, None),
    ],
)
def test_nothing_is_told_where_nothing_is_missing(spec: dict[str, Any], definition: CrewDefinition | None) -> None:
    assert heartbeat.lacks(resource(**spec), definition) == []
