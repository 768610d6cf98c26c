"""`delete --drain`: a crew takes no work and goes once it has none; after a timeout or a signal nothing is deleted."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest
from shell import Shell, until

from watchbill.client import Client
from watchbill.errors import Closed, CrewGone, NotFound
from watchbill.store import suspension

GONE = (CrewGone, NotFound)


def test_a_crew_is_deleted_once_what_runs_and_what_waits_has_ended(shell: Shell, stored: str) -> None:
    before = len(shell.notes())
    shell.hold("first")
    worker = shell.start("worker", stored, "--concurrency", "1")
    for task in ("runs", "waits"):
        shell.run("submit", stored, "x", "--agent", "first", "--id", task)
    until(lambda: shell.notes()[before:] == ["first started"])

    late = shell.run("delete", "crew", stored, "--drain", "--timeout", "0.1")
    assert (late.returncode, late.stdout) == (1, "")
    assert f"nothing was deleted: crew '{stored}' has 1 running, 1 waiting\n" in late.stderr
    assert shell.run("submit", stored, "x", "--agent", "first", "--id", "comes").returncode == 0, "work is taken again"

    deleting = shell.start("delete", "crew", stored, "--drain")
    until(lambda: shell.run("submit", stored, "x", "--agent", "first", "--id", "comes").returncode == 2)
    refused = shell.run("submit", stored, "x", "--agent", "first")
    assert "takes no work: it is deleted once its work has ended. To open it again: watchbill resume" in refused.stderr
    assert deleting.poll() is None
    shell.let_go("first")
    assert deleting.wait(180) == 0, shell.read(deleting)
    assert shell.read(deleting, "out") == f"crew/{stored} deleted\n"
    assert shell.notes()[before:].count("first ended") == 3, "none of it was dropped"
    assert stored not in shell.run("get", "crews").stdout
    worker.wait(180)


async def test_every_task_that_was_taken_while_the_crew_was_deleted_has_its_result(
    shell: Shell, redis_url: str, stored: str
) -> None:
    shell.start("worker", stored)
    async with Client(redis_url) as client:
        waiting: list[asyncio.Task[Any]] = []

        async def submit() -> None:
            task_id = await client.submit(stored, "x", agent="first")
            waiting.append(asyncio.create_task(client.wait(stored, task_id)))

        async def submit_on() -> None:
            while True:
                await submit()
                await asyncio.sleep(0.005)

        await submit()
        await waiting[0]  # results of others may go with the crew before they are asked for
        submitting = asyncio.create_task(submit_on())
        async with asyncio.timeout(180):
            while len(waiting) < 3:  # else the crew may be closed before
                await asyncio.sleep(0.005)
        deleting = shell.start("delete", "crew", stored, "--drain")
        with pytest.raises((Closed, *GONE)) as refused:  # on a slow machine it may have gone by then
            await submitting
        assert not isinstance(refused.value, Closed) or "it is deleted once its work has ended" in str(refused.value)
        found = await asyncio.gather(*waiting, return_exceptions=True)
    assert await asyncio.to_thread(deleting.wait, 180) == 0
    assert shell.notes().count("first ended") == len(waiting)
    # A client that is slow may ask for the last ones when they have gone with their crew.
    assert all(isinstance(result, GONE) or getattr(result, "success", False) for result in found)
    assert not isinstance(found[0], GONE)


def test_a_crew_whose_deletion_was_killed_takes_work_again_once_it_is_resumed(shell: Shell, stored: str) -> None:
    shell.run("submit", stored, "x", "--agent", "first")
    deleting = shell.start("delete", "crew", stored, "--drain")
    until(lambda: shell.run("submit", stored, "x", "--agent", "first").returncode == 2)
    deleting.kill()
    deleting.wait(180)
    resumed = shell.run("resume", stored)
    assert (resumed.returncode, f"{stored} takes work again" in resumed.stderr) == (0, True)
    assert shell.run("submit", stored, "x", "--agent", "first").returncode == 0


async def test_a_closed_crew_of_an_operator_is_opened_without_its_cluster(
    shell: Shell, redis_url: str, stored: str
) -> None:
    async with Client(redis_url) as client:
        await client._redis.hset(client.keys(stored).meta, "owner", "an operator")
        await client.close_crew(stored)
        opened, again = [await asyncio.to_thread(shell.run, "resume", stored) for _ in range(2)]
        await client._redis.hdel(client.keys(stored).meta, "owner")
    assert (opened.returncode, again.returncode) == (0, 2)
    assert f"{stored} takes work again" in opened.stderr
    assert "an operator manages crew" in again.stderr


def test_only_what_runs_is_waited_for_and_a_signal_takes_the_suspension_back(shell: Shell, stored: str) -> None:
    before = len(shell.notes())
    shell.hold("first")
    shell.start("worker", stored, "--concurrency", "1")
    for task in ("runs", "waits"):
        shell.run("submit", stored, "x", "--agent", "first", "--id", task)
    until(lambda: shell.notes()[before:] == ["first started"])

    def is_suspended() -> bool:
        return "suspend: true" in shell.run("get", "crew", stored, "-o", "yaml").stdout

    deleting = shell.start("delete", "crew", stored, "--drain", "--running-only")
    until(is_suspended)
    deleting.send_signal(signal.SIGINT)
    assert deleting.wait(180) == 130
    assert f"nothing was deleted: crew '{stored}' has 1 running\n" in shell.read(deleting)
    assert not is_suspended()

    deleting = shell.start("delete", "crew", stored, "--drain", "--running-only")
    until(is_suspended)
    shell.let_go("first")
    assert deleting.wait(180) == 0, shell.read(deleting)
    assert shell.notes()[before:] == ["first started", "first ended"], "what waits does not begin"
    assert stored not in shell.run("get", "crews").stdout


async def test_a_crew_for_which_there_is_no_room_is_not_waited_for(shell: Shell, redis_url: str, stored: str) -> None:
    shell.run("submit", stored, "x", "--agent", "first")
    async with Client(redis_url) as client:
        keys = client.keys(stored)
        await suspension.suspend(
            client._redis, keys, await client.uid(stored), on=True, hold="the quota allows 3 crews"
        )
    refused = await asyncio.to_thread(shell.run, "delete", "crew", stored, "--drain")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "begins: the quota allows 3 crews. Add --running-only, and what waits is dropped" in refused.stderr
    done = await asyncio.to_thread(shell.run, "delete", "crew", stored, "--drain", "--running-only")
    assert (done.returncode, done.stdout) == (0, f"crew/{stored} deleted\n")


def test_work_that_never_begins_is_not_waited_for(shell: Shell, stored: str) -> None:
    shell.run("submit", stored, "x", "--agent", "first")
    shell.run("suspend", stored)
    refused = shell.run("delete", "crew", stored, "--drain")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"watchbill resume {stored}; or add --running-only" in refused.stderr
    done = shell.run("delete", "crew", stored, "--drain", "--running-only")
    assert (done.returncode, done.stdout) == (0, f"crew/{stored} deleted\n")


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (("crew", "x", "--running-only"), "--running-only"),
        (("crew", "x", "--timeout", "3"), "--timeout"),
        (("heartbeat", "x", "--crew", "c", "--drain"), "--drain"),
    ],
)
def test_options_that_say_nothing_together_are_refused(shell: Shell, words: tuple[str, ...], fix: str) -> None:
    refused = shell.run("delete", *words)
    assert (refused.returncode, fix in refused.stderr) == (2, True)
