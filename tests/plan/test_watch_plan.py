"""The work that an event begins by a crew's watches: which events, which prompt, and what would go on for ever."""

from __future__ import annotations

import json
from typing import Any

import pytest

from watchbill.api.watches import Watch
from watchbill.event_types import TownEvent
from watchbill.plan import watches
from watchbill.records import AgentDefinition, CrewDefinition

pytestmark = pytest.mark.pure


def watch(name: str = "w", *events: str, **fields: Any) -> Watch:
    return Watch.model_validate({"name": name, "events": list(events) or ["task_failed"], **fields})


def crew(*of: Watch, **agents: str) -> CrewDefinition:
    """`agents`: their prompts."""
    listed = [AgentDefinition(agent_id=name, prompt=prompt) for name, prompt in (agents or {"a": "{input}"}).items()]
    return CrewDefinition(name="crew", agents=listed, watches=list(of))


def failed(**fields: Any) -> TownEvent:
    named = {"agent_id": "a", "task_id": "t1", **fields}
    return TownEvent.new("task_failed", "why").model_copy(update=named)


def test_a_watch_is_for_events_of_its_types_its_agent_and_its_states() -> None:
    def fits(one: Watch, event: TownEvent) -> bool:
        return watches.matches(one, event, crew(a="x", b="y"))

    assert fits(watch(), failed())
    assert not fits(watch("w", "task_completed"), failed())
    assert fits(watch(ofAgent="a"), failed())
    assert not fits(watch(ofAgent="b"), failed())
    changed = TownEvent.new("mission_state_changed", "").with_mission("r").with_transition("running", "failed")
    assert fits(watch("w", "mission_state_changed"), changed)
    assert fits(watch("w", "mission_state_changed", states=["partial", "failed"]), changed)
    assert not fits(watch("w", "mission_state_changed", "task_failed", states=["completed"]), changed)
    assert fits(watch("w", "mission_state_changed", "task_failed", states=["completed"]), failed())


def test_a_watch_of_a_heartbeat_is_for_what_that_has_fired() -> None:
    payload = json.dumps({"prompt": "x", "metadata": {"heartbeat": "nightly"}})
    assert watches.is_of(watch(ofHeartbeat="nightly"), payload)
    assert not watches.is_of(watch(ofHeartbeat="daily"), payload)
    assert not watches.is_of(watch(ofHeartbeat="nightly"), None)
    assert watches.is_of(watch(), payload)
    assert watches.is_of(watch(), None)


def test_an_event_that_names_neither_task_nor_run_begins_nothing() -> None:
    assert not watches.matches(watch(), failed(task_id=None), crew())


def test_a_prompt_cites_the_event() -> None:
    text = "{event.event_type} of {event.task_id} ({event.agent_id}): {event.message}; {event.mission_id}"
    text += "{{event.message}} {x}"
    event = failed(message="{event.task_id}")
    assert watches.asked(text, event) == "task_failed of t1 (a): {event.task_id}; {event.message} {x}"


def test_the_watches_that_led_to_an_event_stand_in_the_payload_of_its_task() -> None:
    payload = json.dumps({"prompt": "x", "metadata": {"watches": ["one", "two"], "event": "5-0"}})
    for named in ({"task_id": "watch-two-5-0"}, {"mission_id": "watch-two-5-0"}, {"task_id": "watch-two-5-0/a"}):
        assert watches.chain(failed(**named), payload) == ("one", "two")
    assert watches.chain(failed(), json.dumps({"prompt": "x", "metadata": {}})) == ()
    assert watches.chain(failed(), None) == (), "nobody's record is gone"
    assert watches.chain(failed(task_id="watch-one-5-0/a"), None) is None
    assert watches.chain(failed(mission_id="watch-one-5-0", task_id=None), None) is None
    for foreign in ("", "[]", "{}", '{"metadata": []}', '{"metadata": {"watches": 5}}'):
        assert watches.chain(failed(), foreign) == ()


def test_what_people_call_watches_in_their_own_metadata_hides_nothing() -> None:
    mine: list[dict[str, Any]] = [
        {"watches": ["w"]},
        {"watches": list("abcde")},
        {"watches": ["w"], "event": "5-0"},
        {"watches": []},
    ]
    for own in mine:
        assert watches.chain(failed(), json.dumps({"metadata": own})) == ()
        assert watches.chain(failed(task_id="watch-other-5-0"), json.dumps({"metadata": own})) == ()


def test_a_circle_and_a_long_way_end() -> None:
    one, event = watch("one"), failed()
    assert watches.is_own(one, ("two", "one"))
    assert not watches.is_own(one, ("one", "two"))
    assert not watches.is_own(one, ())
    assert not watches.is_own(one, None)
    assert watches.refusal(one, event, ()) == watches.refusal(one, event, tuple("abcd")) == ""
    assert watches.refusal(one, event, ("one", "two")) == (
        "watch one: task_failed of t1 begins nothing: it would go round in a circle (one → two → one)"
    )
    assert watches.refusal(one, event, tuple("abcde")) == (
        "watch one: task_failed of t1 begins nothing: 5 watches have led to it already (a → b → c → d → e)"
    )
    assert watches.refusal(one, event, None).endswith("the record is gone that says which watches have led to it")


@pytest.mark.parametrize(
    ("given", "agents", "path", "reason"),
    [
        ({"prompt": "{event.tsk}"}, {}, "spec.watches[0].prompt", "cites {event.tsk}, which no event has"),
        ({"inputs": {"log": "{event.x}"}}, {}, "spec.watches[0].inputs.log", "cites {event.x}, which no event has"),
        ({}, {"a": "{inputs.log}"}, "spec.watches[0].inputs.log", "cites {inputs.log}, but no such input was given"),
        ({"agent": "b"}, {"a": "x", "b": "{steps.a}"}, "spec.watches[0].agent", "exists only in a run"),
    ],
)
def test_what_a_watch_could_not_do_is_found_before_it_is_stored(
    given: dict[str, Any], agents: dict[str, str], path: str, reason: str
) -> None:
    [problem] = watches.check(crew(watch(**given), **agents))
    assert (problem.path, reason in problem.reason) == (path, True), problem
    assert watches.check(crew(watch(prompt="{event.task_id} {{event.x}} {x}"))) == []
    assert watches.check(crew(watch(inputs={"log": "{event.message}"}), a="{inputs.log}")) == []
