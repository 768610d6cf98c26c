"""A private store whose server, watchdog or owner is killed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import redis.asyncio
from stores import (
    Children,
    alive,
    all_gone,
    eventually,
    has_ended_by_itself,
    lock_is_free,
    server_pid,
    watchdog_pid,
)

from watchbill import embedded, local_server, state_folder
from watchbill.embedded import EmbeddedStore


async def test_data_survives_close_and_reopen(folder: Path, connect: Callable[[str], redis.asyncio.Redis]) -> None:
    async with await EmbeddedStore.open(folder) as store:
        await connect(store.url).set("k", "v")
    async with await EmbeddedStore.open(folder) as store:
        assert await connect(store.url).get("k") == "v"


async def test_closing_twice_is_harmless(folder: Path) -> None:
    store = await EmbeddedStore.open(folder)
    await store.close()
    await store.close()
    assert not store.owner


async def test_closing_is_quick_and_graceful(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    its_turns, more = f"n={embedded.STOP_SECONDS * 20}\n", "n=72000\n"
    assert its_turns in embedded._WATCHDOG
    monkeypatch.setattr(embedded, "_WATCHDOG", embedded._WATCHDOG.replace(its_turns, more))
    monkeypatch.setattr(embedded, "STOP_SECONDS", 3600)
    store = await EmbeddedStore.open(folder)
    pids = [server_pid(store), watchdog_pid(store)]
    async with asyncio.timeout(180):
        await store.close()
    assert not any(alive(pid) for pid in pids)
    assert "bye bye" in (folder / embedded.LOG).read_text()  # it was asked, not killed


async def test_a_server_that_does_not_obey_is_killed(folder: Path) -> None:
    store = await EmbeddedStore.open(folder)
    os.kill(server_pid(store), signal.SIGSTOP)
    async with asyncio.timeout(180):
        await store.close()
    assert not alive(server_pid(store))
    async with await EmbeddedStore.open(folder) as store:  # the socket that it left is no obstacle
        assert store.owner


async def test_a_killed_watchdog_is_not_missed_by_close() -> None:
    store = await EmbeddedStore.open(None)
    os.kill(watchdog_pid(store), signal.SIGKILL)
    await store.close()
    assert not alive(server_pid(store))
    assert not store.folder.exists()


@pytest.mark.parametrize("ephemeral", [True, False], ids=["ephemeral", "folder"])
async def test_a_killed_server_is_started_again_on_what_it_had_written(
    folder: Path, ephemeral: bool, connect: Callable[[str], redis.asyncio.Redis], caplog: pytest.LogCaptureFixture
) -> None:
    async with await EmbeddedStore.open(None if ephemeral else folder) as store:
        client = connect(store.url)
        for number in range(2):  # the second server is looked after, too
            await client.set(f"k{number}", "v")
            killed = server_pid(store)
            os.kill(killed, signal.SIGKILL)
            await eventually(lambda killed=killed: server_pid(store) != killed)  # type: ignore[misc]
            await eventually(lambda: answers(store))
            assert await client.get(f"k{number}") == "v"
            assert (await client.info("server"))["process_id"] == server_pid(store)
        assert store.owner
        pids = [server_pid(store), watchdog_pid(store)]
    assert caplog.text.count("was killed by signal 9; it is started again") == 2
    assert not any(alive(pid) for pid in pids)


async def answers(store: EmbeddedStore) -> bool:
    return await local_server.ping(store._socket) == b"+PONG"


async def test_whoever_is_attached_goes_on_after_the_server_was_killed(
    children: Children, folder: Path, connect: Callable[[str], redis.asyncio.Redis]
) -> None:
    opened = children.open(folder)
    async with await EmbeddedStore.open(folder) as store:
        client = connect(store.url)
        await client.set("k", "v")
        os.kill(opened.pids[0], signal.SIGKILL)
        await eventually(lambda: not alive(opened.pids[0]))
        await eventually(lambda: answers(store))
        assert await client.get("k") == "v"
        assert not store.owner
        async with await EmbeddedStore.open(folder) as newcomer:
            assert not newcomer.owner
    opened.end(signal.SIGKILL)
    await eventually(lambda: lock_is_free(folder))  # the second server ended, too


async def test_a_server_that_can_not_be_started_again_is_tried_until_it_can(
    folder: Path, connect: Callable[[str], redis.asyncio.Redis], caplog: pytest.LogCaptureFixture
) -> None:
    async with await EmbeddedStore.open(folder) as store:
        client = connect(store.url)
        await client.set("k", "v")
        (manifest,) = (folder / "appendonlydir").glob("*.manifest")
        whole = manifest.read_text()
        manifest.write_text("nonsense\n")
        os.kill(server_pid(store), signal.SIGKILL)
        await eventually(lambda: "is not back, and is tried again" in caplog.text)
        manifest.write_text(whole)
        await eventually(lambda: answers(store))
        assert await client.get("k") == "v"


@pytest.mark.parametrize("ephemeral", [True, False], ids=["ephemeral", "folder"])
async def test_a_killed_watchdog_is_replaced(children: Children, folder: Path, ephemeral: bool) -> None:
    store = await EmbeddedStore.open(None if ephemeral else folder)
    killed = watchdog_pid(store)
    os.kill(killed, signal.SIGKILL)
    await eventually(lambda: watchdog_pid(store) != killed)
    os.kill(server_pid(store), signal.SIGSTOP)  # the new one knows whom to kill
    pid = server_pid(store)
    await store.close()
    assert not alive(pid)
    assert not alive(watchdog_pid(store))
    assert ephemeral is not store.folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does it")
async def test_a_server_ends_when_its_owner_and_its_watchdog_are_killed_together(
    children: Children, folder: Path
) -> None:
    opened = children.open(folder)
    server, watchdog = opened.pids
    os.kill(opened.process.pid, signal.SIGSTOP)  # so that it can't replace the watchdog
    os.kill(watchdog, signal.SIGKILL)
    opened.end(signal.SIGKILL)
    await all_gone([server])
    await eventually(lambda: lock_is_free(folder))


async def test_what_a_store_left_whose_processes_were_all_killed_goes_with_the_next(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    temp = tempfile.mkdtemp(prefix="wb-", dir="/tmp")
    monkeypatch.setattr(tempfile, "tempdir", temp)
    monkeypatch.setattr(state_folder, "_YOUNG_SECONDS", 0.0)
    left, alien = Path(temp, "watchbill-left"), Path(temp, "watchbill-alien")
    for folder in (left, alien):
        folder.mkdir()
    (left / state_folder.LOCK).touch()
    try:
        async with await EmbeddedStore.open(None) as first, await EmbeddedStore.open(None) as second:
            assert sorted(Path(temp).iterdir()) == sorted([first.folder, second.folder, alien])
    finally:
        shutil.rmtree(temp)


@pytest.mark.parametrize("ephemeral", [True, False], ids=["ephemeral", "folder"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_nothing_is_left_when_the_owner_ends(
    children: Children, folder: Path, ephemeral: bool, how: signal.Signals
) -> None:
    opened = children.open(None if ephemeral else folder)
    assert all(alive(pid) for pid in opened.pids)
    assert len(opened.pids) == 2
    opened.end(how)
    await all_gone(opened.pids)
    if ephemeral:
        assert not opened.folder.exists()  # removed before the watchdog ended
    elif has_ended_by_itself(folder):
        assert not (folder / state_folder.SOCKET).exists()


async def test_ctrl_c_ends_the_store_only_after_its_owner_is_done(
    children: Children, folder: Path, connect: Callable[[str], redis.asyncio.Redis]
) -> None:
    opened = children.open(folder)
    opened.end(signal.SIGINT)
    async with await EmbeddedStore.open(folder) as store:
        assert await connect(store.url).get("last") == "words"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_data_survives_the_death_of_the_owner(
    children: Children, folder: Path, how: signal.Signals, connect: Callable[[str], redis.asyncio.Redis]
) -> None:
    opened = children.open(folder)
    await connect(opened.url).set("k", "v")
    opened.end(how)
    async with await EmbeddedStore.open(folder) as store:  # at once: the old server may be just about to end
        await eventually(lambda: store.owner)
        assert await connect(store.url).get("k") == "v"


async def test_a_forked_child_does_not_keep_the_store_of_its_dead_parent(children: Children) -> None:
    opened = children.open(None, "fork")
    assert opened.child is not None
    try:
        opened.process.kill()  # it alone, not its group
        await all_gone(opened.pids)
        await eventually(lambda: not opened.folder.exists())
        assert alive(opened.child)
    finally:
        os.kill(opened.child, signal.SIGKILL)


async def test_eight_processes_at_once_share_one_server_of_a_folder(
    children: Children, folder: Path, connect: Callable[[str], redis.asyncio.Redis]
) -> None:
    processes = [children.start(folder) for _ in range(8)]
    opened = [await asyncio.to_thread(children.opened, process) for process in processes]
    assert [o.owner for o in opened].count(True) == 1
    assert {o.url for o in opened} == {opened[0].url}
    assert [len(o.pids) for o in opened].count(2) == 1
    for o in opened:
        await connect(o.url).incr("count")
    assert await connect(opened[0].url).get("count") == "8"
    for o in opened:
        if not o.owner:
            o.end(signal.SIGTERM)
    owner = next(o for o in opened if o.owner)
    assert all(alive(pid) for pid in owner.pids)
    owner.end(signal.SIGTERM)
    await all_gone(owner.pids)


async def test_eight_ephemeral_stores_at_once_are_eight(
    children: Children, connect: Callable[[str], redis.asyncio.Redis]
) -> None:
    processes = [children.start(None) for _ in range(8)]
    opened = [await asyncio.to_thread(children.opened, process) for process in processes]
    assert all(o.owner for o in opened)
    assert len({o.url for o in opened}) == 8
    assert [await connect(o.url).incr("count") for o in opened] == [1] * 8
    for o in opened:
        o.process.kill()
    for o in opened:
        await all_gone(o.pids)
        assert not o.folder.exists()
