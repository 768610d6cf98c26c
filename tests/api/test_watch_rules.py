"""Watches in a Crew's spec: what is taken, and how what is wrong is told."""

from __future__ import annotations

from typing import get_args

import pytest
from reading import CREW, only, read

from watchbill.api.watches import State, Watched
from watchbill.event_types import EventType
from watchbill.records import CrewDefinition, from_crew, to_crew
from watchbill.tasks import RunState

pytestmark = pytest.mark.pure


def watching(*watches: str) -> str:
    return CREW + "  watches:\n" + "".join(f"    - {{{one}}}\n" for one in watches)


def test_every_type_is_there_but_those_that_name_no_work_and_those_that_watches_tell() -> None:
    assert set(get_args(Watched)) == set(EventType) - {
        EventType.AGENT_SPAWNED,
        EventType.AGENT_STOPPED,
        EventType.AGENT_STATE_CHANGED,
        EventType.WORKER_LOST,
        EventType.MISSION_EVENT,
        EventType.MISSION_WATCH_TRIGGERED,
    }
    assert set(get_args(State)) == set(RunState) - {RunState.CREATING}


def test_watches_are_kept_by_the_crews_record() -> None:
    (crew,) = read(watching("name: mend, events: [task_failed], ofAgent: writer, agent: writer, prompt: x")).crews
    definition = CrewDefinition.model_validate_json(from_crew(crew).model_dump_json(), extra="ignore")
    assert to_crew(definition, "default").spec.watches == crew.spec.watches
    assert crew.spec.watches[0].priority == "NORMAL"


@pytest.mark.parametrize(
    ("watch", "path", "reason"),
    [
        ("name: w", "events", "missing"),
        ("name: w, events: []", "events", "there is no entry"),
        ("name: w, events: [task_vanished]", "events[0]", "task_vanished"),
        ("name: w, events: [mission_watch_triggered]", "events[0]", "mission_watch_triggered"),
        ("name: w, events: [task_failed, task_failed]", "events", "listed twice"),
        ("name: W_, events: [task_failed]", "name", "W_"),
        ("name: w, events: [task_failed], agent: nobody", "agent", "no agent of this crew is called 'nobody'"),
        ("name: w, events: [task_failed], ofAgent: nobody", "ofAgent", "no agent of this crew is called 'nobody'"),
        ("name: w, events: [task_failed], states: [failed]", "states", "states are those of runs"),
        ("name: w, events: [mission_state_changed], states: [creating]", "states[0]", "creating"),
        ("name: w, events: [mission_state_changed], ofAgent: writer", "ofAgent", "the state of a run is no agent's"),
        ("name: w, events: [task_failed], priority: SOON", "priority", "SOON"),
        ("name: w, events: [task_failed], role: nobody", "role", "no agent of this crew has the role 'nobody'"),
        ("name: w, events: [task_failed], role: 'role:x'", "role", "role:x"),
    ],
)
def test_what_is_wrong_is_told_with_its_field(watch: str, path: str, reason: str) -> None:
    problem = only(watching(watch))
    assert (problem.path, reason in str(problem)) == (f"spec.watches[0].{path}", True), problem


def test_two_watches_of_one_name_and_too_many_are_refused() -> None:
    one = "name: w, events: [task_failed]"
    assert "'w' stands twice" in only(watching(one, one)).reason
    many = [f"name: w{i}, events: [task_failed]" for i in range(21)]
    assert only(watching(*many)).path == "spec.watches"


def test_a_watch_names_an_agent_or_a_role_that_one_has() -> None:
    one = CREW.replace("- name: writer\n", "- name: writer\n      roles: [editor]\n")
    assert one != CREW
    watch = "  watches:\n    - {name: w, events: [task_failed], role: editor%s}\n"
    (crew,) = read(one + watch % "").crews
    assert crew.spec.watches[0].role == "editor"
    problem = only(one + watch % ", agent: writer")
    assert (problem.path, problem.reason) == ("spec.watches[0].role", "agent and role are both given")
    problem = only(one + "  watches: [{name: w, events: [task_failed], role: editors}]\n")
    assert problem.fix == "Give it to an agent (agents[].roles), or name one that is there: editor."
