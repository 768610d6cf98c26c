"""What an agent returned, as the JSON that is stored: what the model of results would make of it."""

from __future__ import annotations

import asyncio
import dataclasses
import decimal
import enum
import itertools
import json
import math
import pathlib
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel, field_serializer
from pydantic_core import to_json

from watchbill.tasks import TaskResult, Usage
from watchbill.worker.execution import failures, outputs

pytestmark = pytest.mark.pure

NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


class Colour(enum.Enum):
    RED = "red"


class Model(BaseModel):
    name: str
    at: datetime


@dataclasses.dataclass
class Data:
    numbers: tuple[int, ...]
    weight: float = 1.0


class Weighed(BaseModel):
    weight: float


class Failing(BaseModel):
    number: int = 1

    @field_serializer("number")
    def serialize(self, _: int) -> int:
        raise ConnectionError("reset by peer")


class Holder(BaseModel):
    anything: Any


OUTPUTS: dict[str, Any] = {
    "none": None,
    "text": 'é"\\\n\x00\u2028\ufeff\ufffd🎈, NaN, Infinity',
    "numbers": [0, -1, 10**30, 0.1, 1e300, True],
    "words": {"NaN": ["NaN", "-Infinity"], "Infinity": 1},
    "keys": {1: "a", None: "b", Colour.RED: "c", (1, 2): "d", NOW: "e"},
    "nested": {"a": [{"b": ({"c"},)}], "d": frozenset({1})},
    "times": [NOW, NOW.replace(tzinfo=None), date(2026, 1, 2), timedelta(seconds=90, microseconds=5)],
    "others": [Colour.RED, decimal.Decimal("1.10"), uuid.UUID(int=7), pathlib.Path("/x"), b"bytes"],
    "model": [Model(name="x", at=NOW), Data((1, 2))],
}


def stored(value: Any) -> Any:
    """What a reader gets."""
    return TaskResult.model_validate_json(
        outputs.as_json("t1", "a", success=True, output=outputs.made("a", value))
    ).output


def bad_rows() -> Iterator[int]:
    yield 1
    raise ConnectionError("reset by peer")


@pytest.mark.parametrize("of", OUTPUTS)
def test_an_output_is_stored_as_the_model_of_results_has_it(of: str) -> None:
    usage = Usage(input_tokens=1, output_tokens=2, requests=3)
    output = outputs.made("a", OUTPUTS[of])
    text = outputs.as_json(
        "t1", "a", success=True, output=output, seconds=0.0123456, usage=usage, attempt=2, completed_at=NOW
    )
    model = TaskResult(
        task_id="t1",
        agent_name="a",
        success=True,
        output=OUTPUTS[of],
        execution_time_ms=12.346,
        usage=usage,
        attempt=2,
        completed_at=NOW,
    )
    assert json.loads(text) == json.loads(model.model_dump_json(exclude={"traceback", "cancelled"}))
    assert output.replaced == 0


def test_an_iterator_is_stored_as_what_it_yields() -> None:
    assert stored(n for n in range(3)) == [0, 1, 2]
    value = {"deep": [map(str, range(2)), {"er": zip("ab", [1, 2], strict=True)}], 3: {iter([NOW])}}
    assert stored(value) == {"deep": [["0", "1"], {"er": [["a", 1], ["b", 2]]}], "3": [["2026-01-02T03:04:05.000678Z"]]}


@pytest.mark.parametrize(
    "value", [bad_rows(), {"rows": [map(int, ["no"]), bad_rows()]}, Failing(), [Holder(anything=bad_rows())]]
)
def test_what_its_own_code_raises_is_the_agents_failure(value: Any) -> None:
    with pytest.raises((ConnectionError, ValueError)):
        outputs.made("a", value)


async def test_the_event_loop_turns_between_an_iterators_items() -> None:
    rows = (time.sleep(0.001) for _ in itertools.count())  # type: ignore[func-returns-value]
    making = asyncio.ensure_future(outputs.made_on_loop("a", {"rows": rows}))
    for _ in range(5):
        await asyncio.sleep(0.01)
    assert not making.done()
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert await outputs.made_on_loop("a", iter([1])) == await outputs.made_on_loop("a", [1]) == outputs.Output("[1]")


def test_a_failure_is_stored_as_the_model_of_results_has_it() -> None:
    text = outputs.as_json("t1", "a", success=False, error="it broke", traceback="where")
    model = TaskResult(task_id="t1", agent_name="a", success=False, error="it broke", traceback="where")
    assert json.loads(text) == json.loads(model.model_dump_json(exclude={"cancelled"}))


@pytest.mark.parametrize("value", [object(), {"deep": lambda: None}, b"\xff"], ids=["object", "function", "bytes"])
def test_what_is_no_json_is_refused_and_says_whose_it_is(value: Any) -> None:
    with pytest.raises(failures.Unstorable, match="what agent 'a' returned can't be stored as JSON"):
        outputs.made("a", value)


@pytest.mark.parametrize("also", [1, NOW], ids=["plain", "not plain"])
def test_what_holds_itself_is_refused(monkeypatch: pytest.MonkeyPatch, also: Any) -> None:
    monkeypatch.setattr(outputs, "RESULT_MAX_BYTES", 100_000)  # so that it is told in no time
    one: list[Any] = [also]
    one.append(one)
    two: list[Any] = [also]
    two += [two, {"two": two}]
    for value in (one, two):
        with pytest.raises(failures.Unstorable, match=r"Circular|circular|more than"):
            outputs.made("a", value)


@pytest.mark.parametrize("kind", ["lists", "objects", "not plain"])
def test_what_is_nested_too_deeply_to_be_read_is_refused_and_all_else_can_be_read(kind: str) -> None:
    """Writers of JSON go deeper than its readers."""
    value: Any = "[{" * 200
    refused = 0
    for depth in range(300):
        try:
            read = stored(value if kind != "not plain" else [value, NOW])
        except failures.Unstorable:
            refused += 1
        else:
            assert not refused, depth
            assert (read if kind != "not plain" else read[0]) == value
        value = {"a": value} if kind == "objects" else [value]
    assert 90 < refused < 110


@pytest.mark.parametrize("number", [10**4300, -(10**4300), 10**5000 + 1], ids=["4301", "-4301", "5001"])
@pytest.mark.parametrize("place", ["", ".n[2].m"])
def test_an_integer_that_is_too_long_to_be_read_is_refused_with_its_place(number: int, place: str) -> None:
    value = {"n": [1, "x", {"m": number}]} if place else number
    for each in (value, iter([value])):
        with pytest.raises(failures.Unstorable) as refusal:
            outputs.made("a", each)
        where = f"output{place}" if each is value else f"output[0]{place}"
        assert f"JSON: {where} is an integer of more than 4300 digits, which can't be read" in str(refusal.value)


def test_the_longest_integer_is_read_and_so_are_longer_texts_of_digits() -> None:
    value = [10**4300 - 1, -(10**4299), "9" * 20_000, [10**4000] * 10]
    assert stored(value) == value
    assert stored("9" * 20_000) == "9" * 20_000


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (float("nan"), "output is NaN"),
        ({"rows": [{"score": 1.0, "name": "NaN"}, {"score": float("inf")}]}, "output.rows[1].score is infinity"),
        ({"a b": (-math.inf,)}, "output['a b'][0] is -infinity"),
        (iter([1.0, math.nan]), "output[1] is NaN"),
        ({1: math.nan}, "output['1'] is NaN"),
        (Data((), math.inf), "output.weight is infinity"),
        ({"a": Weighed(weight=math.nan)}, "output.a.weight is NaN"),
    ],
)
def test_what_is_no_number_is_refused_with_its_place(value: Any, why: str) -> None:
    with pytest.raises(failures.Unstorable) as refusal:
        outputs.made("a", value)
    assert f"JSON: {why}, which JSON doesn't have" in str(refusal.value)


@pytest.mark.parametrize("key", [1, None, True, 1.5, Colour.RED, NOW])
def test_keys_that_are_one_in_json_are_refused_with_their_place(key: Any) -> None:
    (name,) = json.loads(to_json({key: 0}))
    with pytest.raises(failures.Unstorable) as refusal:
        outputs.made("a", {"rows": [{name: 1, key: 2}]})
    assert f"JSON: output.rows[0] has the keys {name!r} and {key!r}, which are one in JSON" in str(refusal.value)


@pytest.mark.parametrize(
    ("value", "read", "replaced"),
    [
        ("cut \ud83d", "cut \ufffd", 1),
        ({"file \udc80\udcff": ["\ud83dx", "🎈\ufffd", 1]}, {"file \ufffd\ufffd": ["\ufffdx", "🎈\ufffd", 1]}, 3),
        (["\ud83c\udf88", "\ud83c\ud83c\udf88"], ["🎈", "\ufffd🎈"], 1),
        ({1: "\ud800", "\ud801": {"\ud802"}}, {"1": "\ufffd", "\ufffd": ["\ufffd"]}, 3),
        ([Holder(anything="\ud800")], [{"anything": "\ufffd"}], 1),
    ],
)
def test_half_a_character_is_replaced_and_counted(value: Any, read: Any, replaced: int) -> None:
    output = outputs.made("a", value)
    assert (json.loads(output.text), output.replaced) == (read, replaced)
    result = TaskResult.model_validate_json(outputs.as_json("t1", "a", success=True, output=output))
    assert (result.output, result.metadata) == (read, {"replaced_characters": replaced})


def test_halves_of_characters_that_would_be_one_key_are_refused() -> None:
    for last in (2, NOW):
        value = dict(zip(("\ud800", "\ud801"), (1, last), strict=True))
        with pytest.raises(failures.Unstorable, match="one"):
            outputs.made("a", value)


def test_too_much_is_refused_by_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "RESULT_MAX_BYTES", 6)
    outputs.made("a", "éé")
    with pytest.raises(failures.Unstorable, match="return a reference instead"):
        outputs.made("a", "ééx")


@pytest.mark.parametrize(
    "value",
    [
        itertools.count(),
        {"rows": itertools.repeat("x" * 100)},
        (iter(()) for _ in itertools.count()),
        [map(list, itertools.repeat([1]))],
    ],
)
def test_what_has_no_end_is_refused(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    monkeypatch.setattr(outputs, "RESULT_MAX_BYTES", 10_000)
    with pytest.raises(failures.Unstorable, match="return a reference instead"):
        outputs.made("a", value)
