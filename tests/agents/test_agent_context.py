from __future__ import annotations

import asyncio
import dataclasses
import threading

import pytest

from watchbill import testing
from watchbill.tasks import Usage

pytestmark = pytest.mark.pure


async def test_usage_adds_up_and_is_none_when_nothing_was_reported() -> None:
    context = testing.context()
    assert context.usage is None
    context.report_usage(Usage(input_tokens=3, output_tokens=1, requests=1))
    context.report_usage(Usage(input_tokens=4, requests=1))
    assert context.usage == Usage(input_tokens=7, output_tokens=1, requests=2)


async def test_a_thread_emits_on_the_event_loop() -> None:
    emitted_on: list[threading.Thread] = []
    context = testing.context()
    original = context.emit

    async def emit(message: str) -> None:
        emitted_on.append(threading.current_thread())
        await original(message)

    object.__setattr__(context, "emit", emit)
    await asyncio.to_thread(context.emit_sync, "from a thread")
    assert context.messages == ["from a thread"]
    assert emitted_on == [threading.main_thread()]


async def test_what_emit_raises_reaches_the_thread() -> None:
    context = testing.context()

    async def emit(message: str) -> None:
        raise LookupError(message)

    object.__setattr__(context, "emit", emit)
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


def test_an_agent_sees_that_it_should_stop_also_in_a_copy_of_its_context() -> None:
    context = testing.context()
    other = dataclasses.replace(context, prompt="another")
    assert not context.cancelled
    assert not other.cancelled
    context.cancel()
    assert context.cancelled
    assert other.cancelled
