"""The nightly report: fired by its heartbeat, written by a model, mailed once somebody has approved of it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import scripted

import pages
from smtp_server import Mailbox, mailbox
from test_readme import ROOT
from waiting import until
from watchbill import testing
from watchbill.agents import aclose_clients
from watchbill.client import Client
from watchbill.local import LocalCrews, files, load
from watchbill.plan import schedule
from watchbill.tasks import RunResult, RunState, TaskState
from watchbill.testing import FakeModel

EXAMPLE = ROOT / "examples" / "nightly-report"
REPORT = "On 2026-10-25 there were 121 orders, and 44 tickets about payment (+1239.1%)."


@pytest.fixture
async def mail() -> AsyncIterator[tuple[Mailbox, str]]:
    """The mailbox of a real server, and its URL."""
    async with mailbox() as box:
        yield box, f"smtp://127.0.0.1:{box.port}?starttls=no"


async def test_a_report_is_mailed_once_somebody_has_approved_of_it(tmp_path: Path, mail: tuple[Mailbox, str]) -> None:
    box, url = mail
    copied = tmp_path / "examples" / "nightly-report"
    shutil.copytree(EXAMPLE, copied)
    away = datetime.now(UTC) + timedelta(hours=12)  # so that the clock does not fire it, whenever this runs
    beat = copied / "heartbeat.yaml"
    beat.write_text(beat.read_text().replace('"30 2 * * *"', f'"{away:%M %H} * * *"').replace("Europe/Berlin", "UTC"))
    watch, now = pages.shell((EXAMPLE / "README.md").read_text())
    watch = watch.replace("KEY=…", "KEY=sk-of-nobody").replace("smtp://…", url)
    # A person takes longer than a worker until it comes to the step.
    now = re.sub(r"(?m)^(watchbill approve .*)$", r"until \1; do sleep 0.2; done", now)
    async with FakeModel(scripted.answer) as model:
        environment = pages.environment("OPENAI_") | {"OPENAI_BASE_URL": model.base_url}
        with (tmp_path / "said").open("w") as said:
            words = ("bash", "-euc", watch)
            watching = await asyncio.create_subprocess_exec(
                *words, cwd=tmp_path, env=environment, stdout=said, stderr=said, start_new_session=True
            )
        try:
            await until(lambda: "Ctrl-C ends it" in (tmp_path / "said").read_text(), 180, what="it watches")
            code, out, err = await pages.run_beside(now, tmp_path, OPENAI_BASE_URL=model.base_url)
            assert code == 0, err + (tmp_path / "said").read_text()
            await until(lambda: box.got, 180, what="the mail")
        finally:
            os.killpg(watching.pid, signal.SIGTERM)
            await watching.wait()
    report, state, released = out.splitlines()
    assert report == released == REPORT
    assert state in ("waiting", "running", "completed")
    [(to, sent)] = box.got
    assert (to, sent["Subject"], sent["From"]) == (["team@shop.example"], "How the shop did", "reports@shop.example")
    assert REPORT in sent.get_content()
    assert "heartbeat night completed" in (tmp_path / "said").read_text()


async def test_a_rejected_report_is_mailed_to_nobody(
    mail: tuple[Mailbox, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    box, url = mail
    async with FakeModel(scripted.answer) as model, testing.store() as store:
        for name, value in {
            "OPENAI_API_KEY": "sk-of-nobody",
            "OPENAI_BASE_URL": model.base_url,
            "WATCHBILL_SMTP_URL": url,
            "WATCHBILL_SMTP_FROM": "reports@shop.example",
        }.items():
            monkeypatch.setenv(name, value)
        async with LocalCrews(store, load(files([EXAMPLE]))) as crews, Client(store) as client:
            await client.apply(EXAMPLE)
            run = await client.fire("nightly-report", "night")
            release = f"{run}/release"

            async def waits() -> bool:
                return await client.state("nightly-report", release) is TaskState.APPROVAL

            await until(waits, 180, what="it waits for approval")
            assert await client.reject("nightly-report", release, reason="that is the day before")
            result = await client.wait("nightly-report", run, timeout=180)
            assert isinstance(result, RunResult)
            assert result.status is RunState.FAILED
            assert "ApprovalRejected: rejected: that is the day before" in (result.error or "")
            assert result.steps["report"].output == REPORT
            assert await crews.delivered(180)
            told = [(one.destination, one.state) for one in await client.deliveries("nightly-report")]
            assert told == [("on-call", TaskState.COMPLETED)]
        await aclose_clients()
    assert box.got == []


@pytest.mark.pure
def test_it_is_due_at_half_past_two_by_the_clock_of_the_shop() -> None:
    (beat,) = load(files([EXAMPLE])).heartbeats
    times = schedule.Schedule.of(beat.spec)

    def following(day: str) -> str:
        return f"{schedule.next_slot(times, datetime.fromisoformat(f'{day}T00:00Z')):%d %H:%M}"

    assert following("2027-01-10") == "10 01:30"
    assert following("2027-07-10") == "10 00:30"
    assert following("2027-03-28") == "28 01:00"  # 2:30 does not exist: it is due as the gap ends
