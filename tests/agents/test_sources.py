"""Whose code a definition may name: nothing of Python's own, nor of what happens to be installed or imported."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from watchbill import testing
from watchbill.agents import AgentLoader
from watchbill.errors import AgentNotLoadable, Problem
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.settings import Settings

pytestmark = pytest.mark.pure

Write = Callable[..., Path]

CREW = """
import functools, os, subprocess
from functools import partial
from os import environ
from subprocess import getoutput

import elsewhere
from elsewhere import Borrowed, borrowed, client
from watchbill.agents.calculator import calculator
from watchbill.agents.echo import EchoAgent
from watchbill.connection import connect

class Toolbox:
    def __init__(self, word): self.word = word
    def use(self, x): return f"{self.word} {x}"
    def __call__(self, x): return self.use(x)
    @property
    def broken(self): raise RuntimeError("no")

class Nested:
    class Inner:
        def run(self, context): return "inner"
    shell = staticmethod(subprocess.getoutput)

class Derived(Borrowed):
    pass

box = Toolbox("box")
bound = box.use
half = partial(lambda word, x: f"{word} {x}", "half")
shell = partial(subprocess.run, shell=True)
wrapped = functools.lru_cache(lambda x: f"wrapped {x}")
names = {}
"""
ELSEWHERE = """
class Borrowed:
    def run(self, context): return "borrowed"

def borrowed(x): return x

class Client:
    def get(self, x): return x

client = Client()
"""


def crew_of(agent_class: str = "EchoAgent", *tools: str, shared: tuple[str, ...] = ()) -> CrewDefinition:
    agent = AgentDefinition(agent_id="a", agent_class=agent_class, tools=list(tools))
    return CrewDefinition(name="crew", agents=[agent], shared_tools=list(shared))


@pytest.fixture
def folder(write: Write) -> Path:
    """A crew's modules; what they import is installed elsewhere."""
    installed = write("site", elsewhere=ELSEWHERE, trap="raise SystemExit('imported')\n")
    sys.path.append(str(installed))
    return write("team", own=CREW)


def refused(loader: AgentLoader, reference: str, kind: str) -> Problem:
    """How it is refused: where it is checked, where the agent is loaded, and where its tools are."""
    crew = {
        "class": crew_of(reference),
        "tool": crew_of("EchoAgent", reference),
        "shared": crew_of("EchoAgent", shared=(reference,)),
    }[kind]
    [problem] = loader.check(crew)
    with pytest.raises(AgentNotLoadable) as raised:
        _ = loader.load(crew, crew.agents[0]) if kind == "class" else loader.tools(crew, crew.agents[0])
    assert problem.reason in str(raised.value)
    return problem


KINDS = pytest.mark.parametrize("kind", ["class", "tool", "shared"])


@KINDS
@pytest.mark.parametrize("modules", [(), ("subprocess", "os", "builtins", "posix", "elsewhere")])
@pytest.mark.parametrize(
    "reference",
    [
        "subprocess:getoutput",
        "subprocess:run",
        "os:system",
        "posix:system",
        "os.path:join",
        "builtins:eval",
        "importlib:import_module",
        "own:getoutput",
        "own:shell",
        "own:environ.get",
        "own:Nested.shell",
        "own:names.get",
        "own:box.__class__.__subclasses__",
        "own:Toolbox.use.__globals__.get",
        "own:half.func.__globals__.get",
        "own:elsewhere.subprocess.getoutput",
    ],
)
def test_python_itself_can_never_be_named(folder: Path, reference: str, modules: tuple[str, ...], kind: str) -> None:
    """Neither by whoever runs the file, nor where its module is allowed, nor through a module of the crew's."""
    for chosen in ((), (reference,)):
        problem = refused(AgentLoader([folder], modules=modules, chosen=chosen), reference, kind)
        assert "Python itself" in problem.reason or "module" in problem.reason
        assert "of your own" in problem.fix or problem.fix.startswith("Write ")


@KINDS
@pytest.mark.parametrize("reference", ["own:subprocess.getoutput", "own:os.system", "own:elsewhere.borrowed"])
def test_no_way_leads_through_a_module(folder: Path, reference: str, kind: str) -> None:
    problem = refused(AgentLoader([folder], modules=["elsewhere"]), reference, kind)
    _, module, name = reference.replace(".", ":").split(":")
    assert (problem.reason.partition(": ")[2], problem.fix) == (f"{module!r} is a module", f"Write {module}:{name}")


@KINDS
@pytest.mark.parametrize(
    "reference",
    [
        "watchbill.testing:context",
        "watchbill.connection:connect",
        "watchbill.agents.calculator:ast",
        "watchbill.agents.loading:copy.deepcopy",
        "watchbill:agents",
        "own:connect",
    ],
)
def test_of_watchbill_only_agents_and_tools_can_be_named(folder: Path, reference: str, kind: str) -> None:
    problem = refused(AgentLoader([folder], modules=["watchbill"], chosen=[reference]), reference, kind)
    assert "a part of Watchbill that no crew may name" in problem.reason
    assert ("EchoAgent" if kind == "class" else "calculator") in problem.fix


def test_what_comes_with_watchbill_may_be_named_by_its_path_too(folder: Path) -> None:
    for crew in (
        crew_of("watchbill.agents.echo:EchoAgent", "watchbill.agents.calculator:calculator"),
        crew_of("own:EchoAgent", "own:calculator"),
    ):
        assert AgentLoader([folder]).check(crew) == []


@KINDS
@pytest.mark.parametrize(
    ("reference", "allow"),
    [
        ("trap:anything", "trap"),
        ("pip:main", "pip"),
        ("pydantic.main:create_model", "pydantic.main"),
        ("own:Borrowed", "elsewhere"),
        ("own:borrowed", "elsewhere"),
        ("own:client.get", "elsewhere"),
        ("own:Derived.run", "elsewhere"),
    ],
)
def test_what_is_installed_can_be_named_where_the_worker_allows_it(
    folder: Path, reference: str, allow: str, kind: str
) -> None:
    """And is told which setting that is. What isn't allowed isn't imported either: trap would end this."""
    if kind != "class" and reference == "own:Borrowed":
        reference = "own:Borrowed.run"
    problem = refused(AgentLoader([folder], modules=["other"]), reference, kind)
    assert f"WATCHBILL_ALLOW_MODULES=other,{allow} " in problem.fix
    assert str(folder) in problem.fix
    for modules in (["elsewherex"], ["else"], ["pydantic.mai"]):
        refused(AgentLoader([folder], modules=modules), reference, kind)


@pytest.mark.parametrize(
    "options",
    [
        {"modules": ["elsewhere"]},
        {"chosen": ["own:Borrowed", "own:borrowed", "own:client.get", "elsewhere:Borrowed", "elsewhere:borrowed"]},
    ],
    ids=str,
)
async def test_what_is_allowed_or_chosen_works(folder: Path, options: dict[str, Any]) -> None:
    loader = AgentLoader([folder], **options)
    for module in ("own", "elsewhere"):
        crew = crew_of(f"{module}:Borrowed", f"{module}:borrowed", shared=("own:client.get",))
        assert loader.check(crew) == []
        assert loader.load(crew, crew.agents[0]).run(testing.context()) == "borrowed"
        assert {name: tool(1) for name, tool in loader.tools(crew, crew.agents[0]).items()} == {
            "borrowed": 1,
            "client.get": 1,
        }
    assert loader.check(crew_of("elsewhere:Client"))  # not chosen, or no agent


async def test_all_that_the_crews_own_modules_define_may_be_named(folder: Path) -> None:
    loader = AgentLoader([folder])
    crew = crew_of("own:Nested.Inner")
    assert await asyncio.to_thread(loader.load(crew, crew.agents[0]).run, testing.context()) == "inner"
    for name, answer in {
        "own:box": "box 1",
        "own:box.use": "box 1",
        "own:bound": "box 1",
        "own:half": "half 1",
        "own:wrapped": "wrapped 1",
    }.items():
        crew = crew_of("EchoAgent", name)
        assert loader.check(crew) == []
        [tool] = loader.tools(crew, crew.agents[0]).values()
        assert tool(1) == answer


def test_a_strangers_property_that_fails_is_told(folder: Path) -> None:
    [problem] = AgentLoader([folder]).check(crew_of("EchoAgent", "own:box.broken"))
    assert "looking up 'broken' fails with RuntimeError: no" in problem.reason


def test_a_module_that_only_has_the_name_of_one_of_the_crews_is_not_the_crews(write: Write) -> None:
    folder = write("team", sys="def go(context): ...")
    [problem] = AgentLoader([folder]).check(crew_of("sys:exit"))
    assert str(folder / "sys.py") in problem.reason


def test_a_package_of_the_crews_is_known_by_its_own_files(write: Write) -> None:
    folder = write("team")
    package = write("team/packed")
    (package / "__init__.py").write_text("from packed.inner import go\nimport subprocess\n")
    (package / "inner.py").write_text("def go(context): return 1\n")
    for reference in ("packed:go", "packed.inner:go"):
        assert AgentLoader([folder]).check(crew_of(reference)) == []
    assert AgentLoader([folder]).check(crew_of("packed.subprocess:getoutput"))


@pytest.mark.parametrize(
    ("given", "modules"),
    [("", ()), (" a.b , c_d,", ("a.b", "c_d")), ("a", ("a",))],
)
def test_the_setting_is_a_list(monkeypatch: pytest.MonkeyPatch, given: str, modules: tuple[str, ...]) -> None:
    monkeypatch.setenv("WATCHBILL_ALLOW_MODULES", given)
    assert Settings().allowed_modules == modules


@pytest.mark.parametrize("given", ["a:b", "*", "a b", "a..b", "a;b", ".a", "../a"])
def test_what_is_no_list_of_modules_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("WATCHBILL_ALLOW_MODULES", given)
    with pytest.raises(ValueError, match="allow_modules"):
        Settings()
