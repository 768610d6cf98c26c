"""Docker: the client that can build, the engine (started by hand where none answers), the images.

Ends no engine that it did not start, and reads what the machine needs to reach its package index (pip's configuration,
CA certificates, proxies) only while it builds: as build secrets, of which nothing stays in an image.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from e2e.cluster import machine, recipe
from e2e.cluster.machine import ClusterError, say

RUNTIME = recipe.NAME  # the name of runc-as-granted among the engine's runtimes
START_SECONDS = 300.0
STOP_SECONDS = 120.0

_NO_ENGINE = (
    "Start Docker's engine. As root on Debian or Ubuntu, `python -m e2e.cluster docker start` installs and starts one."
)
_NO_BUILDKIT = "Install docker-buildx beside it, or a Docker before version 23 (Debian 12's docker.io)."


@cache
def client() -> str:
    """The first docker command that can build with BuildKit: there may be several, and not all can."""
    found = [path for path in (machine.which("docker"), "/usr/bin/docker") if path and Path(path).exists()]
    for path in dict.fromkeys(found):
        version = re.search(r"version (\d+)", machine.run([path, "--version"]))
        if (version and int(version[1]) < 23) or machine.succeeds([path, "buildx", "version"]):
            return path
    if found:
        raise ClusterError(f"{' and '.join(found)} cannot build with BuildKit", _NO_BUILDKIT)
    raise ClusterError("There is no docker on this machine", _NO_ENGINE)


def environment() -> dict[str, str]:
    """For programs that call docker themselves: they find the same client as we."""
    return {"PATH": f"{Path(client()).parent}:{os.environ.get('PATH', '')}", "DOCKER_BUILDKIT": "1"}


def docker(*words: str | Path, stdin: str | bytes | None = None, timeout: float = 300) -> str:
    return machine.run([client(), *words], stdin=stdin, env=environment(), timeout=timeout)


def answers() -> bool:
    """Returns whether an engine answers."""
    return bool(machine.which("docker")) and machine.succeeds([machine.which("docker") or "", "info"], timeout=180)


# ---------------------------------------------------------------------------------------------------------- the engine


@contextmanager
def engine() -> Iterator[None]:
    """An engine for the length of the block. One started here ends with its last user and its last container."""
    global _depth
    _depth += 1
    try:
        with machine.lock("docker-users", shared=True):
            start()
            yield
    finally:
        _depth -= 1
        if _depth == 0:
            _stop_if_idle()


_depth = 0


def start(*, keep: bool = False) -> None:
    """Makes sure that an engine answers. With `keep`, one started here goes on until stop()."""
    with machine.lock("docker"):
        if not answers():
            if os.environ.get("DOCKER_HOST") or not machine.is_root():
                raise ClusterError("No Docker engine answers", _NO_ENGINE)
            machine.install(machine.DOCKER_PACKAGES)
            client.cache_clear()
        if not answers():  # where there is an init system, the package has started it
            _start_by_hand()
        if keep and (record := _record()):
            _record_file().write_text(json.dumps({**record, "keep": True}))


def stop() -> None:
    """Ends the engine if it was started here. One that somebody else started goes on."""
    with machine.lock("docker"):
        record = _record()
        if record:
            say("stopping Docker's engine")
            pid = record["pid"]
            os.kill(pid, signal.SIGTERM)
            try:
                machine.until(lambda: _gone(pid), within=STOP_SECONDS, what="Docker's engine has stopped")
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                machine.until(lambda: _gone(pid), within=60, what="Docker's engine was killed")
        _record_file().unlink(missing_ok=True)


def is_ours() -> bool:
    """Returns whether the engine that runs was started here."""
    return _record() is not None


def _stop_if_idle() -> None:
    record = _record()
    if record is None or record.get("keep"):
        return
    with suppress(machine.Busy), machine.lock("docker-users", wait=False):
        if not (answers() and docker("ps", "--quiet").strip()):
            stop()


def _start_by_hand() -> None:
    say("starting Docker's engine")
    home = recipe.cache() / "docker"
    home.mkdir(parents=True, exist_ok=True)
    command = [machine.which("dockerd") or "dockerd", "--log-level", "warn", "--pidfile", str(home / "pid")]
    if not machine.may_raise_limits():
        # A copy: the engine may outlive this clone.
        runtime = Path(shutil.copy(recipe.HERE / "runc-as-granted", home))
        command += ["--add-runtime", f"{RUNTIME}={runtime}", "--default-runtime", RUNTIME]
    log = home / "log"
    path = f"{os.environ.get('PATH', '')}:{machine.SYSTEM_FOLDERS}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "PATH": path},
            start_new_session=True,
        )
    _record_file().write_text(json.dumps({"pid": process.pid, "started": machine.start_time(process.pid)}))
    _children[process.pid] = process

    def ready() -> bool:
        if process.poll() is not None:
            end = "\n".join(log.read_text().splitlines()[-15:])
            raise ClusterError(f"Docker's engine ended with exit code {process.returncode}:\n{end}")
        return answers()

    try:
        machine.until(ready, within=START_SECONDS, what=f"Docker's engine answers (its log: {log})")
    except BaseException:
        process.kill()
        process.wait()
        _record_file().unlink(missing_ok=True)
        raise


# Our child must be waited for, or it stays as a zombie; started by an earlier process, it is not our child.
_children: dict[int, subprocess.Popen[bytes]] = {}


def _gone(pid: int) -> bool:
    child = _children.get(pid)
    return child.poll() is not None if child else machine.start_time(pid) is None


def _record_file() -> Path:
    return recipe.cache() / "docker" / "started.json"


def _record() -> dict[str, Any] | None:
    # Of the engine that was started here, if it still runs.
    try:
        record = json.loads(_record_file().read_text())
    except (OSError, ValueError):
        return None
    return record if machine.start_time(record["pid"]) == record["started"] is not None else None


# ---------------------------------------------------------------------------------------------------------- the images


def has_image(image: str) -> bool:
    return bool(docker("image", "ls", "--quiet", image).strip())


def build(
    tag: str,
    *,
    dockerfile: Path,
    context: Path,
    arguments: Mapping[str, str] | None = None,
    target: str = "",
    timeout: float = 900,
) -> None:
    """Builds an image. Its steps may mount the secrets `pip` (a pip.conf) and `ca` (a file of certificates), if there.

    Proxies in this process's environment hold during the build, and are no part of the image.
    """
    words: list[str | Path] = ["build", "--quiet", "--tag", tag, "--file", dockerfile]
    for key, value in (arguments or {}).items():
        words += ["--build-arg", f"{key}={value}"]
    for key in ("http_proxy", "https_proxy", "no_proxy"):
        words += [word for name in (key, key.upper()) if name in os.environ for word in ("--build-arg", name)]
    if target:
        words += ["--target", target]
    with tempfile.TemporaryDirectory() as folder:
        for name, path in _secrets(Path(folder)).items():
            words += ["--secret", f"id={name},src={path}"]
        docker(*words, context, timeout=timeout)


def _secrets(folder: Path) -> dict[str, Path]:
    secrets = {}
    settings = [os.environ.get("PIP_CONFIG_FILE"), "~/.config/pip/pip.conf", "~/.pip/pip.conf", "/etc/pip.conf"]
    found = [path for path in settings if path and Path(path).expanduser().is_file()]
    from_environment = {
        key: os.environ[f"PIP_{key.upper().replace('-', '_')}"]
        for key in ("index-url", "extra-index-url", "trusted-host")
        if os.environ.get(f"PIP_{key.upper().replace('-', '_')}")
    }
    if from_environment:  # which for pip outranks its files
        secrets["pip"] = folder / "pip.conf"
        secrets["pip"].touch(mode=0o600)
        lines = [f"{key} = {value}" for key, value in from_environment.items()]
        secrets["pip"].write_text("\n".join(["[global]", *lines, ""]))
    elif found:
        secrets["pip"] = Path(found[0]).expanduser()
    certificates = [os.environ.get("PIP_CERT"), os.environ.get("SSL_CERT_FILE"), "/etc/ssl/certs/ca-certificates.crt"]
    for path in certificates:
        if path and Path(path).is_file():
            secrets["ca"] = Path(path)
            break
    return secrets
