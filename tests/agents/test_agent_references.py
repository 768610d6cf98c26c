"""References to agents and modules: which are refused, and what is said."""

from __future__ import annotations

import json

import pytest
from loading_support import Write, crew_of, problem_of, run

from watchbill.agents import AgentLoader
from watchbill.errors import AgentNotLoadable

pytestmark = pytest.mark.pure


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
