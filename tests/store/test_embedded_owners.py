"""A private store that another process takes over."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import redis.asyncio
from stores import Children, alive, all_gone, eventually, lock_is_free, server_pid

from watchbill import local_server, state_folder
from watchbill.embedded import EmbeddedStore


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_an_attached_process_takes_over_when_the_owner_goes(
    children: Children, folder: Path, how: signal.Signals, connect: Callable[[str], redis.asyncio.Redis]
) -> None:
    owner = children.open(folder)
    took_over = asyncio.Event()

    async def on_owner() -> None:
        took_over.set()

    async with await EmbeddedStore.open(folder, on_owner=on_owner) as store:
        assert not store.owner
        client = connect(store.url)
        await client.set("k", "v")
        owner.end(how)
        async with asyncio.timeout(180):
            await took_over.wait()
        assert store.owner
        assert store.url == owner.url
        assert await client.get("k") == "v"  # the same client: it reconnects by itself
        assert await client.info("server") != {}
        assert (await client.info("server"))["process_id"] == server_pid(store)
        await all_gone(owner.pids)
    assert not alive(server_pid(store))


async def test_one_of_many_takes_over_and_then_the_next(
    children: Children, folder: Path, connect: Callable[[str], redis.asyncio.Redis]
) -> None:
    first = children.open(folder)
    client = connect(first.url)
    await client.set("k", "v")
    stores = [await EmbeddedStore.open(folder) for _ in range(3)]
    assert not any(store.owner for store in stores)
    first.end(signal.SIGKILL)
    while stores:
        await eventually(lambda: any(store.owner for store in stores))
        (owner,) = [store for store in stores if store.owner]
        assert await client.get("k") == "v"
        assert (await client.info("server"))["process_id"] == server_pid(owner)
        await owner.close()
        stores.remove(owner)
    assert lock_is_free(folder)


async def test_a_closed_attached_store_takes_nothing_over(children: Children, folder: Path) -> None:
    owner = children.open(folder)
    store = await EmbeddedStore.open(folder)
    async with asyncio.timeout(180):
        await store.close()
    owner.end(signal.SIGTERM)
    await all_gone(owner.pids)
    await eventually(lambda: lock_is_free(folder))
    assert not store.owner
    assert await local_server.ping(folder / state_folder.SOCKET) == b""


MOMENTS: dict[str, Callable[[EmbeddedStore], bool]] = {
    "at once": lambda store: True,
    "while its server starts": lambda store: store._server is not None,
    "as soon as it is the owner": lambda store: store.owner,
}


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_take_over_that_races_with_close_leaves_no_server(
    children: Children, folder: Path, moment: str
) -> None:
    owner = children.open(folder)
    store = await EmbeddedStore.open(folder)
    owner.end(signal.SIGKILL)
    await eventually(lambda: MOMENTS[moment](store))
    await store.close()
    await all_gone(owner.pids)
    assert lock_is_free(folder)  # a server would hold it
    assert not store.owner


async def test_on_owner_may_close_the_store(children: Children, folder: Path) -> None:
    owner = children.open(folder)
    closed = asyncio.Event()

    async def on_owner() -> None:
        await store.close()
        closed.set()

    store = await EmbeddedStore.open(folder, on_owner=on_owner)
    owner.end(signal.SIGKILL)
    async with asyncio.timeout(180):
        await closed.wait()
    assert lock_is_free(folder)


async def test_the_lock_is_held_as_long_as_the_server_lives(children: Children, folder: Path) -> None:
    opened = children.open(folder)
    server, watchdog = opened.pids
    for pid in (watchdog, server):  # so that nobody stops the server, and it hears of nothing
        os.kill(pid, signal.SIGSTOP)
    try:
        opened.end(signal.SIGKILL)
        assert alive(server)
        assert not lock_is_free(folder)
    finally:
        os.kill(server, signal.SIGKILL)
        os.kill(watchdog, signal.SIGKILL)
    await eventually(lambda: lock_is_free(folder))


async def test_the_lock_is_free_when_the_owner_and_its_server_are_gone_and_the_watchdog_is_not(
    children: Children, folder: Path
) -> None:
    opened = children.open(folder)
    server, watchdog = opened.pids
    os.kill(watchdog, signal.SIGSTOP)
    try:
        os.kill(server, signal.SIGKILL)
        opened.end(signal.SIGKILL)
        await eventually(lambda: lock_is_free(folder))
        assert alive(watchdog)
    finally:
        os.kill(watchdog, signal.SIGKILL)
