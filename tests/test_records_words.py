"""What is said of a record that can't be a crew, and of a crew that can't be said as a resource."""

from __future__ import annotations

from typing import Any

import pytest

from watchbill.errors import InvalidInput, KubernetesForbids, KubernetesRefuses, MissingExtra, RetryAfter, TaskFailed
from watchbill.records import CrewDefinition, to_crew
from watchbill.tasks import RunResult, RunState, Usage

pytestmark = pytest.mark.pure

AGENTS = [{"agent_id": "a", "name": "Ann"}, {"agent_id": "b"}]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"name": "list"},
            "'list' is the name of an index of the crew records. Choose another name than id, list, tenants",
        ),
        ({"name": "a:b"}, "'a:b' can't be part of a key. Use printable characters other than { } : /"),
        ({"name": ""}, "'' can't be part of a key. Use printable characters other than { } : /"),
        ({"agents": [{"agent_id": ""}]}, "'' can't be an agent's name. Use 1 to 253 bytes of printable characters"),
        ({"agents": [*AGENTS, {"agent_id": "Ann"}]}, "two agents are called 'Ann'. Give each agent a name of its own"),
        (
            {"flow_relations": [{"source": "a", "target": ["b", "x"]}]},
            "flow_relations cites the agent 'x', which is not in this crew. Add it to agents, or use one of: a, b",
        ),
        (
            {"watches": [{"name": "w", "events": ["task_failed"], "role": "gard"}]},
            "watches cites the role 'gard', which no agent has. Give it to an agent",
        ),
        (
            {"flow_relations": [{"source": "Ann", "target": "b"}, {"source": ["b"], "target": ["a"]}]},
            "flow_relations form a cycle: a -> b -> a. Remove one of these relations",
        ),
    ],
)
def test_a_record_that_no_crew_can_have_is_told_with_its_fix(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as refused:
        CrewDefinition.model_validate({"name": "c", "agents": AGENTS, **change})
    assert f"Value error, {told} [" in str(refused.value)


@pytest.mark.parametrize("length", [253, 254])
def test_names_have_253_bytes_at_most(length: int) -> None:
    for record in (
        {"name": "c" * length, "agents": AGENTS},
        {"name": "c", "agents": [{"agent_id": "\u00e9" * (length // 2) + "x" * (length % 2)}]},
    ):
        if length == 253:
            CrewDefinition.model_validate(record)
        else:
            with pytest.raises(ValueError, match=r"can't be (part of a key|an agent's name)"):
                CrewDefinition.model_validate(record)


def test_what_a_resource_has_no_place_for_is_told_with_its_fix() -> None:
    with pytest.raises(InvalidInput) as refused:
        to_crew(
            CrewDefinition.model_validate({"name": "c", "model": "m", "agents": AGENTS, "metadata": {"version": 1}}),
            "team",
        )
    assert [str(problem) for problem in refused.value.problems] == [
        "agents[0].name: agent 'a' has a second name, 'Ann', for which a Crew has no place. "
        "Remove name, or use it as the agent_id.",
        "metadata.version: a Crew has no place for the metadata 'version'. Remove it.",
    ]


def test_errors_carry_what_their_callers_ask_for() -> None:
    for kind in (KubernetesRefuses, KubernetesForbids):
        error = kind("why", 422)
        assert (str(error), error.status) == ("why", 422)
    assert (RetryAfter("busy", 2.5).retry_after, str(RetryAfter("busy", 2.5))) == (2.5, "busy")
    assert (TaskFailed("why", 5).result, TaskFailed("why").result, str(TaskFailed("why"))) == (5, None, "why")
    missing = MissingExtra("Reading", "cli", "yaml")
    assert (missing.extra, missing.name) == ("cli", "yaml")
    assert str(missing).startswith("Reading (yaml not found) needs an optional part of Watchbill. Install it: ")
    assert str(MissingExtra("Reading", "cli")).startswith("Reading needs an optional part")


def test_usages_add_up() -> None:
    both = Usage(input_tokens=1, output_tokens=2, requests=3) + Usage(input_tokens=10, output_tokens=20, requests=30)
    assert both == Usage(input_tokens=11, output_tokens=22, requests=33)
    assert both.total_tokens == 33


@pytest.mark.parametrize("state", RunState)
def test_a_run_succeeded_if_it_completed_and_can_be_read(state: RunState) -> None:
    run = RunResult(run_id="r", crew="c", status=state)
    assert run.success is (state is RunState.COMPLETED)
    assert run.cancelled is (state is RunState.CANCELLED)
    assert not run.model_copy(update={"error": "e"}).success
