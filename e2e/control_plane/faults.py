"""Crews, workers and faults for the test of the alerts: for each alert something that is really wrong. And one crew
that is well, for what only such a crew does."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from e2e.cluster import machine
from e2e.cluster.control_plane import free_ports
from e2e.cluster.kubectl import Kubectl
from e2e.control_plane.operator_process import Process
from e2e.control_plane.operator_team import NARROW, ROOT, SOON, Team, crew, heartbeat, rendered
from e2e.control_plane.prometheus import Receiver
from watchbill import client, connection
from watchbill.api.budgets import Budget
from watchbill.errors import QueueFull
from watchbill.names import CrewKeys
from watchbill.plan import budget
from watchbill.store import budgets, definitions
from watchbill.tasks import Priority
from watchbill.testing import FakeModel

WORKERS: Final = ("hurt", "slow", "frail", "frail", "well")
"""The crews of the workers: `nobody` has none."""
DAY: Final = {"name": "day", "window": "Daily", "tokens": 100}
"""The budget of the crew `hurt`, whose agents ask no model: the test spends it."""
PRICE: Final = {"model": "openai:some", "inputUSDPerMillion": "1", "outputUSDPerMillion": "2"}
BALLAST: Final = 64 << 20
"""Bytes of a key that fills the store to 95%, so that what the test itself stores changes nothing of that."""


class Faults:
    def __init__(self, team: Team, kubectl: Kubectl, folder: Path, receiver: Receiver) -> None:
        self.team = team
        self.kubectl = kubectl
        self.folder = folder
        self.receiver = receiver
        self.operator_port, *self.worker_ports = free_ports(1 + len(WORKERS))
        self.operator: Process
        self.workers: list[Process] = []

    # ---------------------------------------------------------------- what is there

    def fill_store(self) -> None:
        """Its memory is nearly full, and it may delete what will expire."""
        own = self.team.store.client
        own.setrange("ballast", BALLAST - 1, "x")
        used = int(own.info("memory")["used_memory"])
        own.config_set("maxmemory", int(used / 0.95))
        own.config_set("maxmemory-policy", "volatile-lru")

    def start_operator(self) -> None:
        quotas = {"namespaces": {self.team.namespace: {"hard": {"crews": 10, "workers": 50}}}}
        self.operator = self.team.operator(health_port=str(self.operator_port), quotas=json.dumps(quotas))

    def start_crews(self, model: str) -> None:
        """One heartbeat of each kind: it misses its times, it fires them late, it never fires. `model`: the base URL of
        a model that answers."""
        wait, brief = self._agent("wait", "hands:Gate"), self._agent("brief", "hands:Brief")
        hurt = [wait, brief, self._agent("bad", "broken_hands:Mischief"), self._agent("gone", "hands:Gone")]
        hurt += [{**self._agent("deaf", "hands:Deaf"), "timeoutSeconds": 1}]
        hurt += [self._agent("block", "hands:Blocker", seconds=6)]
        well = [brief, {"name": "writer", "model": "openai:some", "baseURL": model, "config": {"stream": True}}]
        once = {"tasks": {"maxAttempts": 1}}
        webhook = [{"name": "ops", "webhook": {"url": f"{self.receiver.url}/results"}}]
        self.team.apply(
            crew("hurt", spec={"agents": hurt, "delivery": webhook, "budgets": [DAY], **once}),
            crew("slow", spec={"agents": [wait, brief]}, concurrency=1),
            crew("nobody", spec={"tasks": {"maxQueued": 1}}),
            crew("frail", spec={"agents": [wait], "tasks": {"leaseSeconds": 3}}),
            crew("well", spec={"agents": well, "executionMode": "sequential", "prices": [PRICE]}, minReplicas=1),
            self._heartbeat("missed", "hurt", "wait", intervalSeconds=1, concurrencyPolicy="Forbid"),
            self._heartbeat("late", "hurt", "brief", intervalSeconds=1, missed="All"),
            self._heartbeat("never", "hurt", "brief", schedule="61 * * * *"),
        )
        self.team.until_ready("hurt", "slow", "nobody", "frail", "well")

    def start_workers(self, stack: ExitStack) -> None:
        """That of the crew that is well counts as one of its Deployment's, so that it is drained when it must leave."""
        agents = str(ROOT / "tests" / "worker" / "agents")
        settings = {"folders": agents, "delivery_allow": "loopback", "grace_seconds": "1"}
        (own,) = self.team.deployments("well")
        revision = {"well": {"revision": own["metadata"]["labels"]["watchbill.dev/revision"]}}
        for number, (of, port) in enumerate(zip(WORKERS, self.worker_ports, strict=True)):
            made = self.team.worker(
                of, name=f"worker-{number}-{of}", health_port=str(port), **settings, **revision.get(of, {})
            )
            self.workers.append(stack.enter_context(made.start()))

    def _agent(self, name: str, kind: str, **config: Any) -> dict[str, Any]:
        return {"name": name, "class": kind, "config": {"folder": str(self.folder), **config}}

    def _heartbeat(self, name: str, of: str, agent: str, **spec: Any) -> dict[str, Any]:
        return heartbeat(name, crewRef={"name": of}, agent=agent, prompt="0", **spec)

    # ---------------------------------------------------------------- faults

    def submit(self) -> None:
        """Work that makes its crew ill, and a dead letter of long ago."""
        self.team.store.client.xadd(f"wb:{{{self.team.namespace}/hurt}}:dead", {"reason": "old", "id": "old"}, id="1-1")

        async def give() -> None:
            async with client.Client(self.team.store.url, namespace=self.team.namespace) as own:
                for agent in ("deaf", "gone", "block"):
                    await own.submit("hurt", "do it", agent=agent)
                await own.submit_many("slow", "brief", ["0"] * 25)
                await own.submit("slow", "0", agent="brief", priority=Priority.CRITICAL)
                await own.submit("nobody", "do it", agent="a")

        async def block() -> None:
            async with client.Client(self.team.store.url, namespace=self.team.namespace) as own:
                for name in ("slow", "frail"):
                    await own.submit(name, "do it", agent="wait")

        asyncio.run(block())
        for name in ("slow", "frail"):
            machine.until(lambda name=name: self._holder(name), within=SOON, what=f"a worker of {name} has its task")  # type: ignore[misc]
        asyncio.run(give())
        self.spend()

    def go_on(self) -> None:
        """One more submission is refused, one more task fails for good, its result can't be delivered, and one more run
        goes well."""

        async def give() -> None:
            async with client.Client(self.team.store.url, namespace=self.team.namespace) as own:
                with suppress(QueueFull):
                    await own.submit("nobody", "do it", agent="a")
                await own.submit("hurt", "ValueError", agent="bad")
                await own.submit("well", "0")

        asyncio.run(give())

    def suspend(self) -> None:
        """The crew that is well is suspended, and so its worker is drained."""
        self.team.kubectl("patch", "crew", "well", "--type=merge", '--patch={"spec":{"suspend":true}}')

    def spend(self) -> None:
        """Nine tenths of a budget are spent, and another request finds no room in it."""

        async def ask() -> None:
            keys = CrewKeys(self.team.namespace, "hurt")
            own = connection.connect(self.team.store.url)
            limit = budget.Limit(Budget.model_validate(DAY), "", budget.span("Daily", "UTC", datetime.now(UTC)))
            current = await definitions.current(own, keys)
            for name, tokens in (("a", 90), ("b", 20)):
                most = budget.Amount(tokens)
                request = budgets.Request(name, "m", keys.task("none"), most, [limit], keys.reserved(0))
                await budgets.reserve(own, keys, current.uid, current.digest, request)
                await budgets.settle(own, keys, current.uid, [budgets.Settlement(request, most)])
            await own.aclose()

        asyncio.run(ask())

    def stand_still(self) -> None:
        """Takes four seconds: workers stand still for more than half of their lease, and go on."""
        for one in self._frail():
            one.stop()
        time.sleep(1.8)
        for one in self._frail():
            one.go_on()
        time.sleep(2)

    def kill_a_worker_with_a_task(self) -> None:
        victim = self._holder("frail")
        assert victim is not None
        victim.kill()

    def _holder(self, crew: str) -> Process | None:
        """The worker of the crew whose agent has begun last: one that stood still may have lost its task."""
        notes = self.folder / "notes"
        lines = notes.read_text().splitlines() if notes.exists() else []
        own = {one.pid: one for one, of in zip(self.workers, WORKERS, strict=True) if of == crew and one.runs}
        begun = [own[note["pid"]] for note in map(json.loads, lines) if note["what"] == "start" and note["pid"] in own]
        return begun[-1] if begun else None

    def _frail(self) -> list[Process]:
        return [one for one, of in zip(self.workers, WORKERS, strict=True) if of == "frail" and one.runs]

    def forbid_statuses(self, *, forbidden: bool) -> None:
        """The operator lacks a right, or has it again."""
        self.team.may_be_forbidden = True
        roles = [r for r in rendered(NARROW, self.team.namespace) if r["kind"] == "Role"]
        for role in roles:
            if forbidden:
                role["rules"] = [rule for rule in role["rules"] if "crews/status" not in rule["resources"]]
            self.kubectl.apply(role)

    # ---------------------------------------------------------------- repairs

    def mend_store(self) -> None:
        self.team.store.client.config_set("maxmemory-policy", "noeviction")
        self.team.store.client.config_set("maxmemory", 0)
        self.team.store.client.delete("ballast")

    def mend(self) -> None:
        """Everything else."""

        async def cancel() -> None:
            async with client.Client(self.team.store.url, namespace=self.team.namespace) as own:
                await own.cancel_all("nobody")
                await own.cancel_all("hurt", agent="gone")

        self.receiver.takes_results = True
        self.team.kubectl("delete", "heartbeat", "missed", "late", "never")
        self.team.kubectl("patch", "crew", "hurt", "--type=merge", '--patch={"spec":{"budgets":null}}')
        (self.folder / "open").touch()
        asyncio.run(cancel())


@contextmanager
def model() -> Iterator[str]:
    """A model behind a real server, which answers for the length of the block. Yields its base URL."""
    loop, fake = asyncio.new_event_loop(), FakeModel(lambda _: "It is so.")
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(fake.__aenter__(), loop).result(SOON)
        try:
            yield fake.base_url
        finally:
            asyncio.run_coroutine_threadsafe(fake.__aexit__(None, None, None), loop).result(SOON)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
