"""What the operator says of tasks that wait for a worker that has their agent."""

from __future__ import annotations

from test_figures_shown import NoHeartbeats, PrivateRedis, no_crew

from watchbill import connection
from watchbill.controller.memory import CrewMemory
from watchbill.controller.parked import PARKED_SECONDS
from watchbill.controller.stored import Stored
from watchbill.names import CrewKeys
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.store import submissions
from watchbill.store.queue import Queue
from watchbill.store.submissions import Submission
from watchbill.testing import FakeClock


async def test_an_agent_whose_tasks_are_parked_soon_after_another_s_is_named_when_that_may_be_read_again(
    private_redis: PrivateRedis,
) -> None:
    clock, memory, keys = FakeClock(), CrewMemory(), CrewKeys("team", "c")
    seen = {"metadata": {"uid": "u", "generation": 1}, "status": {"observedGeneration": 1}}
    agents = [AgentDefinition(agent_id=name, agent_class="EchoAgent") for name in "ab"]
    async with connection.connected((await private_redis()).url) as client:
        stored, queue = Stored(client, NoHeartbeats(), "me", no_crew, clock=clock), Queue(client, keys, "u")

        async def told() -> tuple[list[str], float | None]:
            definition = CrewDefinition(name="c", agents=agents)
            state = await stored.sync(("team", "c"), seen, definition, [], memory)
            assert state is not None
            return list(state.unavailable), state.parked_in

        async def park(agent: str, number: int) -> None:
            await submissions.submit(client, keys, "u", [Submission(f"t-{agent}", agent, "{}")], max_queued=100)
            claimed = (await queue.claim("w", number, 1, lease_ms=60_000, take_over=False)).tasks
            await queue.park("w", claimed, "nobody has it")

        assert await told() == ([], None)
        await park("a", 1)
        assert await told() == (["a"], None)
        clock.advance(3)
        await park("b", 2)
        assert await told() == (["a"], PARKED_SECONDS - 3)
        clock.advance(PARKED_SECONDS - 3)
        assert await told() == (["a", "b"], None)
