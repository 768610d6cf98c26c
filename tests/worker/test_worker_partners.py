"""What agents tell of their work with others, and the bus, stream, lock and limiter that they share."""

from __future__ import annotations

import pytest
import workshop
from workshop import Make

from waiting import until
from watchbill import message_names
from watchbill.api.delivery import Destination
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
        result = await crew.client.wait(crew.name, "r/a", timeout=180)
    assert result.output.endswith("has no agent 'nobody'. Name one of its agents: a, b.")
    assert await _told(crew) == await _told(crew, agent="a") == await _told(crew, run="r") == TOLD
    assert await _told(crew, agent="b") == TOLD[:4]


async def test_what_is_told_at_once_is_told_in_order_and_none_is_lost(make_crew: Make) -> None:
    crew = await make_crew([AgentDefinition(agent_id="a", agent_class="partners:many")])
    async with crew.in_process():
        await crew.submit("t", "a", "go")
        assert (await crew.client.wait(crew.name, "t", timeout=180)).output == "said"
    said = [event.message for event in await crew.events() if event.event_type == "mission_event"]
    assert said == [str(number) for number in range(50)]


@pytest.mark.parametrize("where", ["meet", "meet_sync", "meet_apart", "meet_sync_apart"])
async def test_agents_share_a_bus_a_stream_a_lock_and_a_limiter_on_keys_of_their_crew(
    make_crew: Make, where: str
) -> None:
    crew = await make_crew([AgentDefinition(agent_id="a", agent_class=f"partners:{where}")])
    prefix = crew.keys.prefix
    async with crew.in_process():
        await crew.submit("t", "a", "go")
        result = await crew.client.wait(crew.name, "t", timeout=180)
        assert result.output == [1, {"n": 1}, True, False, [True, False]], result.error
        channel = message_names.channel("news", prefix)

        async def is_closed() -> bool:
            return bool(await crew.redis.execute_command("PUBSUB", "NUMSUB", channel) == [channel, 0])

        await until(is_closed, what="the end of the bus")
    assert await crew.redis.xlen(message_names.stream("work", prefix)) == 1
    assert await crew.redis.zcard(message_names.rate_log("calls", "api", prefix)) == 1
    assert message_names.lock("door", prefix) == f"wb:{{{crew.name}}}:lock:door"


async def test_a_bus_that_can_not_be_closed_does_not_lose_the_end_of_its_task(make_crew: Make) -> None:
    crew = await make_crew([AgentDefinition(agent_id="a", agent_class="partners:leave_broken_bus")])
    async with crew.in_process():
        await crew.submit("t", "a", "go")
        assert (await crew.client.wait(crew.name, "t", timeout=180)).output == "done"


async def test_a_lock_of_a_process_that_is_killed_ends_and_its_bus_with_it(make_crew: Make) -> None:
    """A worker that goes on renews nothing for an agent that is gone."""
    crew = await make_crew([AgentDefinition(agent_id="a", agent_class="partners:holds_the_door")])
    door, channel = (of("door", crew.keys.prefix) for of in (message_names.lock, message_names.channel))

    async def listens(number: int) -> bool:
        return bool(await crew.redis.execute_command("PUBSUB", "NUMSUB", channel) == [channel, number])

    async with crew.in_process():
        await crew.submit("t", "a", "go")
        await until(lambda: listens(1), what="it has the lock, and listens")
        await crew.client.cancel(crew.name, "t")
        ended = await crew.client.wait(crew.name, "t", timeout=180)
        assert (ended.error or "").startswith("cancelled")
        await until(lambda: listens(0), what="the end of the bus")
        token = await crew.redis.hget(door, "token")
        await crew.submit("u", "a", "go")
        await until(lambda: listens(1), what="another has the lock")
        assert await crew.redis.hget(door, "token") not in (None, "", token)


async def test_a_worker_tells_of_its_agents_when_it_comes_and_goes_and_its_deliveries_of_none(make_crew: Make) -> None:
    ops = Destination.model_validate({"name": "ops", "log": {}})
    crew = await make_crew({"a": "Brief", "b": "Brief"}, delivery=[ops])
    async with crew.in_process():
        await crew.submit("t", "a")
        await crew.result("t")
        await until(lambda: crew.redis.exists(crew.keys.deliveries().events), what="a delivery")
    told = [(e.event_type, e.agent_id, e.spawn_mode) for e in await crew.events() if e.task_id is None]
    assert [one for one in told if one[0] in ("agent_spawned", "agent_stopped")] == [
        ("agent_spawned", "a", "fresh"),
        ("agent_spawned", "b", "fresh"),
        ("agent_stopped", "a", None),
        ("agent_stopped", "b", None),
    ]
    kinds = {fields["event_type"] for _, fields in await crew.redis.xrange(crew.keys.deliveries().events)}
    assert not kinds & {"agent_spawned", "agent_stopped"}
