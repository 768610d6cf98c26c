"""Crew records in Redis: basic persistence, a crew with a flow, updates of metadata, and many crews at once.

    python examples/redis_persistence_example.py

The records are kept under a prefix of their own and removed at the end. REDIS_HOST, REDIS_PORT and REDIS_DB name the
server; the default is database 2 of localhost:6379. Records are data for other programs: what runs is declared as YAML.
"""

from __future__ import annotations

import asyncio

from watchbill.crews import AgentDefinition, CrewDefinition, CrewRedis, ExecutionMode, FlowRelation


def blog_team() -> CrewDefinition:
    """Two agents, one after the other."""
    return CrewDefinition(
        name="blog_writing_team",
        description="Researches and writes blog posts",
        execution_mode=ExecutionMode.SEQUENTIAL,
        agents=[
            AgentDefinition(agent_id="researcher", name="Content Researcher", tools=["web_search"]),
            AgentDefinition(agent_id="writer", name="Blog Writer", system_prompt="You write for readers in a hurry."),
        ],
        shared_tools=["calculator"],
        metadata={"version": "1.0", "author": "content_team"},
    )


def research_team() -> CrewDefinition:
    """A coordinator, two researchers at the same time, and one agent that puts their findings together."""
    agents = ("coordinator", "tech_researcher", "market_researcher", "synthesizer")
    return CrewDefinition(
        name="research_synthesis_team",
        execution_mode=ExecutionMode.FLOW,
        agents=[AgentDefinition(agent_id=agent) for agent in agents],
        flow_relations=[
            FlowRelation(source="coordinator", target=["tech_researcher", "market_researcher"]),
            FlowRelation(source=["tech_researcher", "market_researcher"], target="synthesizer"),
        ],
    )


async def main() -> None:
    async with CrewRedis(key_prefix="example_crew") as crews:
        if not await crews.ping():
            raise SystemExit("No Redis answers. Start one, or set REDIS_HOST and REDIS_PORT.")
        team = blog_team()
        print("saved:", await crews.save_crew(team), await crews.save_crew(research_team()))
        loaded = await crews.load_crew_by_id(team.crew_id)
        print("loaded:", loaded and [agent.effective_name for agent in loaded.agents])

        await crews.update_crew_metadata(team.name, {"status": "active", "runs": 10})
        told = await crews.get_crew_metadata(team.name)
        print("metadata:", told and (told["agent_count"], told["metadata"]))

        print("all:", await crews.list_crews())
        flows = [crew.name for crew in await crews.get_all_crews() if crew.execution_mode == ExecutionMode.FLOW]
        print("flows:", flows)
        print("deleted:", await crews.delete_crew(team.name), "and", await crews.clear_all_crews())


if __name__ == "__main__":
    asyncio.run(main())
