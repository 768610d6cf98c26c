"""Crew records: what is stored, what makes a crew unrunnable, and the way from and to a Crew."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from full_crew import FULL
from watchbill import api
from watchbill.errors import InvalidInput
from watchbill.records import AgentDefinition, CrewDefinition, ExecutionMode, from_crew, to_crew, tool_name

pytestmark = pytest.mark.pure

SEED = {
    "crew_id": "5f0c4a8e-8f0b-4c1e-9c1d-2d1d6f1f0a11",
    "name": "blog_writing_team",
    "description": "Researches and writes",
    "execution_mode": "sequential",
    "agents": [
        {
            "agent_id": "researcher",
            "agent_class": "BasicAgent",
            "name": "Content Researcher",
            "config": {"model": "gpt-4", "temperature": 0.7},
            "tools": ["web_search", "summarize"],
            "system_prompt": "You are an expert researcher.",
        },
        {"agent_id": "writer", "agent_class": "BasicAgent", "name": "Blog Writer", "config": {}, "tools": []},
    ],
    "flow_relations": [],
    "shared_tools": ["calculator"],
    "max_parallel_tasks": 10,
    "metadata": {"version": "1.0", "author": "content_team"},
    "created_at": "2025-12-12T10:00:00+00:00",
    "updated_at": "2025-12-12T10:00:00Z",
}


def definition(**changes: Any) -> CrewDefinition:
    return CrewDefinition.model_validate({"name": "c", "agents": [{"agent_id": "a"}, {"agent_id": "b"}], **changes})


def refused(**changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        definition(**changes)
    (error,) = caught.value.errors()
    return error["msg"]


def relations(*pairs: tuple[Any, Any]) -> dict[str, Any]:
    return {"execution_mode": "flow", "flow_relations": [{"source": s, "target": t} for s, t in pairs]}


# the record


def test_a_record_of_the_seed_is_read_and_written_by_the_seeds_names() -> None:
    crew = CrewDefinition.model_validate_json(json.dumps(SEED))
    assert crew.execution_mode is ExecutionMode.SEQUENTIAL
    assert crew.agents[0].effective_name == "Content Researcher"
    assert crew.updated_at == datetime(2025, 12, 12, 10, tzinfo=UTC)
    written = json.loads(crew.model_dump_json())
    assert set(SEED) <= set(written)
    for name in ("crew_id", "name", "execution_mode", "shared_tools", "max_parallel_tasks", "metadata"):
        assert written[name] == SEED[name]
    assert CrewDefinition.model_validate(written) == crew


def test_what_a_newer_version_wrote_is_ignored() -> None:
    crew = definition(novelty=1, agents=[{"agent_id": "a", "novelty": {}}], tasks={"novelty": 2, "max_attempts": 5})
    assert crew.tasks.max_attempts == 5


def test_a_new_crew_has_an_id_of_its_own_and_the_documented_defaults() -> None:
    first, second = definition(), definition()
    assert first.crew_id != second.crew_id
    assert (first.max_parallel_tasks, first.concurrency, first.execution_mode) == (10, 10, ExecutionMode.SEQUENTIAL)
    assert first.agents[0].agent_class == "LLMAgent"


# what makes it unrunnable


def test_the_agent_that_the_seed_forgot_is_named() -> None:
    told = refused(
        agents=[{"agent_id": "coordinator"}, {"agent_id": "tech_researcher"}, {"agent_id": "synthesizer"}],
        **relations(("coordinator", ["tech_researcher", "market_researcher"])),
    )
    assert "cites the agent 'market_researcher', which is not in this crew" in told
    assert "coordinator, tech_researcher, synthesizer" in told


def test_a_cycle_is_named() -> None:
    assert "a -> b -> a. Remove one" in refused(**relations(("a", "b"), ("b", "a")))
    assert "b -> b" in refused(**relations(("b", "b")))


def test_a_cycle_by_another_name_is_a_cycle() -> None:
    agents = [{"agent_id": "a", "name": "First"}, {"agent_id": "b"}]
    assert "a -> b -> a" in refused(agents=agents, **relations(("First", "b"), ("b", "a")))


@pytest.mark.parametrize(
    ("agents", "name"),
    [
        ([{"agent_id": "a"}, {"agent_id": "a"}], "a"),
        ([{"agent_id": "a", "name": "N"}, {"agent_id": "b", "name": "N"}], "N"),
        ([{"agent_id": "a"}, {"agent_id": "b", "name": "a"}], "a"),
    ],
)
def test_two_agents_that_could_be_meant_by_one_name_are_refused(agents: list[dict[str, str]], name: str) -> None:
    assert f"two agents are called {name!r}" in refused(agents=agents)


@pytest.mark.parametrize("name", ["list", "id", "tenants"])
def test_names_of_indexes_are_reserved(name: str) -> None:
    assert "Choose another name" in refused(name=name)


@pytest.mark.parametrize("name", ["", "a:b", "a/b", "{a}", "a\nb", "x" * 254])
def test_names_that_can_not_be_part_of_a_key_are_refused(name: str) -> None:
    assert "can't be part of a key" in refused(name=name)


def test_a_naive_time_is_utc() -> None:
    assert definition(created_at="2025-12-12T10:00:00").created_at == datetime(2025, 12, 12, 10, tzinfo=UTC)


def test_a_crew_needs_an_agent() -> None:
    with pytest.raises(ValidationError):
        definition(agents=[])


# finding things in it


def test_agents_are_found_by_id_and_by_effective_name() -> None:
    crew = CrewDefinition.model_validate(SEED)
    assert crew.agent("writer") is crew.agent("Blog Writer") is crew.agents[1]
    assert crew.agent("nobody") is None
    assert crew.agent_ids() == {
        "researcher": "researcher",
        "Content Researcher": "researcher",
        "writer": "writer",
        "Blog Writer": "writer",
    }


def test_a_crew_may_have_agents_of_any_name_beside_those_that_it_names() -> None:
    crew = CrewDefinition(
        name="free", agents=[AgentDefinition(agent_id="*"), AgentDefinition(agent_id="own", model="m")]
    )
    found = crew.agent("Anyone")
    assert found is not None
    assert (found.agent_id, found.model) == ("Anyone", None)
    assert crew.agent("own") is crew.agents[1]
    assert crew.agent("two\nlines") is None
    with pytest.raises(InvalidInput, match=r"spec\.agents\[0\]\.name"):  # no Crew can declare it
        to_crew(crew, "team")


def test_edges_are_by_agent_id_and_once_each() -> None:
    agents = [{"agent_id": "a", "name": "First"}, {"agent_id": "b"}, {"agent_id": "c"}]
    crew = definition(agents=agents, **relations(("First", ["b", "c"]), (["a", "b"], "c")))
    assert crew.edges() == [("a", "b"), ("a", "c"), ("b", "c")]


def test_shared_tools_reach_who_has_none_of_that_name() -> None:
    crew = definition(
        agents=[{"agent_id": "a", "tools": ["my_tools.web:search", "x"]}, {"agent_id": "b"}],
        shared_tools=["search", "calculator"],
    )
    assert list(crew.tools_of(crew.agents[0])) == ["my_tools.web:search", "x", "calculator"]
    assert list(crew.tools_of(crew.agents[1])) == ["search", "calculator"]


def test_a_tool_goes_by_the_last_part_of_its_reference() -> None:
    assert [tool_name(t) for t in ("search", "m:search", "a.b.c:search")] == ["search"] * 3


# its address


# from and to a Crew


def test_a_crew_comes_back_from_its_record_as_it_was() -> None:
    crew = api.Crew.model_validate(FULL)
    stored = from_crew(crew).model_dump_json()
    back = to_crew(CrewDefinition.model_validate_json(stored), "team")
    assert back == crew
    assert back.model_dump(by_alias=True, mode="json", exclude_defaults=True) == FULL


def test_every_field_that_the_api_has_is_in_the_full_example() -> None:
    """So that a field added to the API, and forgotten in the record, fails the test above."""

    def unset(model: Any, path: str) -> list[str]:
        instead = {
            "config_map_ref",
            "loop",
            "hierarchy",
            "ne",
            "gt",
            "at_least",
            "lt",
            "at_most",
            "one_of",
            "exists",
            "of_agent",
            "role",
        }  # of what the example has
        absent = set(type(model).model_fields) - model.model_fields_set - instead
        missing = [f"{path}.{name}" for name in sorted(absent)]
        for name in model.model_fields_set - {"delivery", "tool_servers", "budgets"}:  # one way of several
            value = getattr(model, name)
            for part in value if isinstance(value, list) else [value]:
                if hasattr(part, "model_fields_set"):
                    missing += unset(part, f"{path}.{name}")
                    break
        return missing

    kept_beside_the_definition = ["spec.deletion_policy", "spec.suspend"]
    assert unset(api.Crew.model_validate(FULL).spec, "spec") == kept_beside_the_definition


def test_a_hierarchy_comes_back_from_its_record_as_it_was() -> None:
    above = {"manager": "lead", "reviewer": "critic", "maxItems": 5, "maxDepth": 2, "maxRounds": 4}
    agents = [{"name": name, "class": "EchoAgent"} for name in ("lead", "coder", "critic")]
    spec = {"executionMode": "hierarchical", "agents": agents, "hierarchy": above}
    crew = api.Crew.model_validate({"metadata": {"name": "c", "namespace": "team"}, "spec": spec})
    back = to_crew(CrewDefinition.model_validate_json(from_crew(crew).model_dump_json()), "team")
    assert back == crew


def test_a_minimal_crew_gets_the_defaults_of_the_record() -> None:
    crew = api.Crew.model_validate({"metadata": {"name": "c"}, "spec": {"model": "m", "agents": [{"name": "a"}]}})
    stored = from_crew(crew, crew_id="uid-1")
    assert stored == CrewDefinition(crew_id="uid-1", name="c", model="m", agents=[AgentDefinition(agent_id="a")])
    assert stored.digest() == CrewDefinition(name="c", model="m", agents=[AgentDefinition(agent_id="a")]).digest()


def test_a_crew_without_an_id_gets_one_of_its_own() -> None:
    crew = api.Crew.model_validate(FULL)
    assert from_crew(crew).crew_id != from_crew(crew).crew_id


def test_empty_texts_mean_the_same_as_absent_ones() -> None:
    texts = {"class": "", "model": "", "baseURL": "", "systemPrompt": "", "prompt": ""}
    spec = {"model": "m", "description": "", "agents": [{"name": "a", **texts}]}
    agent = from_crew(api.Crew.model_validate({"metadata": {"name": "c"}, "spec": spec})).agents[0]
    assert agent == AgentDefinition(agent_id="a")


def test_kubectls_copy_of_the_resource_is_not_stored() -> None:
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "mine": "x"}
    crew = api.Crew.model_validate({**FULL, "metadata": {"name": "c", "annotations": annotations}})
    assert from_crew(crew).metadata["annotations"] == {"mine": "x"}


def test_how_a_crew_scales_does_not_change_the_address_of_its_definition() -> None:
    spec = {**FULL["spec"], "workers": {"concurrency": 7, "replicas": 9}}
    other = api.Crew.model_validate({**FULL, "spec": spec})
    assert from_crew(other).digest() == from_crew(api.Crew.model_validate(FULL)).digest()


def test_a_crew_that_goes_in_a_circle_is_not_stored() -> None:
    spec = {**FULL["spec"], "flowRelations": [{"source": ["writer"], "target": ["writer"]}]}
    with pytest.raises(InvalidInput) as caught:
        from_crew(api.Crew.model_validate({**FULL, "spec": spec}))
    (problem,) = caught.value.problems
    assert problem.path == "spec.flowRelations"
    assert "writer -> writer" in problem.reason


def test_what_a_crew_can_not_say_is_named_field_by_field() -> None:
    with pytest.raises(InvalidInput) as caught:
        to_crew(CrewDefinition.model_validate(SEED), "team")
    assert {problem.path for problem in caught.value.problems} == {
        "agents[0].name",
        "agents[1].name",
        "metadata.version",
        "metadata.author",
        "metadata.name",
    }
    by_path = {problem.path: problem for problem in caught.value.problems}
    assert "'Content Researcher'" in by_path["agents[0].name"].reason
    assert "'blog_writing_team'" in by_path["metadata.name"].reason
    assert by_path["metadata.name"].fix.startswith("Use lower-case letters")


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"agents": [{"agent_id": "two words"}]}, "spec.agents[0].name"),
        ({"max_parallel_tasks": 5000}, "spec.maxParallelTasks"),
        ({"tasks": {"lease_seconds": 1}}, "spec.tasks.leaseSeconds"),
        ({"tasks": {"result_ttl_seconds": 0}}, "spec.tasks.resultTTLSeconds"),
        ({"tasks": {"max_results": 99}}, "spec.tasks.maxResults"),
        ({"concurrency": 5000}, "spec.workers.concurrency"),
        ({"flow_relations": [{"source": "a", "target": "b"}]}, "spec.flowRelations"),
        ({"metadata": {"labels": "x"}}, "metadata.labels"),
        ({"metadata": {"workers": {"maxReplicas": 0}}}, "spec.workers.maxReplicas"),
        ({"metadata": {"workers": "x"}}, "spec.workers"),
    ],
)
def test_a_bound_of_the_api_is_named_by_its_field(change: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        to_crew(definition(model="openai:any", **change), "team")
    assert [problem.path for problem in caught.value.problems] == [path]


def test_relations_by_effective_name_become_relations_by_name() -> None:
    agents = [{"agent_id": "a", "name": "a"}, {"agent_id": "b"}]
    crew = to_crew(definition(model="openai:any", agents=agents, **relations(("a", ["b"]))), "team")
    assert crew.spec.flow_relations == [api.FlowRelation(source=["a"], target=["b"])]
    assert crew.metadata.namespace == "team"
