"""Config and tools of agents."""

from __future__ import annotations

from typing import Any

import pytest
from loading_support import Write, crew_of, problem_of, run

from watchbill.agents import AgentLoader
from watchbill.errors import AgentNotLoadable

pytestmark = pytest.mark.pure

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
