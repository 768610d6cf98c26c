"""A burst of tasks over twenty crews without workers. E2E_BURST: the number of tasks."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.cluster import machine
from e2e.kind import crews, ledger
from e2e.kind.team import NAMESPACE, SOON, Team
from watchbill.client import Client

TASKS = int(os.environ.get("E2E_BURST", "1000"))
CREWS = [f"burst-{number:02}" for number in range(20)]
BRIEF = ("0.1", "0.3", "1", "0.2", "0.4")
LONG = "12"
"""Seconds of one task of each crew, so that a worker leaves while the other one works."""

# Thirty workers have room on any node; each may use what it needs.
SMALL = {"resources": {"requests": {"cpu": "10m", "memory": "32Mi"}}}
AT_ONCE = {"down": {"stabilizationWindowSeconds": 0}}

pytestmark = pytest.mark.timeout(1500 + TASKS / 10)


@pytest.fixture
def names(team: Team) -> Iterator[list[str]]:
    manifests: list[Any] = []
    for number, name in enumerate(CREWS):
        workers: dict[str, Any] = {
            "maxReplicas": 1 + number % 2,
            "concurrency": 5,
            "idleSeconds": 1,
            "scaling": AT_ONCE,
        }
        manifests += crews.sample(name, "Noted", lease_seconds=60, container=SMALL, **workers)
    team.apply(*manifests)
    yield CREWS
    for kind in ("crew", "configmap"):
        team.kubectl("delete", kind, *CREWS, "--ignore-not-found")


def test_a_burst_brings_workers_and_takes_them_away_and_disturbs_no_task(team: Team, names: list[str]) -> None:
    team.kubectl("wait", "crew", *names, "--for=condition=Ready", f"--timeout={SOON:.0f}s", timeout=SOON + 30)

    async def submit(url: str) -> dict[str, list[str]]:
        prompts = [LONG, *(BRIEF[number % len(BRIEF)] for number in range(TASKS // len(names) - 1))]
        async with Client(url, namespace=NAMESPACE) as client:
            given = await asyncio.gather(*(client.submit_many(name, "one", prompts) for name in names))
        return dict(zip(names, given, strict=True))

    with team.pod_events(*names) as events, team.store() as url:
        began = time.monotonic()
        given = asyncio.run(submit(url))
        submitted = time.monotonic() - began
        ledger.until_ended(url, given, within=10 * SOON + TASKS / 10)
        ended = time.monotonic() - began
        machine.until(lambda: not team.pods(*names), within=3 * SOON, what="no workers", every=1)
        gone = time.monotonic() - began
        told = events()
        ledger.check(url, given, told)
    there = {event["object"]["metadata"]["name"]: event["object"] for event in told}
    print(
        f"{TASKS} tasks of {len(names)} crews: submitted in {submitted:.1f} s, ended after {ended:.1f} s, all of "
        f"{len(there)} pods gone after {gone:.1f} s"
    )
    assert {pod["metadata"]["labels"]["watchbill.dev/crew"] for pod in there.values()} == set(names)
