"""What comes in by the client's methods: text that no store can take, and more than fits. Nothing is stored then."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from support import Crew

from watchbill.client import Client
from watchbill.errors import InvalidInput
from watchbill.plan import submission
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.tasks import INPUTS_MAX, INPUTS_MAX_BYTES, LABEL_MAX_BYTES, AgentTask

HALF = "cut \ud83d"
"""Half of an emoji, as from JSON that was cut."""
REQUIRED: dict[str, Any] = {
    "crew": "c",
    "prompt": "x",
    "task_id": "t1",
    "delivery_id": "d1",
    "run_id": "r1",
    "session_id": "s1",
    "letter_or_task": "t1",
    "worker": "w",
    "heartbeat": "h",
    "agent": "a",
    "tasks": ["x"],
    "everything": True,
}


def doors() -> list[tuple[str, str, Any]]:
    """(method, argument, a value of it that is no text) of all that the client has."""
    found: list[tuple[str, str, Any]] = []
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        if name.startswith("_"):
            continue
        parameters = inspect.signature(method).parameters
        if name == "run":
            parameters = {**parameters, **inspect.signature(Client.submit).parameters}  # type: ignore[assignment]
        for parameter in parameters.values():
            if "Mapping[str, " in str(parameter.annotation):
                found += [(name, parameter.name, {"n": HALF}), (name, parameter.name, {HALF: "n"})]
            elif "AgentTask" in str(parameter.annotation):
                given = {"task_id": "t1", "agent_name": "a", "prompt": "x"}
                odd: list[dict[str, Any]] = [
                    {f: HALF} for f in ("task_id", "prompt", "user_id", "session_id", "crew_name")
                ]
                odd.append({"metadata": {"n": HALF}})
                found += [(name, parameter.name, [AgentTask(**(given | one))]) for one in odd]
            elif "str" in str(parameter.annotation).replace("Mapping[str", "").split("[")[0]:
                found.append((name, parameter.name, HALF))
                if "Iterable[str]" in str(parameter.annotation):
                    found.append((name, parameter.name, ["fine", HALF]))
    return found


DOORS = doors()


@pytest.mark.parametrize(
    ("method", "argument", "value"), DOORS, ids=[f"{m}-{a}-{i}" for i, (m, a, _) in enumerate(DOORS)]
)
async def test_what_is_no_text_is_refused_at_every_door_by_its_name(method: str, argument: str, value: Any) -> None:
    """Before the store is asked: there is none here. (Inputs may be bytes: those are taken.)"""
    parameters = inspect.signature(getattr(Client, method)).parameters
    given = {name: REQUIRED[name] for name in parameters if name in REQUIRED and argument != name}

    async def ask() -> None:
        if argument == "inputs":  # which are looked at with the crew
            crew = CrewDefinition(name="c", agents=[AgentDefinition(agent_id="a")])
            submission.check(crew, "x", inputs=value)
        async with Client("redis://127.0.0.1:1") as client:
            asked = getattr(client, method)(**given, **{argument: value})
            await (anext(asked) if isinstance(asked, AsyncIterator) else asked)

    with pytest.raises(InvalidInput) as caught:
        await ask()
    path = caught.value.problems[0].path
    assert path.startswith("tasks[0]." if isinstance(value, list) and argument == "tasks" else argument)
    str(caught.value).encode("utf-8", "backslashreplace")


def test_the_doors_are_known() -> None:
    """So that the list isn't empty by mistake."""
    assert {
        ("cancel", "reason"),
        ("submit", "dedupe_key"),
        ("run", "user_id"),
        ("events", "agent"),
        ("replay", "ids"),
    } <= {(method, argument) for method, argument, _ in DOORS}


async def test_inputs_may_be_bytes_and_no_halves(crew: Crew, client: Client) -> None:
    binary = bytes(range(256)).decode("utf-8", "surrogateescape")
    await client.submit(crew.keys.crew, "x", agent="a", inputs={"file": binary}, id="t1")
    assert await client.submit(crew.keys.crew, "x", agent="a", inputs={"file": binary}, id="t1") == "t1"
    for inputs in ({"n": HALF}, {HALF: "n"}):
        with pytest.raises(InvalidInput, match="inputs"):
            await client.submit(crew.keys.crew, "x", agent="a", inputs=inputs)
    assert await client.unfinished(crew.keys.crew) == ["t1"]


TOO_MUCH: dict[str, tuple[Mapping[str, Any], str]] = {
    "user_id": ({"user_id": "u" * (LABEL_MAX_BYTES + 1)}, "user_id: this has 513 bytes; the limit is 512"),
    "session_id": ({"session_id": "ü" * 300}, "session_id: this has 600 bytes; the limit is 512"),
    "dedupe_key": ({"dedupe_key": "k" * 60_000_000}, "dedupe_key: this has 60000000 bytes; the limit is 512"),
    "number of inputs": ({"inputs": {f"n{i}": "" for i in range(INPUTS_MAX + 1)}}, "inputs: there are 1001 inputs"),
    "sum of inputs": (
        {"inputs": {f"n{i}": "x" * (INPUTS_MAX_BYTES // 8) for i in range(9)}},
        "inputs: the inputs have 75497472 bytes together; the limit is 67108864",
    ),
}


@pytest.mark.parametrize("agent", ["a", None])
@pytest.mark.parametrize("what", TOO_MUCH)
async def test_more_than_fits_is_refused_and_nothing_is_stored(
    crew: Crew, client: Client, what: str, agent: str | None
) -> None:
    options, said = TOO_MUCH[what]
    with pytest.raises(InvalidInput) as caught:
        await client.submit(crew.keys.crew, "x", agent=agent, **options)
    assert said in str(caught.value)
    assert await client.unfinished(crew.keys.crew) == []


async def test_what_fits_is_taken(crew: Crew, client: Client) -> None:
    """As much as is allowed, at once."""
    label = "ü" * (LABEL_MAX_BYTES // 2)
    inputs = dict.fromkeys((f"n{i}" for i in range(INPUTS_MAX)), "")
    inputs |= dict.fromkeys(("n0", "n1", "n2", "n999"), "x" * (INPUTS_MAX_BYTES // 4))
    await client.submit(
        crew.keys.crew, "x", agent="a", user_id=label, session_id=label, dedupe_key=label, inputs=inputs, id="t1"
    )
    (task,) = await crew.take("w")
    assert len(task.inputs) == INPUTS_MAX
    assert await crew.client.hstrlen(crew.keys.task("t1"), "input:n999") == INPUTS_MAX_BYTES // 4
