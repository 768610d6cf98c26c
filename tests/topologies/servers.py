"""Servers of the tests' own, on loopback: one, one with a replica and three Sentinels, three masters of a Cluster.

Every process is ended by its pid; if we are killed, by the kernel. May not know what is stored.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import redis
from redis.crc import key_slot

from ports import HOST, free_ports
from watchbill import local_server

SERVICE = "watch-master"
SLOTS = 16384
PR_SET_PDEATHSIG = 1

Kind = Literal["standalone", "sentinel", "cluster"]


@cache
def valkey() -> Path:
    """The Valkey of the `local` extra."""
    return local_server.find_server()


@cache
def redis7() -> Path | None:
    """A Redis 7.0, the oldest that we support, with TLS; None where this machine has none.

    Debian's redis-tools holds it under the name of a tool, which is how one has it without the service that
    redis-server starts. A server takes from its name which of the two it is.
    """
    found = [shutil.which("redis-server"), shutil.which("redis-check-rdb")]
    folder = Path.home() / ".cache" / "watchbill-e2e" / "redis"
    for path in filter(None, found):
        link = folder / path.strip("/").replace("/", "-") / "redis-server"
        link.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            link.symlink_to(path)
        said = subprocess.run([link, "--version"], capture_output=True, text=True, check=False, timeout=180).stdout
        if re.search(r"v=7\.0\.", said):
            return link
    return None


def _die_with_us() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def tls_options(port: int, folder: Path) -> dict[str, str]:
    files = {"cert": "server.crt", "key": "server.key", "ca-cert": "ca.crt"}
    options = {f"tls-{name}-file": str(folder / file) for name, file in files.items()}
    return options | {"port": "0", "tls-port": str(port), "tls-replication": "yes", "tls-auth-clients": "no"}


@dataclass
class Server:
    """One process. Its data stay in its folder, for `start` after `kill`."""

    binary: Path
    folder: Path
    port: int
    options: Mapping[str, str] = field(default_factory=dict)
    arguments: Sequence[str] = ()
    client_options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    tls: Path | None = None
    """A folder with ca.crt, server.crt and server.key: no port is open to others then."""
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def client(self) -> redis.Redis:
        """For questions about this very server. A minute each: what is asked again is done twice."""
        options: dict[str, Any] = {"socket_timeout": 60, "decode_responses": True, **self.client_options}
        if self.tls:
            options |= {"ssl": True, "ssl_ca_certs": str(self.tls / "ca.crt")}
        return redis.Redis(host=HOST, port=self.port, **options)

    def ask(self, *command: Any) -> Any:
        with self.client() as client:
            return client.execute_command(*command)

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        options = {"bind": HOST, "dir": str(self.folder), "save": ""} | dict(self.options)
        options |= {"port": str(self.port)} if self.tls is None else tls_options(self.port, self.tls)
        command = [str(self.binary), *self.arguments]
        if "--sentinel" not in self.arguments:
            command += [part for name, value in options.items() for part in (f"--{name}", value)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_us,
                env={**os.environ, **self.environment},
            )
        wait_for(self.answers, what=f"an answer of {command}")

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        with suppress(redis.RedisError, OSError):
            return bool(self.ask("PING"))
        return False

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")

    def pause(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@dataclass
class Store:
    """A running topology."""

    kind: Kind
    url: str
    servers: list[Server]
    """Those that keep data; the first is, or was, the master."""
    sentinels: list[Server] = field(default_factory=list)

    @property
    def master(self) -> Server:
        """Where the data are now (not of a Cluster)."""
        for server in self.servers:
            with suppress(redis.RedisError, OSError):
                if server.process is not None and server.ask("ROLE")[0] == "master":
                    return server
        raise AssertionError("there is no master now")

    def home(self, key: str) -> Server:
        """The server that has this key."""
        if self.kind != "cluster":
            return self.master
        slot = key_slot(key.encode())
        for server in self.servers:
            if server.process is not None and any(f <= slot <= t for f, t in self.slots(server)):
                return server
        raise AssertionError(f"nobody has the slot {slot}")

    def slots(self, server: Server) -> list[tuple[int, int]]:
        """The first and last of each range."""
        for line in _raw(server, "CLUSTER", "NODES").splitlines():
            fields = line.split(" ")
            if "myself" in fields[2]:
                parts = [part.split("-") for part in fields[8:] if not part.startswith("[")]
                return [(int(part[0]), int(part[-1])) for part in parts]
        return []

    @property
    def failovers(self) -> int:
        """How often a Sentinel has named another master."""
        return max(one.log.count("+switch-master") for one in self.sentinels)

    def close(self) -> None:
        for server in [*self.sentinels, *self.servers]:
            server.kill()


DATA = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
    "repl-diskless-sync-delay": "0",
}


@contextmanager
def standalone(
    binary: Path,
    folder: Path,
    options: Mapping[str, str] | None = None,
    replicas: int = 0,
    tls: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Store]:
    ports = free_ports(1 + replicas)
    servers = [
        Server(binary, folder / str(port), port, DATA | dict(options or {}), tls=tls, environment=environment or {})
        for port in ports
    ]
    store = Store("standalone", f"{scheme(tls)}://{servers[0].address}/0", servers)
    try:
        for server in servers:
            server.start()
        _replicate(servers)
        yield store
    finally:
        store.close()


def scheme(tls: Path | None) -> str:
    return "rediss" if tls else "redis"


def _replicate(servers: Sequence[Server]) -> None:
    master, *replicas = servers
    for replica in replicas:
        replica.ask("REPLICAOF", HOST, master.port)
    for replica in replicas:
        wait_for(lambda r=replica: r.ask("ROLE")[3] == "connected", what="replication")  # type: ignore[misc]


@contextmanager
def sentinel(binary: Path, folder: Path, tls: Path | None = None) -> Iterator[Store]:
    """A master with a replica, and three Sentinels that need a second to notice its death."""
    with standalone(binary, folder, replicas=1, tls=tls) as store:
        store.kind = "sentinel"
        quick = {"repl-ping-replica-period": "1", "repl-timeout": "5"}
        for server in store.servers:
            for name, value in quick.items():
                server.ask("CONFIG", "SET", name, value)
        for port in free_ports(3):
            place = folder / f"sentinel-{port}"
            place.mkdir(parents=True)
            file = place / "sentinel.conf"
            file.write_text(
                f"port {port}\nbind {HOST}\ndir {place}\nsentinel monitor {SERVICE} {HOST} {store.master.port} 2\n"
                f"sentinel down-after-milliseconds {SERVICE} 1000\nsentinel failover-timeout {SERVICE} 5000\n"
            )
            if tls:
                lines = [f"{name} {value}" for name, value in tls_options(port, tls).items()]
                file.write_text("\n".join([*lines, *file.read_text().splitlines()[1:], ""]))
            store.sentinels.append(Server(binary, place, port, arguments=[str(file), "--sentinel"], tls=tls))
        for one in store.sentinels:
            one.start()
        for one in store.sentinels:
            wait_for(lambda s=one: _sees_all(s), what="the Sentinels' acquaintance")  # type: ignore[misc]
        places = ",".join(one.address for one in store.sentinels)
        store.url = f"{scheme(tls)}+sentinel://{places}/{SERVICE}/0"
        yield store
        for one in store.sentinels:
            one.kill()


def _sees_all(one: Server) -> bool:
    with one.client() as client:
        state = client.sentinel_masters()[SERVICE]
    return bool(state["num-other-sentinels"] == 2 and state["num-slaves"] == 1)


@contextmanager
def cluster(binary: Path, folder: Path, tls: Path | None = None) -> Iterator[Store]:
    """Three masters. The slots of a crew are on any of them."""
    ports = free_ports(6)
    common = DATA | {"cluster-enabled": "yes", "cluster-config-file": "nodes.conf", "cluster-node-timeout": "2000"}
    common |= {"cluster-require-full-coverage": "no"} | ({"tls-cluster": "yes"} if tls else {})
    servers = [
        Server(binary, folder / str(port), port, common | {"cluster-port": str(bus)}, tls=tls)
        for port, bus in zip(ports[:3], ports[3:], strict=True)
    ]
    store = Store("cluster", f"{scheme(tls)}+cluster://" + ",".join(server.address for server in servers[:2]), servers)
    try:
        for epoch, server in enumerate(servers, 1):
            server.start()
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        bounds = [SLOTS * i // 3 for i in range(4)]
        for server, first, end in zip(servers, bounds, bounds[1:], strict=False):
            server.ask("CLUSTER", "ADDSLOTSRANGE", first, end - 1)

        def is_whole() -> bool:
            if all(map(_is_whole, servers)):
                return True
            for server, bus in zip(servers[1:], ports[4:], strict=True):  # a server forgets one that answers late
                servers[0].ask("CLUSTER", "MEET", HOST, server.port, bus)
            return False

        wait_for(is_whole, 180, "the cluster", every=0.2)
        yield store
    finally:
        store.close()


def _is_whole(server: Server) -> bool:
    said = str(_raw(server, "CLUSTER", "INFO"))
    return "cluster_state:ok" in said and "cluster_known_nodes:3" in said and f"cluster_slots_ok:{SLOTS}" in said


KINDS: Mapping[Kind, Callable[..., Any]] = {
    "standalone": standalone,
    "sentinel": sentinel,
    "cluster": cluster,
}


# ---------------------------------------------------------------- moving a slot


async def move_slot(store: Store, key: str, to: Server) -> None:
    """As any Redis moves it, key by key, under whatever load there is."""
    source, slot = store.home(key), key_slot(key.encode())
    ids = {server.port: await _call(server, "CLUSTER", "MYID") for server in (source, to)}
    await _call(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
    await _call(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[to.port])
    while keys := await _call(source, "CLUSTER", "GETKEYSINSLOT", slot, 2):
        await _call(source, "MIGRATE", HOST, to.port, "", 0, 60_000, "KEYS", *keys)
        await asyncio.sleep(0.02)  # so that it takes a while, and much is asked meanwhile
    others = [server for server in store.servers if server not in (source, to)]
    for server in (to, source, *others):
        await _call(server, "CLUSTER", "SETSLOT", slot, "NODE", ids[to.port])


async def migrate_slot(store: Store, key: str, to: Server) -> None:
    """As Valkey 9 moves it, at once and as a whole."""
    source, slot = store.home(key), key_slot(key.encode())
    target = await _call(to, "CLUSTER", "MYID")
    await _call(source, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target)
    deadline = time.monotonic() + 180
    while not any(first <= slot <= last for first, last in await asyncio.to_thread(store.slots, to)):
        assert time.monotonic() < deadline, await _call(source, "CLUSTER", "GETSLOTMIGRATIONS")
        await asyncio.sleep(0.02)


def _call(server: Server, *command: Any) -> Awaitable[Any]:
    return asyncio.to_thread(_raw, server, *command)


def _raw(server: Server, *command: Any) -> Any:
    """As the server says it, not as redis-py tells it."""
    with server.client() as client:
        client.response_callbacks.clear()
        return client.execute_command(*command)


def wait_for(condition: Callable[[], Any], seconds: float = 180.0, what: str = "this", *, every: float = 0.02) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(every)
