"""What an event holds, how it is built, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from watchbill.errors import InvalidInput
from watchbill.events import EventType, SpawnMode, TownEvent
from watchbill.testing import FakeClock

pytestmark = pytest.mark.pure

SEED = """agent_state_changed agent_spawned agent_stopped task_assigned task_completed task_failed mission_state_changed
mission_work_promoted mission_work_assigned mission_work_completed mission_work_blocked mission_help_needed
mission_watch_triggered mission_event task_delegated agent_interrupted agent_resumed agent_completed agent_failed
reviewer_handoff reviewer_approval conductor_escalation"""


def test_all_types_of_the_seed_are_there_and_are_their_text() -> None:
    assert set(SEED.split()) <= {str(kind) for kind in EventType}
    assert len(SEED.split()) == 22
    assert {str(kind) for kind in EventType} - set(SEED.split()) == {"task_cancelled", "worker_lost"}


def test_a_new_event_is_of_now_and_says_nothing_else() -> None:
    event = TownEvent.new(EventType.TASK_FAILED, "it broke", clock=FakeClock())
    assert event.model_dump_json(exclude_none=True) == (
        '{"event_type":"task_failed","message":"it broke","timestamp":"2026-01-01T00:00:00Z"}'
    )


def test_every_builder_sets_its_field_in_a_copy() -> None:
    first = TownEvent.new("task_delegated", "", clock=FakeClock())
    full = (
        first.with_agent("a")
        .with_task("t")
        .with_mission("m")
        .with_transition("idle", "working")
        .with_parent_agent("p")
        .with_child_agent("c")
        .with_scope("the sources")
        .with_spawn_mode(SpawnMode.FORKED_CONTEXT)
    )
    assert full.model_dump(mode="json") == {
        "event_type": "task_delegated",
        "agent_id": "a",
        "task_id": "t",
        "mission_id": "m",
        "old_state": "idle",
        "new_state": "working",
        "message": "",
        "timestamp": "2026-01-01T00:00:00Z",
        "parent_agent_id": "p",
        "child_agent_id": "c",
        "scope": "the sources",
        "spawn_mode": "forked_context",
    }
    assert first == TownEvent.new(EventType.TASK_DELEGATED, "", clock=FakeClock())


def test_spawn_modes_are_those_of_the_seed() -> None:
    assert [str(mode) for mode in SpawnMode] == ["fresh", "forked_context", "resumed"]
    assert TownEvent.new("agent_spawned", "").with_spawn_mode("resumed").spawn_mode is SpawnMode.RESUMED


@pytest.mark.parametrize(
    ("agents", "streams"),
    [
        ((None, None, None), ()),
        (("a", None, None), ("a",)),
        (("a", "p", "c"), ("a", "p", "c")),
        (("a", "a", "c"), ("a", "c")),
        (("a", "p", "a"), ("a", "p")),
        (("a", "p", "p"), ("a", "p")),
        ((None, "p", "p"), ("p",)),
    ],
)
def test_an_event_belongs_to_each_of_its_agents_once(agents: tuple[Any, Any, Any], streams: tuple[str, ...]) -> None:
    event = TownEvent.new("task_delegated", "")
    for agent, build in zip(agents, ("with_agent", "with_parent_agent", "with_child_agent"), strict=True):
        event = getattr(event, build)(agent) if agent else event
    assert event.agents == streams


@pytest.mark.parametrize(
    ("build", "path"),
    [
        (lambda: TownEvent.new("task_lost", ""), "event_type"),
        (lambda: TownEvent.new("task_failed", 7), "message"),  # type: ignore[arg-type]
        (lambda: TownEvent.new("task_failed", "").with_agent(""), "agent_id"),
        (lambda: TownEvent.new("task_failed", "").with_mission(7), "mission_id"),  # type: ignore[arg-type]
        (lambda: TownEvent.new("task_failed", "").with_transition("idle", ""), "new_state"),
        (lambda: TownEvent.new("task_failed", "").with_spawn_mode("warm"), "spawn_mode"),
    ],
)
def test_what_can_not_be_used_is_refused_by_its_name(build: Callable[[], TownEvent], path: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        build()
    assert [problem.path for problem in refused.value.problems] == [path]


def test_a_time_without_a_zone_is_utc() -> None:
    written = {"event_type": "mission_event", "message": "", "timestamp": "2026-01-02T03:04:05"}
    event = TownEvent.model_validate(written)
    assert event.timestamp == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert json.loads(event.model_dump_json())["timestamp"] == "2026-01-02T03:04:05Z"
