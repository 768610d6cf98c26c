"""What an agent returned, as the JSON that is stored: what the model of results would make of it."""

from __future__ import annotations

import dataclasses
import decimal
import enum
import pathlib
import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from watchbill.tasks import TaskResult, Usage
from watchbill.worker import outputs

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


OUTPUTS: dict[str, Any] = {
    "none": None,
    "text": 'é"\\\n\x00\u2028🎈',
    "numbers": [0, -1, 10**30, 0.1, 1e300, float("nan"), float("inf"), True],
    "keys": {1: "a", None: "b", Colour.RED: "c", (1, 2): "d", NOW: "e"},
    "nested": {"a": [{"b": ({"c"},)}], "d": frozenset({1})},
    "times": [NOW, NOW.replace(tzinfo=None), date(2026, 1, 2), timedelta(seconds=90, microseconds=5)],
    "others": [Colour.RED, decimal.Decimal("1.10"), uuid.UUID(int=7), pathlib.Path("/x"), b"bytes"],
    "model": [Model(name="x", at=NOW), Data((1, 2))],
    "generator": (n for n in range(3)),
}


@pytest.mark.parametrize("of", [name for name in OUTPUTS if name != "generator"])
def test_an_output_is_stored_as_the_model_of_results_has_it(of: str) -> None:
    usage = Usage(input_tokens=1, output_tokens=2, requests=3)
    stored = outputs.as_json(
        "t1", "a", success=True, output=OUTPUTS[of], seconds=0.0123456, usage=usage, attempt=2, completed_at=NOW
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
    assert stored == model.model_dump_json(exclude={"traceback"}), "it is there where there is one"


def test_an_iterator_is_stored_as_what_it_yields() -> None:
    stored = outputs.as_json("t1", "a", success=True, output=OUTPUTS["generator"])
    assert TaskResult.model_validate_json(stored).output == [0, 1, 2]


def test_a_failure_is_stored_as_the_model_of_results_has_it() -> None:
    stored = outputs.as_json("t1", "a", success=False, error="it broke\ud800".encode("utf-8", "replace").decode())
    assert stored == TaskResult(task_id="t1", agent_name="a", success=False, error="it broke?").model_dump_json(
        exclude={"traceback"}
    )


@pytest.mark.parametrize(
    "output", [object(), {"deep": lambda: None}, "\ud800", b"\xff"], ids=["object", "function", "surrogate", "bytes"]
)
def test_what_is_no_json_is_refused_and_says_whose_it_is(output: Any) -> None:
    with pytest.raises(outputs.Unstorable, match="what agent 'a' returned can't be stored as JSON"):
        outputs.as_json("t1", "a", success=True, output=output)


def test_what_holds_itself_is_refused() -> None:
    output: list[Any] = []
    output.append(output)
    with pytest.raises(outputs.Unstorable, match="Circular"):
        outputs.as_json("t1", "a", success=True, output=output)


@pytest.mark.parametrize("kind", ["lists", "objects"])
def test_what_is_nested_too_deeply_to_be_read_is_refused_and_all_else_can_be_read(kind: str) -> None:
    """Writers of JSON go deeper than its readers."""
    output: Any = "[{" * 200
    refused = 0
    for depth in range(300):
        try:
            stored = outputs.as_json("t1", "a", success=True, output=output)
        except outputs.Unstorable:
            refused += 1
        else:
            assert not refused, depth
            assert TaskResult.model_validate_json(stored).output == output
        output = [output] if kind == "lists" else {"a": output}
    assert 90 < refused < 110


def test_too_much_is_refused_by_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = len(outputs.as_json("t1", "a", success=True, output="").encode())
    monkeypatch.setattr(outputs, "RESULT_MAX_BYTES", empty + 4)
    outputs.as_json("t1", "a", success=True, output="éé")
    with pytest.raises(outputs.Unstorable, match="return a reference instead"):
        outputs.as_json("t1", "a", success=True, output="ééx")
