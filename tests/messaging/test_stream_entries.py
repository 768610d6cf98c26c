"""What a stream's entry looks like in Redis, and what comes back of it."""

from __future__ import annotations

from typing import Any

import pytest
from redis.crc import key_slot

from watchbill import message_names
from watchbill.errors import InvalidInput
from watchbill.messaging import entries

pytestmark = pytest.mark.pure

MESSAGES: list[dict[str, Any]] = [
    {"type": "analysis", "data": "sample"},
    {"text": '{"looks": "like JSON"}', "number as text": "1", "null": "null", "quoted": '"x"', "empty": ""},
    {"nested": {"list": [1, 2.5, None, True, {"deep": "ü€"}]}, "n": 7, "none": None, "no": False},
    {"half of a surrogate pair": "\ud800", "name": "ü€"},
    {"json": "wb:json", "field": ["wb:json"]},
    {},
]


def stored(data: dict[str, Any]) -> dict[str, str]:
    fields = entries.encode(data)
    return dict(zip(fields[::2], fields[1::2], strict=True))


@pytest.mark.parametrize("data", MESSAGES, ids=str)
def test_a_message_comes_back_as_it_was(data: dict[str, Any]) -> None:
    found = stored(data)

    assert entries.decode(found) == data
    assert found  # Redis keeps no entry without a field
    assert [value.encode() for value in found.values()]


def test_text_is_stored_as_it_is_and_the_rest_as_json_that_a_field_lists() -> None:
    found = stored({"text": "[1]", "list": [1, {"a": "ü"}], "n": 1})

    assert found == {"text": "[1]", "list": '[1,{"a":"ü"}]', "n": "1", "wb:json": '["list", "n"]'}


@pytest.mark.parametrize(
    "foreign",
    [
        {"payload": '{"task": 1}', "n": "1"},
        {"wb:json": "no JSON", "n": "1"},
        {"wb:json": '{"n": 1}', "n": "1"},
    ],
    ids=str,
)
def test_an_entry_of_another_program_is_all_text(foreign: dict[str, str]) -> None:
    assert entries.decode(foreign) == foreign


def test_a_listed_field_that_is_no_json_or_not_there_hides_no_other() -> None:
    found = entries.decode({"a": "1", "b": "{", "wb:json": '["a", "b", "c", ["a"], 1]'})

    assert found == {"a": 1, "b": "{"}


@pytest.mark.parametrize(
    ("data", "path", "reason"),
    [
        ("text", "data", "a str is no message"),
        ({1: "a"}, "data", "1 is no name of a field"),
        ({"wb:id": "a"}, "data", "'wb:id' is Watchbill's own"),
        ({"x": b"bytes"}, "data['x']", "can't be written as JSON"),
        ({"x": {1: "a"}}, "data['x']", "would come back as text"),
        ({"x": float("nan")}, "data['x']", "can't be written as JSON"),
        ({str(n): "" for n in range(1001)}, "data", "1001 fields"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_would_not_come_back_is_refused(data: Any, path: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        entries.encode(data)

    [problem] = refused.value.problems
    assert problem.path == path
    assert reason in problem.reason
    assert problem.fix


@pytest.mark.parametrize(
    "key", ["tasks", "wb:{team/blog}:stream:news", "a{b", "{a}{b}", "a{}b", "{}", "a}b", "a}{b}", "}{", "{a"]
)
def test_a_key_beside_a_stream_is_in_its_slot_or_the_stream_is_refused(key: str) -> None:
    slots = {
        key_slot(name.encode()) for name in (key, message_names.stream_dead(key), message_names.stream_answer(key, "x"))
    }

    assert message_names.shares_slot(key) == (len(slots) == 1)
    assert message_names.stream_dead(key) != message_names.stream_answer(key, "dead")
