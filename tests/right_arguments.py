"""Arguments that are right, for tests that call every public method."""

from __future__ import annotations

from typing import Any

from watchbill.events import TownEvent

RIGHT: dict[str, Any] = {
    "crew": "crew",
    "prompt": "x",
    "agent": "agent",
    "tasks": ["x"],
    "heartbeat": "beat",
    "task_id": "a",
    "run_id": "a",
    "delivery_id": "a",
    "session_id": "a",
    "letter_or_task": "a",
    "worker": "w",
    "sources": ["folder"],
    "task": {"agent_name": "Bot", "prompt": "x"},
    "channel": "a",
    "count": 1,
    "consumer": "c",
    "consumer_name": "c",
    "crew_id": "a",
    "data": {"a": 1},
    "event": TownEvent.new("agent_spawned", "x"),
    "group": "g",
    "group_name": "g",
    "handler": print,
    "key": "a",
    "message": "a",
    "message_data": {"a": 1},
    "mission_id": "m",
    "name": "a",
    "prefix": "p",
    "sample_size": 1,
    "stream_name": "s",
    "town_name": "t",
    "agent_id": "a",
    "value": "a",
    "rate": 1,
}
"""A value for each parameter that has no default, whatever method has it."""
