"""Schemas of outputs, as they are written into a Crew: what is taken, and what is said of the rest."""

from __future__ import annotations

from typing import Any

import pytest
from reading import CREW, only, read

from watchbill.api import output_schema

pytestmark = pytest.mark.pure

GOOD: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "title": "Report",
    "properties": {
        "done": {"type": "boolean", "description": "Whether all is said."},
        "score": {"type": ["integer", "null"], "minimum": 0, "maximum": 10},
        "kind": {"enum": ["bug", "wish"]},
        "rows": {"type": "array", "items": {"$ref": "#/$defs/row"}, "minItems": 1, "uniqueItems": True},
        "more": {"anyOf": [{"const": 1}, {"type": "string", "pattern": "^a+$"}]},
    },
    "required": ["done", "kind"],
    "additionalProperties": False,
    "$defs": {"row": {"type": "object", "properties": {"price": {"type": "number", "exclusiveMinimum": 0}}}},
}


def test_a_schema_of_common_parts_is_taken() -> None:
    assert output_schema.findings(GOOD) == []


@pytest.mark.parametrize(
    ("schema", "path", "reason", "fix"),
    [
        ({}, "type", "an object that is described", "Write type: object"),
        ({"type": "array"}, "type", "an object that is described", "properties"),
        ({"type": "object", "requried": ["a"]}, "requried", "no keyword 'requried'", "Write 'required' instead"),
        ({"type": "object", "nullable": True}, "nullable", "no keyword 'nullable'", "The keywords are: "),
        ({"type": "object", "required": "a"}, "required", "'a' is not a value of 'required'", "Write a list of names"),
        ({"type": "object", "properties": ["a"]}, "properties", "['a'] is not a mapping", "names to schemas"),
        ({"type": "object", "properties": {"a": "string"}}, "properties.a", "'string' is no schema", "{type: string}"),
        (
            {"type": "object", "properties": {"a": {"type": "text"}}},
            "properties.a.type",
            "'text' is not a value of 'type'",
            "Write one of object, array, string",
        ),
        (
            {"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}, {"minLength": -1}]}}},
            "properties.a.anyOf[1].minLength",
            "-1 is not a value of 'minLength'",
            "0 or more",
        ),
        (
            {"type": "object", "properties": {"a": {"pattern": "("}}},
            "properties.a.pattern",
            "'(' is not a value of 'pattern'",
            "regular expression",
        ),
        (
            {"type": "object", "properties": {"a": {"$ref": "https://example.org/a.json"}}},
            "properties.a.$ref",
            "'https://example.org/a.json' is not in this schema",
            "none yet",
        ),
        (
            {"type": "object", "properties": {"done": {}}, "required": ["don"], "additionalProperties": False},
            "required[0]",
            "'don' is required, and additionalProperties: false forbids it",
            "Write 'done'",
        ),
        (
            {"type": "object", "$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {"not": {"$ref": "#/$defs/a"}}}},
            "$defs",
            "in a circle: a -> b -> a",
            "Write out",
        ),
        ({"type": "object", "default": float("nan")}, "", "no JSON", "JSON's values"),
        ({"type": "object", "description": "x" * 70_000}, "", "at most 65536", "Shorten"),
    ],
)
def test_a_mistake_is_told_by_its_place(schema: dict[str, Any], path: str, reason: str, fix: str) -> None:
    [found] = output_schema.findings(schema)
    assert found.path == path
    assert reason in found.reason
    assert fix in found.fix


def test_a_schema_that_is_too_deep_is_told() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(30):
        schema = {"type": "object", "properties": {"a": schema}}
    [found] = output_schema.findings(schema)
    assert "more than 20 levels" in found.reason


def test_a_mistake_is_told_with_its_line_when_the_file_is_read() -> None:
    problem = only(CREW + "      outputSchema:\n        type: object\n        requird: [a]\n")
    assert (problem.source, problem.path) == ("crew.yaml:12", "spec.agents[1].outputSchema.requird")
    assert problem.fix == "Write 'required' instead, or remove it."


# The rest of what a Crew says of models
def test_fallback_models_are_read_in_their_order() -> None:
    text = CREW + "      fallbackModels:\n        - model: a:1\n        - {model: 'openai:x', baseURL: 'http://h/v1'}\n"
    [crew] = read(text).crews
    assert [(each.model, each.base_url) for each in crew.spec.agents[1].fallback_models] == [
        ("a:1", ""),
        ("openai:x", "http://h/v1"),
    ]


@pytest.mark.parametrize(
    ("more", "path", "reason"),
    [
        ("      fallbackModels: [{model: ''}]\n", "spec.agents[1].fallbackModels[0].model", "empty"),
        ("      fallbackModels: ['openai:x']\n", "spec.agents[1].fallbackModels[0]", "where a mapping"),
        (
            "      fallbackModels: [{model: 'openai:x', baseURL: 'http://me:pw@h'}]\n",
            "spec.agents[1].fallbackModels[0].baseURL",
            "user or password",
        ),
        ("  baseURL: http://me:pw@h\n", "spec.baseURL", "user or password"),
        ("  baseURL: gateway/v1\n", "spec.baseURL", "right form"),
        ("      config: {api_key: sk-1234567890}\n", "spec.agents[1].config.api_key", "'api_key' is a key"),
        ("      config: {Authorization: Bearer abc}\n", "spec.agents[1].config.Authorization", "is a key"),
    ],
)
def test_what_is_said_wrongly_of_models_is_refused_by_its_place(more: str, path: str, reason: str) -> None:
    problem = only(CREW + more)
    assert problem.path == path
    assert reason in problem.reason
    assert not {"pw", "sk-1234567890", "abc"} & set(f"{problem}".split())
    if "key" in reason:
        assert "workers.envFrom" in problem.fix


def test_a_class_of_ones_own_may_call_its_config_as_it_likes() -> None:
    assert read(CREW + "      class: mine:Agent\n      config: {key: 1}\n").crews
