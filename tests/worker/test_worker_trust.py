"""Who can merely write to the store does not choose what a worker runs: a forged definition is parked, and says why."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from workshop import Crew, Make

from waiting import until
from watchbill import local, testing
from watchbill.agents import AgentLoader
from watchbill.connection.url import parse
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.store import definitions
from watchbill.worker.execution.failures import AgentFailed
from watchbill.worker.execution.processes import Processes, request
from watchbill.worker.execution.shared_lease import SharedLease

TEAM = """
from subprocess import getoutput

class Asks:
    async def run(self, context):
        (tool,) = context.tools.values()
        return str(tool(context.prompt))

class Apart(Asks):
    runs_in = "process"
    def run(self, context):
        return str(next(iter(context.tools.values()))(context.prompt))

def shout(text):
    return text.upper()
"""
INSTALLED = "def borrowed(text): return f'borrowed {text}'\ndef other(text): ...\n"
SHELL = "subprocess:getoutput"
MANIFEST = {"apiVersion": "watchbill.dev/v1alpha1", "kind": "Crew"}


@pytest.fixture
def team(tmp_path: Path) -> Path:
    folder = tmp_path / "team"
    folder.mkdir()
    (folder / "team_agents.py").write_text(TEAM)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "installed_tools.py").write_text(INSTALLED)
    return folder


def asking(kind: str, *tools: str) -> AgentDefinition:
    return AgentDefinition(agent_id="a", agent_class=f"team_agents:{kind}", tools=list(tools))


@contextmanager
def pod(crew: Crew, team: Path, allow: str = "") -> Iterator[Path]:
    """The worker as a pod runs it; gives the file of what it logs."""
    environment = {
        "WATCHBILL_REDIS_URL": crew.url,
        "WATCHBILL_CREW": crew.name,
        "WATCHBILL_FOLDERS": str(team),
        "WATCHBILL_ALLOW_MODULES": allow,
        "PYTHONPATH": str(team.parent / "site"),
    }
    command = [sys.executable, "-P", "-m", "watchbill.worker"]
    log = crew.folder / "worker.log"
    with log.open("wb") as err:
        process = subprocess.Popen(command, stdout=err, stderr=err, env={**os.environ, **environment})
    try:
        yield log
    finally:
        process.kill()
        process.wait()


async def forged(crew: Crew, *, shared: tuple[str, ...] = (), by: AgentDefinition) -> None:
    """Puts another definition in the place of the crew's, as a client with the store's URL can."""
    worse = crew.definition.model_copy(update={"agents": [by], "shared_tools": list(shared)})
    crew.uid = await definitions.apply(crew.redis, crew.keys, worse)


async def is_parked(crew: Crew) -> bool:
    return (await crew.client.figures(crew.name)).parked == 1


@pytest.mark.parametrize(
    ("by", "shared"),
    [
        (AgentDefinition(agent_id="a", agent_class="subprocess:getoutput"), ()),
        (AgentDefinition(agent_id="a", agent_class="team_agents:getoutput"), ()),
        (asking("Asks", SHELL), ()),
        (asking("Asks"), (SHELL,)),
        (asking("Apart", SHELL), ()),
        (asking("Asks", "team_agents:getoutput"), ()),
    ],
    ids=["class", "imported class", "tool", "shared tool", "tool in a process", "imported tool"],
)
async def test_a_forged_definition_runs_nothing(
    make_crew: Make, team: Path, by: AgentDefinition, shared: tuple[str, ...]
) -> None:
    crew = await make_crew([asking("Asks", "team_agents:shout")])
    proof = crew.folder / "proof"
    with pod(crew, team) as log:
        await crew.submit("before", "a", "hello")
        assert (await crew.result("before")).output == "HELLO"
        await forged(crew, shared=shared, by=by)
        await crew.submit("t", "a", f"touch {proof}")
        await until(lambda: is_parked(crew), what="its refusal")
        await until(lambda: "AgentUnavailable" in log.read_text(), what="the log says so")
        await until(lambda: "Python itself" in log.read_text(), what="the log says why")
    assert not proof.exists()


@pytest.mark.parametrize("kind", ["Asks", "Apart"])
async def test_what_the_worker_allows_works_in_its_processes_too(make_crew: Make, team: Path, kind: str) -> None:
    crew = await make_crew([asking(kind, "installed_tools:borrowed")])
    await crew.submit("t", "a", "book")
    with pod(crew, team) as log:
        await until(lambda: is_parked(crew), what="its refusal")
        await until(lambda: "WATCHBILL_ALLOW_MODULES=installed_tools " in log.read_text(), what="the log says why")
    with pod(crew, team, "installed_tools"):
        result = await crew.result("t")
    assert result.output == "borrowed book"


@pytest.mark.parametrize("tool", [SHELL, "installed_tools:borrowed"])
async def test_the_process_of_an_agent_trusts_no_more_than_its_worker(team: Path, tool: str, tmp_path: Path) -> None:
    """Though the worker has looked already."""
    crew = CrewDefinition(name="crew", agents=[asking("Apart", tool)])
    context = testing.context(f"touch {tmp_path / 'proof'}", agent=crew.agents[0])
    lease = SharedLease()
    lease.extend(math.inf)
    started = Processes(AgentLoader([team]).sources, lease, parse("redis://127.0.0.1:1"))
    try:
        with pytest.raises(AgentFailed) as raised:
            await started.run(request(crew, context), context)
    finally:
        await started.close()
    assert "AgentNotLoadable" in str(raised.value.failed)
    assert not (tmp_path / "proof").exists()


async def test_whoever_runs_a_file_has_chosen_what_it_names_and_nobody_else(
    make_crew: Make, team: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is installed works at once; what somebody puts into the store in its place does not."""
    monkeypatch.syspath_prepend(team.parent / "site")
    crew = await make_crew([asking("Asks", "installed_tools:borrowed")])
    agents = [{"name": "a", "class": "team_agents:Asks", "tools": ["installed_tools:borrowed"]}]
    file = team / "crew.yaml"
    file.write_text(json.dumps(MANIFEST | {"metadata": {"name": crew.definition.name}, "spec": {"agents": agents}}))
    async with local.LocalCrews(crew.url, local.load([file]), namespace="test", grace_seconds=0):
        assert (await crew.client.run(crew.name, "book", agent="a", timeout=180)).output == "borrowed book"
        await forged(crew, by=asking("Asks", "installed_tools:other"))
        await crew.submit("t", "a", "x")
        await until(lambda: "WATCHBILL_ALLOW_MODULES=installed_tools " in caplog.text)
