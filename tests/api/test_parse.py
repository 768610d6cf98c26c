"""What a person is told about a file that can't be used: which line, which field, why, and what to do."""

from __future__ import annotations

import time

import pytest
from pydantic import ValidationError
from reading import CREW, HEARTBEAT, only, places, read

from watchbill import api
from watchbill.api import parse
from watchbill.errors import InvalidInput

pytestmark = pytest.mark.pure


# what is read
def test_a_minimal_crew_gets_every_default() -> None:
    (crew,) = read(CREW).crews
    assert crew.name == "blog-team"
    assert crew.spec.execution_mode == "sequential"
    assert [agent.name for agent in crew.spec.agents] == ["researcher", "writer"]
    assert crew.spec.max_parallel_tasks == 10
    assert crew.spec.tasks.model_dump(by_alias=True) == {
        "timeoutSeconds": 300,
        "maxAttempts": 3,
        "backoffSeconds": 2,
        "maxQueued": 100_000,
        "resultTTLSeconds": 3600,
        "maxResults": 100_000,
        "leaseSeconds": 15,
    }
    assert crew.spec.workers.model_dump(by_alias=True) == {
        "image": "",
        "minReplicas": 0,
        "maxReplicas": 20,
        "concurrency": 10,
        "idleSeconds": 300,
        "envFrom": [],
        "redisSecretRef": {"name": "watchbill-redis"},
        "template": {},
        "rolloutOnChange": True,
        "scaling": {
            "mode": "Auto",
            "up": {"stabilizationWindowSeconds": 0, "policies": [], "waitSeconds": 60},
            "down": {"stabilizationWindowSeconds": 300, "policies": []},
        },
        "replicas": 1,
    }


def test_every_field_of_an_agent_is_read() -> None:
    text = CREW + (
        "      class: my_agents:Writer\n"
        "      model: anthropic:claude\n"
        "      baseURL: http://127.0.0.1:8000/v1\n"
        "      systemPrompt: You write.\n"
        "      prompt: 'Write about {input}'\n"
        "      tools: [calculator, my_tools:search]\n"
        "      config: {temperature: 0.7, nested: {deep: [1, null]}}\n"
        "      timeoutSeconds: 120\n"
    )
    agent = read(text).crews[0].spec.agents[1]
    assert agent.agent_class == "my_agents:Writer"
    assert agent.base_url == "http://127.0.0.1:8000/v1"
    assert agent.config == {"temperature": 0.7, "nested": {"deep": [1, None]}}
    assert (agent.model, agent.system_prompt, agent.prompt) == ("anthropic:claude", "You write.", "Write about {input}")
    assert (agent.tools, agent.timeout_seconds) == (["calculator", "my_tools:search"], 120)


def test_what_kubectl_prints_can_be_read_back() -> None:
    text = """\
        apiVersion: watchbill.dev/v1alpha1
        kind: Crew
        metadata:
          annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}"}
          creationTimestamp: "2026-01-02T03:04:05Z"
          generation: 2
          managedFields: [{manager: kubectl, operation: Apply}]
          name: blog-team
          namespace: team
          resourceVersion: "123"
          uid: 0b5e
        spec: {agents: [{name: a, class: EchoAgent}], executionMode: sequential, maxParallelTasks: 10}
        status: {observedGeneration: 2, conditions: [], fieldOfALaterVersion: true}
        """
    (crew,) = read(text).crews
    assert (crew.name, crew.metadata.namespace, crew.status) == ("blog-team", "team", None)


def test_a_heartbeat_may_name_a_crew_that_is_elsewhere() -> None:
    (heartbeat,) = read(HEARTBEAT).heartbeats
    assert heartbeat.spec.crew_ref.name == "blog-team"
    assert heartbeat.spec.agent is None
    assert (heartbeat.spec.time_zone, heartbeat.spec.priority, heartbeat.spec.suspend) == ("UTC", "LOW", False)


def test_the_same_name_may_be_used_for_a_crew_and_a_heartbeat_and_in_two_namespaces() -> None:
    elsewhere = CREW.replace("name: blog-team\n", "name: blog-team\n  namespace: other\n")
    parsed = read(f"{CREW}---\n{elsewhere}---\n{HEARTBEAT.replace('morning', 'blog-team')}")
    assert len(parsed.crews) == 2
    assert len(parsed.heartbeats) == 1


def test_a_resource_knows_the_line_of_each_of_its_fields() -> None:
    parsed = read(f"{CREW}---\n{HEARTBEAT}")
    (crew,), (heartbeat,) = parsed.crews, parsed.heartbeats
    assert parsed.where(crew) == "crew.yaml:1"
    assert parsed.where(crew, ("spec", "agents", 1)) == "crew.yaml:9"
    assert parsed.where(crew, ("spec", "agents", 1, "class")) == "crew.yaml:9"
    assert parsed.where(heartbeat, ("spec", "schedule")) == "crew.yaml:17"


# all at once
def test_every_problem_of_every_document_is_told_at_once_in_the_order_of_lines() -> None:
    text = f"""\
{CREW.replace("- name: writer", "- {name: writer, oops: 1}")}
  executionMode: flow
  flowRelations:
    - {{source: [nobody], target: [writer]}}
  workers: {{minReplicas: 9, maxReplicas: 3}}
---
{HEARTBEAT}
  timeZone: Nowhere
  prioritty: LOW
  suspend: "no"
"""
    assert places(text) == [
        ("crew.yaml:9", "spec.agents[1].oops"),
        ("crew.yaml:13", "spec.flowRelations[0].source[0]"),
        ("crew.yaml:14", "spec.workers.minReplicas"),
        ("crew.yaml:25", "spec.timeZone"),
        ("crew.yaml:26", "spec.prioritty"),
        ("crew.yaml:27", "spec.suspend"),
    ]


def test_a_typo_does_not_accuse_what_only_follows_from_it() -> None:
    text = CREW.replace("  model: openai:gpt-5-mini\n", "").replace(
        "- name: researcher", "- {name: researcher, class: E}"
    )
    assert places(text.replace("- name: writer", "- {name: writer, modle: m}")) == [
        ("crew.yaml:8", "spec.agents[1].modle")
    ]
    assert places(text.replace("- name: writer", "- {name: writer, model: 5}")) == [
        ("crew.yaml:8", "spec.agents[1].model")
    ]
    assert places(CREW + "  workers: {minReplicas: 30, maxReplicas: '50'}\n") == [
        ("crew.yaml:10", "spec.workers.maxReplicas")
    ]


def test_every_problem_says_where_why_and_what_to_do() -> None:
    problem = only(CREW + "    - name: researcher\n")
    assert str(problem) == (
        "crew.yaml:10: spec.agents[2].name: two agents are called 'researcher': agents[0] and agents[2]. "
        "Give each agent a name of its own."
    )


def test_what_a_later_version_wrote_can_be_read_on_a_cluster() -> None:
    """Strict at the door, and not within: a crew must survive that the operator, or Kubernetes, goes back a version."""
    agents = [{"name": "a", "class": "E", "later": 1}]
    seen = {"metadata": {"name": "c", "later": {}}, "later": 1, "spec": {"agents": agents, "tasks": {"later": 1}}}
    with pytest.raises(ValidationError):
        api.Crew.model_validate(seen)
    crew = api.Crew.model_validate(seen, extra="ignore")
    assert (crew.name, crew.spec.agents[0].agent_class, crew.spec.tasks.max_attempts) == ("c", "E", 3)


def test_a_crew_on_a_cluster_that_has_a_cycle_can_still_be_read() -> None:
    crew = api.Crew.model_validate(
        {
            "metadata": {"name": "c"},
            "spec": {
                "executionMode": "flow",
                "agents": [{"name": "a", "class": "E"}],
                "flowRelations": [{"source": ["a"], "target": ["a"]}],
            },
        }
    )
    (problem,) = api.check(crew)
    assert problem.path == "spec.flowRelations"
    assert "a -> a" in problem.reason


HEAD = "apiVersion: watchbill.dev/v1alpha1\nkind: Crew\nmetadata: {name: c}\nspec:\n"

FLOWS = HEAD + "  agents: [{name: a}]\n  flowRelations:\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + "  agents:\n" + "  - {name: a, class: EchoAgent}\n" * 20_000, "more than 5000 entries"),
        (FLOWS + "  - {}\n" * 100_000, "more than 5000 entries"),
        (
            HEAD + "  agents:\n  - name: a\n    config:\n" + "".join(f"      k{n}: 1\n" for n in range(50_000)),
            "this map has more than 5000 entries",
        ),
        (HEAD + "  agents:\n" + "  - {nam: 1}\n" * 1000, "there are 1000 entries, and at most 100 are possible"),
        (FLOWS + "  - {}\n" * 2000, "there are 2000 entries, and at most 200 are possible"),
    ],
    ids=["agents", "flows", "config", "agents that can be counted", "flows that can be counted"],
)
def test_what_is_far_too_much_is_refused_without_a_look_at_each(text: str, said: str) -> None:
    began = time.process_time()
    with pytest.raises(InvalidInput) as caught:
        parse.parse(text, "crew.yaml")
    assert len(caught.value.problems) == 1, "else each of them was looked at"
    assert said in str(caught.value)
    assert time.process_time() - began < 10, "of this process; a tenth of that is usual"
