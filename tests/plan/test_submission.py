"""What a crew is asked: which submissions are refused before anything is stored, and which are the same work."""

from __future__ import annotations

import json
from typing import Any

import pytest

from watchbill.errors import InvalidInput
from watchbill.plan import submission, texts
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.tasks import (
    INPUT_MAX_BYTES,
    INPUTS_MAX,
    INPUTS_MAX_BYTES,
    LABEL_MAX_BYTES,
    METADATA_MAX_BYTES,
    METADATA_MAX_ENTRIES,
    PROMPT_MAX_BYTES,
    AgentTask,
)

pytestmark = pytest.mark.pure

HALF = "cut \ud83d"
LARGEST = "x" * INPUT_MAX_BYTES
MANY = {f"n{i}": "" for i in range(INPUTS_MAX)}
ENTRIES = {str(i): "" for i in range(METADATA_MAX_ENTRIES)}


def crew(**prompts: str | None) -> CrewDefinition:
    agents = [
        {"agent_id": f"{name}-id", "name": name, "prompt": prompt, "inputs": ["read"]}
        for name, prompt in (prompts or {"a": None}).items()
    ]
    return CrewDefinition.model_validate({"name": "c", "agents": agents})


def refused(**given: Any) -> list[tuple[str | None, str, str | None]]:
    """(path, reason, fix) of each problem; an empty list if the submission is accepted."""
    submitted: dict[str, Any] = {"crew": crew(), "prompt": "p", "inputs": {}} | given
    try:
        submission.check(**submitted)
    except InvalidInput as error:
        return [(problem.path, problem.reason, problem.fix) for problem in error.problems]
    return []


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": "x" * PROMPT_MAX_BYTES},
        {"prompt": "é" * (PROMPT_MAX_BYTES // 2)},
        {"task_id": "aZ0._-" + "x" * 122},
        {"metadata": ENTRIES},
        {"metadata": {"é": "x" * (METADATA_MAX_BYTES - 2)}},
        {"metadata": {"n": 1, "deep": {"list": [None, True, 0.5, "\u2603"]}}},
        {"inputs": dict.fromkeys(["read"], LARGEST)},
        {"inputs": {"read": "\udcff"}},
        {"agent": "a"},
        {"agent": "a-id"},
    ],
    ids=lambda given: next(iter(given)),
)
def test_a_submission_within_the_limits_is_accepted(given: dict[str, Any]) -> None:
    assert refused(**given) == []


@pytest.mark.parametrize(
    ("given", "path", "reason", "fix"),
    [
        (
            {"prompt": "x" * (PROMPT_MAX_BYTES + 1)},
            "prompt",
            "the prompt has 262145 bytes; the limit is 262144",
            "--in",
        ),
        ({"prompt": "é" * (PROMPT_MAX_BYTES // 2) + "x"}, "prompt", "the prompt has 262145 bytes", "{inputs.NAME}"),
        ({"prompt": HALF}, "prompt", "half a character (a lone surrogate) at position 4", "any bytes"),
        ({"prompt": 1}, "prompt", "1 can't be used: it is no text", "Give a str."),
        ({"task_id": "x" * 129}, "id", "can't be an id", "Use 1 to 128 letters"),
        ({"task_id": ""}, "id", "'' can't be an id", "Use 1 to 128 letters"),
        ({"task_id": "a/b"}, "id", "'a/b' can't be an id", "Use 1 to 128 letters"),
        ({"task_id": 7}, "id", "7 can't be an id", "Use 1 to 128 letters"),
        ({"metadata": ENTRIES | {"more": ""}}, "metadata", "there are 65 metadata entries", "Give 64 at most."),
        (
            {"metadata": {"é": "x" * (METADATA_MAX_BYTES - 1)}},
            "metadata",
            "the metadata have 65537 bytes",
            "as an input",
        ),
        ({"metadata": {HALF: "x"}}, "metadata", "half a character", "Give UTF-8 text"),
        ({"metadata": {"n": HALF}}, "metadata.n", "half a character", "Give UTF-8 text"),
        ({"metadata": {"n": [HALF]}}, "metadata.n", "half a character", "Give UTF-8 text"),
        ({"metadata": {"n": float("nan")}}, "metadata.n", "can't be stored as JSON", "Give text, numbers"),
        ({"metadata": {"n": json.loads("[" * 300 + "]" * 300)}}, "metadata.n", "stored as JSON", "Give"),
        ({"metadata": {"n": json.loads("[" * 199 + "1" + "]" * 199)}}, "metadata.n", "stored as JSON", "Give"),
        ({"inputs": {"read": LARGEST + "x"}}, "inputs.read", "has 16777217 bytes; the limit is 16777216", "reference"),
        ({"inputs": {"read": 1}}, "inputs.read", "input 'read' is no text: 1", "Give it as a str."),
        ({"inputs": {"read": HALF}}, "inputs.read", "half a character at position 4", "surrogateescape"),
        ({"inputs": {"0": ""}}, "inputs", "'0' can't be the name of an input", "Use a letter"),
        ({"inputs": MANY | {"more": ""}}, "inputs", "there are 1001 inputs; the limit is 1000", "Join some."),
        ({"agent": "b"}, "agent", "crew 'c' has no agent 'b'", "Use one of: a-id; or none, for the whole crew."),
    ],
)
def test_what_no_crew_can_work_on_is_refused_by_its_name(given: Any, path: str, reason: str, fix: str) -> None:
    [(at, because, remedy)] = refused(**given)
    assert at == path
    assert reason in because
    assert fix in (remedy or "")


def test_metadata_that_are_accepted_can_be_read_within_their_task() -> None:
    metadata = {"n": json.loads("[" * 198 + "1" + "]" * 198)}
    assert refused(metadata=metadata) == []
    task = AgentTask(agent_name="a", prompt="x", metadata=metadata)
    assert AgentTask.model_validate_json(task.model_dump_json()) == task


def test_inputs_are_refused_together_when_each_is_within_its_limit() -> None:
    full = {f"n{i}": LARGEST for i in range(INPUTS_MAX_BYTES // INPUT_MAX_BYTES)}
    assert refused(inputs=full) == []
    [(path, reason, fix)] = refused(inputs=full | {"more": "x"})
    assert path == "inputs"
    assert reason.startswith("the inputs have 67108865 bytes together; the limit is 67108864")
    assert "a reference" in (fix or "")


def test_all_that_is_wrong_is_told_at_once() -> None:
    wrong = refused(prompt=HALF, task_id="/", metadata={"n": HALF}, inputs={"0": "", "n": HALF}, agent="b")
    assert [path for path, _, _ in wrong] == ["prompt", "id", "metadata.n", "inputs.n", "agent", "inputs"]


def test_an_agent_that_is_asked_alone_needs_its_own_inputs_and_no_steps() -> None:
    asked = crew(a="{inputs.log}", b="{steps.a}")
    assert [path for path, _, _ in refused(crew=asked)] == ["inputs.log"]
    assert [path for path, _, _ in refused(crew=asked, agent="a")] == ["inputs.log"]
    [(path, reason, fix)] = refused(crew=asked, agent="b")
    assert path == "agent"
    assert reason == "the prompt of agent 'b-id' cites {steps.a}, which exists only in a run of the crew"
    assert "Submit to the whole crew" in (fix or "")
    assert refused(crew=asked, inputs={"log": "x"}) == []
    assert refused(crew=crew(b="{input}", a="{steps.b}"), agent="b") == []


def test_an_input_that_nobody_reads_is_a_warning() -> None:
    [warning] = submission.check(crew(), "p", inputs={"read": "x", "other": "y"})
    assert warning.path == "inputs.other"


@pytest.mark.parametrize(
    ("labels", "path", "reason"),
    [
        ({"user_id": "x" * (LABEL_MAX_BYTES + 1)}, "user_id", "this has 513 bytes; the limit is 512"),
        ({"user_id": None, "session_id": "é" * (LABEL_MAX_BYTES // 2) + "x"}, "session_id", "this has 513 bytes"),
        ({"dedupe_key": HALF}, "dedupe_key", "half a character"),
    ],
)
def test_a_label_that_no_store_can_take_is_refused(labels: Any, path: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        submission.check_own("p", "t", {}, labels)
    [problem] = caught.value.problems
    assert problem.path == path
    assert reason in problem.reason


def test_an_id_that_no_store_can_take_is_refused_without_the_crew() -> None:
    with pytest.raises(InvalidInput, match="'a/b' can't be an id"):
        submission.check_own("p", "a/b", {}, {})


def test_texts_within_their_limit_or_not_given_are_fine() -> None:
    submission.check_own("p", None, {}, {"user_id": "é" * (LABEL_MAX_BYTES // 2), "session_id": None})
    texts.check(name="x" * (LABEL_MAX_BYTES + 1), other=None)
    with pytest.raises(InvalidInput, match="name"):
        texts.check(other=None, name=HALF)


@pytest.mark.parametrize(
    ("prompt", "task_id", "metadata", "labels", "plain"),
    [
        ("x" * PROMPT_MAX_BYTES, "t1", {}, {}, True),
        ("x" * (PROMPT_MAX_BYTES + 1), "t1", {}, {}, False),
        ("é", "t1", {}, {}, False),
        ("x", "t/1", {}, {}, False),
        ("x", "t1", {"n": "v"}, {}, False),
        ("x", "t1", {}, {"user_id": "u"}, False),
    ],
)
def test_only_what_certainly_passes_the_check_is_plain(
    prompt: str, task_id: str, metadata: dict[str, str], labels: dict[str, str | None], plain: bool
) -> None:
    assert submission.is_plain(prompt, task_id, metadata, labels) is plain


def test_the_same_work_has_one_digest_and_no_other_work_has_it() -> None:
    once = submission.work("a", "p", {"n": "1", "m": "2"})
    assert once == submission.work("a", "p", {"m": "2", "n": "1"})
    assert len(once) == 16
    different = [
        once,
        submission.work("", "p", {"n": "1", "m": "2"}),
        submission.work("a", "q", {"n": "1", "m": "2"}),
        submission.work("a", "p", {"n": "2", "m": "1"}),
        submission.work("a", "p", {"n": "1"}),
        submission.work("a", "p", {}),
        submission.work("a", "p\x1fm\x1f1\x1f2", {}),
        submission.work("a", "p", {"m": "2\x1fn\x1f1\x1f1"}),
        submission.work("a", "p", {"n": "\udcff", "m": "2"}),
    ]
    assert len(set(different)) == len(different)


def test_a_crew_with_agents_of_any_name_takes_each_name_that_can_be_one() -> None:
    free = CrewDefinition(name="free", agents=[AgentDefinition(agent_id="*", agent_class="EchoAgent")])
    assert submission.check(free, "p", agent="Any Name", inputs={}) == []
    for none in (None, "", "two\nlines", "x" * 254):
        with pytest.raises(InvalidInput, match="Name an agent: 1 to 253 bytes"):
            submission.check(free, "p", agent=none, inputs={})
