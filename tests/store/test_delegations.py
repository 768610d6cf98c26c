"""Steps that work for another one, on a real server: begun once, waited for, cancelled and replayed with their run."""

from __future__ import annotations

from asks import ask_to_cancel
from support import MANY, Crew

from watchbill.api.hierarchy import Hierarchy
from watchbill.plan.hierarchy import Asked, Delegated
from watchbill.records import AgentDefinition, CrewDefinition, ExecutionMode
from watchbill.store import dead, definitions, delegations, packed, runs
from watchbill.store.dead import Replayed
from watchbill.store.queue import Claimed
from watchbill.tasks import RunState


def team(prompt: str = "lead") -> CrewDefinition:
    agents = [AgentDefinition(agent_id="lead", prompt=prompt), AgentDefinition(agent_id="coder")]
    return CrewDefinition(
        name="test", execution_mode=ExecutionMode.HIERARCHICAL, agents=agents, hierarchy=Hierarchy(manager="lead")
    )


async def delegate(crew: Crew, task: Claimed, *numbers: int) -> None:
    for number in numbers:
        work = Delegated(f"lead:{number}", "coder", Asked(f"do {number}"))
        assert await delegations.delegate(crew.queue, "w", task, work, "do it")


async def await_members(crew: Crew, task: Claimed, *numbers: int) -> None:
    names = packed.pack_ids(f"lead:{number}" for number in numbers)
    assert await crew.finish("w", [task], "members", detail=names) == ["applied"]


async def test_a_run_is_cancelled_whole_while_a_manager_works_beside_its_members(crew: Crew) -> None:
    await crew.run("r1", team())
    (lead,) = await crew.take("w")
    await delegate(crew, lead, 1, 2)
    await await_members(crew, lead, 1, 2)
    first, second = await crew.take("w", 2)
    await crew.finish("w", [first], "failed")
    (lead,) = await crew.take("w", 3)
    assert (lead.step, lead.attempt) == ("lead", 1)
    assert not await ask_to_cancel(crew, "r1")
    assert await crew.step_states("r1") == {"lead": "cancelling", "lead:1": "failed", "lead:2": "cancelling"}
    await crew.finish("w", [lead, second], "cancelled")
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.CANCELLED
    await crew.queue.leave("w")
    await crew.assert_idle()


async def test_a_member_that_ends_before_its_manager_waits_for_it_has_it_go_on(crew: Crew) -> None:
    await crew.run("r1", team())
    (lead,) = await crew.take("w")
    await delegate(crew, lead, 1)
    await crew.finish("w", await crew.take("w", 2))
    await await_members(crew, lead, 1)
    (lead,) = await crew.take("w", 3)
    assert (lead.step, lead.attempt) == ("lead", 1)
    await crew.finish("w", [lead])
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.COMPLETED
    await crew.queue.leave("w")
    await crew.assert_idle()


async def test_a_manager_is_replayed_with_what_was_mended_and_finds_what_it_has_delegated(crew: Crew) -> None:
    await crew.run("r1", team())
    (lead,) = await crew.take("w")
    await delegate(crew, lead, 1)
    await await_members(crew, lead, 1)
    await crew.finish("w", await crew.take("w", 2))
    await crew.finish("w", await crew.take("w", 3), "dead")
    mended = team("lead better")
    await definitions.apply(crew.client, crew.keys, mended)
    letters = [letter async for letter in dead.letters(crew.client, crew.keys)]
    told = await dead.replay(crew.client, crew.keys, crew.uid, letters, max_queued=MANY)
    assert told == [Replayed("replayed", "current")]
    (lead,) = await crew.take("w", 4)
    assert (lead.step, lead.definition) == ("lead", mended.digest())
    await delegate(crew, lead, 1)
    assert await crew.step_states("r1") == {"lead": "running", "lead:1": "completed"}
    await crew.finish("w", [lead], definition=mended.digest())
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.COMPLETED
    await crew.queue.leave("w")
    await crew.assert_idle()
