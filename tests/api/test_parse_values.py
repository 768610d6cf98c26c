"""Fields with a wrong value."""

from __future__ import annotations

import pytest
from reading import CREW, HEARTBEAT, only, places, read

from watchbill.errors import Problem

pytestmark = pytest.mark.pure


# every other kind of fault, in words
def wrong(field: str, value: str) -> Problem:
    return only(CREW + f"  {field}: {value}\n")


QUOTE = "Put it in quotes, so that it is read as text."

WHOLE = "Write a whole number"

MAPPING = "a mapping of names to values"

MODES = "sequential, parallel, flow, loop, hierarchical"

REMOVE = "or remove the field."


@pytest.mark.parametrize(
    ("field", "value", "reason", "fix"),
    [
        ("maxParallelTasks", '"5"', "'5' is text, where a whole number is expected", f"{WHOLE}, without quotes."),
        ("maxParallelTasks", "1.5", "1.5 is a number, where a whole number is expected", "Write a whole number."),
        ("maxParallelTasks", "yes", "True is true or false, where a whole number is expected", "Write a whole number."),
        ("maxParallelTasks", "0", "0 is below the least value, 1", "Use 1 or more."),
        ("maxParallelTasks", "1001", "1001 is above the largest value, 1000", "Use 1000 or less."),
        ("description", "no", "False is true or false, where text is expected", QUOTE),
        ("description", "5", "5 is a number, where text is expected", QUOTE),
        ("description", "", "nothing is given where text is expected", "Write text, or remove the field."),
        ("description", "[a]", "['a'] is a list, where text is expected", "Write text."),
        ("sharedTools", "calculator", "'calculator' is text, where a list is expected", "Write a list: [calculator]."),
        ("workers", "3", f"3 is a number, where {MAPPING} is expected", f"Write {MAPPING}."),
        ("executionMode", "", "nothing is given where a value is expected", f"Write one of: {MODES}; {REMOVE}"),
        ("executionMode", "serial", "'serial' is not a value that is known here", f"Use one of: {MODES}."),
        ("executionMode", "Flow", "'Flow' is not a value that is known here", f"Write 'flow', or another of: {MODES}."),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_what_is_expected(field: str, value: str, reason: str, fix: str) -> None:
    problem = wrong(field, value)
    assert (problem.source, problem.path) == ("crew.yaml:10", f"spec.{field}")
    assert problem.reason == reason
    assert problem.fix == fix


def test_a_required_field_with_a_wrong_value_is_not_told_to_be_missing_as_well() -> None:
    policies = "[{type: Pods, value: 0, periodSeconds: 60}]"
    problem = wrong("workers", f"{{scaling: {{up: {{policies: {policies}}}}}}}")
    assert (problem.path, problem.fix) == ("spec.workers.scaling.up.policies[0].value", "Use 1 or more.")


def test_a_missing_field_is_told_with_what_it_is_for() -> None:
    problem = only(CREW.replace("    - name: writer\n", "    - class: EchoAgent\n"))
    assert (problem.source, problem.path) == ("crew.yaml:9", "spec.agents[1].name")
    assert problem.reason == "'name' is missing"
    assert problem.fix.startswith("Add 'name': Name of the agent, unique in the crew")
    assert places("apiVersion: watchbill.dev/v1alpha1\nkind: Crew\nspec: {agents: []}\n") == [
        ("crew.yaml:1", "metadata"),
        ("crew.yaml:3", "spec.agents"),
    ]


@pytest.mark.parametrize("name", ["a b", "", "-a", "a/b", "é", "a" * 64, "{a}"])
def test_an_agents_name_has_a_form(name: str) -> None:
    problem = only(CREW.replace("name: writer", f"name: '{name}'"))
    assert problem.path == "spec.agents[1].name"
    assert problem.fix.startswith("Use letters, digits, dots, dashes and underscores")


@pytest.mark.parametrize("name", ["Blog", "blog_team", "blog.team", "-a", "a-", "a" * 53, "''"])
def test_a_crews_name_has_a_form(name: str) -> None:
    problem = only(CREW.replace("blog-team", name))
    assert (problem.source, problem.path) == ("crew.yaml:4", "metadata.name")
    assert problem.fix.startswith("Use lower-case letters, digits and dashes, at most 52")


@pytest.mark.parametrize("name", ["list", "id", "tenants"])
def test_a_crew_can_not_be_called_like_an_index_of_the_records(name: str) -> None:
    problem = only(CREW.replace("blog-team", name))
    assert (problem.path, problem.fix) == ("metadata.name", "Choose another name than id, list, tenants.")
    assert read(HEARTBEAT.replace("morning", name)).heartbeats[0].name == name


@pytest.mark.parametrize("field", ["lables", "Name", "clusterName", "resource_version"])
def test_a_field_that_metadata_has_not(field: str) -> None:
    problem = only(CREW.replace("  name: blog-team\n", f"  name: blog-team\n  {field}: x\n"))
    assert (problem.source, problem.path) == ("crew.yaml:5", f"metadata.{field}")
    assert problem.reason == f"there is no field {field!r} here"
    assert problem.fix.endswith("The fields here are: annotations, labels, name, namespace.")


@pytest.mark.parametrize(
    "entry", ["team: a b", "team: -a", f"team: {'a' * 64}", "a b: x", "'': x", "A/b: x", "a/b/c: x"]
)
def test_a_label_has_a_form(entry: str) -> None:
    problem = only(
        CREW.replace("  name: blog-team\n", f"  name: blog-team\n  labels:\n    ok.example/A_b: ''\n    {entry}\n")
    )
    assert (problem.source, problem.path) == (
        "crew.yaml:7",
        f"metadata.labels.{entry.partition(':')[0]}".replace("'", ""),
    )
    assert problem.fix.startswith("Use letters, digits, dashes, dots and underscores, at most 63")


def test_annotations_have_names_of_a_form_and_a_size() -> None:
    def annotated(name: str, value: str) -> str:
        return CREW.replace("  name: blog-team\n", f"  name: blog-team\n  annotations: {{{name}: {value}}}\n")

    assert read(annotated("A.b/C", "'any: text'")).crews[0].metadata.annotations == {"A.b/C": "any: text"}
    assert only(annotated("a b", "x")).path == "metadata.annotations.a b"
    assert read(annotated("why", "é" * 131_070 + "x"))
    problem = only(annotated("why", "é" * 131_071))
    assert (problem.path, problem.fix) == ("metadata.annotations", "Shorten them.")
    assert "262145 bytes together, and at most 262144" in problem.reason


def test_an_agent_that_nothing_could_run() -> None:
    text = CREW.replace("  model: openai:gpt-5-mini\n", "").replace(
        "- name: writer", "- {name: writer, class: EchoAgent}"
    )
    problem = only(text)
    assert (problem.source, problem.path) == ("crew.yaml:7", "spec.agents[0].class")
    assert "neither a class nor a model" in problem.reason
    assert read(text.replace("- name: researcher", "- {name: researcher, model: m}"))


@pytest.mark.parametrize("name", ["LLMAgent", "watchbill.agents.llm:LLMAgent"])
def test_an_llm_agent_without_a_model(name: str) -> None:
    text = CREW.replace("- name: writer", f"- name: writer\n      class: {name}")
    assert read(text)
    problem = only(text.replace("  model: openai:gpt-5-mini\n", "").replace("name: researcher", "{name: r, class: C}"))
    assert problem.path == "spec.agents[1].model"
    assert "'writer' is an LLMAgent and has no model" in problem.reason


def test_relations_mean_nothing_in_another_mode() -> None:
    relations = "  flowRelations: [{source: [researcher], target: [writer]}]\n"
    problem = only(CREW + relations)
    assert (problem.source, problem.path) == ("crew.yaml:10", "spec.flowRelations")
    assert problem.fix == "Set executionMode: flow, or remove flowRelations."
    assert read(CREW + relations + "  executionMode: flow\n")
    assert read(CREW + "  flowRelations: []\n")


def test_what_stands_twice_in_a_list_of_names() -> None:
    assert only(CREW + "  sharedTools: [a, b, a]\n").reason == "'a' is listed twice"
    text = CREW + "  executionMode: flow\n  flowRelations: [{source: [writer, writer], target: [researcher]}]\n"
    assert only(text).path == "spec.flowRelations[0].source[1]"


def test_bounds_of_lists_and_maps() -> None:
    assert only(CREW + f"  sharedTools: [{', '.join(f't{i}' for i in range(101))}]\n").fix == "Leave 100 or fewer."
    many = ", ".join(f"k{i}: v" for i in range(65))
    assert only(HEARTBEAT + f"  metadata: {{{many}}}\n").reason == "there are 65 entries, and at most 62 are possible"
    text = CREW + "  executionMode: flow\n  flowRelations: [{source: [], target: [writer]}]\n"
    assert only(text).path == "spec.flowRelations[0].source"


def test_an_address_that_is_none() -> None:
    problem = only(CREW + "      baseURL: localhost:8000\n")
    assert (problem.path, problem.fix) == ("spec.agents[1].baseURL", "Begin it with http:// or https://.")


def test_an_address_with_a_password_is_refused_and_not_shown() -> None:
    problem = only(CREW + "      baseURL: https://me:pass-word@127.0.0.1/v1\n")
    assert problem.path == "spec.agents[1].baseURL"
    assert "environment" in problem.fix
    assert "pass-word" not in str(problem)
    assert read(CREW + "      baseURL: https://127.0.0.1/@v1\n")


def test_an_entry_of_a_map_that_is_not_text() -> None:
    problem = only(HEARTBEAT + "  metadata:\n    ok: a\n    team: 5\n")
    assert (problem.source, problem.path) == ("crew.yaml:11", "spec.metadata.team")
