"""What a person is told about a file that can't be used: which line, which field, why, and what to do."""

from __future__ import annotations

import time

import pytest
from pydantic import ValidationError
from reading import CREW, HEARTBEAT, only, places, problems, read

from watchbill import api
from watchbill.api import parse
from watchbill.errors import InvalidInput, Problem

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
        "scaling": {"mode": "Auto"},
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


# the cases that must be told well


def test_the_agent_that_the_seed_forgot_is_named_wherever_it_is_cited() -> None:
    text = """\
        apiVersion: watchbill.dev/v1alpha1
        kind: Crew
        metadata: {name: research-synthesis-team}
        spec:
          executionMode: flow
          model: openai:gpt-5-mini
          agents:
            - name: coordinator
            - name: tech_researcher
            - name: synthesizer
          flowRelations:
            - source: [coordinator]
              target: [tech_researcher, market_researcher]
            - source:
                - tech_researcher
                - market_researcher
              target: [synthesizer]
        """
    first, second = problems(text)
    assert (first.source, first.path) == ("crew.yaml:13", "spec.flowRelations[0].target[1]")
    assert first.reason == "no agent of this crew is called 'market_researcher'"
    assert first.fix == "Add it to agents, or cite one that is there: coordinator, tech_researcher, synthesizer."
    assert (second.source, second.path) == ("crew.yaml:16", "spec.flowRelations[1].source[1]")


def test_a_cycle_is_named() -> None:
    text = """\
        apiVersion: watchbill.dev/v1alpha1
        kind: Crew
        metadata: {name: c}
        spec:
          executionMode: flow
          model: m
          agents: [{name: a}, {name: b}, {name: c}, {name: d}]
          flowRelations:
            - {source: [d], target: [a]}
            - {source: [a], target: [b]}
            - {source: [b], target: [c]}
            - {source: [c], target: [a]}
        """
    problem = only(text)
    assert (problem.source, problem.path) == ("crew.yaml:8", "spec.flowRelations")
    assert problem.reason == "flowRelations go in a circle, so none of these could start: a -> b -> c -> a"
    assert problem.fix == "Remove one of these relations."


def test_an_agent_that_waits_for_itself_is_a_cycle() -> None:
    text = CREW + "  executionMode: flow\n  flowRelations: [{source: [writer], target: [writer]}]\n"
    assert "writer -> writer" in only(text).reason


def test_two_agents_of_one_name() -> None:
    problem = only(CREW + "    - name: researcher\n")
    assert (problem.source, problem.path) == ("crew.yaml:10", "spec.agents[2].name")
    assert problem.reason == "two agents are called 'researcher': agents[0] and agents[2]"
    assert problem.fix == "Give each agent a name of its own."


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        ("0 25 * * *", "is not a cron expression: bad hour"),
        ("61 * * * *", "is not a cron expression: bad minute"),
        ("0 9 * * mondays", "is not a cron expression: bad day-of-week"),
        ("@daily", "is not a cron expression of five fields, but has 1"),
        ("0 0 9 * * 1", "is not a cron expression of five fields, but has 6"),
        ("0 0 30 2 *", "is not a cron expression: bad day-of-month"),
    ],
)
def test_a_bad_cron_expression(schedule: str, told: str) -> None:
    problem = only(HEARTBEAT.replace("0 9 * * 1-5", schedule))
    assert (problem.source, problem.path) == ("crew.yaml:7", "spec.schedule")
    assert problem.reason == f"{schedule!r} {told}"
    assert problem.fix.startswith("Write five fields: minute, hour,")


@pytest.mark.parametrize(
    ("zone", "fix"),
    [
        ("Europe/Berln", "Write 'Europe/Berlin'."),
        ("europe/berlin", "Write 'Europe/Berlin'."),
        ("Mars", "Use a name such as Europe/Berlin, or UTC."),
    ],
)
def test_a_bad_time_zone(zone: str, fix: str) -> None:
    problem = only(HEARTBEAT + f"  timeZone: {zone}\n")
    assert (problem.source, problem.path) == ("crew.yaml:9", "spec.timeZone")
    assert problem.reason == f"{zone!r} is not a known time zone"
    assert problem.fix == fix


def test_a_time_zone_that_is_a_path_or_an_offset_is_refused() -> None:
    for zone in ("../../etc/passwd", "+02:00", "/etc/localtime"):
        problem = only(HEARTBEAT + f"  timeZone: {zone}\n")
        assert problem.path == "spec.timeZone"
        assert problem.fix == "Use a name such as Europe/Berlin, or UTC."


def test_both_schedule_and_interval() -> None:
    problem = only(HEARTBEAT + "  intervalSeconds: 60\n")
    assert (problem.source, problem.path) == ("crew.yaml:9", "spec.intervalSeconds")
    assert problem.reason == "schedule and intervalSeconds are both given"
    assert problem.fix == "Remove one of the two."


def test_neither_schedule_nor_interval() -> None:
    problem = only(HEARTBEAT.replace('  schedule: "0 9 * * 1-5"\n', ""))
    assert (problem.source, problem.path) == ("crew.yaml:5", "spec.schedule")
    assert "neither" in problem.reason


def test_a_time_zone_without_a_schedule() -> None:
    text = HEARTBEAT.replace('schedule: "0 9 * * 1-5"', "intervalSeconds: 60") + "  timeZone: Europe/Berlin\n"
    assert (only(text).path, only(text).reason) == ("spec.timeZone", "timeZone means nothing without schedule")


def test_an_interval_with_the_default_time_zone_spelled_out_is_fine() -> None:
    text = HEARTBEAT.replace('schedule: "0 9 * * 1-5"', "intervalSeconds: 60") + "  timeZone: UTC\n"
    assert read(text).heartbeats[0].spec.interval_seconds == 60


def test_more_workers_at_least_than_at_most() -> None:
    problem = only(CREW + "  workers:\n    maxReplicas: 2\n    minReplicas: 5\n")
    assert (problem.source, problem.path) == ("crew.yaml:12", "spec.workers.minReplicas")
    assert problem.reason == "minReplicas (5) is above maxReplicas (2)"
    assert problem.fix == "Lower minReplicas or raise maxReplicas."


def test_an_unknown_field_gets_the_one_that_was_meant() -> None:
    problem = only(CREW + "      systemPromt: You write.\n")
    assert (problem.source, problem.path) == ("crew.yaml:10", "spec.agents[1].systemPromt")
    assert problem.reason == "there is no field 'systemPromt' here"
    assert problem.fix == (
        "Write 'systemPrompt' instead, or remove it. The fields here are: "
        "baseURL, class, config, inputs, model, name, prompt, systemPrompt, timeoutSeconds, tools."
    )


@pytest.mark.parametrize("name", ["agent_class", "base_url", "system_prompt", "timeout_seconds"])
def test_the_names_that_python_uses_are_unknown_fields(name: str) -> None:
    assert only(CREW + f"      {name}: x\n").reason == f"there is no field {name!r} here"


def test_an_unknown_field_like_no_other_is_to_be_removed() -> None:
    problem = only(CREW + "  zzz: 1\n")
    assert problem.fix.startswith("Remove it. The fields here are: agents, description,")


def test_a_prompt_above_the_limit() -> None:
    text = HEARTBEAT.replace("Write.", "x" * (256 * 1024))
    assert len(read(text).heartbeats[0].spec.prompt) == 256 * 1024
    problem = only(text.replace("prompt: x", "prompt: xx"))
    assert (problem.source, problem.path) == ("crew.yaml:8", "spec.prompt")
    assert problem.reason == "the text has 262145 characters, and at most 262144 are possible"
    assert len(str(problem)) < 300


def test_a_prompt_is_measured_in_bytes() -> None:
    problem = only(HEARTBEAT.replace("Write.", "é" * (128 * 1024 + 1)))
    assert problem.path == "spec.prompt"
    assert problem.reason == "the text has 262146 bytes, and at most 262144 are possible"


@pytest.mark.parametrize("field", ["prompt", "systemPrompt"])
def test_an_agents_text_above_the_limit(field: str) -> None:
    assert read(CREW + f"      {field}: {'x' * 128 * 1024}\n")
    problem = only(CREW + f"      {field}: {'x' * (128 * 1024 + 1)}\n")
    assert (problem.source, problem.path) == ("crew.yaml:10", f"spec.agents[1].{field}")


def test_a_missing_kind_and_version() -> None:
    first, second = problems("metadata: {name: x}\n")
    assert (first.path, first.fix) == ("apiVersion", "Add apiVersion: watchbill.dev/v1alpha1.")
    assert (second.path, second.fix) == ("kind", "Add kind: Crew or Heartbeat.")


def test_an_unknown_kind_and_version() -> None:
    first, second = problems("\napiVersion: watchbill.dev/v1\nkind: crew\n")
    assert (first.source, first.fix) == ("crew.yaml:2", "Write 'watchbill.dev/v1alpha1'.")
    assert (second.source, second.fix) == ("crew.yaml:3", "Write 'Crew', or another of: Crew, Heartbeat.")


def test_a_resource_of_another_program_is_named() -> None:
    (problem,) = problems("apiVersion: watchbill.dev/v1alpha1\nkind: Deployment\n")
    assert problem.reason == "'Deployment' is not known as kind"
    assert only("apiVersion: [1]\nkind: Crew\n").path == "apiVersion"


@pytest.mark.parametrize(("text", "kind"), [(CREW, "Crew"), (HEARTBEAT, "Heartbeat")])
def test_two_resources_of_one_kind_and_name(text: str, kind: str) -> None:
    problem = only(f"{text}---\n{text}")
    lines = text.count("\n")
    assert (problem.source, problem.path) == (f"crew.yaml:{lines + 5}", "metadata.name")
    assert problem.reason.startswith(f"two {kind}s are called ")
    assert problem.reason.endswith("the first is at line 4")


# every other kind of fault, in words


def wrong(field: str, value: str) -> Problem:
    return only(CREW + f"  {field}: {value}\n")


QUOTE = "Put it in quotes, so that it is read as text."
WHOLE = "Write a whole number"
MAPPING = "a mapping of names to values"
MODES = "sequential, parallel, flow"
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
