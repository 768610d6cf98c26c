"""`Context.step`: what is done once, what comes back, and what is refused. A worker's own is in test_worker_steps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from watchbill import testing
from watchbill.agents import steps
from watchbill.errors import InvalidInput


async def test_another_attempt_finds_what_was_done_and_does_the_rest() -> None:
    done: list[Any] = []

    def do(what: str, *, more: int = 0) -> Any:
        done.append(what)
        return (what, more, {"é": None})

    async def do_async(what: str) -> str:
        done.append(what)
        return what

    async def work(context: testing.RecordingContext) -> Any:
        return [
            await context.step("plain", do, "a", more=2),
            await asyncio.to_thread(context.step_sync, "in a thread", do, "b"),
            await context.step("in a loop", do_async, "c"),
            await context.step("in a loop", do_async, "d"),
            await context.step("nested", lambda: context.step("inner", do_async, "e")),
        ]

    first = testing.context()
    result = await work(first)
    assert result == [["a", 2, {"é": None}], ["b", 0, {"é": None}], "c", "d", "e"]
    del first.stored["in a loop#2"], first.stored["nested#1"]
    assert await work(testing.context(stored=first.stored, attempt=2)) == result
    assert done == ["a", "b", "c", "d", "e", "d"]
    assert first.stored["plain#1"] == '["a",2,{"é":null}]'


def test_a_test_without_an_event_loop_may_do_steps() -> None:
    context = testing.context()
    assert context.step_sync("add", lambda a, b: a + b, 1, 2) == 3
    assert context.stored == {"add#1": "3"}


async def test_what_fails_is_not_stored() -> None:
    context = testing.context()
    with pytest.raises(ZeroDivisionError):
        await context.step("divide", lambda: 1 // 0)
    assert context.stored == {}


async def _nothing() -> None: ...


@pytest.mark.parametrize(
    ("name", "function", "error"),
    [
        ("", list, r"name: '' is no name of a step\. Give it 1 to 200 printable characters"),
        ("a\nb", list, "is no name of a step"),
        ("x" * 201, list, "is no name of a step"),
        (7, list, "'7' is no name of a step"),
        ("s", _nothing(), r"function: step 's' was given a value of type coroutine .* step\('s', function, argument\)"),
        ("s", object, "step s: what step 's' returned can't be stored as JSON: Object of type object is not JSON"),
        ("s", lambda: [float("nan")], "can't be stored as JSON: Out of range float values"),
        ("s", lambda: "é" * (steps.RESULT_MAX_BYTES // 2), "is more than 8388608 bytes of JSON. Keep it elsewhere"),
    ],
)
async def test_bad_names_functions_and_results_are_refused(name: Any, function: Any, error: str) -> None:
    context = testing.context()
    with pytest.raises(InvalidInput, match=error):
        await context.step(name, function)
    assert context.stored == {}


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda c: c.step_sync("s", list), r"await context\.step"),
        (lambda c: asyncio.run(asyncio.to_thread(c.step_sync, "s", _nothing)), "is async, and was called in step_sync"),
    ],
)
async def test_a_step_of_the_wrong_kind_says_which_is_right(call: Callable[[Any], Any], error: str) -> None:
    context = testing.context()
    if "is async" in error:
        with pytest.raises(InvalidInput, match=error):
            await asyncio.to_thread(call, context)
    else:
        with pytest.raises(RuntimeError, match=error):
            call(context)
