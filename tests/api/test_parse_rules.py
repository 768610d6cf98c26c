"""Rules over several fields and resources."""

from __future__ import annotations

import pytest
from reading import CREW, HEARTBEAT, only, problems, read

from watchbill.api.heartbeat import CRON_MACROS

pytestmark = pytest.mark.pure


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


@pytest.mark.parametrize(
    ("fields", "path", "reason"),
    [
        ("executionMode: hierarchical", "hierarchy", "executionMode hierarchical and hierarchy need each other"),
        ("hierarchy: {manager: writer}", "hierarchy", "executionMode hierarchical and hierarchy need each other"),
        ("{MODE} {manager: boss}", "hierarchy.manager", "no agent of this crew is called 'boss'"),
        ("{MODE} {manager: writer, reviewer: x}", "hierarchy.reviewer", "no agent of this crew is called 'x'"),
        (
            "{MODE} {manager: writer, reviewer: writer}",
            "hierarchy.reviewer",
            "'writer' is the manager, and can't review",
        ),
        ("{MODE} {manager: writer, reviewer: researcher}", "agents", "the manager has nobody to delegate to"),
    ],
)
def test_a_hierarchy_that_can_not_work_is_refused_at_its_place(fields: str, path: str, reason: str) -> None:
    problem = only(CREW + "  " + fields.replace("{MODE}", "executionMode: hierarchical\n  hierarchy:") + "\n")
    assert problem.path == f"spec.{path}"
    assert problem.reason.startswith(reason)


def test_who_works_when_it_is_asked_to_has_neither_a_condition_nor_a_list() -> None:
    text = """\
        apiVersion: watchbill.dev/v1alpha1
        kind: Crew
        metadata: {name: team}
        spec:
          executionMode: hierarchical
          hierarchy: {manager: lead, reviewer: critic}
          model: m
          agents:
            - {name: lead, forEach: "{inputs.works}"}
            - {name: coder, forEach: "{inputs.works}"}
            - {name: critic, when: {step: lead, exists: true}}
        """
    first, second = problems(text)
    assert (first.source, first.path) == ("crew.yaml:10", "spec.agents[1].forEach")
    assert first.reason == "agent 'coder' works whenever it is asked to, and can't have forEach"
    assert first.fix == "Remove it: its manager decides."
    assert (second.source, second.path) == ("crew.yaml:11", "spec.agents[2].when")


def test_approval_of_what_is_not_there_is_refused_at_its_place() -> None:
    problem = only(CREW + "  sharedTools: [calculator]\n  requiresApproval: [writer, calculator, editor]\n")
    assert problem.path == "spec.requiresApproval[2]"
    assert problem.reason == "'editor' is no agent of this crew, and no tool that one of them cites"
    assert problem.fix == "Name one of these: researcher, writer, calculator."
    assert only(CREW + "  approvalTimeoutSeconds: 0\n").path == "spec.approvalTimeoutSeconds"


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
        ("@every 5m", f"is not the name of a schedule; there are {', '.join(CRON_MACROS)}"),
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
        "baseURL, batch, class, config, fallbackModels, forEach, inputs, maxConcurrent, model, name, onError, "
        "outputSchema, prompt, rateLimit, roles, systemPrompt, timeoutSeconds, tools, when."
    )


@pytest.mark.parametrize("name", ["agent_class", "base_url", "system_prompt", "timeout_seconds"])
def test_the_names_that_python_uses_are_unknown_fields(name: str) -> None:
    assert only(CREW + f"      {name}: x\n").reason == f"there is no field {name!r} here"


def test_an_unknown_field_like_no_other_is_to_be_removed() -> None:
    problem = only(CREW + "  zzz: 1\n")
    assert problem.fix.startswith("Remove it. The fields here are: agents, approvalTimeoutSeconds, baseURL,")


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


def test_a_crew_has_a_hundred_different_roles_at_most() -> None:
    def crew(more: str) -> str:
        names = [f"r{i}" for i in range(100)]
        listed = [names[i : i + 10] for i in range(0, 100, 10)]
        agents = "".join(f"    - {{name: a{i}, roles: [{', '.join(roles)}]}}\n" for i, roles in enumerate(listed))
        return CREW.partition("  agents:")[0] + "  agents:\n" + agents + f"    - {{name: last, roles: [{more}]}}\n"

    assert read(crew("r0, r99")).crews
    problem = only(crew("r0, r100"))
    assert (problem.source, problem.path) == ("crew.yaml:18", "spec.agents[10].roles[1]")
    assert problem.reason == "a crew has 100 different roles at most, and 'r100' is one more"
    assert problem.fix == "Give it a role that another agent has, or remove it."
