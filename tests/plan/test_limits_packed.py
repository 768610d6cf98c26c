"""The limits and roles of agents as the store's scripts take them apart."""

from __future__ import annotations

import pytest

from watchbill.plan import limits
from watchbill.plan.whereabouts import AgentLimit
from watchbill.records import AgentDefinition

pytestmark = pytest.mark.pure


def agent(name: str, **fields: object) -> AgentDefinition:
    return AgentDefinition.model_validate({"agent_id": name, **fields})


def test_a_role_names_its_agents_by_their_places_and_those_without_either_are_left_out() -> None:
    rate = {"requests": 2, "periodSeconds": 1, "burst": 3}
    packed = limits.pack(
        [
            agent("plain"),
            agent("ann", roles=["reviewer", "writer"]),
            agent("limited", max_concurrent=4),
            agent("bob", roles=["reviewer"], rate_limit=rate, max_concurrent=1),
        ]
    )
    assert packed.split("\x1e") == [
        "ann\x1f\x1f\x1f",
        "limited\x1f4\x1f\x1f",
        "bob\x1f1\x1f500000\x1f3",
        "role:reviewer\x1f\x1f\x1f\x1f1,3",
        "role:writer\x1f\x1f\x1f\x1f1",
    ]
    assert limits.pack([agent("plain")]) == ""


def test_a_task_that_waits_for_a_role_says_so() -> None:
    limit = AgentLimit(running=3, most=None, every_seconds=None, burst=1, next_seconds=0.0, before=2, role="reviewer")
    assert limits.told("", limit) == (
        "no agent of role 'reviewer' has room by its maxConcurrent and its rateLimit; they run 3 tasks; 2 tasks of the "
        "role come first",
        None,
        "unknown: when a task of one of them ends, or its rate lets one start",
    )
