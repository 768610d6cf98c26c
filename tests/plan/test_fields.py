"""Fields of outputs that a crew cites, held against the schemas of these outputs before anything is stored."""

from __future__ import annotations

from typing import Any

import pytest

from watchbill.plan import prompts
from watchbill.records import CrewDefinition

pytestmark = pytest.mark.pure

REVIEW: dict[str, Any] = {
    "type": "object",
    "properties": {
        "approved": {"type": "boolean"},
        "score": {"type": ["integer", "null"]},
        "share": {"type": "number"},
        "kind": {"enum": ["bug", "wish"]},
        "remarks": {"type": "array", "items": {"type": "object", "properties": {"line": {"type": "integer"}}}},
        "author": {"type": "object", "properties": {"name": {"type": "string"}}, "additionalProperties": False},
        "extra": {"type": "object"},
    },
    "required": ["approved"],
}


def crew(schema: dict[str, Any] | None = REVIEW, first: dict[str, Any] | None = None, **spec: Any) -> CrewDefinition:
    """A critic with that schema, and what is behind it: an agent with these fields (`second`)."""
    critic = {"agent_id": "critic", "output_schema": schema, **(first or {})}
    second = {"agent_id": "b", **spec.pop("second", {})}
    return CrewDefinition.model_validate({"name": "c", "agents": [critic, second], **spec})


def prompt(field: str, **more: Any) -> CrewDefinition:
    return crew(second={"prompt": f"{{steps.critic.{field}}}"}, **more)


def loop(field: str, **more: Any) -> CrewDefinition:
    bounds = {"maxIterations": 3, "until": {"agent": "critic", "field": field}}
    return crew(execution_mode="loop", loop=bounds, **more)


def when(field: str, **comparison: Any) -> CrewDefinition:
    return crew(second={"when": {"step": "critic", "field": field, **(comparison or {"eq": "x"})}})


def each(field: str, **more: Any) -> CrewDefinition:
    return crew(second={"for_each": f"{{steps.critic{field}}}"}, **more)


LISTED = "approved, score, share, kind, remarks, author, extra"
OF = "but the outputSchema of 'critic' declares no field"


@pytest.mark.parametrize(
    ("wrong", "path", "reason", "fix"),
    [
        (
            loop("aproved"),
            "spec.loop.until.field",
            f"the loop ends by field 'aproved' of the output of 'critic', {OF} 'aproved'",
            f"Write 'approved', or another of: {LISTED}. Or declare it there.",
        ),
        (
            when("scor"),
            "spec.agents[1].when.field",
            f"the condition of agent 'b' compares field 'scor' of the output of 'critic', {OF} 'scor'",
            f"Write 'score', or another of: {LISTED}. Or declare it there.",
        ),
        (
            each(".files"),
            "spec.agents[1].forEach",
            f"forEach of agent 'b' cites {{steps.critic.files}}, {OF} 'files'",
            f"Use one of: {LISTED}. Or declare it there.",
        ),
        (
            when("autor.name", exists=True),
            "spec.agents[1].when.field",
            f"the condition of agent 'b' compares field 'autor.name' of the output of 'critic', {OF} 'autor'",
            f"Write 'author', or another of: {LISTED}. Or declare it there.",
        ),
        (
            prompt("author.nam"),
            "spec.agents[1].prompt",
            f"the prompt of agent 'b' cites {{steps.critic.author.nam}}, {OF} 'nam' in 'author'",
            "Write 'name'. Or declare it there.",
        ),
        (
            prompt("remarks.0.text"),
            "spec.agents[1].prompt",
            f"the prompt of agent 'b' cites {{steps.critic.remarks.0.text}}, {OF} 'text' in 'remarks.0'",
            "Use one of: line. Or declare it there.",
        ),
        (
            prompt("remarks.line"),
            "spec.agents[1].prompt",
            f"the prompt of agent 'b' cites {{steps.critic.remarks.line}}, {OF} 'line' in 'remarks'",
            "Write the number of an item, counted from 0, or cite the whole list.",
        ),
        (
            prompt("approved.by"),
            "spec.agents[1].prompt",
            f"the prompt of agent 'b' cites {{steps.critic.approved.by}}, {OF} 'by' in 'approved'",
            "Cite it without a field: it is of type boolean.",
        ),
        (
            prompt("score", first={"for_each": "{inputs.files}"}),
            "spec.agents[1].prompt",
            f"the prompt of agent 'b' cites {{steps.critic.score}}, {OF} 'score'",
            "Write the number of an item, counted from 0, or cite the whole list.",
        ),
        (
            crew(synthesis={"class": "EchoAgent", "prompt": "{steps.critic.typo}"}),
            "spec.synthesis.prompt",
            f"the prompt of the synthesis cites {{steps.critic.typo}}, {OF} 'typo'",
            f"Use one of: {LISTED}. Or declare it there.",
        ),
        (
            prompt("error"),
            "spec.agents[1].prompt",
            f"the prompt of agent 'b' cites {{steps.critic.error}}, {OF} 'error'",
            f"Use one of: {LISTED}. Or declare it there.",
        ),
    ],
    ids=[
        "until",
        "when",
        "forEach",
        "exists",
        "nested",
        "item",
        "list",
        "no object",
        "list of outputs",
        "synthesis",
        "error",
    ],
)
def test_a_field_that_the_schema_does_not_declare_is_refused(
    wrong: CrewDefinition, path: str, reason: str, fix: str
) -> None:
    (problem,) = prompts.check(wrong)
    assert (problem.path, problem.reason, problem.fix) == (path, reason, fix)


NO_LIST: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "boolean"}}}


@pytest.mark.parametrize(
    ("wrong", "reason", "fix"),
    [
        (loop("score"), "that is of type integer or null, not boolean", "Name a field of that type: approved."),
        (each(".author"), "that is of type object, not array", "Name a field of that type: remarks."),
        (each(""), "that is of type object, not array", "Name a field of that type: remarks."),
        (
            when("approved", atLeast=1),
            "that is of type boolean, not number",
            "Name a field of that type: score, share.",
        ),
        (
            each(".a", schema={"type": "object", "properties": {"a": {"type": "boolean"}}}),
            "boolean, not array",
            "Declare",
        ),
        (each(".b", schema=NO_LIST), "boolean, not array", "Declare"),
    ],
)
def test_a_field_of_another_type_than_its_use_needs_is_refused(wrong: CrewDefinition, reason: str, fix: str) -> None:
    (problem,) = prompts.check(wrong)
    assert reason in problem.reason
    assert problem.fix.startswith(fix)


OPEN: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.mark.parametrize(
    "right",
    [
        prompt("author.name"),
        prompt("remarks.0.line"),
        prompt("extra.anything"),
        prompt("kind"),
        loop("approved"),
        loop("kind"),
        when("score", gt=1),
        when("share", lt=1),
        when("kind", gt=1),
        when("score", eq="7"),
        each(".remarks"),
        each("", first={"for_each": "{inputs.files}"}),
        prompt("0.score", first={"for_each": "{inputs.files}"}),
        each(".a", schema=NO_LIST),  # a text may be a list in JSON
        # what may be there besides
        when("typo", exists=True),
        when("author.typo", exists=False),
        when("remarks.0.typo", exists=True),
        prompt("typo", schema={**NO_LIST, "required": ["a", "typo"]}),
        loop("typo", schema={**NO_LIST, "required": ["typo"]}),
        prompt("typo", schema=None),
        prompt("typo", schema={"type": "object"}),
        prompt("typo", schema={**OPEN, "additionalProperties": True}),
        prompt("typo", schema={**OPEN, "additionalProperties": {"type": "string"}}),
        prompt("typo", schema={**OPEN, "patternProperties": {"^t": {}}}),
        prompt("typo", schema={**OPEN, "anyOf": [{"properties": {"typo": {}}}]}),
        prompt("a.typo", schema={"type": "object", "properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": OPEN}}),
        prompt("a.typo", schema={"type": "object", "properties": {"a": True}}),
        prompt("a.0.typo", schema={"type": "object", "properties": {"a": {"type": "array", "prefixItems": [OPEN]}}}),
        prompt("typo", first={"agent_class": "agents:Mine"}),
        # an error value may stand in its place
        prompt("error.message", on_error="Continue"),
        prompt("error.message", first={"on_error": "Continue"}),
        prompt("0.error", first={"on_error": "Continue", "for_each": "{inputs.files}"}),
        crew(synthesis={"class": "EchoAgent", "prompt": "{steps.critic.error.message}"}),
    ],
)
def test_what_the_schema_declares_or_leaves_open_is_taken(right: CrewDefinition) -> None:
    assert prompts.check(right) == []


def test_a_condition_that_names_a_field_in_its_step_is_told_how_to_write_it() -> None:
    (problem,) = prompts.check(crew(second={"when": {"step": "critic.score", "gt": 7}}))
    assert problem.path == "spec.agents[1].when.step"
    assert problem.fix == "Write step: critic, field: score."
