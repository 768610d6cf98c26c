"""A bare control plane: etcd, API server, controller manager and scheduler as processes on loopback. No pods run.

It belongs to the process that started it: its processes get a session of their own, so that Ctrl-C reaches the tests
and not them, and the kernel kills them if this process is killed. Ports stay the same over a restart of the API server.
"""

from __future__ import annotations

import http.client
import json
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster import machine, programs
from e2e.cluster.kubectl import Kubectl
from e2e.cluster.machine import ClusterError

START_SECONDS = 240.0
STOP_SECONDS = 180.0
ANSWER_SECONDS = 180.0
ADMIN, CONTROLLERS, SCHEDULER = "admin", "system:kube-controller-manager", "system:kube-scheduler"

# Below the range from which the kernel takes ports for outgoing connections: one of those could else hold the API
# server's port just while it restarts. Above those of tests/ports.py.
PORTS = range(22_000, 32_000)
BLOCK = 100
"""Number of ports that a process has for itself at once."""

# Every write, when it comes and however it ends, with who and what but without the object. Reads are not of interest,
# and many. The record of a write's coming is made before anything is stored.
RECEIVED = "RequestReceived"
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "rules": [
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "None"},
    ],
}


@dataclass(frozen=True)
class Write:
    """A write that the API server answered, refused ones and dry runs included."""

    user: str
    verb: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int
    uri: str
    agent: str
    at: str  # when it was answered, RFC 3339


class ControlPlane:
    """`start()` and `stop()` it, or use `running()`. Every file it writes is in `folder`."""

    def __init__(self, folder: Path, *, controller_manager_flags: Sequence[str] = ()) -> None:
        """`controller_manager_flags`: e.g. --kube-api-qps=500 for benches; its own limit is 20 requests per second."""
        self.folder = folder
        self.kubeconfig = folder / "kubeconfig"
        self.audit_log = folder / "audit.log"
        self.kubectl = Kubectl(programs.path("kubectl"), self.kubeconfig)
        self._flags = controller_manager_flags
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._never_answered: set[str] = set()
        self._tokens = {name: secrets.token_hex(16) for name in (ADMIN, CONTROLLERS, SCHEDULER)}
        self._etcd_port, self._peer_port, self._port = free_ports(3)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Returns when the API server answers and the controllers work."""
        try:
            self._write_files()
            self._start_etcd()
            self.start_api_server()
            self._start_controllers()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends every process and removes etcd's data; logs stay."""
        running = [self._processes.pop(name) for name in reversed(list(self._processes))]
        # Nobody will read what they still have to say: kill, and the API server cannot wait for its watchers.
        for process in running:
            process.kill()
        for process in running:
            process.wait()
        shutil.rmtree(self.folder / "etcd", ignore_errors=True)

    def start_api_server(self) -> None:
        """Returns when it is ready."""
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--cert-dir={self.folder}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._key}",
            f"--service-account-signing-key-file={self._key}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            f"--audit-policy-file={self.folder / 'audit-policy.yaml'}",
            f"--audit-log-path={self.audit_log}",
            "--audit-log-maxsize=10000",
            # Otherwise a stop waits a minute for its watchers, who would never go.
            "--shutdown-watch-termination-grace-period=1s",
        )
        self._until("kube-apiserver", lambda: self._answers("/readyz"), "the API server is ready")
        self._write_kubeconfig(self.kubeconfig, self._tokens[ADMIN])
        self._signal_controllers(signal.SIGCONT)

    def stop_api_server(self, *, kill: bool = False) -> None:
        """By SIGTERM, or as if its machine had died. etcd, and with it every object, stays. Controllers and scheduler
        stand still until it is back: otherwise they would have come to ask every minute only."""
        process = self._processes.pop("kube-apiserver")
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        finally:
            process.kill()
            process.wait()
            if self.audit_log.exists():
                self._never_answered = _unanswered(self._events(0))
            self._signal_controllers(signal.SIGSTOP)

    def restart_api_server(self, *, kill: bool = False) -> None:
        """In place: the same address, certificate and objects."""
        self.stop_api_server(kill=kill)
        self.start_api_server()

    def restart_etcd(self) -> None:
        """Kills it, and starts it in place on its data. Returns when the API server is ready."""
        process = self._processes.pop("etcd")
        process.kill()
        process.wait()
        self._start_etcd()
        self._until("kube-apiserver", lambda: self._answers("/readyz"), "the API server has etcd again")

    def pid(self, program: str) -> int:
        """Returns the process id of etcd, kube-apiserver, kube-controller-manager or kube-scheduler."""
        return self._processes[program].pid

    def ended(self) -> list[str]:
        """Returns its programs that ended by themselves."""
        return [name for name, process in self._processes.items() if process.poll() is not None]

    def audit_position(self) -> int:
        """Returns the end of the audit log now; writes(since=…) takes it."""
        return self.audit_log.stat().st_size if self.audit_log.exists() else 0

    def writes(self, since: int = 0, *, user: str | None = None) -> list[Write]:
        """The writes that came to the API server after that position, in the order of its answers; only that user's, if
        named.

        A ServiceAccount's name as a user is system:serviceaccount:NAMESPACE:NAME. An answer is on record some time
        after its effect can be seen. So writes that have come but are not on record as answered are waited for, and one
        that came before the position is none of these, whenever its answer is on record.
        """
        deadline = time.monotonic() + ANSWER_SECONDS
        events = self._events(since)
        while _unanswered(events, user) - self._never_answered and time.monotonic() < deadline:
            time.sleep(0.02)
            events = self._events(since)
        came = {event["auditID"] for event in events if event["stage"] == RECEIVED}
        answered = [event for event in events if event["stage"] != RECEIVED and event["auditID"] in came]
        return [_write(event) for event in answered if user in (None, _user(event))]

    def _events(self, since: int) -> list[dict[str, Any]]:
        with self.audit_log.open("rb") as log:
            log.seek(since)
            lines = log.read().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith(b"\n")]

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig with the rights of an existing ServiceAccount; holds for 8 hours."""
        token = self.kubectl("create", "token", name, f"--namespace={namespace}", "--duration=8h").strip()
        return self._write_kubeconfig(self.folder / f"kubeconfig-{namespace}-{name}", token, namespace)

    @property
    def _key(self) -> Path:
        return self.folder / "service-accounts.key"

    def _write_files(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Names in system:masters: the controllers' own credentials would be one more set of moving parts.
        lines = [f'{token},{name},{name},"system:masters"\n' for name, token in self._tokens.items()]
        _private(self.folder / "tokens.csv", "".join(lines))
        (self.folder / "audit-policy.yaml").write_text(json.dumps(AUDIT_POLICY))
        # The API server makes a key for its certificate, but none for ServiceAccounts' tokens.
        machine.install({"openssl": "openssl"})
        machine.run(["openssl", "genrsa", "-out", self._key, "2048"])

    def _start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._etcd_port, self._peer_port))
        self._run(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )

    def _start_controllers(self) -> None:
        controllers = self._write_kubeconfig(self.folder / "kubeconfig-controllers", self._tokens[CONTROLLERS])
        self._run(
            "kube-controller-manager",
            f"--kubeconfig={controllers}",
            "--leader-elect=false",
            "--secure-port=0",
            f"--service-account-private-key-file={self._key}",
            f"--root-ca-file={self._certificate}",
            *self._flags,
        )
        scheduler = self._write_kubeconfig(self.folder / "kubeconfig-scheduler", self._tokens[SCHEDULER])
        self._run("kube-scheduler", f"--kubeconfig={scheduler}", "--leader-elect=false", "--secure-port=0")
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self._until("kube-controller-manager", lambda: self._answers(account), "the controllers work")
        self._until("kube-scheduler", lambda: True, "the scheduler runs")

    def _signal_controllers(self, number: signal.Signals) -> None:
        for name in ("kube-controller-manager", "kube-scheduler"):
            if name in self._processes:
                self._processes[name].send_signal(number)

    @property
    def _certificate(self) -> Path:
        return self.folder / "apiserver.crt"

    def _write_kubeconfig(self, path: Path, token: str, namespace: str = "default") -> Path:
        name = "watchbill-e2e"
        cluster = {"server": self.url, "certificate-authority": str(self._certificate)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": namespace}}],
            "current-context": name,
        }
        return _private(path, json.dumps(config, indent=1))

    def _run(self, program: str, *flags: str) -> None:
        # Tied to the thread that starts it: start a control plane from the main thread.
        tied = machine.which("setpriv")
        command = [tied, "--pdeathsig", "KILL", "--"] if tied else []
        with (self.folder / f"{program}.log").open("ab") as log:
            self._processes[program] = subprocess.Popen(
                [*command, str(programs.path(program)), *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _until(self, program: str, condition: Any, what: str) -> None:
        def holds() -> bool:
            code = self._processes[program].poll()
            if code is not None:
                raise ClusterError(f"{program} ended with exit code {code}:\n{self._log_end(program)}")
            return bool(condition())

        try:
            machine.until(holds, within=START_SECONDS, what=what, ignoring=(OSError, http.client.HTTPException))
        except TimeoutError as error:
            raise ClusterError(f"{error}\n{self._log_end(program)}") from None

    def _log_end(self, program: str) -> str:
        return "\n".join((self.folder / f"{program}.log").read_text(errors="replace").splitlines()[-15:])

    def _answers(self, path: str) -> bool:
        context = ssl.create_default_context(cafile=str(self._certificate))
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=60, context=context)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self._tokens[ADMIN]}"})
            return connection.getresponse().status == 200
        finally:
            connection.close()


@contextmanager
def running(folder: Path, *, controller_manager_flags: Sequence[str] = ()) -> Iterator[ControlPlane]:
    """A control plane for as long as the block lasts."""
    plane = ControlPlane(folder, controller_manager_flags=controller_manager_flags)
    plane.start()
    try:
        yield plane
    finally:
        plane.stop()


def _unanswered(events: Sequence[dict[str, Any]], user: str | None = None) -> set[str]:
    """Returns the audit ids of writes that have come, of all users if none is named. A write comes under its sender's
    name, even if it is for another."""
    answered = {event["auditID"] for event in events if event["stage"] != RECEIVED}
    received = [event for event in events if event["stage"] == RECEIVED]
    return {e["auditID"] for e in received if user in (None, e["user"]["username"])} - answered


def _user(event: dict[str, Any]) -> str:
    return str(event.get("impersonatedUser", event["user"]).get("username", ""))


def _write(event: dict[str, Any]) -> Write:
    target = event.get("objectRef", {})
    return Write(
        user=_user(event),
        verb=event["verb"],
        group=target.get("apiGroup", ""),
        resource=target.get("resource", ""),
        subresource=target.get("subresource", ""),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=event.get("responseStatus", {}).get("code", 0),
        uri=event["requestURI"],
        agent=event.get("userAgent", ""),
        at=event["stageTimestamp"],
    )


def _private(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    return path


_blocks = ExitStack()
"""The locks on this process's blocks of ports, which it holds until it ends."""


def _own_ports() -> Iterator[int]:
    """Ports that no other process is given while this one runs, each of them once."""
    starts = list(PORTS[::BLOCK])
    secrets.SystemRandom().shuffle(starts)
    for start in starts:
        try:
            _blocks.enter_context(machine.lock(f"ports-{start}", wait=False))
        except machine.Busy:
            continue
        yield from range(start, start + BLOCK)


_ports = _own_ports()


def free_ports(count: int) -> list[int]:
    """Returns ports that nobody has. Nobody else is given them, as a server may come to listen there much later."""
    found: list[int] = []
    while len(found) < count:
        port = next(_ports, None)
        if port is None:
            raise ClusterError(f"No port from {PORTS.start} to {PORTS.stop - 1} is free")
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found
