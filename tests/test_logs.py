"""Log lines as JSON: the fields of docs/logs.md, and nothing that a line must not have."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from datetime import UTC, datetime

import pytest

from watchbill import logs

pytestmark = pytest.mark.pure


def logged_to(written: io.StringIO) -> logging.Logger:
    logger = logging.Logger("watchbill.worker")  # noqa: LOG001 - not everybody's
    logger.addHandler(logs.Handler(written, logs.formatter("json")))
    return logger


def test_a_line_is_one_object_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGGED_TOKEN", 'to"ken-1234567')
    written = io.StringIO()
    logger = logged_to(written)
    try:
        raise ValueError('to"ken-1234567\nINFO forged\x1b[2J')
    except ValueError:
        logger.exception(
            "half\n\x1b %s \ud800", 'to"ken-1234567', extra={"crew": "team/notes", "task": None, "run": []}
        )
    logger.info("count: %d", "none")

    assert "ken-1234567" not in written.getvalue()
    assert "\x1b" not in written.getvalue()
    first, second = map(json.loads, written.getvalue().splitlines())
    at = datetime.fromisoformat(first.pop("time"))
    assert at.tzinfo == UTC
    assert at.microsecond % 1000 == 0
    assert first.pop("traceback").endswith("ValueError: [redacted LOGGED_TOKEN]\nINFO forged\x1b[2J")
    assert first == {
        "level": "ERROR",
        "logger": "watchbill.worker",
        "message": "half\n\x1b [redacted LOGGED_TOKEN] \ud800",
        "crew": "team/notes",
    }
    assert second["message"].startswith(
        "INFO watchbill.worker: a log line ('count: %d') could not be written: TypeError"
    )


async def test_a_line_is_about_what_its_asyncio_task_works_at_unless_it_says_so_itself() -> None:
    written = io.StringIO()
    logger = logged_to(written)

    async def at(crew: str) -> None:
        logs.bind({"crew": crew})
        await asyncio.sleep(0)
        logger.info("in a task")
        await asyncio.to_thread(logger.info, "in a thread")

    await asyncio.gather(at("a/one"), at("a/two"))
    logger.info("outside")
    logger.info("another's", extra={"crew": "a/three", "attempt": 2})

    found = [json.loads(line) for line in written.getvalue().splitlines()]
    assert {(line["message"], line.get("crew"), line.get("attempt")) for line in found} == {
        ("in a task", "a/one", None),
        ("in a task", "a/two", None),
        ("in a thread", "a/one", None),
        ("in a thread", "a/two", None),
        ("outside", None, None),
        ("another's", "a/three", 2),
    }
