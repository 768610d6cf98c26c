"""Messages and secrets, and the channel that needs nothing: the log."""

from __future__ import annotations

import logging
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from watchbill.api.delivery import Destination, Secret, SecretKeyRef
from watchbill.delivery import Delivered, LocalSecrets, Message, Sender
from watchbill.errors import DeliveryRefused, NotDelivered
from watchbill.settings import Settings
from watchbill.tasks import RunResult, RunState, TaskResult

pytestmark = pytest.mark.pure


def message(**changes: Any) -> Message:
    result = TaskResult(task_id="t1", agent_name="writer", success=True, output="Done.", execution_time_ms=12.5)
    return Message.of(result.model_copy(update=changes), "d1", 2)


def test_programs_receive_exactly_seven_values() -> None:
    assert message(metadata={"source": "cron"}).payload() == {
        "task_id": "t1",
        "agent_name": "writer",
        "success": True,
        "output": "Done.",
        "error": None,
        "execution_time_ms": 12.5,
        "metadata": {"source": "cron"},
    }


def test_a_run_is_told_in_the_name_of_its_crew() -> None:
    run = RunResult(run_id="r1", crew="team/blog", status=RunState.FAILED, error="no", execution_time_ms=1.0)
    told = Message.of(run, "d1").payload()
    assert (told["task_id"], told["agent_name"], told["success"], told["error"]) == ("r1", "team/blog", False, "no")


def test_secrets_come_from_the_environment_and_from_mounted_files_as_they_are_now(tmp_path: Path) -> None:
    environment = {"TOKEN": " abc\n", "EMPTY": " "}
    secrets = LocalSecrets(environment, tmp_path)
    mounted = Secret(None, SecretKeyRef(name="hooks", key="url"))
    assert secrets.read(Secret("env:TOKEN", None)) == "abc"
    assert secrets.read(Secret("https://example.com", None)) == "https://example.com"
    for missing, told in (
        (Secret("env:EMPTY", None), "variable EMPTY is not set where this is delivered, or is empty. Set it"),
        (mounted, "key 'url' of Secret 'hooks' can't be read (No such file or directory). Add it, as text"),
    ):
        with pytest.raises(NotDelivered) as caught:
            secrets.read(missing)
        assert str(caught.value) == told
    (tmp_path / "hooks").mkdir()
    for value in ("first", "second\n"):
        (tmp_path / "hooks" / "url").write_text(value)
        assert secrets.read(mounted) == value.strip()
    (tmp_path / "hooks" / "url").write_bytes(b"\xff\xfe")
    with pytest.raises(NotDelivered, match="is no text"):
        secrets.read(mounted)


@pytest.mark.parametrize(
    ("changes", "channel", "level", "line"),
    [
        ({}, {}, logging.INFO, "writer completed in 12 ms, task t1: Done."),
        ({"output": {"a": "ü"}}, {}, logging.INFO, 'writer completed in 12 ms, task t1: {"a": "ü"}'),
        ({"success": False, "error": "no"}, {}, logging.WARNING, "writer failed in 12 ms, task t1: no"),
        ({"success": False, "error": "no", "agent_name": ""}, {}, logging.WARNING, "Task failed in 12 ms, task t1: no"),
        ({"success": False, "error": "no"}, {"level": "ERROR"}, logging.ERROR, "writer failed in 12 ms, task t1: no"),
        ({"output": "x" * 5000}, {}, logging.INFO, f"task t1: {'x' * 4096} … (904 more characters)"),
    ],
)
async def test_the_log_gets_one_line_per_result(
    changes: dict[str, Any], channel: dict[str, Any], level: int, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "watchbill.delivery")
    sender = Sender(Settings())
    assert (
        await sender.send(message(**changes), Destination.model_validate({"name": "ops", "log": channel}))
        == Delivered()
    )
    (record,) = caplog.records
    assert record.levelno == level
    assert record.getMessage().endswith(line)
    await sender.aclose()


@pytest.mark.parametrize("url", ["https://[not-shown]/x", "https://user:not-shown\u2100@hooks.test/x"])
async def test_a_url_that_nobody_can_read_is_refused_without_a_part_of_it(url: str) -> None:
    to = Destination.model_validate({"name": "hook", "webhook": {"url": "env:HOOK"}})
    async with aclosing(Sender(Settings(), LocalSecrets({"HOOK": url}))) as sender:
        with pytest.raises(DeliveryRefused) as refused:
            await sender.send(message(), to)
    assert str(refused.value) == "variable HOOK is no URL that can be used. Correct it"
