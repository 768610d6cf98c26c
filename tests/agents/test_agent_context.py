from __future__ import annotations

import asyncio
import dataclasses
import re
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from watchbill import testing
from watchbill.errors import InvalidInput
from watchbill.event_types import EventType, SpawnMode, Telling
from watchbill.tasks import Usage

pytestmark = pytest.mark.pure


async def test_usage_adds_up_and_is_none_when_nothing_was_reported() -> None:
    context = testing.context()
    assert context.usage is None
    context.report_usage(Usage(input_tokens=3, output_tokens=1, requests=1))
    context.report_usage(Usage(input_tokens=4, requests=1))
    assert context.usage == Usage(input_tokens=7, output_tokens=1, requests=2)


@pytest.mark.parametrize(
    ("usage", "error"),
    [
        ({"prompt_tokens": 5}, "takes a watchbill.tasks.Usage, and not 'dict'"),
        (Usage(input_tokens=-1), "input_tokens must be an integer from 0 to"),
        (Usage(output_tokens=10**5000), "output_tokens must be an integer from 0 to"),
        (Usage.model_construct(requests="2"), "requests must be an integer from 0 to"),  # type: ignore[arg-type]
    ],
    ids=["dict", "negative", "huge", "text"],
)
def test_what_is_no_usage_is_refused_where_it_is_reported(usage: Any, error: str) -> None:
    context = testing.context()
    with pytest.raises((TypeError, ValueError), match=error):
        context.report_usage(usage)
    assert context.usage is None


def test_what_is_said_about_a_result_is_json_and_a_copy() -> None:
    context = testing.context()
    value = {"rows": ["cut \ud83d"]}
    context.annotate("source", value)
    value["rows"].clear()
    assert context.metadata == {"source": {"rows": ["cut \ufffd"]}}
    for bad in (object(), float("nan"), "x" * 4000, [10**4300]):
        with pytest.raises((TypeError, ValueError)):
            context.annotate("bad", bad)
    assert list(context.metadata) == ["source"]


async def test_what_is_no_text_can_not_be_emitted_and_that_is_said() -> None:
    with pytest.raises(TypeError, match=r"emit takes a text, not dict: \{'a': 1\}"):
        await testing.context().emit({"a": 1})  # type: ignore[arg-type]


async def test_a_thread_emits_on_the_event_loop() -> None:
    emitted_on: list[threading.Thread] = []
    context = testing.context()
    original = context.tell

    async def tell(told: Telling) -> None:
        emitted_on.append(threading.current_thread())
        await original(told)

    context.tell = tell
    await asyncio.to_thread(context.emit_sync, "from a thread")
    assert context.messages == ["from a thread"]
    assert emitted_on == [threading.main_thread()]


async def test_what_emit_raises_reaches_the_thread() -> None:
    context = testing.context()

    async def tell(told: Telling) -> None:
        raise LookupError(told.message)

    context.tell = tell
    with pytest.raises(LookupError, match="gone"):
        await asyncio.to_thread(context.emit_sync, "gone")


async def test_emit_sync_on_the_event_loop_is_an_error_and_not_a_deadlock() -> None:
    context = testing.context()
    with pytest.raises(RuntimeError, match=r"await context\.emit"):
        context.emit_sync("never")
    assert context.messages == []


def test_emit_sync_after_the_event_loop_has_ended_says_so() -> None:
    async def make() -> testing.RecordingContext:
        return testing.context()

    context = asyncio.run(make())
    with pytest.raises(RuntimeError, match="closed"):
        context.emit_sync("too late")


def test_a_test_without_an_event_loop_may_emit() -> None:
    context = testing.context()
    context.emit_sync("hello")
    assert context.messages == ["hello"]


async def test_what_an_agent_tells_of_its_work_with_others_is_kept_for_a_test() -> None:
    context = testing.context()
    await context.delegate("writer", "go", scope="the draft", spawn_mode="resumed")
    await context.hand_off_for_review("critic")
    await context.approve("writer", "well done")
    await asyncio.to_thread(context.escalate_sync, "help", to="lead")
    assert context.messages == []
    assert context.events == [
        Telling(EventType.TASK_DELEGATED, "go", None, "writer", "the draft", SpawnMode.RESUMED),
        Telling(EventType.REVIEWER_HANDOFF, "", None, "critic"),
        Telling(EventType.REVIEWER_APPROVAL, "well done", "writer"),
        Telling(EventType.CONDUCTOR_ESCALATION, "help", "lead"),
    ]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda c: c.delegate(""), "agent: '' is no name of an agent. Name an agent of the crew."),
        (lambda c: c.hand_off_for_review(None), "reviewer: None is no name of an agent"),
        (lambda c: c.escalate("help", to=7), "to: 7 is no name of an agent"),
        (lambda c: c.delegate("a", spawn_mode="warm"), "spawn_mode: 'warm' is no spawn mode. Use one of fresh, forked"),
        (lambda c: c.approve("a", 7), "approve takes a text, not int: 7"),
        (lambda c: c.delegate("a", scope=["x"]), "scope takes a text, not list"),
    ],
)
async def test_bad_input_is_refused_by_its_name(call: Callable[[Any], Awaitable[None]], error: str) -> None:
    context = testing.context()
    with pytest.raises((InvalidInput, TypeError), match=re.escape(error)):
        await call(context)
    assert context.events == []


def test_an_agent_sees_that_it_should_stop_also_in_a_copy_of_its_context() -> None:
    context = testing.context()
    other = dataclasses.replace(context, prompt="another")
    assert not context.cancelled
    assert not other.cancelled
    context.cancel()
    assert context.cancelled
    assert other.cancelled
