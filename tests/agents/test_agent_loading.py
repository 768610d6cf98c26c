from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from watchbill import testing
from watchbill.agents import AgentLoader, Context
from watchbill.errors import AgentNotLoadable, Problem
from watchbill.records import AgentDefinition, CrewDefinition

pytestmark = pytest.mark.pure

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


# What may not, and what is said then


def test_an_unknown_class_is_answered_with_the_nearest_and_with_all() -> None:
    problem = problem_of(crew_of("EchoAgnet"))
    assert problem.path == "spec.agents[0].class"
    assert problem.reason == "there is no agent class 'EchoAgnet' (did you mean 'EchoAgent'?)"
    assert "EchoAgent, LLMAgent" in problem.fix


def test_a_path_without_a_colon_is_answered_with_how_to_write_it() -> None:
    assert "my.agents:Writer" in problem_of(crew_of("my.agents.Writer")).fix


@pytest.mark.parametrize("reference", ["a b:c", ":c", "a:", "a:b:c", "a..b:c", "../a:b"])
def test_what_is_no_reference_is_refused(reference: str) -> None:
    assert "package.module:name" in problem_of(crew_of(reference)).reason


def test_a_module_that_is_not_there_says_where_it_belongs(write: Write) -> None:
    folder = write("team", my_agents="")
    problem = problem_of(crew_of("my_agent:Writer"), folder)
    assert "there is no module 'my_agent' (did you mean 'my_agents'?)" in problem.reason
    assert str(folder) in problem.fix


def test_a_module_whose_import_fails_names_what_it_misses_and_where(write: Write) -> None:
    folder = write("team", importing_agents="import os\nimport not_installed_anywhere\n")
    crew = crew_of("importing_agents:Writer")
    problem = problem_of(crew, folder)
    assert "importing 'importing_agents' fails" in problem.reason
    assert f"{folder / 'importing_agents.py'}:2" in problem.reason
    assert "'not_installed_anywhere'" in problem.fix
    with pytest.raises(AgentNotLoadable, match="agent 'a0'") as raised:
        AgentLoader([folder]).load(crew, crew.agents[0])
    assert raised.value.__cause__ is not None
    assert isinstance(raised.value.__cause__.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x = 1\nx = = 2\n", "SyntaxError"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
    ],
)
def test_a_broken_module_is_told_with_its_error(write: Write, source: str, reason: str) -> None:
    folder = write("team", broken_agents=source)
    problem = problem_of(crew_of("broken_agents:Writer"), folder)
    assert reason in problem.reason
    assert str(folder / "broken_agents.py") in problem.reason


def test_a_name_that_the_module_lacks_is_answered_with_the_nearest(write: Write) -> None:
    folder = write("team", named_agents="class Writer:\n    def run(self, context): ...")
    problem = problem_of(crew_of("named_agents:Writter"), folder)
    assert f"{folder / 'named_agents.py'} has no 'Writter' (did you mean 'Writer'?)" in problem.reason


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("number", "is a value of type int, neither a class nor a function"),
        ("json", "is a module, neither"),
        ("Runless", "has no run method"),
        ("Unbound", "its run method takes (self), and is called with the context"),
        ("nullary", "its function takes (), and is called with the context"),
        ("yielding", "its function must return the output"),
        ("Yielding", "its run method must return the output"),
    ],
)
def test_what_cannot_be_an_agent_is_told_why(write: Write, name: str, reason: str) -> None:
    folder = write(
        "team",
        odd_agents="""
        import json
        number = 7
        class Runless: pass
        class Unbound:
            def run(self): pass
        def nullary(): pass
        def yielding(context): yield 1
        class Yielding:
            async def run(self, context): yield 1
        """,
    )
    problem = problem_of(crew_of(f"odd_agents:{name}"), folder)
    assert problem.path == "spec.agents[0].class"
    assert reason in problem.reason


def test_two_folders_with_a_module_of_one_name_are_told_and_never_mixed_up(write: Write) -> None:
    one = write("one", twins="def go(context): return 1")
    two = write("two", twins="def go(context): return 2")
    problem = problem_of(crew_of("twins:go"), one, two)
    assert str(one / "twins.py") in problem.reason
    assert str(two / "twins.py") in problem.reason
    assert "Rename" in problem.fix


def test_a_module_of_a_crew_loaded_before_is_not_taken_for_this_ones(write: Write) -> None:
    one = write("one", again="def go(context): return 1")
    two = write("two", again="def go(context): return 2")
    assert AgentLoader([one]).check(crew_of("again:go")) == []
    problem = problem_of(crew_of("again:go"), two)
    assert str(one / "again.py") in problem.reason
    assert str(two / "again.py") in problem.reason


def test_a_module_that_python_has_already_is_not_taken_for_the_one_beside_the_file(write: Write) -> None:
    folder = write("team", json="def go(context): return 1")
    problem = problem_of(crew_of("json:go"), folder)
    assert str(folder / "json.py") in problem.reason
    assert json.__file__ in problem.reason


def test_what_agents_import_is_not_taken_from_the_folder_of_another_crew(write: Write) -> None:
    one = write("one", first_agents="from wording import word\ndef go(context): return word", wording="word = 1")
    two = write("two", second_agents="from wording import word\ndef go(context): return word", wording="word = 2")
    loader = AgentLoader([one, two])
    assert [p.path for p in loader.check(crew_of("first_agents:go", "second_agents:go"))] == [
        "spec.agents[0].class",
        "spec.agents[1].class",
    ]
    assert AgentLoader([one]).check(crew_of("first_agents:go")) == []
    assert str(two / "wording.py") in problem_of(crew_of("second_agents:go"), two).reason


async def test_modules_may_be_links_as_in_a_mounted_config_map(write: Write) -> None:
    real = write("data", linked_agents="from linked_words import a\ndef go(context): return a", linked_words="a = 1")
    folder = write("team")
    for name in ("linked_agents.py", "linked_words.py"):
        (folder / name).symlink_to(real / name)
    assert AgentLoader([folder]).check(crew_of("linked_agents:go")) == []
    assert await run(crew_of("linked_agents:go"), folder) == 1


def test_crews_of_one_folder_share_its_modules(write: Write) -> None:
    folder = write("team", shared_agents="from shared_words import a\ndef go(context): return a", shared_words="a = 1")
    assert AgentLoader([folder]).check(crew_of("shared_agents:go")) == []
    assert AgentLoader([folder]).check(crew_of("shared_agents:go")) == []


# Config


MODELLED = """
from pydantic import BaseModel, ConfigDict, Field

class Loose:
    class Config(BaseModel):
        words: int = 10
        style: str = Field(alias="tone", default="dry")

    def __init__(self, config):
        self.config = config

    def run(self, context):
        return [self.config.words, self.config.style]

class Open(Loose):
    class Config(BaseModel):
        model_config = ConfigDict(extra="allow")

class Nested(Loose):
    class Config(BaseModel):
        parts: list[int]
"""


async def test_a_config_model_validates_and_is_passed_on(write: Write) -> None:
    folder = write("team", modelled=MODELLED)
    crew = crew_of({"agent_class": "modelled:Loose", "config": {"words": 3, "tone": "warm"}})
    assert AgentLoader([folder]).check(crew) == []
    assert await run(crew, folder) == [3, "warm"]
    anything = crew_of({"agent_class": "modelled:Open", "config": {"anything": 1}})
    assert AgentLoader([folder]).check(anything) == []


@pytest.mark.parametrize(
    ("name", "config", "path", "reason", "fix"),
    [
        ("Loose", {"word": 3}, "config.word", "no setting 'word' (did you mean 'words'?)", "words, tone"),
        ("Loose", {"words": "few"}, "config.words", "'few': Input should be a valid integer", "Correct"),
        ("Nested", {}, "config.parts", "config.parts is missing", "Add it"),
        ("Nested", {"parts": [1, "x"]}, "config.parts.1", "'x': Input should be a valid integer", "Correct"),
    ],
)
def test_a_config_that_its_model_refuses_is_told_by_field(
    write: Write, name: str, config: dict[str, Any], path: str, reason: str, fix: str
) -> None:
    folder = write("team", modelled=MODELLED)
    crew = crew_of({"agent_class": f"modelled:{name}", "config": config})
    problem = problem_of(crew, folder)
    assert problem.path == f"spec.agents[0].{path}"
    assert reason in problem.reason
    assert fix in problem.fix
    with pytest.raises(AgentNotLoadable, match=path.rpartition(".")[2]):
        AgentLoader([folder]).load(crew, crew.agents[0])


SIGNED = """
class Signed:
    def __init__(self, words, *, style="dry"): pass
    def run(self, context): pass

class Anything:
    def __init__(self, **config): pass
    def run(self, context): pass

class Nothing:
    def run(self, context): pass

class Typed:
    def __init__(self, seconds: int, *, names: "list[str] | None" = None, other: "Unknown" = None): pass
    def run(self, context): pass

class Annotated:
    def __init__(self, seconds: float = 1, strange: open = None): pass
    def run(self, context): pass

def function(context): pass
"""


@pytest.mark.parametrize(
    ("name", "config", "problems"),
    [
        ("Signed", {"words": 1, "style": "x"}, []),
        ("Signed", {"words": 1, "stile": "x"}, ["config.stile: there is no setting 'stile' (did you mean 'style'?)"]),
        ("Signed", {}, ["config.words: config.words is missing: Signed needs it"]),
        ("Anything", {"whatever": 1}, []),
        ("Typed", {"seconds": "bad"}, []),  # one of its annotations can't be read
        ("Annotated", {"seconds": "bad"}, ["config.seconds: 'bad': Input should be a valid number"]),
        ("Annotated", {"seconds": "2.5", "strange": 1}, []),
        ("Nothing", {"x": 1}, ["config.x: there is no setting 'x'. Remove it: this class takes no config."]),
        ("function", {"x": 1}, ["config: 'function' is a function and takes no config, but 'x' was given"]),
    ],
)
def test_a_config_must_fit_the_signature(write: Write, name: str, config: dict[str, Any], problems: list[str]) -> None:
    folder = write("team", signed=SIGNED)
    found = AgentLoader([folder]).check(crew_of({"agent_class": f"signed:{name}", "config": config}))
    assert len(found) == len(problems)
    for problem, expected in zip(found, problems, strict=True):
        assert str(problem).startswith(f"spec.agents[0].{expected}")


def test_all_problems_of_a_crew_are_told_at_once() -> None:
    crew = crew_of(
        "Unknown",
        {"agent_class": "EchoAgent", "config": {"delay": 1}, "tools": ["calculator", "abacus"]},
        {"agent_class": "LLMAgent", "config": {"temperatur": 1}},
        shared_tools=["nowhere:search"],
    )
    assert [problem.path for problem in AgentLoader().check(crew)] == [
        "spec.sharedTools[0]",
        "spec.agents[0].class",
        "spec.agents[1].tools[1]",
        "spec.agents[1].config.delay",
        "spec.agents[2].config.temperatur",
        "spec.agents[2].model",
    ]


# Tools


async def test_own_tools_come_before_shared_ones_of_the_name(write: Write) -> None:
    folder = write("team", own_tools="def calculator(expression): return 'mine'\nasync def search(q): return q")
    crew = crew_of(
        {"agent_class": "EchoAgent", "tools": ["own_tools:calculator"]},
        "EchoAgent",
        shared_tools=["calculator", "own_tools:search"],
    )
    loader = AgentLoader([folder])
    assert loader.check(crew) == []
    first, second = (loader.tools(crew, agent) for agent in crew.agents)
    assert first["calculator"]("6 * 7") == "mine"
    assert second["calculator"]("6 * 7") == 42
    assert list(first) == list(second) == ["calculator", "search"]
    assert first["search"].is_async
    assert await first["search"]("x") == "x"
    assert second["calculator"].description.startswith("Evaluate an arithmetic expression")


@pytest.mark.parametrize(
    ("tools", "path", "reason"),
    [
        (["calculater"], "tools[0]", "there is no tool 'calculater' (did you mean 'calculator'?)"),
        (["calculator", "odd_tools:number"], "tools[1]", "is a value of type int, not a function"),
        (["odd_tools:Kind"], "tools[0]", "is a class (Kind), not a function"),
        (["calculator", "odd_tools:calculator"], "tools[1]", "two tools called 'calculator'"),
    ],
)
def test_a_tool_that_cannot_be_used_is_told_by_position(write: Write, tools: list[str], path: str, reason: str) -> None:
    folder = write("team", odd_tools="number = 7\nclass Kind: ...\ndef calculator(x): ...")
    problem = problem_of(crew_of({"agent_class": "EchoAgent", "tools": tools}), folder)
    assert problem.path == f"spec.agents[0].{path}"
    assert reason in problem.reason


def test_a_tool_that_is_gone_when_the_task_runs_is_an_error() -> None:
    crew = crew_of({"agent_class": "EchoAgent", "tools": ["gone"]})
    with pytest.raises(AgentNotLoadable, match="agent 'a0': there is no tool 'gone'"):
        AgentLoader().tools(crew, crew.agents[0])
