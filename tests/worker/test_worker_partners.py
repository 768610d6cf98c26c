"""What agents tell of their work with others, on the feeds of all whom it concerns."""

from __future__ import annotations

import pytest
import workshop
from workshop import Make

from watchbill.records import AgentDefinition

TOLD = [
    ("task_delegated", None, "b", "the sources", "forked_context", "find them"),
    ("reviewer_handoff", None, "b", "the draft", None, "read it"),
    ("reviewer_approval", "b", None, None, None, "well done"),
    ("conductor_escalation", "b", None, None, None, "which is first?"),
    ("conductor_escalation", None, None, None, None, "anybody?"),
]
KINDS = {kind for kind, *_ in TOLD}


async def _told(crew: workshop.Crew, **which: str) -> list[tuple[str | None, ...]]:
    found = [event for event in await crew.events(**which) if event.event_type in KINDS]
    assert {(e.agent_id, e.task_id, e.mission_id) for e in found} == {("a", "r/a", "r")}
    return [(e.event_type, e.parent_agent_id, e.child_agent_id, e.scope, e.spawn_mode, e.message) for e in found]


@pytest.mark.parametrize("where", ["on_loop", "in_thread", "InProcess"])
async def test_an_agents_work_with_another_is_told_to_both_and_to_the_run(make_crew: Make, where: str) -> None:
    agents = [AgentDefinition(agent_id="a", agent_class=f"partners:{where}"), AgentDefinition(agent_id="b")]
    crew = await make_crew(agents)
    async with crew.in_process():
        await crew.submit("r")
        result = await crew.client.wait(crew.name, "r/a", timeout=60)
    assert result.output.endswith("has no agent 'nobody'. Name one of its agents: a, b.")
    assert await _told(crew) == await _told(crew, agent="a") == await _told(crew, run="r") == TOLD
    assert await _told(crew, agent="b") == TOLD[:4]


async def test_what_is_told_at_once_is_told_in_order_and_none_is_lost(make_crew: Make) -> None:
    crew = await make_crew([AgentDefinition(agent_id="a", agent_class="partners:many")])
    async with crew.in_process():
        await crew.submit("t", "a", "go")
        assert (await crew.client.wait(crew.name, "t", timeout=60)).output == "said"
    said = [event.message for event in await crew.events() if event.event_type == "mission_event"]
    assert said == [str(number) for number in range(50)]
