"""Many crews shrink under partial load beside the real ReplicaSet controller, which chooses the pods that go. No
kubelet runs: in this process, each pod has a worker, whose readiness is told to the API server.

A round is one crew that shrinks. ROUNDS=250 runs so many, 20 beside each other:

    ROUNDS=250 pytest e2e/control_plane/test_operator_rounds.py
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.control_plane import ControlPlane
from e2e.control_plane import operator_team
from e2e.control_plane.crds_server import Server
from e2e.control_plane.kubelet import Kubelet, gated
from e2e.control_plane.operator_team import Team, crew
from watchbill.client import Client
from watchbill.plan.drain import PROBED_SECONDS

team = operator_team.team
store = operator_team.store
installed = operator_team.installed

ROUNDS = int(os.environ.get("ROUNDS", "20"))
AT_ONCE = 20
"""Crews that shrink beside each other. They have new tasks in each batch of rounds."""
WORKERS = 4


@pytest.mark.timeout(900 + 60 * ROUNDS)
async def test_under_partial_load_no_busy_pod_goes(
    team: Team, installed: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"{ROUNDS} rounds, seed {seed}")
    chance = random.Random(seed)
    agent, folder = gated(team, monkeypatch)
    names = [f"crew-{i}" for i in range(min(AT_ONCE, ROUNDS))]
    gates: dict[str, list[Path]] = {}
    spec = {"agents": [{"name": "a", "class": agent}]}
    workers: dict[str, Any] = {
        "maxReplicas": WORKERS,
        "concurrency": 1,
        "idleSeconds": 1,
        "scaling": {"down": {"stabilizationWindowSeconds": 0}},
    }
    await asyncio.to_thread(team.operator)
    await asyncio.to_thread(team.apply, *(crew(name, spec=spec, **workers) for name in names))
    await asyncio.to_thread(team.kubectl, "wait", "crew", "--all", "--for=condition=Ready", "--timeout=170s")
    with contextlib.closing(Server(installed)) as server:
        async with Kubelet(server, team) as kubelet, Client(team.store.url) as client:
            done, batches = 0, itertools.count()
            while done < ROUNDS:
                if kubelet.workers:
                    await end_all(kubelet, gates)
                batch = next(batches)
                gates = {
                    name: [folder / f"{batch}.{name}.{i}" for i in range(WORKERS)] for name in names[: ROUNDS - done]
                }
                if await shrink(team, kubelet, client, gates, chance):
                    done += len(gates)
                print(f"{done} rounds")


async def shrink(
    team: Team, kubelet: Kubelet, client: Client, gates: dict[str, list[Path]], chance: random.Random
) -> bool:
    """Has the crews grow from nothing, and shrink under partial load. `gates`: crew → a file for each of its tasks,
    which ends when it is made.

    Returns whether that proves anything: not on a machine so busy that the readiness of pods is told later than the
    operator may suppose."""
    for name, own in gates.items():
        for gate in own:
            await client.submit(f"{team.namespace}/{name}", gate.name, agent="a", id=gate.name)
    total = len(gates) * WORKERS
    await kubelet.until(lambda: kubelet.running() == kubelet.ready() == total, "each pod is ready, and has a task")
    kubelet.slowest = 0.0

    left = {name: chance.randint(1, WORKERS - 1) for name in gates}
    for name, own in gates.items():
        for gate in chance.sample(own, WORKERS - left[name]):
            gate.touch()
    await kubelet.until(lambda: kubelet.of_crews() == left, "so many have left as were idle")
    if kubelet.slowest > PROBED_SECONDS / 2:
        print(f"a look at the pods took {kubelet.slowest:.1f} s: these rounds don't count")
        return False
    assert kubelet.killed == []
    assert kubelet.running() == sum(left.values())
    return True


async def end_all(kubelet: Kubelet, gates: dict[str, list[Path]]) -> None:
    """Has all tasks end. Of a crew without work all workers go at once, and need not be drained."""
    for own in gates.values():
        for gate in own:
            gate.touch()
    await kubelet.until(lambda: not kubelet.workers, "no crew has a worker")
    kubelet.killed.clear()
