"""Outputs at the very bounds of what is stored, and what is said of those beyond them."""

from __future__ import annotations

import enum
import json
import math
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel, field_serializer

from watchbill.worker.execution import outputs
from watchbill.worker.execution.failures import Unstorable

pytestmark = pytest.mark.pure

NOW = datetime(2026, 1, 2, tzinfo=UTC)
TOO_MUCH = "what agent 'a' returned can't be stored as JSON: more than 16777216 bytes: return a reference instead"


def refusal(value: Any) -> str:
    with pytest.raises(Unstorable) as refused:
        outputs.made("a", value)
    return str(refused.value)


class Text(str):
    """Text that is not plain."""


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: "xxxxxxxx", 10),
        (lambda: [1, 2, [3]], 9),
        (lambda: {"key": [True]}, 14),
        (lambda: iter([1, 2, [3]]), 9),
        (lambda: iter(["xx", "yy"]), 11),
        (lambda: iter([{"key": {1: "x"}}]), 19),
        (lambda: {1, 2}, 5),
        (lambda: deque([Text("abc"), Text("d")]), 11),
        (lambda: [iter([]), iter([])], 7),
    ],
)
def test_an_output_is_stored_up_to_the_bound_and_refused_above_it(
    make: Callable[[], Any], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "RESULT_MAX_BYTES", size)
    assert len(outputs.made("a", make()).text) == size
    monkeypatch.setattr(outputs, "RESULT_MAX_BYTES", size - 1)
    assert refusal(make()).endswith("bytes: return a reference instead")


@pytest.mark.parametrize(
    "endless",
    [
        lambda taken: (taken.append(1) or "x" * 100 for _ in iter(int, 1)),
        lambda taken: (taken.append(1) or [1, 2, 3] for _ in iter(int, 1)),
        lambda taken: (taken.append(1) or {"a" * 50: 1} for _ in iter(int, 1)),
        lambda taken: (taken.append(1) or Text("xx") for _ in iter(int, 1)),
        lambda taken: (taken.append(1) or None for _ in iter(int, 1)),
    ],
    ids=["texts", "lists", "dicts", "odd texts", "nothing"],
)
def test_an_iterator_is_asked_for_no_more_than_could_be_stored(
    endless: Callable[[list[int]], Iterator[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "RESULT_MAX_BYTES", 1000)
    taken: list[int] = []
    assert refusal(endless(taken)) == TOO_MUCH
    assert len(taken) <= 501, "each item has two bytes at least, its comma included"


def nested(depth: int, *, plain: bool) -> Any:
    value: Any = 1 if plain else {1}
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("depth", [150, 151, 190])
def test_what_is_nested_deeply_is_stored_as_long_as_it_can_be_read(depth: int, plain: bool) -> None:
    value = nested(depth, plain=plain)
    assert outputs.made("a", value).text == "[" * (depth + (not plain)) + "1" + "]" * (depth + (not plain))


def test_what_is_nested_too_deeply_says_so() -> None:
    assert refusal(nested(220, plain=True)).startswith(
        "what agent 'a' returned can't be stored as JSON: it is nested too deeply to be read: "
    )
    assert refusal([NOW, nested(260, plain=True)]) == (
        "what agent 'a' returned can't be stored as JSON: it is nested too deeply to be read, or circular"
    )


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"a": math.nan}, "output.a is NaN, which JSON doesn't have: return None, say"),
        ([{"b c": [math.inf]}], "output[0]['b c'][0] is infinity, which JSON doesn't have: return None, say"),
        ((1.5, -math.inf, math.nan), "output[1] is -infinity, which JSON doesn't have: return None, say"),
        (
            {"n": (1, 10**4300)},
            "output.n[1] is an integer of more than 4300 digits, which can't be read: return text",
        ),
        ({1: "x", "1": "y"}, "output has the keys 1 and '1', which are one in JSON"),
        ({"a": [{None: 1, "None": 2}]}, "output.a[0] has the keys None and 'None', which are one in JSON"),
    ],
)
def test_what_can_not_be_stored_is_told_with_its_place(value: Any, why: str) -> None:
    assert refusal(value) == f"what agent 'a' returned can't be stored as JSON: {why}"


def test_a_key_that_is_none_in_json_is_told_with_its_type() -> None:
    assert refusal({"x": {object(): 1}}).startswith(
        "what agent 'a' returned can't be stored as JSON: a key of type object: PydanticSerializationError: "
    )


class Colour(enum.Enum):
    RED = "red"


class Cased(BaseModel):
    names: dict[str, int]

    @field_serializer("names")
    def serialize(self, names: dict[str, int]) -> dict[str, int]:
        return {name.upper(): number for name, number in names.items()}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (0, "0"),
        ("", '""'),
        ([], "[]"),
        ({}, "{}"),
        ((), "[]"),
        (Colour.RED, '"red"'),
        ({Colour.RED: {NOW}}, '{"red":["2026-01-02T00:00:00Z"]}'),
        ([frozenset({1}), deque([2]), iter("ab")], '[[1],[2],["a","b"]]'),
        (Cased(names={"a": 1}), '{"names":{"A":1}}'),
        ([Cased(names={"a": 1}), iter([2])], '[{"names":{"A":1}},[2]]'),
        ({1: {2: {3: "x"}}}, '{"1":{"2":{"3":"x"}}}'),
        (["NaN", "Infinity", 1.0], '["NaN","Infinity",1.0]'),
    ],
)
def test_an_output_is_written_as_json(value: Any, text: str) -> None:
    assert outputs.made("a", value) == outputs.Output(text, 0)


def test_all_that_is_known_of_a_task_stands_in_its_result() -> None:
    told = json.loads(
        outputs.as_json(
            "t",
            "a",
            success=False,
            output=outputs.Output('"x"', 2),
            error="e",
            traceback="where",
            seconds=1.23456789,
            metadata={"k": "v"},
            attempt=4,
            completed_at=NOW,
            role="r",
        )
    )
    assert told == {
        "task_id": "t",
        "agent_name": "a",
        "success": False,
        "error": "e",
        "traceback": "where",
        "execution_time_ms": 1234.568,
        "metadata": {"k": "v", "replaced_characters": 2},
        "usage": None,
        "attempt": 4,
        "completed_at": "2026-01-02T00:00:00Z",
        "output": "x",
        "role": "r",
    }
    bare = json.loads(outputs.as_json("t", "a", success=True))
    expected = {"metadata": {}, "attempt": 1, "execution_time_ms": 0.0, "output": None, "role": None}
    assert {name: bare[name] for name in expected} == expected
    assert "traceback" not in bare
