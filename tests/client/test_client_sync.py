"""The client for programs without an event loop: it has all that Client has, and holds up nobody for ever."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, assert_type

import pytest
from support import Crew

from watchbill.client import Client, DeadLetter, Replay, SyncClient
from watchbill.errors import InvalidInput, NotFound, StoreUnavailable
from watchbill.event_types import Gap, TownEvent
from watchbill.tasks import TaskState


@pytest.fixture
def sync(redis_url: str) -> Iterator[SyncClient]:
    with SyncClient(redis_url, namespace="test") as made:
        yield made


async def apart(work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a program without a loop would do."""
    return await asyncio.to_thread(work, *arguments, **options)


def public(kind: type) -> dict[str, Any]:
    return {name: method for name, method in inspect.getmembers(kind, callable) if not name.startswith("_")}


@pytest.mark.pure
def test_it_has_every_method_of_the_other_with_the_same_arguments() -> None:
    ours, theirs = public(SyncClient), public(Client)
    assert set(ours) == set(theirs)
    assert {name: inspect.signature(m) for name, m in ours.items()} == {
        name: inspect.signature(m) for name, m in theirs.items()
    }
    assert [name for name, method in ours.items() if inspect.iscoroutinefunction(method)] == []
    assert [name for name, method in ours.items() if method.__doc__ in (None, "")] == []


def what_type_checkers_see(client: SyncClient) -> None:
    """Checks by mypy, so by `make lint`: the arguments and what comes back. Nobody calls it."""
    assert_type(client.submit("c", "prompt", agent="a"), str)
    assert_type(client.follow("c", after="0-0"), Iterator[tuple[str, TownEvent | Gap]])
    assert_type(client.dead_letters("c"), Iterator[DeadLetter])
    assert_type(client.replay("c", everything=True), list[Replay])
    client.cancel("c")  # type: ignore[call-arg]
    client.cancel("c", "t1", raeson="misspelt")  # type: ignore[call-arg]


async def test_work_goes_from_its_submission_to_its_end(crew: Crew, sync: SyncClient) -> None:
    name = crew.keys.crew
    ids = await apart(sync.submit_many, name, "a", ["one", "two"])
    assert (await apart(sync.figures, name)).waiting == 2
    assert await apart(sync.cancel, name, ids[1], reason="no")
    waiting = asyncio.create_task(apart(sync.wait, name, ids[0], timeout=180))
    await crew.finish("w", await crew.take("w"))
    assert (await waiting).success
    assert (await apart(sync.result, name, ids[1])).cancelled
    assert await apart(sync.state, name, ids[0]) is TaskState.COMPLETED


async def test_errors_are_raised_where_they_are_asked_for(crew: Crew, sync: SyncClient) -> None:
    with pytest.raises(NotFound):
        await apart(sync.submit, "test/nobody", "x")
    with pytest.raises(InvalidInput):
        await apart(sync.follow, "a:b")
    with pytest.raises(InvalidInput):
        sync.keys("a:b")
    with pytest.raises(NotFound):
        await apart(list, sync.dead_letters("nobody"))
    task_id = await apart(sync.submit, crew.keys.crew, "x", agent="a")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(apart(sync.wait, crew.keys.crew, task_id, timeout=0.1), 180)
    with SyncClient("unix:///nowhere/at/all") as lost, pytest.raises(StoreUnavailable):
        await apart(lost.crews)


async def test_events_and_dead_letters_are_iterated(crew: Crew, sync: SyncClient) -> None:
    name = crew.keys.crew
    await crew.submit("t1", "t2")
    await crew.finish("w", await crew.take("w"), "dead")

    def read() -> tuple[list[str], list[str]]:
        kinds = []
        for _, event in sync.follow(name):
            assert isinstance(event, TownEvent)
            kinds.append(event.event_type.value)
            if kinds.count("task_failed") == 2:
                break
        return kinds, [letter.task_id for letter in sync.dead_letters(name, agent="a")]

    kinds, letters = await apart(read)
    assert kinds.count("task_assigned") == 2
    assert letters == ["t2", "t1"]


async def test_where_a_loop_runs_a_call_holds_it_up_and_comes_to_its_end(crew: Crew, sync: SyncClient) -> None:
    task_id = sync.submit(crew.keys.crew, "x", agent="a")
    assert sync.state(crew.keys.crew, task_id) is TaskState.WAITING


async def test_many_threads_use_one_client_from_its_first_call_on(crew: Crew, sync: SyncClient) -> None:
    before = set(threading.enumerate())
    together = threading.Barrier(16)

    def submit(number: int) -> str:
        together.wait(180)
        return sync.submit(crew.keys.crew, "x", agent="a", id=f"t{number}")

    with ThreadPoolExecutor(16) as pool:
        ids = await asyncio.gather(*(asyncio.wrap_future(pool.submit(submit, n)) for n in range(16)))
        assert sorted(ids) == sorted(f"t{n}" for n in range(16))
        assert len(set(threading.enumerate()) - before) == 16 + 1
    assert await crew.queued() == 16


async def test_closing_ends_calls_that_wait_and_refuses_others(crew: Crew, sync: SyncClient) -> None:
    await crew.submit("t1")
    waiting = [asyncio.create_task(apart(sync.wait, crew.keys.crew, "t1")) for _ in range(3)]
    following = asyncio.create_task(apart(list, sync.follow(crew.keys.crew)))
    channels = crew.keys.prefix + "reply:*"
    while not await crew.client.pubsub_channels(channels):
        await asyncio.sleep(0.01)
    await apart(sync.close)
    for call in (*waiting, following):
        with pytest.raises(RuntimeError, match="closed"):
            await call
    with pytest.raises(RuntimeError, match="closed"):
        sync.state(crew.keys.crew, "t1")
    sync.close()
    assert [t for t in threading.enumerate() if t.name == "watchbill client"] == []
    while await crew.client.pubsub_channels(channels):
        await asyncio.sleep(0.01)


async def test_a_client_that_was_never_used_starts_nothing(redis_url: str) -> None:
    before = threading.active_count()
    with SyncClient(redis_url):
        assert threading.active_count() == before


async def test_a_call_from_within_a_call_is_refused_and_not_waited_for(crew: Crew, sync: SyncClient) -> None:
    class Sly(str):
        def encode(self, *args: Any) -> bytes:
            sync.crews()
            return super().encode(*args)

    with pytest.raises(RuntimeError, match="from within a call of its own"):
        await apart(sync.submit, crew.keys.crew, Sly("ünï"), agent="a")


PROGRAM = """
    import os, signal, sys, threading, time, warnings
    from watchbill.client import SyncClient
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of every fork beside a thread
    client, crew = SyncClient(sys.argv[1]), sys.argv[2]
"""


def run(program: str, *arguments: str, seconds: float = 90) -> subprocess.CompletedProcess[str]:
    code = textwrap.dedent(PROGRAM) + textwrap.dedent(program)
    # Warnings are shown, but asyncio's debug mode is off: it writes a line whenever the machine is slow.
    command = [sys.executable, "-W", "default", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds)


async def test_ctrl_c_ends_a_wait_and_the_client_works_on(crew: Crew) -> None:
    await crew.submit("t1")
    done = await apart(
        run,
        """
        main = threading.get_ident()
        try:
            threading.Timer(1, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
            client.wait(crew, "t1")
        except KeyboardInterrupt:
            print("interrupted")
        try:
            threading.Timer(1, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
            for _ in client.follow(crew):
                pass
        except KeyboardInterrupt:
            print("interrupted")
        print(client.state(crew, "t1"), len(client._client._replies._waiting))
        client.close()
        """,
        crew.url,
        crew.keys.crew,
    )
    assert (done.stdout, done.stderr) == ("interrupted\ninterrupted\nwaiting 0\n", "")


async def test_a_program_may_end_without_closing_it(crew: Crew) -> None:
    await crew.submit("t1")
    done = await apart(run, "print(client.state(crew, 't1'))", crew.url, crew.keys.crew)
    assert (done.returncode, done.stdout, done.stderr) == (0, "waiting\n", "")


async def test_who_has_no_descriptors_left_for_a_loop_is_told_and_may_call_again(crew: Crew) -> None:
    await crew.submit("t1")
    done = await apart(
        run,
        """
        import resource
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))
        try:
            client.state(crew, "t1")
        except OSError as error:
            told = error.strerror
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        print(told)
        print(client.state(crew, "t1"))
        client.close()
        """,
        crew.url,
        crew.keys.crew,
    )
    assert done.stdout.splitlines() == ["Too many open files", "waiting"]


async def test_a_forked_process_is_told_to_make_its_own(crew: Crew) -> None:
    await crew.submit("t1")
    done = await apart(
        run,
        """
        unused = SyncClient(sys.argv[1])
        client.state(crew, "t1")
        if not (child := os.fork()):
            try:
                client.state(crew, "t1")
            except RuntimeError as error:
                print(error)
            client.close()
            with unused:
                print(unused.state(crew, "t1"), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        print(client.state(crew, "t1"))
        """,
        crew.url,
        crew.keys.crew,
    )
    assert done.stdout.splitlines() == [
        "the client was used before this process was forked. Make one in each process",
        "waiting",
        "waiting",
    ], done.stderr
