"""The images on their own: small, without root or anything to write to but /tmp, and a worker works in them.

Docker alone, without a cluster or a network: the store is a server of this machine, reached by its Unix socket.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

import watchbill
from e2e.cluster import docker, images, machine
from watchbill import connection, local_server
from watchbill.api import Crew
from watchbill.client import Client
from watchbill.names import CrewKeys
from watchbill.records import from_crew
from watchbill.store import definitions

ROOT = Path(__file__).parents[2]
TARGETS = ("worker", "worker-llm", "operator")
MEGABYTE = 1_000_000
WORKER_MEGABYTES = 65  # over its base; ten of them are for traces
LLM_MEGABYTES = 90  # more, for models and their tools

pytestmark = [
    pytest.mark.skipif(bool(os.environ.get("E2E_USE_CLUSTER")), reason="needs a Docker engine, not a cluster"),
    pytest.mark.timeout(1800),  # the first build downloads what is installed
]

# As a pod of ours is run; what is more, without a network.
RESTRICTED = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none")

LOOK = """
import getpass, importlib.util, json, os, pathlib, sys, tempfile
own = pathlib.Path(sys.prefix)
print(json.dumps({
    "ids": [os.getuid(), os.getgid()],
    "user": getpass.getuser(),
    "home": os.path.expanduser("~"),
    "temporary": tempfile.gettempdir(),
    "writable": [str(path) for path in (own, pathlib.Path("/"), pathlib.Path("/agents"), *own.rglob("*"))
                 if not path.is_symlink() and os.access(path, os.W_OK)],
    "modules": [name for name in ("pip", "setuptools", "hatchling", "pytest", "kubernetes", "kopf", "typer")
                if importlib.util.find_spec(name)],
    "uncompiled": [str(path) for path in own.rglob("*.py") if not list(path.parent.glob(f"__pycache__/{path.stem}.*"))],
    "sources": [str(path) for path in own.rglob("*.pyx")],
}))
"""

AGENT = """
import os, pathlib

class Greeter:
    def run(self, context):
        return [context.prompt, os.getuid(), str(pathlib.Path(__file__))]
"""


@pytest.fixture(scope="module")
def built() -> Iterator[dict[str, str]]:
    """Target → a freshly built image."""
    tags = {target: f"watchbill-e2e/{target}:{secrets.token_hex(4)}" for target in TARGETS}
    with docker.engine():
        base = images.base_image()
        if not docker.has_image(base):
            docker.docker("pull", base, timeout=300)
        try:
            for target, tag in tags.items():
                arguments = {"BASE": base, "VERSION": watchbill.__version__}
                docker.build(tag, dockerfile=ROOT / "Dockerfile", context=ROOT, target=target, arguments=arguments)
            yield tags
        finally:
            for tag in filter(docker.has_image, tags.values()):
                docker.docker("image", "rm", "--force", tag)


def test_the_worker_is_small(built: dict[str, str]) -> None:
    added = (_size(built["worker"]) - _size(images.base_image())) / MEGABYTE
    assert added <= WORKER_MEGABYTES, f"{added:.1f} MB over its base"
    more = (_size(built["worker-llm"]) - _size(built["worker"])) / MEGABYTE
    assert more <= LLM_MEGABYTES, f"{more:.1f} MB more for models"


@pytest.mark.parametrize("target", TARGETS)
def test_it_runs_without_root_and_writes_to_tmp_only(built: dict[str, str], target: str) -> None:
    # Not read-only: what is looked at is what the user could write to if he were let.
    words = [word for word in RESTRICTED if word != "--read-only"]
    said = docker.docker("run", "--rm", *words, "--entrypoint=python3", built[target], "-c", LOOK)
    found = json.loads(said)
    assert found["ids"] == [65532, 65532]
    assert found["user"] == "watchbill"
    assert found["home"] == found["temporary"] == "/tmp"
    assert found["writable"] == []
    assert found["sources"] == []
    assert found["uncompiled"] == []
    assert found["modules"] == (["kubernetes", "kopf", "typer"] if target == "operator" else [])


@pytest.mark.parametrize("target", TARGETS)
def test_it_says_what_it_is_and_nothing_of_where_it_was_built(built: dict[str, str], target: str) -> None:
    (image,) = json.loads(docker.docker("image", "inspect", built[target]))
    config = image["Config"]
    assert config["User"] == "65532:65532"  # in numbers, so that Kubernetes can see that it is not root
    assert config["Labels"]["org.opencontainers.image.title"] == f"Watchbill {target}"
    assert config["Labels"]["org.opencontainers.image.version"] == watchbill.__version__
    assert not [entry for entry in config["Env"] if re.match("pip_|[^=]*(proxy|cert)", entry, re.IGNORECASE)]
    history = docker.docker("history", "--no-trunc", "--format={{json .}}", built[target])
    told = {*_package_hosts(), "/run/secrets/ca"}
    search = " ".join(f"-e {shlex.quote(word)}" for word in told)
    command = f"ls -A /etc/pip.conf /run/secrets 2>/dev/null; grep -rlF {search} /etc /home /opt /root /tmp /var; true"
    words = ("--user=0", "--network=none", "--entrypoint=sh", built[target], "-c", command)
    assert docker.docker("run", "--rm", *words) == ""
    assert not [word for word in told if word in history + json.dumps(image)]


def test_the_operators_image_has_the_command_line(built: dict[str, str]) -> None:
    said = docker.docker("run", "--rm", *RESTRICTED, built["operator"], "version")
    assert said.startswith(f"watchbill {watchbill.__version__} ")


async def test_a_worker_runs_agents_of_a_mounted_folder(built: dict[str, str], tmp_path: Path) -> None:
    agents = tmp_path / "agents"
    agents.mkdir()
    (agents / "greeting.py").write_text(AGENT)
    # It hides nothing of Python's own.
    (agents / "calendar.py").write_text("raise ImportError('the wrong calendar')")
    async with _crew(tmp_path) as (client, store):
        mounts = [f"--volume={agents}:/agents:ro"]
        with _worker(built["worker"], store, mounts) as name:
            result = await client.run("greeters", "Hello!", timeout=300)
            assert result.output == ["Hello!", 65532, "/agents/greeting.py"]
            docker.docker("stop", "--time=120", name)
            state = docker.docker("inspect", "--format={{.State.ExitCode}}", name)
            assert state.strip() == "0", docker.docker("logs", name)


async def test_a_worker_runs_agents_of_an_image_made_from_it(built: dict[str, str], tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "greeting.py").write_text(AGENT)
    (context / "Dockerfile").write_text(f"FROM {built['worker']}\nCOPY greeting.py /agents/\n")
    mine = f"watchbill-e2e/mine:{secrets.token_hex(4)}"
    docker.build(mine, dockerfile=context / "Dockerfile", context=context)
    try:
        async with _crew(tmp_path) as (client, store):
            with _worker(mine, store, []):
                result = await client.run("greeters", "Hello!", timeout=300)
                assert result.output == ["Hello!", 65532, "/agents/greeting.py"]
    finally:
        docker.docker("image", "rm", "--force", mine)


@asynccontextmanager
async def _crew(folder: Path) -> AsyncIterator[tuple[Client, Path]]:
    """A crew in a store, a client of it, and the store's socket, to which every user may write."""
    socket = Path(tempfile.mkdtemp(prefix="wb-")) / "store"  # a socket's path is short
    command = local_server.server_command(local_server.find_server(), folder, socket, fsync=None)
    server = subprocess.Popen([*command, "--unixsocketperm", "777"], stdout=subprocess.DEVNULL)
    url = f"unix://{socket}"
    try:
        machine.until(socket.exists, within=180, what="the store answers")
        agent = {"name": "greeter", "class": "greeting:Greeter"}
        crew = Crew.model_validate({"metadata": {"name": "greeters"}, "spec": {"agents": [agent]}})
        async with connection.connected(url) as redis:
            await definitions.apply(redis, CrewKeys("default", "greeters"), from_crew(crew))
        async with Client(url) as client:
            yield client, socket
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(socket.parent)


@contextmanager
def _worker(image: str, store: Path, words: list[str]) -> Iterator[str]:
    """A container of the image as the operator would start it, by its name."""
    name = f"watchbill-e2e-{secrets.token_hex(4)}"
    environment = ("--env=WATCHBILL_REDIS_URL=unix:///store", "--env=WATCHBILL_CREW=default/greeters")
    docker.docker(
        "run", "--detach", f"--name={name}", *RESTRICTED, *environment, f"--volume={store}:/store", *words, image
    )
    try:
        yield name
    finally:
        docker.docker("rm", "--force", name)


def _size(image: str) -> int:
    return int(docker.docker("image", "inspect", "--format={{.Size}}", image))


def _package_hosts() -> set[str]:
    """Returns the hosts from which this machine gets Python packages, if it was told. A public index is named in many
    packages."""
    told = machine.run([sys.executable, "-m", "pip", "config", "list"])
    return {host for url in re.findall(r"https?://[^\s'\"]+", told) if (host := urllib.parse.urlsplit(url).hostname)}
