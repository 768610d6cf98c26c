"""Conditions over outputs, and lists within them."""

from __future__ import annotations

from typing import Any

import pytest

from watchbill.api.modes import When
from watchbill.plan import values

pytestmark = pytest.mark.pure

OUTPUT = {"score": 7, "ok": True, "name": "kim", "text": "7", "none": None, "deep": {"list": [{"x": 1.5}]}}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"field": "score", "eq": "7"}, True),
        ({"field": "score", "eq": "7.0"}, True),
        ({"field": "score", "eq": "7.5"}, False),
        ({"field": "score", "eq": "seven"}, False),
        ({"field": "score", "ne": "7.0"}, False),
        ({"field": "score", "ne": "8"}, True),
        ({"field": "score", "in": ["6", "7e0"]}, True),
        ({"field": "deep.list.0.x", "eq": "1.50"}, True),
        ({"field": "text", "eq": "7"}, True),
        ({"field": "text", "eq": "7.0"}, False),
        ({"field": "ok", "eq": "1"}, False),
        ({"field": "score", "ne": "7"}, False),
        ({"field": "score", "gt": 6}, True),
        ({"field": "score", "gt": 7}, False),
        ({"field": "score", "lt": 7.5}, True),
        ({"field": "score", "lt": 7}, False),
        ({"field": "score", "gt": 0}, True),
        ({"field": "score", "lt": 0}, False),
        ({"field": "score", "atLeast": 7}, True),
        ({"field": "score", "atLeast": 7.5}, False),
        ({"field": "score", "atMost": 7}, True),
        ({"field": "score", "atMost": 6.5}, False),
        ({"field": "score", "atLeast": 0}, True),
        ({"field": "score", "atMost": 0}, False),
        ({"field": "ok", "eq": "true"}, True),
        ({"field": "ok", "eq": "True"}, False),
        ({"field": "ok", "ne": "false"}, True),
        ({"field": "name", "in": ["lee", "kim"]}, True),
        ({"field": "name", "in": ["lee", "7"]}, False),
        ({"field": "deep.list.0.x", "gt": 1}, True),
        ({"field": "none", "exists": True}, True),
        ({"field": "none", "eq": "null"}, True),
        ({"field": "gone", "exists": True}, False),
        ({"field": "gone", "exists": False}, True),
        ({"field": "deep.list.1", "exists": True}, False),
        ({"exists": True}, True),
    ],
)
def test_a_comparison_is_of_one_value_as_a_prompt_shows_it_or_as_a_number(
    condition: dict[str, Any], expected: bool
) -> None:
    when = When.model_validate({"step": "a", **condition})
    assert values.holds(when, OUTPUT) is expected


def test_a_text_that_is_json_is_read_and_no_other() -> None:
    done = When.model_validate({"step": "a", "field": "done", "eq": "true"})
    assert values.holds(done, ' {"done": true}')
    for text in ("done", "I am not done: {", "the field done is true"):
        with pytest.raises(values.Unusable, match="has no field 'done'"):
            values.holds(done, text)
    assert values.holds(When.model_validate({"step": "a", "eq": "yes"}), "yes")


@pytest.mark.parametrize(
    ("condition", "output", "why"),
    [
        ({"field": "gone", "eq": "1"}, OUTPUT, "the output of 'a' has no field 'gone'"),
        ({"field": "name", "gt": 1}, OUTPUT, "field 'name' of the output of 'a' is the text 'kim', and no number"),
        ({"field": "ok", "lt": 1}, OUTPUT, "field 'ok' of the output of 'a' is true, and no number"),
        ({"field": "text", "atLeast": 1}, OUTPUT, "field 'text' of the output of 'a' is the text '7', and no number"),
    ],
)
def test_what_can_not_be_compared_is_an_error(condition: dict[str, Any], output: Any, why: str) -> None:
    with pytest.raises(values.Unusable, match=why):
        values.holds(When.model_validate({"step": "a", **condition}), output)


@pytest.mark.parametrize(
    "condition", [{"exists": True}, {"eq": "1"}, {"ne": "1"}, {"in": ["1"]}, {"gt": 1}, {"lt": 1}, {"atMost": 1}]
)
@pytest.mark.parametrize("field", [{}, {"field": "x"}])
def test_of_a_missing_output_no_condition_holds_but_that_it_is_not_there(
    condition: dict[str, Any], field: dict[str, str]
) -> None:
    assert not values.holds(When.model_validate({"step": "a", **field, **condition}), values.MISSING)
    assert values.holds(When.model_validate({"step": "a", **field, "exists": False}), values.MISSING)


def test_a_verdict_is_true_or_false_and_nothing_else() -> None:
    assert values.truth({"done": False}, "done", "'b'") is False
    assert values.truth(values.MISSING, "done", "'b'") is False
    for wrong in ("false", 0, None, [True]):
        with pytest.raises(values.Unusable, match="neither true nor false"):
            values.truth({"done": wrong}, "done", "'b'")


def test_a_list_is_one_and_has_a_bound() -> None:
    assert values.items([1, 2], "{steps.a}", 2) == [1, 2]
    assert values.items("[1, 2]", "{inputs.x}", 2) == [1, 2]
    with pytest.raises(values.Unusable, match=r"\{steps.a\} has 3 items, and at most 2 are possible"):
        values.items([1, 2, 3], "{steps.a}", 2)
    for wrong in ("1, 2", {"a": 1}, 7, None):
        with pytest.raises(values.Unusable, match=r"\{steps.a\} is .* and no list"):
            values.items(wrong, "{steps.a}", 2)
