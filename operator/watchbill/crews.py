"""The public door to crew records (seed 000): what a crew is, and `CrewRedis`, which keeps crews in Redis.

    async with CrewRedis() as crews:
        await crews.save_crew(CrewDefinition(name="team", agents=[AgentDefinition(agent_id="writer")]))
        print(await crews.list_crews())

A crew that runs is declared as YAML, and `watchbill.local` and the operator save its record; records of other programs
are data, and nothing runs them.
"""

from __future__ import annotations

from watchbill.records import AgentDefinition, CrewDefinition, ExecutionMode, FlowRelation
from watchbill.store.crews import CrewRedis

__all__ = ["AgentDefinition", "CrewDefinition", "CrewRedis", "ExecutionMode", "FlowRelation"]
