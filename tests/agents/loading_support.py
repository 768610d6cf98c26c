"""Helpers of the tests of loading agents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from watchbill import testing
from watchbill.agents import AgentLoader, Context
from watchbill.errors import Problem
from watchbill.records import AgentDefinition, CrewDefinition

Write = Callable[..., Path]


def crew_of(*agents: str | dict[str, Any], **more: Any) -> CrewDefinition:
    """A crew of agents given by class, or as a whole."""
    given = [{"agent_class": a} if isinstance(a, str) else a for a in agents]
    return CrewDefinition(
        name="crew", agents=[AgentDefinition(agent_id=f"a{i}", **a) for i, a in enumerate(given)], **more
    )


def problem_of(crew: CrewDefinition, *folders: Path) -> Problem:
    [problem] = AgentLoader(folders).check(crew)
    return problem


async def run(crew: CrewDefinition, *folders: Path, context: Context | None = None) -> Any:
    runner = AgentLoader(folders).load(crew, crew.agents[0])
    context = context or testing.context(prompt="hi")
    if runner.is_async:
        return await runner.run(context)
    return await asyncio.to_thread(runner.run, context)
