"""What is said of each submission that is refused, word by word, and the very bounds of those that are not."""

from __future__ import annotations

from typing import Any

import pytest

from watchbill.errors import InvalidInput, Problem
from watchbill.plan import heartbeat, prompts, submission, texts, values
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.tasks import (
    INPUT_MAX_BYTES,
    INPUTS_MAX_BYTES,
    LABEL_MAX_BYTES,
    METADATA_MAX_BYTES,
    PROMPT_MAX_BYTES,
)

pytestmark = pytest.mark.pure

HALF = "cut \ud83d"
CREW = CrewDefinition(
    name="c",
    agents=[
        AgentDefinition(agent_id="a", name="Ann", inputs=["read"]),
        AgentDefinition(agent_id="b", prompt="{steps.a} {inputs.log} {steps.Ann}"),
    ],
)
ELSEWHERE = "Put larger data into a store of its own and give a reference to it."
UTF8 = "Give UTF-8 text: text.encode('utf-8', 'replace').decode() makes ? of what is none."


def told(**given: Any) -> list[str]:
    submitted: dict[str, Any] = {"crew": CREW, "prompt": "p", "inputs": {"log": ""}} | given
    with pytest.raises(InvalidInput) as refused:
        submission.check(**submitted)
    return [str(problem) for problem in refused.value.problems]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (
            {"prompt": "x" * (PROMPT_MAX_BYTES + 1)},
            "prompt: the prompt has 262145 bytes; the limit is 262144 (256 KiB). Give larger text as an input "
            "(--input NAME=@FILE) and cite it as {inputs.NAME} in an agent's prompt.",
        ),
        ({"prompt": ["x" * 100]}, f"prompt: {repr(['x' * 100])[:80]} can't be used: it is no text. Give a str."),
        (
            {"prompt": HALF},
            "prompt: this is no text: half a character (a lone surrogate) at position 4. "
            "Give it as UTF-8, or as an input, which may be any bytes (surrogateescape).",
        ),
        (
            {"task_id": "/" * 300},
            f"id: {repr('/' * 300)[:200]} can't be an id. Use 1 to 128 letters, digits, dots, dashes and underscores.",
        ),
        (
            {"metadata": {str(number): "" for number in range(65)}},
            "metadata: there are 65 metadata entries. Give 64 at most.",
        ),
        (
            {"metadata": {"n": "x" * METADATA_MAX_BYTES}},
            "metadata: the metadata have 65537 bytes; the limit is 65536 (64 KiB). "
            "Give what is larger as an input, or a reference to it.",
        ),
        (
            {"metadata": {"n": HALF}},
            f"metadata.n: this is no text: half a character (a lone surrogate) at position 4. {UTF8}",
        ),
        (
            {"metadata": {HALF: "x"}},
            f"metadata: this is no text: half a character (a lone surrogate) at position 4. {UTF8}",
        ),
        (
            {"inputs": {"log": "", **{f"n{number}": "" for number in range(1000)}}},
            "inputs: there are 1001 inputs; the limit is 1000. Join some.",
        ),
        (
            {"inputs": {"log": ["x" * 100]}},
            f"inputs.log: input 'log' is no text: {repr(['x' * 100])[:80]}. Give it as a str.",
        ),
        (
            {"inputs": {"log": HALF}},
            "inputs.log: input 'log' is neither text nor bytes: half a character at position 4. "
            "Decode bytes with errors='surrogateescape'.",
        ),
        (
            {"inputs": {"log": "x" * (INPUT_MAX_BYTES + 1)}},
            f"inputs.log: input 'log' has 16777217 bytes; the limit is 16777216 (16 MiB). {ELSEWHERE}",
        ),
        (
            {"inputs": {"log": "", "0" * 100: ""}},
            f"inputs: {repr('0' * 100)[:80]} can't be the name of an input. "
            "Use a letter, then letters, digits, - and _ (63 at most).",
        ),
        ({"agent": "x"}, "agent: crew 'c' has no agent 'x'. Use one of: a, b; or none, for the whole crew."),
        (
            {"inputs": {}},
            "inputs.log: the prompt of agent 'b' cites {inputs.log}, but no such input was given. "
            "Give it with --input log=@FILE (or log=TEXT).",
        ),
    ],
    ids=range(15),
)
def test_a_submission_is_refused_with_its_place_its_reason_and_its_fix(given: dict[str, Any], problem: str) -> None:
    assert told(**given) == [problem]


def test_each_step_that_an_agent_cites_which_is_asked_alone_is_told() -> None:
    assert told(agent="b") == [
        f"agent: the prompt of agent 'b' cites {{steps.{name}}}, which exists only in a run of the crew. "
        "Submit to the whole crew instead (no agent), or remove the reference."
        for name in ("a", "Ann")
    ]


def test_inputs_of_bytes_are_counted_as_bytes() -> None:
    full = {f"n{number}": "\udcff" * INPUT_MAX_BYTES for number in range(INPUTS_MAX_BYTES // INPUT_MAX_BYTES - 1)}
    assert told(inputs=full | {"log": "x" * INPUT_MAX_BYTES, "more": "x"}) == [
        f"inputs: the inputs have 67108865 bytes together; the limit is 67108864 (64 MiB). {ELSEWHERE}"
    ]


def test_a_wrong_input_hides_none_behind_it_and_is_not_counted() -> None:
    assert [problem.partition(":")[0] for problem in told(inputs={"one": 1, "half": HALF, "log": 2})] == [
        "inputs.one",
        "inputs.half",
        "inputs.log",
    ]


def test_a_submission_that_is_accepted_may_have_no_warnings() -> None:
    inputs = {"log": "", "read": ""}
    assert submission.check(CREW, "p", inputs=inputs, metadata={"n": "v"}, task_id="t") == []
    assert submission.check(CREW, "p", agent="Ann", inputs={"spare": ""}) == [
        Problem(
            "input 'spare' is used by no agent",
            "Cite it as {inputs.spare} in the prompt of the agent that needs it, name it in that agent's inputs if "
            "its class reads it, or leave it out.",
            path="inputs.spare",
        )
    ]


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"prompt": HALF}, "prompt"),
        ({"task_id": "/"}, "id"),
        ({"metadata": {"n": HALF}}, "metadata.n"),
        ({"labels": {"user_id": None, "session_id": HALF}}, "session_id"),
        ({"labels": {"user_id": "x" * (LABEL_MAX_BYTES + 1)}}, "user_id"),
    ],
)
def test_each_argument_that_does_not_depend_on_the_crew_is_checked_without_it(given: dict[str, Any], path: str) -> None:
    arguments: dict[str, Any] = {"prompt": "p", "task_id": "t", "metadata": {}, "labels": {}} | given
    with pytest.raises(InvalidInput) as refused:
        submission.check_own(**arguments)
    assert [problem.path for problem in refused.value.problems] == [path]


def test_texts_are_looked_at_one_by_one() -> None:
    given: dict[str, object] = {
        "none": None,
        "five": 5,
        "half": HALF,
        "long": "\u00e9xx",
        "fits": "\u00e9x",
        "ascii": "xxxx",
    }
    assert [str(problem) for problem in texts.problems(given, most_bytes=3)] == [
        "five: 5 can't be used: it is no text. Give a str.",
        f"half: this is no text: half a character (a lone surrogate) at position 4. {UTF8}",
        "long: this has 4 bytes; the limit is 3. Shorten it.",
        "ascii: this has 4 bytes; the limit is 3. Shorten it.",
    ]
    assert [problem.path for problem in texts.problems(given)] == ["five", "half"]


def test_the_digest_of_work_stays_what_it_is() -> None:
    """Stores hold it: with another one, a submission that is sent again would be a conflict."""
    assert submission.work("a", "p", {}) == "53536dc177ca781f"
    assert submission.work("", "\u00e9", {"n": "\udcff", "m": "2"}) == "df8bdd435f5a06a0"


def test_a_problem_of_a_submission_is_told_as_one_of_its_heartbeat() -> None:
    found = Problem("reason", "fix", path="inputs.log")
    assert heartbeat.problem(found) == Problem("reason", "Give it in spec.inputs.log.", path="spec.inputs.log")
    assert heartbeat.problem(Problem("reason", "fix", path="agent")) == Problem("reason", "fix", path="spec.agent")


def test_references_behind_one_that_is_right_are_looked_at() -> None:
    crew = CrewDefinition.model_validate(
        {
            "name": "c",
            "agents": [
                {"agent_id": "a"},
                {"agent_id": "b", "prompt": "{steps.a} {steps.a.x} {steps.x.y} {steps.b} {input.Xx} {inputs[ 'y' ]}"},
            ],
        }
    )
    whose = "spec.agents[1].prompt: the prompt of agent 'b'"
    assert [str(problem) for problem in prompts.check(crew)] == [
        f"{whose} cites {{steps.x.y}}, but no agent is called 'x.y'. Use one of: a, b.",
        f"{whose} cites {{steps.b}}, but 'b' does not run before it in mode sequential. "
        "Remove the reference, or have 'b' run first (flowRelations, or the order of agents).",
        f"{whose} has {{input.Xx}}, which is no reference. "
        "Did you mean {inputs.Xx}? Double the braces for the text itself: {{input.Xx}}.",
        f"{whose} has {{inputs[ 'y' ]}}, which is no reference. "
        "Did you mean {inputs.y}? Double the braces for the text itself: {{inputs[ 'y' ]}}.",
    ]


def test_an_output_is_shown_as_json_that_people_can_read() -> None:
    assert values.as_text({"b": [1], "a": "\u00e9"}) == '{\n  "b": [\n    1\n  ],\n  "a": "\u00e9"\n}'
