"""Work in the background doesn't end unnoticed."""

from __future__ import annotations

import asyncio
import logging

import pytest

from watchbill import background
from watchbill.metrics import BACKGROUND_RESTARTS

pytestmark = pytest.mark.pure


async def test_what_fails_begins_anew_and_is_told_and_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "FIRST_PAUSE_SECONDS", 0.001)
    ends = [
        ValueError("odd"),
        asyncio.CancelledError(),
        None,
    ]  # a library may leak a cancellation that nobody asked for

    async def work() -> None:
        if end := ends.pop(0):
            raise end

    async with asyncio.timeout(60):
        await background.start("a-test", work)
    assert not ends
    assert BACKGROUND_RESTARTS.labels("a-test")._value.get() == 2
    assert [r.levelno for r in caplog.records if "a-test failed" in r.message] == [logging.ERROR] * 2
    assert "ValueError: odd" in caplog.text


async def test_it_ends_when_it_is_cancelled_also_between_two_attempts() -> None:
    async def fails() -> None:
        raise ValueError

    async def lasts() -> None:
        await asyncio.Event().wait()

    for work in (fails, lasts):
        task = background.start("a-test", work)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=60)
        assert task.cancelled()
