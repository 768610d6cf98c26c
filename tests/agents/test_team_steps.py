"""Work is not delegated within a step: a later attempt would not count it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from watchbill.agents.team import Team
from watchbill.errors import InvalidInput
from watchbill.records import CrewDefinition
from watchbill.testing import RecordingContext, context

TOLD = r"step ask: delegate was called within this step, .* Call delegate outside of steps: what it returns is kept"


def lead() -> RecordingContext:
    crew = CrewDefinition.model_validate(
        {
            "name": "c",
            "execution_mode": "hierarchical",
            "hierarchy": {"manager": "lead"},
            "agents": [{"agent_id": "lead"}, {"agent_id": "worker"}],
        }
    )
    made, nobody = context(), None
    line: Any = nobody  # nothing comes as far as that
    assert crew.hierarchy is not None
    made.team = Team(crew, crew.hierarchy, "lead", "lead", line)
    return made


async def test_a_step_delegates_nothing() -> None:
    made = lead()
    with pytest.raises(InvalidInput, match=TOLD):
        await made.step("ask", made.delegate, "worker", "do it")
    assert made.stored == {}


async def test_nor_does_one_in_a_thread() -> None:
    made = lead()
    with pytest.raises(InvalidInput, match=TOLD):
        await asyncio.to_thread(made.step_sync, "ask", made.delegate_sync, "worker", "do it")


async def test_what_a_step_calls_within_another_step_or_beside_it_delegates_nothing_either() -> None:
    made = lead()

    async def outer() -> None:
        await made.step("inner", str, "before")
        await asyncio.gather(made.delegate("worker", "do it"))

    with pytest.raises(InvalidInput, match=TOLD):
        await made.step("ask", outer)
    with pytest.raises(InvalidInput, match="nothing can be delegated to 'nobody'"):  # so it is in no step any more
        await made.delegate("nobody", "do it")
