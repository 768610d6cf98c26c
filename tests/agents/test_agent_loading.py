"""None"""

from __future__ import annotations

import sys

import pytest
from loading_support import Write, crew_of, problem_of, run

from watchbill import testing
from watchbill.agents import AgentLoader

pytestmark = pytest.mark.pure


# What may be named
@pytest.mark.parametrize(
    ("source", "is_async"),
    [
        ("def go(context): return context.prompt.upper()", False),
        ("async def go(context): return context.prompt.upper()", True),
        ("class go:\n    def run(self, context): return context.prompt.upper()", False),
        ("class go:\n    async def run(self, context): return context.prompt.upper()", True),
        ("class go:\n    @staticmethod\n    def run(context): return context.prompt.upper()", False),
    ],
)
async def test_functions_and_classes_run_sync_and_async(write: Write, source: str, is_async: bool) -> None:
    folder = write("team", shapes=source)
    crew = crew_of("shapes:go")
    assert AgentLoader([folder]).check(crew) == []
    assert AgentLoader([folder]).load(crew, crew.agents[0]).is_async is is_async
    assert await run(crew, folder) == "HI"


@pytest.mark.parametrize(
    ("source", "in_process"),
    [
        ("class go:\n    def run(self, context): ...", False),
        ("class go:\n    runs_in = 'process'\n    def run(self, context): ...", True),
        ("class go:\n    runs_in = 'process'\n    async def run(self, context): ...", True),
        ("class base:\n    runs_in = 'process'\nclass go(base):\n    def run(self, context): ...", True),
        ("class go:\n    runs_in = None\n    def run(self, context): ...", False),
        ("def go(context): ...\ngo.runs_in = 'process'", True),
    ],
)
def test_an_agent_may_ask_for_a_process(write: Write, source: str, in_process: bool) -> None:
    folder = write("team", apart=source)
    crew = crew_of("apart:go")
    assert AgentLoader([folder]).check(crew) == []
    assert AgentLoader([folder]).load(crew, crew.agents[0]).in_process is in_process


def test_an_agent_that_asks_for_something_else_is_told_what_there_is(write: Write) -> None:
    folder = write("team", elsewhere="class go:\n    runs_in = 'proces'\n    def run(self, context): ...")
    problem = problem_of(crew_of("elsewhere:go"), folder)
    assert problem.path == "spec.agents[0].class"
    assert problem.reason == "agent class 'elsewhere:go' says runs_in = 'proces'"
    assert problem.fix.startswith('Write runs_in = "process", or leave it out')


async def test_every_task_gets_an_instance_and_a_config_of_its_own(write: Write) -> None:
    folder = write(
        "team",
        stateful="""
        class Counts:
            def __init__(self, seen):
                self.seen = seen

            def run(self, context):
                self.seen.append(context.prompt)
                return self.seen
        """,
    )
    crew = crew_of({"agent_class": "stateful:Counts", "config": {"seen": []}})
    runner = AgentLoader([folder]).load(crew, crew.agents[0])
    assert runner.run(testing.context(prompt="one")) == ["one"]
    assert runner.run(testing.context(prompt="two")) == ["two"]
    assert crew.agents[0].config == {"seen": []}


async def test_no_run_sees_what_another_did_to_what_its_context_says_of_it(write: Write) -> None:
    folder = write(
        "team",
        popping="""
        class Pops:
            def __init__(self, options): pass
            def run(self, context):
                agent = context.agent
                agent.config["also"], agent.tools[:] = 1, ["mine"]
                return [agent.config["options"].pop("mode"), len(context.tools), context.tools.clear()]
        def empties(context):
            context.agent.config["also"] = context.tools["also"] = 1
            return [len(context.agent.config), len(context.tools)]
        """,
    )
    crew = crew_of(
        {"agent_class": "popping:Pops", "config": {"options": {"mode": "fast"}}, "tools": ["calculator"]},
        {"agent_class": "popping:empties"},
    )
    loader = AgentLoader([folder])
    for agent, output in zip(crew.agents, (["fast", 1, None], [1, 1]), strict=True):
        runner, tools = loader.load(crew, agent), loader.tools(crew, agent)
        for _ in range(2):
            context = testing.context(tools={name: tool.function for name, tool in tools.items()})
            assert runner.run(context) == output
    assert crew.agents[0].config == {"options": {"mode": "fast"}}


async def test_modules_beside_the_yaml_file_may_import_each_other_and_be_in_packages(write: Write) -> None:
    folder = write("team", top_agents="from lower_words import shout\ndef go(context): return shout(context.prompt)")
    write("team", lower_words="def shout(text): return text.upper() + '!'")
    package = write("team/pack")
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("class Outer:\n    class Agent:\n        def run(self, context): return 'inner'")
    assert await run(crew_of("top_agents:go"), folder) == "HI!"
    assert await run(crew_of("pack.inner:Outer.Agent"), folder) == "inner"


async def test_the_agent_sees_the_default_model_of_its_crew(write: Write) -> None:
    folder = write("team", models="def go(context): return context.agent.model")
    assert await run(crew_of("models:go", model="openai:small"), folder) == "openai:small"
    assert (
        await run(crew_of({"agent_class": "models:go", "model": "openai:big"}, model="openai:small"), folder)
        == "openai:big"
    )


async def test_usage_reported_by_the_agent_is_seen_by_the_worker(write: Write) -> None:
    folder = write(
        "team",
        spender="""
        from watchbill.tasks import Usage
        def go(context): context.report_usage(Usage(requests=2))
        """,
    )
    context = testing.context()
    await run(crew_of("spender:go"), folder, context=context)
    assert context.usage is not None
    assert context.usage.requests == 2


async def test_installed_packages_offer_agents_and_tools_by_entry_points(write: Write) -> None:
    folder = write(
        "site",
        offering="""
        def agent(context): return context.tools["double"](21)
        def double(number: int) -> int: return number * 2
        """,
    )
    info = write("site/offering-1.0.dist-info")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offering\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[watchbill.agents]\nOffered = offering:agent\nBad = offering:absent\n"
        "[watchbill.tools]\ndouble = offering:double\n"
    )
    sys.path.insert(0, str(folder))
    crew = crew_of({"agent_class": "Offered", "tools": ["double"]})
    assert AgentLoader().check(crew) == []
    tools = AgentLoader().tools(crew, crew.agents[0])
    assert await run(crew, context=testing.context(tools={"double": tools["double"].function})) == 42

    problem = problem_of(crew_of("Offerd"))
    assert "(did you mean 'Offered'?)" in problem.reason
    assert "Bad, BasicAgent, EchoAgent, LLMAgent, Offered" in problem.fix
    assert "has no 'absent'" in problem_of(crew_of("Bad")).reason
